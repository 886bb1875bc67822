"""Tests of `Dataset` and `from_arrays`: conversions and errors."""

import numpy as np
import pytest

from jaxnn.data import Dataset, from_arrays

X, Y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 1, 0])
F, L = X.astype(np.float32), Y.astype(np.int32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, bool])
def test_numeric_tables_become_float32(dtype):
    data = from_arrays(X.astype(dtype), Y)
    assert data.x.dtype == np.float32
    assert data.y.dtype == np.int32
    np.testing.assert_array_equal(data.x, X.astype(dtype).astype(np.float64))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, bool])
def test_integers_are_labels(dtype):
    data = from_arrays(X, Y.astype(dtype))
    assert (data.task, data.classes) == ("classification", ("0", "1"))
    np.testing.assert_array_equal(data.y, Y)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_regression_targets(shape, dtype):
    data = from_arrays(X, Y.astype(dtype).reshape(shape))
    assert (data.task, data.classes, data.y.shape, data.y.dtype) == ("regression", (), (4, 1), np.float32)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected_shape", "expected_max"),
    [
        ((2, 3, 3), np.uint8, (2, 3, 3, 1), 1.0),  # grayscale images
        ((2, 3, 3, 4), np.uint8, (2, 3, 3, 4), 1.0),
        ((2, 3), np.uint8, (2, 3), 255.0),  # a table is not scaled
        ((2, 3, 3), np.float32, (2, 3, 3), 255.0),  # sequences
        ((2, 3, 3), np.int64, (2, 3, 3), 255.0),
    ],
)
def test_only_uint8_images_are_scaled(shape, dtype, expected_shape, expected_max):
    data = from_arrays(np.full(shape, 255, dtype), [0, 1])
    assert data.x.shape == expected_shape
    assert data.x.max() == expected_max


def test_official_test_part_shares_the_classes():
    data = from_arrays(X, Y, x_test=X[:2], y_test=[2, 0])
    assert data.classes == data.test.classes == ("0", "1", "2")
    assert len(data) == 4 and len(data.test) == 2
    assert repr(data) == "<Dataset arrays: 4 samples of (2,), 3 classes, 2 for testing>"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": X[:0], "y": Y[:0]}, "empty"),
        ({"x": X[:, :0], "y": Y}, "empty"),
        ({"x": X, "y": Y[:3]}, "differ in length"),
        ({"x": X, "y": Y[:3].astype(float)}, "differ in length"),
        ({"x": X[:, 0], "y": Y}, r"x is float32\[4\]; expected"),
        ({"x": np.zeros((4, 1, 1, 1, 1)), "y": Y}, r"expected float32 of shape \(N, features\)"),
        ({"x": 1.0, "y": Y}, r"x is float32\[\]"),
        ({"x": X, "y": 1}, r"expected integer labels of shape \(N,\)"),
        ({"x": X, "y": 1.0}, "differ in length"),
        ({"x": X, "y": np.eye(4, dtype=int)}, r"For one-hot rows pass y\.argmax\(axis=1\)"),
        ({"x": X, "y": np.zeros((4, 3))}, r"expected float32 targets of shape \(N, 1\)"),
        ({"x": X, "y": [0, 1, -1, 0]}, "labels run from -1 to 1; expected 0 to 1"),
        ({"x": X, "y": [0, 1, 500, 0]}, "labels run up to 500, but there are only 4 samples.*np.unique"),
        ({"x": X, "y": [0, 1, 2**40, 0]}, "runs from 0 to 1099511627776"),
        ({"x": X, "y": [0, 1, -(2**31) - 1, 0]}, "runs from -2147483649"),
        ({"x": X, "y": [0, 1, 2, 0], "classes": ("a", "b")}, "expected 0 to 1, since there are 2 classes"),
        ({"x": X, "y": ["a", "b", "a", "b"]}, "expected numbers.*np.unique"),
        ({"x": X.astype(object), "y": Y}, "x is object.*expected numbers"),
        ({"x": X.astype(complex), "y": Y}, "x is complex128.*expected numbers"),
        ({"x": np.where(X == 5, np.nan, X), "y": Y}, r"x has 1 values.*sample 2 \(1 of 4 samples\)"),
        ({"x": np.where(X > 5, np.inf, X), "y": Y}, "x has 2 values that are NaN or infinite"),
        ({"x": np.where(X == 5, 1e300, X), "y": Y}, "x as float32 has 1 values"),
        ({"x": X, "y": [0.0, np.nan, 1.0, 2.0]}, "y has 1 values that are NaN"),
        ({"x": X, "y": Y, "x_test": X}, "has x_test but no y_test"),
        ({"x": X, "y": Y, "y_test": Y}, "has y_test but no x_test"),
        (
            {"x": X, "y": Y, "x_test": X, "y_test": Y.astype(float)},
            "y means classification, but that of y_test",
        ),
        ({"x": X, "y": Y, "x_test": X[:, :1], "y_test": Y}, "the test part differs in sample shape"),
    ],
)
def test_from_arrays_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        from_arrays(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((X, L, "d", "classification", ("a", "b")), "x is float64.*expected float32"),
        ((F, Y, "d", "classification", ("a", "b")), "y is int64.*expected int32"),
        ((F, L, "d", "regression"), "expected float32 targets"),
        ((F, F[:, :1], "d", "regression", ("a",)), "expected none for regression"),
        ((F, L, "d", "ranking"), "task is 'ranking', expected 'classification' or 'regression'"),
        ((F, L, "d", "classification", ()), "0 classes"),
    ],
)
def test_dataset_does_not_convert(arguments, words):
    with pytest.raises(ValueError, match=words):
        Dataset(*arguments)


def test_masked_arrays_lose_no_mask():
    x = np.ma.masked_array(np.ones((2, 1)), [[0], [1]])
    with pytest.raises(ValueError, match=r"x is a masked array, whose mask would be lost; pass x\.filled\(value\)"):
        from_arrays(x, [0, 1])
    with pytest.raises(ValueError, match="y is a masked array"):
        from_arrays(np.ones((2, 1)), np.ma.masked_array([0, 1], [0, 1]))
    assert len(from_arrays(np.ma.masked_array(np.ones((2, 1))), [0, 1])) == 2
