"""Attention, its cache, transformer blocks and mixtures of experts, against PyTorch and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KEY = jax.random.key(0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def from_attention(peer):
    """Our parameters from those of a `torch.nn.MultiheadAttention`, or from their gradients."""
    e, h = peer.embed_dim, peer.num_heads

    def parameters(of):
        weights, biases = np.split(of(peer.in_proj_weight), 3), np.split(of(peer.in_proj_bias), 3)
        tree = {
            name: {"kernel": w.T.reshape(e, h, -1), "bias": b.reshape(h, -1)}
            for name, w, b in zip(("query", "key", "value"), weights, biases, strict=True)
        }
        return tree | {"output": {"kernel": of(peer.out_proj.weight).T.reshape(h, -1, e), "bias": of(peer.out_proj.bias)}}

    return parameters


def from_block(peer, cross):
    def parameters(of):
        tree = {"attention": from_attention(peer.self_attn)(of)}
        norms = {"attention_norm": peer.norm1, "mlp_norm": peer.norm3 if cross else peer.norm2}
        if cross:
            tree["cross"] = from_attention(peer.multihead_attn)(of)
            norms["cross_norm"] = peer.norm2
        tree |= {name: {"scale": of(norm.weight), "bias": of(norm.bias)} for name, norm in norms.items()}
        pairs = (("up", peer.linear1), ("down", peer.linear2))
        return tree | {"mlp": {name: {"kernel": of(p.weight).T, "bias": of(p.bias)} for name, p in pairs}}

    return parameters


def against_pytorch(torch, layer, x, peer_run, inputs, parameters):
    """Compare values and gradients of every parameter and of the input; `parameters(of)` converts PyTorch's to our tree."""
    params = jax.tree.map(jnp.asarray, parameters(lambda p: p.detach().numpy()))
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(layer.init, KEY, x)[0])
    assert jax.tree.map(jnp.shape, params) == shapes

    @jax.jit
    def value(params, x):
        def loss(params, x):
            y = jax.tree.leaves(layer(params, x))[0]
            return (y**2).sum(), y

        return jax.value_and_grad(loss, (0, 1), has_aux=True, allow_int=True)(params, x)

    (_, y), (gradients, to_input) = value(params, x)
    expected = peer_run()
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-4, atol=1e-5)
    (expected**2).sum().backward()
    theirs = parameters(lambda p: p.grad.numpy())
    for ours, their in zip(jax.tree.leaves(gradients), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(ours, their, rtol=1e-3, atol=1e-3)
    floating = [g for g in jax.tree.leaves(to_input) if g.dtype == jnp.float32]
    for ours, their in zip(floating, inputs, strict=True):
        np.testing.assert_allclose(ours, their.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", ["self", "causal", "cross, padded"])
def test_attention_against_pytorch(case):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    peer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    torch.nn.init.normal_(peer.in_proj_bias)
    x, memory = random(2, 5, 8), random(2, 3, 8, seed=1)
    a, b = (torch.tensor(v, requires_grad=True) for v in (x, memory))
    layer = nn.attention(8, 2, is_causal=case == "causal")
    if case == "cross, padded":
        mask = np.array([[True, True, False], [True, True, True]])
        inputs, given = (a, b), (x, (memory, mask))
        run = lambda: peer(a, b, b, key_padding_mask=torch.tensor(~mask))[0]  # noqa: E731  # PyTorch's mask is true for padding
    else:
        hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if case == "causal" else None
        inputs, given = (a,), x
        run = lambda: peer(a, a, a, attn_mask=hidden)[0]  # noqa: E731
    against_pytorch(torch, layer, jax.tree.map(jnp.asarray, given), run, inputs, from_attention(peer))


@pytest.mark.parametrize("cross", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])
def test_transformer_blocks_against_pytorch(cross, pre_norm):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    make = torch.nn.TransformerDecoderLayer if cross else torch.nn.TransformerEncoderLayer
    peer = make(8, 2, 16, dropout=0.0, batch_first=True, norm_first=pre_norm)
    layer = nn.transformer_block(
        nn.attention(8, 2),
        nn.feed_forward(8, 16, activation=nn.relu),
        cross=nn.attention(8, 2) if cross else None,
        pre_norm=pre_norm,
    )
    x, memory = random(2, 5, 8), random(2, 3, 8, seed=1)
    a, b = (torch.tensor(v, requires_grad=True) for v in (x, memory))
    given, inputs = ((jnp.asarray(x), jnp.asarray(memory)), (a, b)) if cross else (jnp.asarray(x), (a,))
    against_pytorch(torch, layer, given, lambda: peer(*inputs), inputs, from_block(peer, cross))


OPTIONS = {
    "grouped, windowed, capped": {"key_heads": 2, "window": 3, "softcap": 2.0, "is_causal": True},
    "alibi, window both ways": {"bias": nn.alibi, "window": 2},
    "a longer window behind, scaled": {"window": (3, 1), "scale": 0.3},
    "norms and rotary": {"qk_norm": True, "rotary_base": 100.0, "is_causal": True, "head_features": 6},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("mask_shape", [None, (2, 5), (1, 4, 1, 5), (2, 1, 5, 5)], ids=str)
def test_attention_is_its_formula(options, mask_shape):
    x, heads = random(2, 5, 8), 4
    layer = nn.attention(8, heads, **options)
    mask = None if mask_shape is None else np.random.default_rng(3).random(mask_shape) < 0.7
    given = jnp.asarray(x) if mask is None else (jnp.asarray(x), jnp.asarray(mask))
    params, _ = layer.init(KEY, given)
    y = layer(params, given)
    p = jax.tree.map(np.float64, params)
    x = np.float64(x) if mask_shape != (2, 5) else np.where(mask[..., None], x, 0.0)  # padded positions count as 0
    q, k, v = (np.einsum("bti,ihd->bthd", x, p[n]["kernel"]) + p[n]["bias"] for n in ("query", "key", "value"))
    if options.get("qk_norm"):
        q, k = (a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-6) for a in (q, k))
    if "rotary_base" in options:
        d = q.shape[-1]
        turn = np.exp(1j * np.arange(5)[:, None] / 100.0 ** (2 * np.arange(d // 2) / d))[None, :, None]
        q, k = ((a[..., : d // 2] + 1j * a[..., d // 2 :]) * turn for a in (q, k))
        q, k = (np.concatenate([a.real, a.imag], -1) for a in (q, k))
    k, v = (np.repeat(a, heads // a.shape[2], axis=2) for a in (k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * options.get("scale", 1 / np.sqrt(q.shape[-1]))
    if "softcap" in options:
        scores = 2 * np.tanh(scores / 2)
    i, j = np.arange(5)[:, None], np.arange(5)[None]
    if "bias" in options:
        scores = scores - np.array([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])[:, None, None] * abs(i - j)
    seen = (j <= i) | (not options.get("is_causal"))
    window = options.get("window", 99)
    before, after = window if isinstance(window, tuple) else (window - 1, window - 1)
    seen = seen & (i - j <= before) & (j - i <= after)
    if mask is not None:
        seen = seen & (mask[:, None, None] if mask.ndim == 2 else mask)
    e = np.where(seen, np.exp(scores), 0)
    weights = e / np.maximum(e.sum(-1, keepdims=True), 1e-300)
    expected = np.einsum("bhqk,bkhd,hdo->bqo", weights, v, p["output"]["kernel"]) + p["output"]["bias"]
    np.testing.assert_allclose(y if mask is None else y[0], expected, rtol=1e-4, atol=1e-5)


def general_inputs():
    """A dict for attention with two heads: a bias with −∞, a query without keys, and NaN where nothing may attend."""
    bias = random(2, 2, 4, 5, seed=3)
    bias[0, 1, 2] = -np.inf
    bias[:, :, :, 3] = -np.inf
    mask = np.arange(5) < np.array([[5], [4]])
    x = {"query": random(2, 4, 6), "key": random(2, 5, 3, seed=1), "value": random(2, 5, 7, seed=2), "mask": mask, "bias": bias}
    x["key"][1, 4] = np.nan
    x["value"][1, 4] = np.nan
    return jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, x)


def test_separate_keys_and_values_a_bias_that_depends_on_the_data_and_the_weights(x64):
    layer, x = nn.attention(8, 2, return_weights=True), general_inputs()
    params = jax.tree.map(lambda a: a.astype(np.float64), layer.init(KEY, x)[0])
    y, weights = jax.jit(layer)(params, x)
    p = jax.tree.map(np.asarray, params)
    q, k, v = (
        np.einsum("bti,ihd->bhtd", np.nan_to_num(x[name]), p[name]["kernel"]) + p[name]["bias"][:, None]
        for name in ("query", "key", "value")
    )
    e = np.exp(q @ k.swapaxes(2, 3) / 2 + x["bias"]) * x["mask"][:, None, None]
    attended = e / np.where((total := e.sum(-1, keepdims=True)) == 0, 1, total)
    np.testing.assert_allclose(weights, attended, rtol=1e-12, atol=1e-15)
    expected = np.einsum("bhqd,hdo->bqo", attended @ v, p["output"]["kernel"]) + p["output"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    gradients = jax.jit(jax.grad(lambda params, x: layer(params, x)[0].sum(), (0, 1), allow_int=True))(params, x)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients) if g.dtype == np.float64)
    same = {"query": x["query"], "mask": x["mask"][:, :4]}
    layer = nn.attention(8, 2)
    params, _ = layer.init(KEY, same)
    np.testing.assert_array_equal(layer(params, same), layer(params, (same["query"], same["mask"]))[0])


@pytest.mark.slow
def test_separate_keys_and_values_a_bias_and_the_weights_against_pytorch(x64):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    peer = torch.nn.MultiheadAttention(8, 2, batch_first=True, kdim=3, vdim=7).double()
    torch.nn.init.normal_(peer.in_proj_bias)
    of = lambda t: jnp.asarray(t.detach().numpy())  # noqa: E731
    params = {"output": {"kernel": of(peer.out_proj.weight).T.reshape(2, 4, 8), "bias": of(peer.out_proj.bias)}}
    for name, bias in zip(("query", "key", "value"), np.split(of(peer.in_proj_bias), 3), strict=True):
        weight = of(getattr(peer, f"{name[0]}_proj_weight"))
        params[name] = {"kernel": weight.T.reshape(-1, 2, 4), "bias": bias.reshape(2, 4)}
    x = {name: jnp.asarray(random(2, 5, n, seed=n), float) for name, n in (("query", 8), ("key", 3), ("value", 7))}
    x["bias"] = jnp.asarray(random(2, 2, 5, 5), float).at[:, :, 1, 2:].set(-jnp.inf)
    layer = nn.attention(8, 2, return_weights=True)
    inputs = {name: torch.tensor(np.asarray(a), requires_grad=True) for name, a in x.items()}
    added = inputs["bias"].reshape(4, 5, 5)
    expected = peer(inputs["query"], inputs["key"], inputs["value"], attn_mask=added, average_attn_weights=False)
    y = layer(params, x)
    sum(t.sin().sum() for t in expected).backward()
    gradients = jax.jit(jax.grad(lambda x: sum(jnp.sin(a).sum() for a in layer(params, x))))(x)
    for a, b in zip(y, expected, strict=True):
        np.testing.assert_allclose(a, b.detach(), rtol=1e-10, atol=1e-12)
    for name, g in gradients.items():
        np.testing.assert_allclose(g, np.nan_to_num(inputs[name].grad.numpy()), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_dropout_of_the_weights():
    """Weights are 0 or divided by 1 − rate, in the same places for blocks and for any form; at inference there is none."""
    layer, x = nn.attention(8, 2, dropout=0.4, return_weights=True, is_causal=True), jnp.asarray(random(2, 9, 8))
    params, state = layer.init(KEY, x)
    plain, p = layer(params, x)
    apply = jax.jit(
        lambda key, rate: nn.attention(8, 2, dropout=rate, return_weights=True, is_causal=True).apply(
            params, state, x, key=key, training=True
        )[0]
    )
    y, dropped = apply(jax.random.key(1), 0.4)
    seen = np.tril(np.ones((9, 9), bool)) & np.ones((2, 2, 1, 1), bool)
    kept = np.asarray(dropped != 0)
    np.testing.assert_allclose(dropped, np.where(kept, p / 0.6, 0), rtol=1e-5)
    assert abs(kept[seen].mean() - 0.6) < 0.1 and not kept[~seen].any()
    v = np.einsum("bti,ihd->bhtd", x, params["value"]["kernel"])
    expected = np.einsum("bhqd,hdo->bqo", dropped @ v, params["output"]["kernel"])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    fixed, _ = layer.apply(params, state, x, key=jax.random.key(1), training=True)
    np.testing.assert_allclose(fixed[0], y, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(apply(jax.random.key(2), 0.4)[1], dropped)
    np.testing.assert_array_equal(nn.attention(8, 2, is_causal=True)(params, x), plain)
    with pytest.raises(ValueError, match="got no key"):
        layer.apply(params, state, x, training=True)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ({"query": np.ones((1, 2, 4)), "keys": np.ones((1, 2, 4))}, "dict of query and any of key, value, mask and bias"),
        ({"query": np.ones((1, 2, 4)), "mask": np.ones((1, 2))}, "boolean mask"),
        ({"query": np.ones((1, 2, 4)), "bias": np.ones((2, 2))}, "has four axes"),
        ({"query": np.ones((1, 2, 4)), "value": np.ones((1, 3, 4))}, "key and value of one length"),
    ],
)
def test_a_wrong_dict_is_refused(x, words):
    with pytest.raises((TypeError, ValueError), match=words):
        nn.attention(4, 2).init(KEY, x)


def language_model(cache=None):
    stateful = cache is not None
    attention = nn.attention(8, 2, key_heads=1, is_causal=True, rotary_base=100.0, window=4, softcap=5.0, cache=cache)
    block = nn.transformer_block(attention, nn.feed_forward(8, 16), dropout=0.1)
    return nn.serial(nn.embedding(11, 8), nn.learned_positions(12, stateful=stateful), nn.repeat(block, 2), nn.dense(11))


def test_decoding_with_the_cache_equals_the_full_pass_at_every_position():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 9)))
    params, _ = language_model().init(KEY, tokens)
    model = language_model(cache=12)
    _, state = model.init(KEY, tokens)
    expected = language_model()(params, tokens)
    step = jax.jit(lambda state, tokens: model.apply(params, state, tokens))
    first, state = step(state, tokens[:, :4])
    parts = [first]
    for t in range(4, 9):
        y, state = step(state, tokens[:, t : t + 1])
        parts.append(y)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), expected, rtol=1e-5, atol=1e-5)
    y, _ = step(state, tokens[:, :4])  # 13 positions in a cache of 12
    assert bool(jnp.isnan(y).any())


@pytest.mark.parametrize("capacity_factor", [None, 0.75, 8.0])
@pytest.mark.parametrize("k", [1, 2])
def test_moe_is_its_formula(k, capacity_factor):
    x, mask, experts = random(2, 5, 4), np.arange(5)[None] < np.array([[5], [3]]), 3
    layer, given = nn.moe(nn.dense(6), experts, k=k, capacity_factor=capacity_factor), (jnp.asarray(x), jnp.asarray(mask))
    params, state = layer.init(KEY, given)
    (y, _), state = jax.jit(lambda p, s, x: layer.apply(p, s, x, training=True))(params, state, given)
    p = jax.tree.map(np.float64, params)
    vectors, valid = np.float64(x).reshape(-1, 4), mask.reshape(-1)
    scores = np.exp(vectors @ p["router"])
    scores /= scores.sum(-1, keepdims=True)
    chosen = np.argsort(-scores, axis=-1)[:, :k]
    capacity = np.inf if capacity_factor is None else np.ceil(capacity_factor * k * len(vectors) / experts)
    expected, taken, choices = np.zeros((len(vectors), 6)), np.zeros(experts), np.zeros(experts)
    for choice in range(k):
        for n in np.flatnonzero(valid):
            e = chosen[n, choice]
            gate = scores[n, e] / (1 if k == 1 else scores[n, chosen[n]].sum())
            if taken[e] < capacity:
                expected[n] += gate * (vectors[n] @ p["expert"]["kernel"][e] + p["expert"]["bias"][e])
            taken[e] += 1
            choices[e] += 1
    np.testing.assert_allclose(y.reshape(-1, 6), expected, rtol=1e-4, atol=1e-5)
    balance = experts * (choices / choices.sum() * scores[valid].mean(0)).sum()
    np.testing.assert_allclose(state["balance_loss"], balance, rtol=1e-5)
