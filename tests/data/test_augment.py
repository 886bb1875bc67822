"""Tests of augmentation: distributions of the transformations, untouched values, and mixed labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxnn.data.augment import chain, cutmix, cutout, mixup, random_crop, random_flip
from jaxnn.data.augment.mixing import symmetric_beta
from jaxnn.functional.losses import cross_entropy

KEY = jax.random.key(3)
N, H, W = 6, 7, 5
X = np.random.default_rng(0).normal(size=(N, H, W, 2)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2], np.int32)
PIXELS = np.arange(1, N * H * W + 1, dtype=np.float32).reshape(N, H, W, 1)  # distinct, none of them 0
MOVING = {
    "horizontal": random_flip(),
    "vertical": random_flip("vertical", probability=0.3),
    "crop": random_crop(2),
    "reflect": random_crop(2, size=(6, 4), mode="reflect"),
    "cutout": cutout(3),
    "cutmix": cutmix(1.0, 3),
}
CHAIN = chain(random_crop(1), mixup(0.4, 3), cutmix(0.7, 3))

beta = jax.jit(lambda key, alpha: symmetric_beta(key, alpha, 20_000))


def over_keys(augment, n, x=PIXELS, y=Y):
    """Results for n keys, from one program."""
    x, y = jax.jit(jax.vmap(lambda key: augment(key, (jnp.asarray(x), jnp.asarray(y)))))(jax.random.split(KEY, n))
    return np.asarray(x), np.asarray(y)


def assert_equally_likely(counts):
    """Check that χ² of the counts is within 5 standard deviations of its mean."""
    freedom = counts.size - 1
    expected = counts.sum() / counts.size
    assert expected >= 10
    assert abs(((counts - expected) ** 2 / expected).sum() - freedom) < 5 * np.sqrt(2 * freedom)


def which(results, candidates):
    """For results (keys, n, …), the index of the only candidate (c, n, …) that equals each sample: (keys, n)."""
    same = (results[:, None] == candidates[None]).all((-3, -2, -1))  # (keys, c, n)
    assert (same.sum(1) == 1).all()
    return same.argmax(1)


@pytest.mark.sample(2)
@pytest.mark.parametrize("augment", [MOVING["vertical"], MOVING["reflect"], MOVING["cutmix"], mixup(0.4, 3)])
def test_vmap_over_keys_equals_a_scan(augment):
    def both(keys, batch):
        scan = jax.lax.scan(lambda carry, key: (carry, augment(key, batch)), 0, keys)[1]
        return scan, jax.vmap(augment, (0, None))(keys, batch)

    first, second = jax.random.split(KEY)
    scan, together = jax.jit(both)(jnp.stack([first, second, first]), (jnp.asarray(X), jnp.asarray(Y)))
    for one, other in zip(scan, together, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)  # a product and a sum may be rounded once or twice
        np.testing.assert_array_equal(one[2], one[0])  # equal keys give equal results
    assert not np.array_equal(scan[0][1], scan[0][0])


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", MOVING)
def test_pixels_only_move(name):
    """Any map of pixel values with f(0) = 0 commutes with the augmentation, in every dtype, with NaN and ∞."""
    values = np.random.default_rng(0).normal(size=PIXELS.size + 1)
    values[0], values[5::9], values[7::9] = 0, np.nan, -np.inf
    tables = [values.astype(dtype) for dtype in (np.float32, jnp.bfloat16, np.float16)]
    tables.append(np.arange(values.size).astype(np.uint8))
    images = [PIXELS, *(table[PIXELS.astype(int)] for table in tables)]
    moved, *results = jax.jit(lambda images: [MOVING[name](KEY, (x, Y))[0] for x in images])(images)
    for table, result in zip(tables, results, strict=True):
        assert result.dtype == table.dtype
        np.testing.assert_array_equal(np.asarray(result, np.float32), table[np.asarray(moved, int)].astype(np.float32))


@pytest.mark.sample(1)
@pytest.mark.parametrize(("axis", "number"), [("horizontal", 2), ("vertical", 1)])
def test_flip(axis, number):
    mirrored = np.flip(PIXELS, number)
    flipped = which(over_keys(random_flip(axis), 300)[0], np.stack([PIXELS, mirrored]))
    assert_equally_likely(np.bincount(flipped.ravel(), minlength=2))
    assert_equally_likely(np.bincount((flipped[:, 1:] ^ flipped[:, :-1]).ravel(), minlength=2))  # independent samples
    rare = which(over_keys(random_flip(axis, probability=0.1), 300)[0], np.stack([PIXELS, mirrored]))
    assert stats.binomtest(int(rare.sum()), rare.size, 0.1).pvalue > 1e-5

    always = random_flip(axis, probability=1)
    once = always(KEY, (PIXELS, Y))
    np.testing.assert_array_equal(once[0], mirrored)
    np.testing.assert_array_equal(always(KEY, once)[0], PIXELS)
    np.testing.assert_array_equal(random_flip(axis, probability=0)(KEY, (PIXELS, Y))[0], PIXELS)


WINDOWS = [(2, None, mode) for mode in ("zeros", "edge", "reflect", "symmetric", "wrap")]


@pytest.mark.parametrize(("padding", "size", "mode"), [*WINDOWS, (1, (6, 4), "zeros"), (0, 3, "edge")])
def test_crop_is_a_window_of_the_padded_image(padding, size, mode):
    height, width = (H, W) if size is None else np.broadcast_to(size, 2)
    border = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    padded = np.pad(PIXELS, border, mode="constant" if mode == "zeros" else mode)
    places = np.ndindex(H + 2 * padding - height + 1, W + 2 * padding - width + 1)
    windows = np.stack([padded[:, i : i + height, j : j + width] for i, j in places])
    window = which(over_keys(random_crop(padding, size=size, mode=mode), 200)[0], windows)
    assert_equally_likely(np.bincount(window.ravel(), minlength=len(windows)))


@pytest.mark.parametrize("size", [2, 3])
def test_cutout_zeroes_exactly_one_clipped_square(size):
    def without(i, j):
        cut, up, left = PIXELS.copy(), i - size // 2, j - size // 2
        cut[:, max(up, 0) : up + size, max(left, 0) : left + size] = 0
        return cut

    squares = np.stack([without(i, j) for i, j in np.ndindex(H, W)])
    middle = which(over_keys(cutout(size), 200)[0], squares)
    assert_equally_likely(np.bincount(middle.ravel(), minlength=H * W))


def test_mixup_blends_pixels_and_labels_equally():
    own = np.arange(N)
    x, y = over_keys(mixup(0.5, N), 400, y=own.astype(np.int32))  # one class per image
    share = y[:, own, own]
    others = np.where(np.eye(N, dtype=bool), -1, y)
    partner = others.argmax(-1)
    np.testing.assert_allclose(share + others.max(-1), 1, rtol=0, atol=1e-7)
    assert ((y != 0).sum(-1) <= 2).all()
    blend = share[..., None, None, None]
    np.testing.assert_allclose(x, blend * PIXELS + (1 - blend) * PIXELS[partner], rtol=1e-5)

    shift = (partner - own) % N
    seen = (others.max(-1) > 0).all(-1)  # where a share is 1, the partner is not known
    assert (shift[seen] == shift[seen][:, :1]).all()
    assert_equally_likely(np.bincount(shift[seen][:, 0], minlength=N)[1:])
    assert stats.kstest(share.ravel(), stats.beta(0.5, 0.5).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(share[:, 0], share[:, 1])[0, 1]) < 5 / np.sqrt(400)  # independent samples


@pytest.mark.parametrize("alpha", [0.1, 1.0, 8.0, 1000.0])
def test_the_share_is_beta_distributed(alpha):
    share = np.asarray(beta(KEY, alpha), np.float64)
    assert share.min() >= 0 and share.max() <= 1
    inside = stats.beta(alpha, alpha)
    for point in inside.ppf([0.3, 0.4, 0.5, 0.7]):
        point = np.clip(point, 1e-6, 1 - 1e-6)  # the precision is absolute: smaller distances from 0 or 1 are rounded to 0
        assert stats.binomtest(int((share <= point).sum()), share.size, inside.cdf(point)).pvalue > 1e-5


@pytest.mark.parametrize("alpha", [1e-4, 1e-2, 1e8, np.inf])
def test_extreme_parameters_give_finite_shares(alpha):
    share = np.asarray(beta(KEY, alpha))
    assert np.isfinite(share).all()
    assert abs(share.mean() - 0.5) < 0.03


def test_cutmix_labels_equal_the_share_of_pixels():
    own = np.arange(N)
    x, y = over_keys(cutmix(1.0, N), 400, y=own.astype(np.int32))
    place = (x.astype(int) - 1)[..., 0] % (H * W)
    np.testing.assert_array_equal(place, np.broadcast_to(np.arange(H * W).reshape(H, W), place.shape))  # nothing moves
    source = (x.astype(int) - 1)[..., 0] // (H * W)  # which image each pixel comes from
    counts = (source[..., None] == own).sum((2, 3))
    np.testing.assert_array_equal(y, counts.astype(np.float32) / np.float32(H * W))

    pasted = source != own[:, None, None]
    rows, columns = pasted.any(3), pasted.any(2)
    np.testing.assert_array_equal(pasted, rows[..., None] & columns[:, :, None])  # a box
    for axis in (rows, columns):
        assert (np.abs(np.diff(axis.astype(int), prepend=0, append=0, axis=-1)).sum(-1) <= 2).all()  # connected
    shift = np.where(pasted.any((2, 3)), (source.max((2, 3)) + source.min((2, 3)) - 2 * own) % N, 0)
    assert all(len(set(row) - {0}) <= 1 for row in shift)  # one partner each, at one offset
    assert_equally_likely(np.bincount(shift.max(1), minlength=N)[1:])

    rng, draws = np.random.default_rng(0), 100_000
    side = np.sqrt(rng.uniform(size=draws))
    covered = np.ones(draws)
    for length in (H, W):
        cut = np.floor(length * side).astype(int)
        first = rng.integers(length, size=draws) - cut // 2
        covered *= np.clip(first + cut, 0, length) - np.clip(first, 0, length)
    area = pasted.sum((2, 3))
    assert abs(area.mean() - covered.mean()) < 5 * covered.std() / np.sqrt(area.size)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixed_labels(mix):
    def several(x, labels):
        three = mix(1.0, 3)
        single = three(KEY, (x[:1], labels[:1]))
        return three(KEY, (x, labels)), three(KEY, (x, jax.nn.one_hot(labels, 3))), mix(1.0, 2)(KEY, (x, labels)), single

    (x, y), again, (_, unknown), single = jax.jit(several)(X, Y)
    assert y.shape == (N, 3) and y.dtype == jnp.float32
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
    assert jnp.isfinite(cross_entropy(jnp.zeros((N, 3)), y))
    np.testing.assert_array_equal(again[0], x)  # probabilities are accepted too
    np.testing.assert_array_equal(again[1], y)

    assert np.isnan(unknown).any(1)[Y == 2].all()  # label 2 is not one of two classes
    assert jnp.isnan(cross_entropy(jnp.zeros((N, 2)), unknown))

    np.testing.assert_array_equal(single[0], X[:1])  # there is no other image
    np.testing.assert_allclose(single[1], [[1, 0, 0]], atol=1e-7)


def test_mixing_in_other_dtypes(x64):
    dtypes = (jnp.float32, jnp.float64, jnp.bfloat16, jnp.float16)
    images = [X.astype(jnp.bfloat16).astype(dtype) for dtype in dtypes]  # the same values in each
    (wide, y), *others = jax.jit(lambda images: [mixup(1.0, 3)(KEY, (x, Y)) for x in images])(images)
    for dtype, (x, labels) in zip(dtypes[1:], others, strict=True):
        assert x.dtype == dtype and labels.dtype == (dtype if dtype == jnp.float64 else jnp.float32)
        np.testing.assert_allclose(labels, y, atol=1e-6)
        precision = max(float(jnp.finfo(dtype).eps), 1e-6)
        np.testing.assert_allclose(np.asarray(x, np.float64), wide, rtol=precision, atol=1e-6)


def test_alpha_may_be_traced():
    def mixed(alpha):
        return [mix(alpha, 3)(KEY, (X, Y)) for mix in (mixup, cutmix)]

    for traced, fixed in zip(jax.tree.leaves(jax.jit(mixed)(0.4)), jax.tree.leaves(jax.jit(lambda: mixed(0.4))()), strict=True):
        np.testing.assert_allclose(traced, fixed, atol=1e-6)


def test_augmentation_is_linear_in_the_images_and_has_both_derivatives():
    kernel = jnp.asarray(X[::-1].copy())

    def moved(x):
        return CHAIN(KEY, (x, Y))[0]

    def derivatives(x, kernel):
        value, push = jax.jvp(moved, (x,), (kernel,))
        return value, push, moved(kernel), jax.vjp(moved, x)[1](kernel)[0]

    value, push, direct, pull = jax.jit(derivatives)(jnp.asarray(X), kernel)
    np.testing.assert_allclose(push, direct, atol=1e-6)
    np.testing.assert_allclose((pull * X).sum(), (value * kernel).sum(), rtol=1e-4)


def test_chain_folds_the_index_into_the_key():
    seen = []

    def mine(key, batch):
        seen.append(jax.random.key_data(key).tolist())
        return batch[0] + 1, batch[1]

    x, y = chain(mine, random_flip(), mine)(KEY, (PIXELS, "anything"))
    assert seen == [jax.random.key_data(jax.random.fold_in(KEY, k)).tolist() for k in (0, 2)]
    np.testing.assert_array_equal(x, random_flip()(jax.random.fold_in(KEY, 1), (PIXELS, None))[0] + 2)
    assert y == "anything"
    assert chain()(KEY, (PIXELS, Y)) == (PIXELS, Y)


BATCH = X, Y
ERRORS = {
    "axis": (lambda: random_flip("diagonal"), ValueError, '"horizontal" or "vertical"'),
    "probability": (lambda: random_flip(probability=50), ValueError, "from 0 to 1"),
    "mode": (lambda: random_crop(mode="mirror"), ValueError, "reflect"),
    "padding": (lambda: random_crop(-1), ValueError, "at least 0"),
    "half a pixel": (lambda: random_crop(1.5), TypeError, "an integer"),
    "three sizes": (lambda: random_crop(size=(1, 2, 3)), ValueError, "height, width"),
    "no square": (lambda: cutout(0), ValueError, "at least 1"),
    "alpha": (lambda: mixup(0, 3), ValueError, "positive number"),
    "classes": (lambda: cutmix(1.0, 3.0), TypeError, "an integer"),
    "no function": (lambda: chain(random_flip(), "crop"), TypeError, "argument 1"),
    "no pair": (lambda: chain(lambda key, batch: batch[0])(KEY, BATCH), TypeError, "expected a pair"),
    "no channels": (lambda: random_flip()(KEY, (X[..., 0], Y)), ValueError, r"float32\[6, 7, 5\].*x\[..., None\]"),
    "vectors": (lambda: cutout(1)(KEY, (X[:, 0, 0], Y)), ValueError, "batch, height, width, channels"),
    "out of sight": (lambda: random_crop(5)(KEY, BATCH), ValueError, "less than the size"),
    "large window": (lambda: random_crop(1, size=8)(KEY, BATCH), ValueError, "larger than images"),
    "large square": (lambda: cutout(6)(KEY, BATCH), ValueError, "smaller size"),
    "integer images": (lambda: mixup(1.0, 3)(KEY, (X.astype(np.uint8), Y)), TypeError, "/ 255"),
    "boolean labels": (lambda: mixup(1.0, 3)(KEY, (X, Y > 0)), TypeError, "astype"),
    "integer one-hot": (lambda: mixup(1.0, 3)(KEY, (X, np.eye(3, dtype=int)[Y])), ValueError, "one-hot"),
    "other labels": (lambda: cutmix(1.0, 3)(KEY, (X, Y[:4])), ValueError, r"int32\[4\]"),
    "float labels": (lambda: cutmix(1.0, 3)(KEY, (X, Y.astype(np.float32))), ValueError, r"\(6, 3\)"),
    "no class": (lambda: cutmix(1.0, 2)(KEY, BATCH), ValueError, "from 0 to 2"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
