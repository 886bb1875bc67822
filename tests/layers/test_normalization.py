"""Normalization against PyTorch; batch statistics with masks and over devices; errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def functional(name, *arguments, **options):
    """A function of `torch.nn.functional` over channels-last tensors, our scale its weight."""

    def peer(torch, x, scale=None, bias=None):
        parameters = {k: v for k, v in (("weight", scale), ("bias", bias)) if v is not None}
        return getattr(torch.nn.functional, name)(x.movedim(-1, 1), *arguments, **parameters, **options).movedim(1, -1)

    return peer


def batch_norm(torch, x, scale, bias):
    return functional("batch_norm", None, None, training=True)(torch, x, scale, bias)


def layer_norm(torch, x, scale, bias):
    return torch.nn.functional.layer_norm(x, scale.shape, scale, bias, 1e-3)


def rms_norm(torch, x, scale):
    return torch.nn.functional.rms_norm(x, scale.shape, scale, 1e-6)


def normalize(p, axis):
    def peer(torch, x):
        return torch.nn.functional.normalize(x, p, axis)

    return peer


CASES = {
    "unit": (nn.unit_norm(), (3, 2, 5), normalize(2.0, -1)),
    "unit, sums of absolute values": (nn.unit_norm(axis=1, p=1), (3, 4, 2), normalize(1.0, 1)),
    "batch": (nn.batch_norm(), (4, 3, 2, 3), batch_norm),
    "layer": (nn.layer_norm(epsilon=1e-3), (3, 2, 5), layer_norm),
    "layer over three axes": (nn.layer_norm(axis=(-3, -2, -1), epsilon=1e-3), (3, 2, 4, 3), layer_norm),
    "rms": (nn.rms_norm(), (3, 2, 5), rms_norm),
    "rms over two axes": (nn.rms_norm(axis=(1, 2)), (3, 2, 5), rms_norm),
    "group": (nn.group_norm(2), (3, 4, 2, 6), functional("group_norm", 2)),
    "group without space": (nn.group_norm(3, use_bias=False), (3, 6), functional("group_norm", 3)),
    "instance": (nn.instance_norm(), (3, 4, 2, 2), functional("instance_norm")),
    "instance, plain": (nn.instance_norm(use_scale=False, use_bias=False), (3, 7, 2), functional("instance_norm")),
    "local response": (
        nn.local_response_norm(3, alpha=0.5, k=2.0),
        (2, 3, 6),
        functional("local_response_norm", 3, 0.5, k=2.0),
    ),
    "local response, even": (nn.local_response_norm(4, alpha=1.0), (2, 3, 6), functional("local_response_norm", 4, 1.0)),
}


@pytest.mark.parametrize("layer, shape, peer", CASES.values(), ids=CASES)
def test_against_pytorch(layer, shape, peer, equals_pytorch):
    equals_pytorch(layer, shape, peer, training=True, tolerance=1e-4)


def drawn(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("per_position", [True, False], ids=["positions", "samples"])
def test_batch_norm_ignores_padding(per_position):
    """Values, running statistics and gradients do not depend on the values of the padding."""
    x = drawn(4, 5, 2)
    mask = jnp.arange(5)[None, :] < jnp.array([2, 5, 0, 3])[:, None] if per_position else jnp.array([True, False, True, True])
    layer = nn.batch_norm(epsilon=1e-3)
    params, state = layer.init(jax.random.key(0), (x, mask))
    weights = drawn(4, 5, 2)

    def masked(x):
        (y, _), after = layer.apply(params, state, (x, mask), training=True)
        return (y * weights).sum(), (y, after)

    @jax.jit
    def compact(values):
        return layer.apply(params, state, values, training=True)

    poisoned = jnp.where(mask.reshape(*mask.shape, *(1,) * (3 - mask.ndim)), x, jnp.nan)
    (_, (y, after)), gradient = jax.jit(jax.value_and_grad(masked, has_aux=True))(poisoned)
    expected, expected_after = compact(x[mask])
    np.testing.assert_allclose(y[mask], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y[~mask], 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after, expected_after)
    to_real = jax.grad(lambda values: (compact(values)[0] * weights[mask]).sum())(x[mask])
    np.testing.assert_allclose(gradient[mask], to_real, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(gradient[~mask], 0)
    (y, _), same = layer.apply(params, after, (poisoned, mask))
    assert bool(jnp.isfinite(y).all()) and same is after


BATCHES = [np.random.default_rng(seed).normal(seed, 2, (3, 5, 2)).astype(np.float32) for seed in range(3)]


def trained(layer, batches):
    """The outputs in training, the next state, and the output for the first batch at inference."""
    params, state = layer.init(jax.random.key(0), batches[0])
    step = jax.jit(lambda state, x: layer.apply(params, state, x, training=True))
    ys = []
    for x in batches:
        y, state = step(state, x)
        ys.append(y)
    return ys, state, layer.apply(params, state, batches[0])[0]


def test_running_statistics_that_are_the_mean_over_all_batches():
    x, mask = jnp.asarray(BATCHES[0]), jnp.zeros((3, 5), bool)
    _, state, y = trained(nn.batch_norm(momentum=None), BATCHES)
    flat = np.float64(BATCHES).reshape(3, 15, 2)
    np.testing.assert_allclose(state["mean"], flat.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(state["var"], flat.var(1, ddof=1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        y, (x - state["mean"][None, None]) / np.sqrt(state["var"] + 1e-5)[None, None], rtol=1e-4, atol=1e-5
    )
    assert state["count"] == 3
    layer = nn.batch_norm(momentum=None)
    for nothing in ((x, mask), x[:0]):  # neither only padding nor no samples count as a batch
        _, after = layer.apply({"scale": jnp.ones(2), "bias": jnp.zeros(2)}, state, nothing, training=True)
        jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize("momentum", [0.9, None])
def test_instance_norm_with_running_statistics(momentum):
    ys, state, y = trained(nn.instance_norm(track_running_stats=True, momentum=momentum), BATCHES)
    mean, var = np.zeros(2), np.ones(2)
    for i, (x, out) in enumerate(zip(np.float64(BATCHES), ys, strict=True)):
        weight = 0.1 if momentum else 1 / (i + 1)
        np.testing.assert_allclose(
            out, (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5), rtol=1e-3, atol=1e-5
        )
        mean = (1 - weight) * mean + weight * x.mean((0, 1))
        var = (1 - weight) * var + weight * x.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(state["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(state["var"], var, rtol=1e-5)
    np.testing.assert_allclose(y, (BATCHES[0] - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)


# PyTorch's instance_norm with momentum=None does not update its statistics.
@pytest.mark.parametrize("name, momentum", [("batch_norm", 0.9), ("batch_norm", None), ("instance_norm", 0.9)])
def test_running_statistics_against_pytorch(name, momentum):
    torch = pytest.importorskip("torch")
    options = {"momentum": None if momentum is None else 1 - momentum}
    options |= {"track_running_stats": True, "affine": True} if name == "instance_norm" else {}
    peer = {"batch_norm": torch.nn.BatchNorm1d, "instance_norm": torch.nn.InstanceNorm1d}[name](2, **options)
    layer = (
        nn.batch_norm(momentum=momentum)
        if name == "batch_norm"
        else nn.instance_norm(track_running_stats=True, momentum=momentum)
    )
    ys, state, y = trained(layer, BATCHES)
    theirs = lambda x: peer(torch.tensor(x).movedim(-1, 1)).movedim(1, -1).detach()  # noqa: E731
    for ours, x in zip(ys, BATCHES, strict=True):
        np.testing.assert_allclose(ours, theirs(x), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(state["mean"], peer.running_mean, rtol=1e-4)
    np.testing.assert_allclose(state["var"], peer.running_var, rtol=1e-4)
    np.testing.assert_allclose(y, theirs(BATCHES[0]) if peer.eval() else None, rtol=1e-3, atol=1e-5)


def test_batch_norm_of_only_padding_keeps_the_running_statistics():
    x, mask = jnp.full((2, 3, 2), jnp.nan), jnp.zeros((2, 3), bool)
    layer = nn.batch_norm()
    params, state = layer.init(jax.random.key(0), (x, mask))
    (y, _), after = layer.apply(params, state, (x, mask), training=True)
    np.testing.assert_array_equal(y, 0)
    jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_statistics_over_devices_are_those_of_the_whole_batch(masked):
    """A batch split in four over a mapped axis has the same values, state and gradients as in one part."""
    x, weights = drawn(8, 3, 2), drawn(8, 3, 2)
    mask = jnp.arange(3)[None, :] < jnp.arange(8)[:, None] % 4
    whole, apart = nn.batch_norm(), nn.batch_norm(axis_name="devices")
    params, state = whole.init(jax.random.key(0), x)

    def cut(a):
        return a.reshape(4, 2, *a.shape[1:])

    def one(layer):
        def energy(params, x, mask, weights):
            y, after = layer.apply(params, state, (x, mask) if masked else x, training=True)
            y = y[0] if masked else y
            return (y * weights).sum(), (y, after)

        return energy

    @jax.jit
    def both(params, x):
        everything = jax.value_and_grad(one(whole), (0, 1), has_aux=True)(params, x, mask, weights)

        def mapped(params, x):
            parts = jax.vmap(one(apart), (None, 0, 0, 0), axis_name="devices")(params, cut(x), cut(mask), cut(weights))
            values, (y, after) = parts
            return values.sum(), (y.reshape(x.shape), jax.tree.map(lambda a: a[0], after))

        return everything, jax.value_and_grad(mapped, (0, 1), has_aux=True)(params, x)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *both(params, x))


def test_half_precision_is_summed_in_float32():
    x = jnp.full((2, 64, 64, 2), 300, jnp.float16) + drawn(2, 64, 64, 2).astype(jnp.float16)
    for layer in (nn.group_norm(1), nn.instance_norm(), nn.rms_norm(axis=(1, 2, 3)), nn.local_response_norm(2)):
        params, _ = layer.init(jax.random.key(0), x)
        y = layer(params, x)
        assert y.dtype == jnp.float16 and bool(jnp.isfinite(y).all())


@pytest.mark.parametrize(
    "layer, shape, match",
    [
        (nn.group_norm(3), (2, 4, 4), "channels divisible by 3"),
        (nn.instance_norm(), (2, 1, 4), "cannot compute a variance"),
        (nn.layer_norm(axis=3), (2, 4), "normalizes over the axes"),
        (nn.rms_norm(axis=()), (2, 4), "normalizes over the axes"),
    ],
)
def test_mistakes_are_named(layer, shape, match):
    with pytest.raises(ValueError, match=match):
        layer.init(jax.random.key(0), jnp.ones(shape))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_unit_norm_of_a_zero_vector_is_zero_with_a_finite_gradient(p):
    value, gradient = jax.value_and_grad(lambda x: nn.unit_norm(p=p)({}, x).sum())(jnp.zeros((1, 3)))
    assert value == 0 and jnp.isfinite(gradient).all()
