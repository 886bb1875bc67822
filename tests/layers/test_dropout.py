"""Variants of dropout against values and moments of PyTorch's, whose random numbers differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
ROOT = {"dropout": "Dropout", "spatial_dropout": "Dropout2d", "alpha_dropout": "AlphaDropout"}


def trained(layer, x, key=KEY):
    return layer.apply({}, {}, x, key=key, training=True)[0]


@pytest.mark.parametrize("name", ROOT)
def test_values_are_pytorchs(name):
    """Each input value has two possible outputs, kept and dropped: both, and both slopes, equal PyTorch's."""
    torch = pytest.importorskip("torch")
    x = np.full((2, 3, 3, 40), 0.7, np.float32)
    y, back = jax.vjp(lambda x: trained(getattr(nn, name)(0.3), x), jnp.asarray(x))
    inputs = torch.tensor(x, requires_grad=True)
    expected = getattr(torch.nn, ROOT[name])(0.3)(inputs.movedim(-1, 1)).movedim(1, -1)
    expected.sum().backward()

    def pairs(values, slopes):
        return sorted(set(zip(np.round(values, 4).ravel().tolist(), np.round(slopes, 4).ravel().tolist(), strict=True)))

    ours = pairs(y, back(jnp.ones_like(y))[0])
    assert len(ours) == 2
    np.testing.assert_allclose(ours, pairs(expected.detach().numpy(), inputs.grad.numpy()), atol=2e-4)


def test_units_that_are_dropped_together():
    x = jnp.ones((50, 4, 5, 6))
    for layer, together in (
        (nn.spatial_dropout(0.5), (1, 2)),
        (nn.drop_path(0.5), (1, 2, 3)),
        (nn.dropout(0.5, broadcast_axes=(1,)), (1,)),
        (nn.dropout(0.5, broadcast_axes=(0, -1)), (0, 3)),
    ):
        y = np.asarray(trained(layer, x))
        assert set(np.unique(y)) == {0, 2}
        np.testing.assert_array_equal(y.max(together), y.min(together))
        for axis in set(range(4)) - set(together):  # axes along which units are dropped separately
            assert (y != y.take([0], axis)).any()


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "layer, mean, variance",
    [
        (nn.alpha_dropout(0.2), 0, 1),
        (nn.gaussian_dropout(0.2), 0, 1.25),
        (nn.gaussian_noise(0.5), 0, 1.25),
        (nn.dropout(0.2, broadcast_axes=(1,)), 0, 1.25),
        (nn.spatial_dropout(0.2), 0, 1.25),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_moments_of_standard_normal_inputs(layer, mean, variance):
    """y = x · z has variance E z² = 1 + rate / (1 − rate), y = x + σ z has 1 + σ², alpha dropout keeps 1."""
    y = trained(layer, jax.random.normal(jax.random.key(1), (4000, 3, 20)))
    np.testing.assert_allclose(y.mean(), mean, atol=0.02)
    np.testing.assert_allclose(y.var(), variance, rtol=0.03)


def test_the_rate_may_be_traced_and_a_rate_of_zero_needs_no_key():
    x = jnp.linspace(-1, 1, 12).reshape(2, 2, 3)
    for make in (nn.alpha_dropout, nn.gaussian_dropout, nn.gaussian_noise, nn.drop_path):
        traced = jax.jit(lambda rate: trained(make(rate), x))(0.5)
        np.testing.assert_allclose(traced, trained(make(0.5), x), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(make(0.0).apply({}, {}, x, training=True)[0], x)


def test_a_dropped_infinity_becomes_zero():
    x = jnp.full((64, 3), jnp.inf)
    y = trained(nn.drop_path(0.5), x)
    assert set(np.unique(y).tolist()) == {0, np.inf}


def test_drop_path_drops_or_scales_whole_samples():
    model = nn.residual(nn.dense(3, kernel_init=nn.initializers.ones), nn.drop_path(0.25))
    x = jnp.ones((200, 3))
    params, state = model.init(KEY, x)
    y, _ = model.apply(params, state, x, key=KEY, training=True)
    np.testing.assert_allclose(np.unique(y), [1, 5], rtol=1e-6)
    assert 0.6 < float((y > 1).mean()) < 0.9


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: nn.alpha_dropout(1.0), "in \\[0, 1\\)"),
        (lambda: nn.gaussian_noise(-1.0), "stddev of at least 0"),
        (lambda: trained(nn.dropout(0.5, broadcast_axes=(2,)), jnp.ones((2, 3))), "broadcast_axes"),
    ],
)
def test_mistakes_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
