"""Recurrent layers against PyTorch and against loops in float64; sequences in parts against one pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KEY = jax.random.key(0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn(layer, x):
    params, state = layer.init(KEY, x)
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(
        structure, [0.5 * jnp.asarray(random(*leaf.shape, seed=i)) for i, leaf in enumerate(leaves)]
    ), state


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


CASES = [("RNN", 0, False), ("LSTM", 0, False), ("LSTM", 3, False), ("GRU", 0, False), ("LSTM", 0, True), ("GRU", 0, True)]


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize(("kind", "projection", "both"), CASES, ids=lambda v: str(v))
def test_every_gradient_against_pytorch(kind, projection, both):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    options = {"proj_size": projection} if projection else {}
    peer = getattr(torch.nn, kind)(4, 5, batch_first=True, bidirectional=both, **options)
    layer = getattr(nn, kind.lower())(5, **({"projection": projection} if projection else {}))
    layer = nn.bidirectional(layer) if both else layer

    def one_way(of, end, gradient):
        w, u, b, a = (of(getattr(peer, f"{name}_l0{end}")) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        tree = {"kernel": w.T, "recurrent_kernel": u.T, "bias": b if gradient else b + a}
        if kind == "GRU":  # PyTorch's second bias of n is inside the reset
            tree |= {"bias": b if gradient else b + np.r_[a[:10], np.zeros(5, a.dtype)], "recurrent_bias": a[10:]}
        return tree | ({"projection": of(peer.weight_hr_l0).T} if projection else {})

    def tree(of, gradient=False):
        if not both:
            return one_way(of, "", gradient)
        return {"forward": one_way(of, "", gradient), "backward": one_way(of, "_reverse", gradient)}

    x = random(3, 6, 4)
    params = jax.tree.map(jnp.asarray, tree(lambda p: p.detach().numpy()))
    inputs = torch.tensor(x, requires_grad=True)
    expected = peer(inputs)[0]
    (expected**2).sum().backward()

    def loss(params, x):
        y = layer(params, x)
        return (y**2).sum(), y

    gradients, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, jnp.asarray(x))
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-4, atol=1e-5)
    theirs = (tree(lambda p: p.grad.numpy(), True), inputs.grad.numpy())
    for ours, their in zip(jax.tree.leaves(gradients), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(ours, their, rtol=1e-3, atol=1e-4)


def cell(kind, p, x, h, c):
    """One step of each, from its formula."""
    n = p["bias"].shape[-1]
    a = x @ p["kernel"] + p["bias"]
    u = p["recurrent_kernel"]
    if kind == "ind_rnn":
        return np.maximum(a + u * h, 0), c
    if kind == "minimal_gru":
        f = sigmoid(a[:, : n // 2] + h @ u[:, : n // 2])
        return (1 - f) * h + f * np.tanh(a[:, n // 2 :] + (f * h) @ u[:, n // 2 :]), c
    if kind == "gru":
        (ra, za, na), (ru, zu, nu) = np.split(a, 3, -1), np.split(u, 3, -1)
        r, z = sigmoid(ra + h @ ru), sigmoid(za + h @ zu)
        return (1 - z) * np.tanh(na + (r * h) @ nu) + z * h, c
    s = norm(x @ p["kernel"]) * p["kernel_scale"] + norm(h @ u) * p["recurrent_scale"] + p["bias"]
    i, f, g, o = np.split(s, 4, -1)
    p_i, p_f, p_o = p["peephole"]
    c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g)
    return (sigmoid(o + p_o * c) * np.tanh(norm(c) * p["cell_scale"] + p["cell_bias"])) @ p["projection"], c


KINDS = {
    "ind_rnn": nn.ind_rnn,
    "minimal_gru": nn.minimal_gru,
    "gru": lambda n, **options: nn.gru(n, reset_after=False, **options),
    "lstm": lambda n, **options: nn.lstm(n, projection=3, peephole=True, normalize=True, **options),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrences_are_their_formulas_also_for_sequences_in_parts(kind):
    x, mask = random(3, 6, 2), np.arange(6)[None] < np.array([[4], [6], [1]])
    given = (jnp.asarray(x), jnp.asarray(mask))
    layer = KINDS[kind](4, stateful=True)
    params, state = drawn(layer, given)
    p = jax.tree.map(np.float64, params)
    h, c, outputs = np.zeros(state["h"].shape), np.zeros((3, 4)), []
    for t in range(6):
        new_h, new_c = cell(kind, p, np.float64(x[:, t]), h, c)
        valid = mask[:, t, None]
        h, c = np.where(valid, new_h, h), np.where(valid, new_c, c)
        outputs.append(np.where(valid, h, 0))
    (y, _), after = jax.jit(layer.apply)(params, state, given)
    np.testing.assert_allclose(y, np.stack(outputs, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after["h"], h, rtol=1e-4, atol=1e-4)
    parts = []
    for part in (slice(0, 2), slice(2, 6)):
        (output, _), state = jax.jit(layer.apply)(params, state, (given[0][:, part], given[1][:, part]))
        parts.append(output)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [nn.lstm, nn.gru])
def test_custom_activations(make):
    """One step from a carry of ones, by hand: every gate is ¼ and every candidate its sum plus 1."""
    layer = make(2, stateful=True, activation=lambda v: v + 1, gate_activation=lambda v: 0 * v + 0.25)
    x = jnp.asarray(random(3, 1, 2))
    params, state = drawn(layer, x)
    state = jax.tree.map(jnp.ones_like, state)
    y, after = layer.apply(params, state, x)
    ones, k, u, b = np.ones((3, 2)), *(np.float64(params[n]) for n in ("kernel", "recurrent_kernel", "bias"))
    own = slice(4, 6)  # the third gate of four is the candidate of an LSTM, and the third of three that of a GRU
    if make is nn.lstm:
        c = 0.25 * ones + 0.25 * (np.float64(x[:, 0]) @ k[:, own] + ones @ u[:, own] + b[own] + 1)
        np.testing.assert_allclose(after["c"], c, rtol=1e-5, atol=1e-6)
        h = 0.25 * (c + 1)
    else:
        inside = ones @ u[:, own] + np.float64(params["recurrent_bias"])
        h = 0.75 * (np.float64(x[:, 0]) @ k[:, own] + b[own] + 0.25 * inside + 1) + 0.25 * ones
    np.testing.assert_allclose(y[:, 0], h, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [nn.rnn, nn.lstm, nn.gru, lambda n, **o: nn.conv_lstm(n, 3, **o)], ids=["rnn", "lstm", "gru", "conv"]
)
def test_a_stack_applied_to_a_sequence_in_parts_equals_one_pass(kind):
    x = jnp.asarray(random(2, 6, 5, 3) if kind not in (nn.rnn, nn.lstm, nn.gru) else random(2, 6, 3))
    model = nn.serial(kind(4, stateful=True), kind(3, stateful=True))
    params, state = model.init(KEY, x)
    whole, last = model.apply(params, state, x)
    stateless = nn.serial(kind(4), kind(3))(params, x)
    np.testing.assert_allclose(stateless, whole, rtol=1e-6, atol=1e-8)
    first, state = model.apply(params, state, x[:, :2])
    rest, state = model.apply(params, state, x[:, 2:])
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), whole, rtol=1e-5, atol=1e-6)
    carry, y = nn.carried(model)(params, (None, x))
    np.testing.assert_allclose(y, whole, rtol=1e-6, atol=1e-8)
    for ours, theirs in zip(jax.tree.leaves((carry, state)), jax.tree.leaves((last, last)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="stateful"):
        model.apply(params, state, x[:1])


def test_conv_lstm_over_one_pixel_is_an_lstm():
    x = random(2, 5, 1, 3)
    params, _ = drawn(nn.conv_lstm(4, 1), jnp.asarray(x))
    flat = {name: p.reshape(p.shape[-2:]) if p.ndim > 1 else p for name, p in params.items()}
    np.testing.assert_allclose(nn.conv_lstm(4, 1)(params, x)[:, :, 0], nn.lstm(4)(flat, x[:, :, 0]), rtol=1e-5, atol=1e-6)


def test_conv_lstm_is_its_formula():
    x = random(1, 3, 6, 2)
    params, _ = drawn(nn.conv_lstm(2, 3), jnp.asarray(x))
    p = jax.tree.map(np.float64, params)

    def convolved(x, kernel):  # (space, channels)
        padded = np.pad(x, ((1, 1), (0, 0)))
        return sum(padded[k : k + len(x)] @ kernel[k] for k in range(3))

    h = c = np.zeros((6, 2))
    for t in range(3):
        s = convolved(np.float64(x[0, t]), p["kernel"]) + convolved(h, p["recurrent_kernel"]) + p["bias"]
        i, f, g, o = np.split(s, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(nn.conv_lstm(2, 3)(params, x)[0, t], h, rtol=1e-4, atol=1e-5)


def test_both_directions_of_a_padded_sequence():
    x, mask = jnp.asarray(random(2, 5, 3)), jnp.arange(5)[None] < jnp.array([[3], [5]])
    for options in ({}, {"return_sequences": False}):
        layer = nn.bidirectional(nn.gru(4, **options))
        params, _ = drawn(layer, x)
        alone = layer(params, x[:1, :3])
        padded = layer(params, (x, mask))
        padded = padded[:1] if options else padded[0][:1, :3]
        np.testing.assert_allclose(padded, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [nn.rnn, nn.lstm, nn.gru, lambda n, **o: nn.gru(n, reset_after=False, **o)])
def test_without_biases_they_are_zero(make):
    x, layer, plain = jnp.asarray(random(2, 5, 3)), make(4), make(4, use_bias=False)
    params, _ = layer.init(jax.random.key(0), x)
    less, _ = plain.init(jax.random.key(0), x)
    assert less.keys() == {"kernel", "recurrent_kernel"}
    zeroed = {k: jnp.zeros_like(v) if "bias" in k else v for k, v in params.items()}
    np.testing.assert_allclose(plain(less, x), layer(zeroed, x), rtol=1e-6)  # compiled apart, they may round apart
