"""Convolutions against PyTorch, and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def first(x):
    """Channels first."""
    return x.movedim(-1, 1)


def last(x):
    return x.movedim(1, -1)


def convolved(pad=(), mode="constant", **options):
    """PyTorch's convolution after a padding in the order of F.pad, last axis first."""

    def peer(torch, x, kernel, bias=None):
        f = torch.nn.functional
        x = f.pad(first(x), pad, mode=mode) if pad else first(x)
        convolve = {3: f.conv1d, 4: f.conv2d, 5: f.conv3d}[x.ndim]
        return last(convolve(x, kernel.movedim((-1, -2), (0, 1)), bias, **options))

    return peer


def transposed(**options):
    """PyTorch's transposed convolution, whose kernel is (C_in, C_out / groups, *window), its groups along C_in."""
    groups = options.get("groups", 1)

    def peer(torch, x, kernel, bias=None):
        f, window = torch.nn.functional, kernel.shape[:-2]
        weight = kernel.movedim((-1, -2), (1, 0))  # (C_in / groups, C_out, *window)
        weight = weight.reshape(weight.shape[0], groups, -1, *window).transpose(0, 1).reshape(x.shape[-1], -1, *window)
        convolve = {3: f.conv_transpose1d, 4: f.conv_transpose2d, 5: f.conv_transpose3d}[x.ndim]
        return last(convolve(first(x), weight, bias, **options))

    return peer


def separable(torch, x, depthwise, pointwise):
    y = convolved((1, 1, 1, 1), groups=x.shape[-1])(torch, x, **depthwise)
    return convolved()(torch, y, **pointwise)


def weight_normed(torch, x, kernel, scale, bias):
    return convolved()(torch, x, torch._weight_norm(kernel, scale, kernel.ndim - 1), bias)


def standardized(torch, x, kernel, bias):
    matrix = kernel.reshape(-1, kernel.shape[-1])
    var, mean = torch.var_mean(matrix, 0, unbiased=False)
    return convolved()(torch, x, ((matrix - mean) / (var + 1e-5).sqrt()).reshape(kernel.shape), bias)


CASES = {
    "1-D": (nn.conv(3, 4, strides=2, padding=((2, 1),)), (2, 7, 2), convolved((2, 1), stride=2)),
    "2-D, groups": (nn.conv(6, 3, groups=2), (2, 5, 4, 4), convolved((1, 1, 1, 1), groups=2)),
    "3-D, dilated": (nn.conv(2, 2, dilation=2, padding="VALID", use_bias=False), (2, 4, 3, 5, 2), convolved(dilation=2)),
    "causal": (nn.conv(3, 3, padding="CAUSAL", dilation=2), (2, 6, 2), convolved((4, 0), dilation=2)),
    "circular": (nn.conv(3, (4, 3), padding="CIRCULAR"), (2, 5, 4, 2), convolved((1, 1, 1, 2), "circular")),
    "reflect": (nn.conv(3, 3, padding="REFLECT", strides=2), (2, 5, 4, 2), convolved((1, 1, 1, 1), "reflect", stride=2)),
    "depthwise": (nn.depthwise_conv(3, multiplier=2), (2, 5, 4, 3), convolved((1, 1, 1, 1), groups=3)),
    "separable": (nn.separable_conv(4, 3), (2, 5, 4, 3), separable),
    "transpose 1-D": (nn.conv_transpose(3, 4, strides=2, padding=((1, 1),)), (2, 4, 2), transposed(stride=2, padding=1)),
    "transpose 2-D, output padding, groups": (
        nn.conv_transpose(4, 3, strides=2, padding=((1, 0), (1, 0)), groups=2),
        (2, 3, 4, 4),
        transposed(stride=2, padding=1, output_padding=1, groups=2),
    ),
    "transpose 2-D, dilated": (nn.conv_transpose(2, 3, dilation=2, padding="VALID"), (2, 3, 4, 2), transposed(dilation=2)),
    "transpose 3-D": (nn.conv_transpose(2, 2, strides=2), (1, 2, 3, 2, 2), transposed(stride=2)),
    "weight_norm": (nn.weight_norm(nn.conv(3, 2, padding="VALID")), (2, 5, 2), weight_normed),
    "weight_standardization": (nn.weight_standardization(nn.conv(3, 2, padding="VALID")), (2, 5, 2), standardized),
}


@pytest.mark.sample(6)
@pytest.mark.parametrize("layer, shape, peer", CASES.values(), ids=CASES)
def test_against_pytorch(layer, shape, peer, equals_pytorch):
    equals_pytorch(layer, shape, peer)


