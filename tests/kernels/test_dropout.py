"""kernels.dropout: the generator is the published one, and its masks are random and reproducible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnn.kernels import dropout
from jaxnn.kernels.dropout import _words, threefry

KEY = jax.random.key(7)


@pytest.mark.parametrize(
    ("block", "key", "expected"),
    [
        ((0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0xFD36D048, 0x2D17272C)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xBA3E4725, 0xF27D669E)),
    ],
)
def test_the_generator_gives_the_published_numbers(block, key, expected):
    """The known answers of Random123, the reference implementation, for 13 rounds."""
    block, key = ([jnp.uint32(word) for word in pair] for pair in (block, key))
    assert tuple(map(int, threefry(tuple(key), tuple(block)))) == expected


@pytest.fixture(scope="module")
def words():
    """Words of sixteen keys as in a training run: one key, with the number of the step folded in."""
    draw = jax.jit(jax.vmap(lambda step: _words(jax.random.fold_in(KEY, step), (64, 8, 128))))
    return np.asarray(draw(jnp.arange(16)))


@pytest.mark.slow
def test_bits_are_fair_and_independent(words):
    """Each bit is 1 half of the time, and equals its neighbor half of the time along each axis, that of the keys included."""
    bits = np.unpackbits(words[..., None].view(np.uint8), axis=-1).astype(np.int8)
    pairs = [bits.reshape(-1, 32)]
    for axis in range(4):
        for distance in (1, 2, 8):
            if distance < bits.shape[axis]:
                low, high = (np.take(bits, np.arange(bits.shape[axis])[s], axis) for s in (np.s_[:-distance], np.s_[distance:]))
                pairs.append((low ^ high).reshape(-1, 32))
    scores = [(p.sum(0, dtype=np.int64) - len(p) / 2) / np.sqrt(len(p) / 4) for p in pairs]
    assert np.abs(scores).max() < 5  # about 380 scores, each N(0, 1): the probability that one exceeds 5 is 2e-4


def test_bytes_are_uniform(words):
    """χ² of the top byte, and of the joint top four bits of neighbors, with 255 degrees of freedom: mean 255, σ 22.6."""
    top = words.reshape(-1, 128) >> 24
    joint = (top[:, :-1] >> 4) * 16 + (top[:, 1:] >> 4)
    for values in (top, joint[:, ::2]):
        counts = np.bincount(values.ravel(), minlength=256)
        expected = values.size / 256
        assert 150 < ((counts - expected) ** 2 / expected).sum() < 370


@pytest.mark.parametrize("rate", [0.001, 0.2, 0.5, 0.9])
def test_the_rate_and_the_scale_are_right(rate):
    y = np.asarray(dropout(jnp.ones((1000, 1000)), rate, KEY))
    dropped = (y == 0).mean()
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / y.size)
    steps = np.round((1 - np.float64(rate)) * 2**24)  # the probability that is used
    assert abs(steps / 2**24 - (1 - rate)) <= 2**-25
    np.testing.assert_allclose(y[y != 0], 2**24 / steps, rtol=2e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 16)), dtype)
    y = dropout(x, 0.3, KEY)
    assert y.dtype == x.dtype
    exact = (np.float32(x) * np.float32(2**24 / np.round(0.7 * 2**24))).astype(x.dtype)
    np.testing.assert_array_equal(y, np.where(y == 0, 0, exact))


@pytest.mark.slow
def test_the_mask_depends_on_key_and_index_only():
    x = jnp.ones((6, 5, 3))
    y = dropout(x, 0.4, KEY)
    keys = jax.random.split(KEY, 3)
    single = jnp.stack([dropout(x, 0.4, key) for key in keys])
    in_a_loop = jax.lax.scan(lambda _, key: (None, jnp.sin(dropout(x, 0.4, key))), None, keys)[1]
    np.testing.assert_array_equal(jax.jit(lambda rate: dropout(x, rate, KEY))(0.4), y)
    np.testing.assert_array_equal(dropout(x[:2], 0.4, KEY), y[:2])
    np.testing.assert_array_equal(jax.vmap(dropout, (None, None, 0))(x, 0.4, keys), single)
    np.testing.assert_array_equal(in_a_loop != 0, single != 0)
    rates = jnp.array([0.0, 0.4, 1.0, 1.1, -0.1])
    mixed = jax.vmap(dropout, (None, 0, None))(x, rates, KEY)
    np.testing.assert_array_equal(mixed, jnp.stack([x, y, 0 * x, jnp.nan * x, jnp.nan * x]))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(dropout(x.astype("float64"), 0.4, KEY) != 0, y != 0)


def test_derivatives_are_those_of_the_mask():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), "float32")
    scale = np.asarray(dropout(jnp.ones_like(x), 0.5, KEY))
    dropped = np.unravel_index(scale.argmin(), x.shape)
    f = lambda x: dropout(x, 0.5, KEY)  # noqa: E731
    cubic = jax.grad(lambda x: jnp.sum(f(x) ** 3))

    @jax.jit
    def derivatives(x):
        y, pullback = jax.vjp(f, x)
        remat = jax.grad(lambda x: jnp.sum(jax.checkpoint(f)(x)))(x)
        return y, jax.jvp(f, (x,), (x,))[1], pullback(jnp.ones_like(x))[0], remat, jax.jvp(cubic, (x,), (x,))[1]

    y, tangent, gradient, remat, curvature = derivatives(x.at[dropped].set(jnp.nan))
    np.testing.assert_array_equal(y, scale * x)
    np.testing.assert_array_equal(tangent, y)
    np.testing.assert_array_equal(gradient, scale)
    np.testing.assert_array_equal(remat, scale)
    kept = scale > 0
    np.testing.assert_allclose(curvature[kept], (6 * scale**3 * x * x)[kept], rtol=1e-6)


def test_other_generators_keys_and_edges():
    y = dropout(jnp.ones((100, 100)), 0.5, jax.random.key(0, impl="rbg"))
    assert 0.45 < float((y == 0).mean()) < 0.55
    assert dropout(jnp.float32(3), 0.0, KEY) == 3
    assert dropout(jnp.zeros((0, 4)), 0.5, KEY).shape == (0, 4)
    assert np.asarray(dropout(jnp.ones(1000), 0.5, KEY)).mean() == pytest.approx(1, abs=0.15)
    with pytest.raises(TypeError, match="floating-point numbers, got int32"):
        dropout(jnp.ones(3, int), 0.5, KEY)
    for rate in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"rate in \\[0, 1\\].*got {rate}"):
            dropout(jnp.ones(3), rate, KEY)


def test_sharding():
    x = jnp.ones((4, 8))
    explicit, auto = (jax.make_mesh((1,), ("batch",), axis_types=(kind,)) for kind in (AxisType.Explicit, AxisType.Auto))
    f = jax.jit(lambda x: dropout(x, 0.5, KEY))
    with jax.set_mesh(explicit):
        np.testing.assert_array_equal(f(jax.device_put(x, P("batch"))), f(x))
    sharded = jax.shard_map(f, mesh=auto, in_specs=P("batch"), out_specs=P("batch"))
    np.testing.assert_array_equal(jax.jit(sharded)(x), f(x))
