"""Property tests of `split` and `standardize`."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxnn.data import Dataset, from_arrays, load, moments, split, standardize

fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32 - 1)
laws = settings(deadline=None, max_examples=30)


def numbered(labels):
    """A classification data set whose inputs are the sample indices, so that parts can be identified."""
    labels = np.asarray(labels)
    names = [str(name) for name in range(labels.max() + 1)]
    return from_arrays(np.arange(len(labels), dtype=np.float32)[:, None], labels, classes=names)


@laws
@given(labels=st.lists(st.integers(0, 5), min_size=2, max_size=60), fraction=fractions, seed=seeds)
def test_classification_split_is_stratified(labels, fraction, seed):
    sizes = np.bincount(labels, minlength=6)
    assume((sizes > 1).any())
    train, test = split(numbered(labels), test_fraction=fraction, seed=seed)

    both = np.concatenate([train.x, test.x])[:, 0]
    np.testing.assert_array_equal(np.sort(both), np.arange(len(labels)))  # disjoint and complete
    for part in (train, test):
        np.testing.assert_array_equal(part.y, np.asarray(labels)[part.x[:, 0].astype(int)])

    held_out, kept = np.bincount(test.y, minlength=6), np.bincount(train.y, minlength=6)
    np.testing.assert_array_equal(held_out > 0, sizes > 1)
    np.testing.assert_array_equal(kept > 0, sizes > 0)
    lowest, highest = (sizes > 1).sum(), np.maximum(sizes - 1, 0).sum()
    assert len(test) == np.clip(round(fraction * len(labels)), lowest, highest)


@laws
@given(
    sizes=st.lists(st.integers(10, 40), min_size=1, max_size=6),
    fraction=st.floats(0.2, 0.8),
    seed=seeds,
)
def test_each_class_is_within_one_of_its_share(sizes, fraction, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    _, test = split(numbered(labels), test_fraction=fraction, seed=seed)
    share = np.asarray(sizes) * len(test) / len(labels)
    assert len(test) == round(fraction * len(labels))
    assert np.all(np.abs(np.bincount(test.y, minlength=len(sizes)) - share) < 1)


@laws
@given(length=st.integers(2, 60), fraction=fractions, seed=seeds)
def test_regression_split(length, fraction, seed):
    data = from_arrays(np.arange(length)[:, None], np.arange(length) * 0.5)
    train, test = split(data, test_fraction=fraction, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train.x, test.x])[:, 0]), np.arange(length))
    assert len(test) == np.clip(round(fraction * length), 1, length - 1)
    np.testing.assert_array_equal(test.y, test.x / 2)


def test_split_is_a_function_of_the_seed():
    data = numbered(np.arange(200) % 4)
    first, again, other = (split(data, seed=seed)[1].x for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_sample_is_held_out_equally_often():
    data = numbered(np.repeat([0, 1], [12, 28]))
    times = sum(np.bincount(split(data, seed=seed)[1].x[:, 0].astype(int), minlength=40) for seed in range(1000))
    for label, share in ((0, 2 / 12), (1, 6 / 28)):  # 0.2 · 40 = 8 samples: 2.4 and 5.6, rounded to 2 and 6
        spread = np.sqrt(1000 * share * (1 - share))
        assert np.all(np.abs(times[data.y == label] - 1000 * share) < 5 * spread)


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 1.5, 20, float("nan")])
def test_split_rejects_fractions_out_of_range(fraction):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        split(numbered([0, 1, 0, 1]), test_fraction=fraction)


@pytest.mark.parametrize(
    "data", [numbered([0]), numbered([0, 1, 2]), from_arrays([[1.0]], [0.5])], ids=["one", "singles", "regression"]
)
def test_split_rejects_too_few_samples(data):
    with pytest.raises(ValueError, match="cannot be split"):
        split(data)


def test_split_drops_the_official_test_part():
    data = from_arrays(np.eye(4), [0, 1, 0, 1], x_test=np.eye(4), y_test=[0, 1, 0, 1])
    assert all(part.test is None for part in split(data))


shapes = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5)
values = hnp.arrays(np.float32, shapes, elements=st.integers(-1000, 1000).map(lambda value: value / 8))


@laws
@given(x=values)
def test_standardized_training_part_has_mean_0_and_deviation_1(x):
    (train,) = standardize(from_arrays(x, np.zeros(len(x))))
    assert train.x.dtype == np.float32
    columns = train.x.astype(np.float64).reshape(-1, x.shape[-1])
    constant = np.ptp(x.reshape(-1, x.shape[-1]), axis=0) == 0
    np.testing.assert_allclose(columns.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(columns.std(0), np.where(constant, 0, 1), atol=1e-5)


@laws
@given(x=values, offset=st.floats(-1e3, 1e3))
def test_other_parts_do_not_affect_the_statistics(x, offset):
    train, y = from_arrays(x, np.zeros(len(x))), np.zeros(len(x))
    reference, _ = standardize(train, from_arrays(x, y))
    same, scaled = standardize(train, from_arrays(x + offset, y))
    np.testing.assert_array_equal(reference.x, same.x)
    mean, std = moments(x)
    np.testing.assert_allclose(scaled.x, ((x + offset).astype(np.float32) - mean) / std, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, -7.3])
def test_a_constant_feature_becomes_zero(value):
    x = np.full((37, 2), value, np.float32)  # 0.1 is not a binary fraction: its computed deviation is not exactly 0
    (train,) = standardize(from_arrays(x, np.zeros(37)))
    np.testing.assert_array_equal(train.x, 0)


def test_images_keep_one_scale_per_channel():
    x = np.random.default_rng(0).uniform(size=(8, 5, 4, 2)).astype(np.float32) * [1, 100]
    (train,) = standardize(from_arrays(x, np.zeros(8)))
    expected = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))
    np.testing.assert_allclose(train.x, expected, atol=1e-5)


def test_an_official_test_part_is_scaled_too():
    data = from_arrays([[1.0], [3.0]], [0.0, 1.0], x_test=[[5.0]], y_test=[2.0])
    (train,) = standardize(data)
    np.testing.assert_array_equal(train.test.x, [[3.0]])


def test_standardize_rejects_other_shapes():
    with pytest.raises(ValueError, match="differ in shape"):
        standardize(from_arrays(np.eye(3), [0, 1, 1]), from_arrays(np.eye(2), [0, 1]))


def test_real_tables_are_split_and_scaled():
    data = load("wine")
    train, test = split(data, seed=3)
    train, test = standardize(train, test)
    assert isinstance(test, Dataset)
    assert (len(train), len(test)) == (142, 36)
    assert np.abs(test.x.mean(0)).max() > 1e-3  # the held-out part has its own mean


@pytest.mark.parametrize(("given", "returned"), [(np.float32, np.float32), (np.float64, np.float64), (np.int32, np.float64)])
def test_moments_have_the_dtype_of_the_array(given, returned):
    """So that standardized float32 targets are float32, which training takes."""
    y = np.array([[25], [346], [150]], given)
    mean, std = moments(y)
    assert mean.dtype == std.dtype == returned == ((y - mean) / std).dtype
    np.testing.assert_allclose([mean, std], [y.mean(0, np.float64), y.std(0, np.float64)], rtol=1e-7)