def test_spectral_norm_against_pytorch():
    """Three calls in training and one at inference, from the same vectors, to which no gradient flows."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    layer = nn.spectral_norm(nn.dense(5))
    params, state = layer.init(jax.random.key(0), x)
    peer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(4, 5))
    power, weight = peer.parametrizations.weight[0], peer.parametrizations.weight.original
    with torch.no_grad():
        weight.copy_(torch.tensor(np.asarray(params["kernel"]).T))
        peer.bias.zero_()
        power._u.copy_(torch.tensor(np.asarray(state["left"])))
        power._v.copy_(torch.tensor(np.asarray(state["right"])))

    @jax.jit
    def step(params, state):
        def energy(params):
            y, after = layer.apply(params, state, x, training=True)
            return (y**2).sum(), after

        return jax.value_and_grad(energy, has_aux=True)(params)

    for _ in range(3):
        peer.zero_grad()
        expected = (peer(torch.tensor(x)) ** 2).sum()
        expected.backward()
        (value, state), gradients = step(params, state)
        np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
        np.testing.assert_allclose(gradients["kernel"].T, weight.grad, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state["left"], power._u, atol=1e-5)
    y, same = layer.apply(params, state, x)
    np.testing.assert_allclose(y, peer.eval()(torch.tensor(x)).detach(), atol=1e-5)
    assert same is state or jax.tree.all(jax.tree.map(lambda a, b: a is b, same, state))


@pytest.mark.slow
def test_reparametrizations_keep_the_initial_output_and_take_whole_models():
    plain = nn.serial(nn.conv(4, 3), nn.relu, nn.repeat(nn.conv(4, 1), 2))
    normed = nn.serial(nn.weight_norm(nn.conv(4, 3)), nn.relu, nn.repeat(nn.weight_norm(nn.conv(4, 1)), 2))
    x, key = jnp.ones((1, 5, 3)), jax.random.key(0)
    params, _ = plain.init(key, x)
    own, _ = normed.init(key, x)
    np.testing.assert_allclose(plain(params, x), normed(own, x), rtol=1e-5)
    assert own["repeat"]["scale"].shape == (2, 4)
    model = nn.spectral_norm(nn.serial(nn.dense(3), nn.batch_norm(), nn.dense(2)))
    _, state = model.init(key, jnp.ones((4, 5)))
    assert {k: v.shape for k, v in nn.trees.paths(state).items()} == {
        "batch_norm/mean": (3,),
        "batch_norm/var": (3,),
        "dense/left": (3,),
        "dense/right": (5,),
        "dense_2/left": (2,),
        "dense_2/right": (3,),
    }


def test_with_causal_padding_no_output_depends_on_a_later_input():
    layer, x = nn.conv(2, 3, padding="CAUSAL", dilation=2), jax.random.normal(jax.random.key(1), (1, 6, 2))
    params, _ = layer.init(jax.random.key(0), x)
    seen = jax.jacobian(lambda x: layer(params, x)[0].sum(-1))(x)[:, 0].any(-1)  # (output time, input time)
    assert (seen == np.array([[j in (i, i - 2, i - 4) for j in range(6)] for i in range(6)])).all()


def test_zero_columns_stay_zero_under_weight_norm():
    layer, x = nn.weight_norm(nn.dense(2, kernel_init=nn.initializers.zeros)), jnp.ones((1, 3))
    params, _ = layer.init(jax.random.key(0), x)
    gradients = jax.grad(lambda p: layer(p, x).sum())(params)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves((layer(params, x), gradients)))


@pytest.mark.parametrize(
    "layer, shape, match",
    [
        (nn.conv(2, 3, padding="same"), (1, 4, 2), '"CIRCULAR"'),
        (nn.conv(2, 3, padding="CAUSAL"), (1, 4, 4, 2), "time"),
        (nn.conv(2, 7, padding="REFLECT"), (1, 3, 2), "larger input"),
        (nn.conv_transpose(2, 3, padding="CIRCULAR"), (1, 3, 2), "padding must be"),
        (nn.depthwise_conv(3), (4, 2), "spatial axes"),
        (nn.weight_norm(nn.layer_norm()), (4, 2), "has none"),
        (nn.weight_norm(nn.weight_norm(nn.dense(2))), (4, 2), "already"),
        (nn.spectral_norm(nn.repeat(nn.dense(2), 3)), (4, 2), "stacked"),
    ],
)
def test_mistakes_are_named(layer, shape, match):
    with pytest.raises(ValueError, match=match):
        layer.init(jax.random.key(0), jnp.ones(shape))


def test_spectral_norm_without_its_state():
    layer, x = nn.spectral_norm(nn.dense(2)), jnp.ones((1, 2))
    params, _ = layer.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="has state"):
        layer(params, x)
