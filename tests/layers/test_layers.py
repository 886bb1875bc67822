"""Values of each layer against NumPy in float64, and against PyTorch if it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn

KEY = jax.random.key(0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn(layer, x):
    """Parameters without zeros."""
    params, state = layer.init(KEY, x)
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [jnp.asarray(random(*leaf.shape, seed=i)) for i, leaf in enumerate(leaves)]), state


def f64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 6))
def test_dense_is_the_formula_of_the_notes(leading, n_in, n_out):
    """z = Σᵢ wᵢ xᵢ + b for each neuron, over any leading axes; n_in · n_out + n_out parameters."""
    x = random(*leading, n_in)
    params, _ = drawn(nn.dense(n_out), x)
    w, b = f64(params["kernel"]), f64(params["bias"])
    expected = np.stack([(np.float64(x) * w[:, j]).sum(-1) + b[j] for j in range(n_out)], axis=-1)
    np.testing.assert_allclose(nn.dense(n_out)(params, x), expected, rtol=1e-5, atol=1e-5)
    one = nn.dense(n_out)(params, x.reshape(-1, n_in)[0]) if x.size else np.zeros(n_out)  # a sample without a batch axis
    np.testing.assert_allclose(one, expected.reshape(-1, n_out)[0] if x.size else 0, rtol=1e-5, atol=1e-5)
    assert nn.trees.count(params) == n_in * n_out + n_out


def test_dense_backpropagation_is_the_analytic_gradient():
    x, g = random(5, 3), random(5, 4, seed=1)
    layer = nn.dense(4)
    params, _ = drawn(layer, x)
    _, back = jax.vjp(lambda p, x: layer(p, x), params, jnp.asarray(x))
    gradients, to_input = back(jnp.asarray(g))
    np.testing.assert_allclose(gradients["kernel"], x.T @ g, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradients["bias"], g.sum(0), rtol=1e-5)
    np.testing.assert_allclose(to_input, g @ np.asarray(params["kernel"]).T, rtol=1e-5, atol=1e-5)


def test_embedding_looks_up_rows_and_gives_nan_for_unknown_tokens():
    layer, tokens = nn.embedding(4, 3), jnp.array([[0, 3], [1, 1]])
    params, _ = layer.init(KEY, tokens)
    np.testing.assert_array_equal(layer(params, tokens), np.asarray(params["embedding"])[np.asarray(tokens)])
    assert np.isnan(layer(params, jnp.array([4, -1]))).all()
    gradient = jax.grad(lambda p: layer(p, tokens).sum())(params)["embedding"]
    np.testing.assert_array_equal(gradient[:, 0], [1, 2, 0, 1])


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    x = jnp.ones((1000, 200))
    for rate in (0.2, 0.5):
        y, _ = nn.dropout(rate).apply({}, {}, x, key=KEY, training=True)
        dropped = float((y == 0).mean())
        assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / x.size)
        np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)
    traced = jax.jit(lambda rate: nn.dropout(rate).apply({}, {}, x, key=KEY, training=True)[0])(0.5)
    np.testing.assert_array_equal(traced, y)
    assert bool((nn.dropout(0.0).apply({}, {}, x, training=True)[0] == x).all())


@pytest.mark.parametrize("shape", [(16, 5), (4, 3, 3, 5)])
def test_batch_norm_is_its_formula_in_training_and_at_inference(shape):
    x = 3 * random(*shape) + 1
    layer = nn.batch_norm(momentum=0.8, epsilon=1e-3)
    params, state = drawn(layer, x)
    flat = np.float64(x).reshape(-1, 5)
    mean, var, n = flat.mean(0), flat.var(0), len(flat)
    scale, bias = f64(params["scale"]), f64(params["bias"])
    y, after = layer.apply(params, state, jnp.asarray(x), training=True)
    np.testing.assert_allclose(y, scale * (x - mean) / np.sqrt(var + 1e-3) + bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after["mean"], 0.2 * mean, rtol=1e-4)
    np.testing.assert_allclose(after["var"], 0.8 + 0.2 * var * n / (n - 1), rtol=1e-4)
    y, same = layer.apply(params, after, jnp.asarray(x))
    running = f64(after)
    expected = scale * (x - running["mean"]) / np.sqrt(running["var"] + 1e-3) + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    assert same is after


def test_batch_norm_of_numbers_far_from_zero():
    x = jnp.asarray(random(256, 3) + 1000)
    y, _ = nn.batch_norm().apply(*nn.batch_norm().init(KEY, x), x, training=True)
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-2)


def test_layer_norm_is_its_formula():
    x = random(2, 3, 7)
    layer = nn.layer_norm()
    params, _ = drawn(layer, x)
    wide = np.float64(x)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    expected = f64(params["scale"]) * expected + f64(params["bias"])
    np.testing.assert_allclose(layer(params, jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(kind, params, x, mask=None):
    """The recurrence of each kind, written out in float64."""
    p, x = f64(params), np.float64(x)
    h = c = np.zeros((x.shape[0], p["recurrent_kernel"].shape[0]))
    outputs = []
    for t in range(x.shape[1]):
        a, u = x[:, t] @ p["kernel"] + p["bias"], h @ p["recurrent_kernel"]
        if kind is nn.rnn:
            new, cell = np.tanh(a + u), c
        elif kind is nn.lstm:
            i, f, g, o = np.split(a + u, 4, axis=-1)
            cell = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            new = sigmoid(o) * np.tanh(cell)
        else:
            (ra, za, na), (ru, zu, nu) = np.split(a, 3, axis=-1), np.split(u, 3, axis=-1)
            r, z = sigmoid(ra + ru), sigmoid(za + zu)
            new, cell = (1 - z) * np.tanh(na + r * (nu + p["recurrent_bias"])) + z * h, c
        valid = np.ones((len(x), 1), bool) if mask is None else np.asarray(mask)[:, t, None]
        h, c = np.where(valid, new, h), np.where(valid, cell, c)
        outputs.append(np.where(valid, h, 0))
    return np.stack(outputs, axis=1), h


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", [nn.rnn, nn.lstm, nn.gru], ids=["rnn", "lstm", "gru"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_recurrences_are_their_formulas(kind, masked):
    x = random(3, 6, 2)
    mask = jnp.arange(6)[None, :] < jnp.array([4, 6, 1])[:, None]
    inputs = (jnp.asarray(x), mask) if masked else jnp.asarray(x)
    params, _ = drawn(kind(5), inputs)
    sequence, last = loop(kind, params, x, mask if masked else None)
    y = kind(5)(params, inputs)
    np.testing.assert_allclose(y[0] if masked else y, sequence, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(kind(5, return_sequences=False)(params, inputs), last, rtol=1e-4, atol=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [nn.rnn, nn.lstm, nn.gru], ids=["rnn", "lstm", "gru"])
def test_padding_changes_neither_values_nor_gradients(kind):
    mask = jnp.array([[True, True, False, False]])
    x, params = jnp.asarray(random(1, 4, 2)), drawn(kind(3), jnp.ones((1, 4, 2)))[0]
    layer = kind(3, return_sequences=False)
    poisoned = x.at[:, 2:].set(1e30)
    np.testing.assert_array_equal(layer(params, (x, mask)), layer(params, (poisoned, mask)))
    np.testing.assert_allclose(layer(params, (x, mask)), layer(params, x[:, :2]), rtol=1e-5)
    gradient = jax.grad(lambda x: layer(params, (x, mask)).sum())(x)
    assert bool((gradient[:, 2:] == 0).all())


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_recurrent_layers_against_pytorch(name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    x = random(3, 7, 4)
    peer = getattr(torch.nn, name)(4, 5, batch_first=True)
    w, u, b, a = (p.detach().numpy() for p in peer.parameters())
    params = {"kernel": w.T, "recurrent_kernel": u.T, "bias": b + a}
    if name == "GRU":  # aₙ is inside the reset
        params = {**params, "bias": b + np.r_[a[:10], np.zeros(5)], "recurrent_bias": a[10:]}
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    layer = getattr(nn, name.lower())(5)
    inputs = torch.tensor(x, requires_grad=True)
    expected = peer(inputs)[0]
    np.testing.assert_allclose(layer(params, x), expected.detach(), rtol=1e-4, atol=1e-5)
    (expected**2).sum().backward()
    gradients, to_input = jax.grad(lambda p, x: (layer(p, x) ** 2).sum(), (0, 1))(params, jnp.asarray(x))
    np.testing.assert_allclose(to_input, inputs.grad, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gradients["kernel"].T, peer.weight_ih_l0.grad, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gradients["recurrent_kernel"].T, peer.weight_hh_l0.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "peer_options"),
    [
        ({}, {"padding": 1}),
        ({"strides": 2, "padding": ((1, 1), (1, 1))}, {"padding": 1, "stride": 2}),
        ({"dilation": 2, "padding": "VALID"}, {"dilation": 2}),
        ({"groups": 2, "use_bias": False}, {"padding": 1, "groups": 2, "bias": False}),
    ],
    ids=["same", "strided", "dilated", "groups"],
)
def test_conv_against_pytorch(options, peer_options):
    torch = pytest.importorskip("torch")
    x = random(2, 9, 8, 4)
    layer = nn.conv(6, 3, **options)
    params, _ = drawn(layer, x)
    peer = torch.nn.Conv2d(4, 6, 3, **peer_options)
    with torch.no_grad():
        peer.weight.copy_(torch.tensor(np.asarray(params["kernel"]).transpose(3, 2, 0, 1)))
        if "bias" in params:
            peer.bias.copy_(torch.tensor(np.asarray(params["bias"])))
    inputs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    expected = peer(inputs)
    np.testing.assert_allclose(layer(params, x), expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
    (expected**2).sum().backward()
    gradients, to_input = jax.grad(lambda p, x: (layer(p, x) ** 2).sum(), (0, 1))(params, jnp.asarray(x))
    np.testing.assert_allclose(to_input, inputs.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(gradients["kernel"], peer.weight.grad.numpy().transpose(2, 3, 1, 0), rtol=1e-3, atol=1e-2)


def test_pooling_and_flattening_by_hand():
    x = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3)
    blocks = np.asarray(x).reshape(2, 2, 2, 2, 2, 3)
    np.testing.assert_array_equal(nn.max_pool(2)({}, x), blocks.max((2, 4)))
    np.testing.assert_allclose(nn.avg_pool(2)({}, x), blocks.mean((2, 4)), rtol=1e-6)
    np.testing.assert_allclose(nn.global_avg_pool()({}, x), np.asarray(x).mean((1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(nn.flatten()({}, x), np.asarray(x).reshape(2, -1))
    half = jnp.full((1, 300, 300, 1), 3, jnp.float16)  # a float16 sum would overflow
    assert nn.global_avg_pool()({}, half).item() == 3


def test_models_have_the_sizes_of_the_notes():
    """The notes' table: input neurons = features, output neurons = classes, output shape (B, n_out)."""
    x = jax.ShapeDtypeStruct((32, 28, 28, 1), jnp.float32)
    table = nn.summary(nn.models.mlp([128, 64], 10), x)
    rows = {row.path: (row.formula, row.parameters, row.output) for row in table.rows if row.parameters}
    assert rows == {
        "dense": ("784·128 + 128", 784 * 128 + 128, "(B, 128)"),
        "dense_2": ("128·64 + 64", 128 * 64 + 64, "(B, 64)"),
        "output": ("64·10 + 10", 64 * 10 + 10, "(B, 10)"),
    }
    assert table.parameters == sum(n for _, n, _ in rows.values())
    assert nn.summary(nn.models.mlp([5], 1), x).rows[-1].output == "(B, 1)"
