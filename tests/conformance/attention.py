"""Cases of attention and of transformer blocks."""

import functools

import numpy as np
from hypothesis import strategies as st

import jaxnn as nn

from .case import Case, normal, torch

F = torch.nn.functional


def pair(x):
    """A sequence and its mask, or None."""
    return x if isinstance(x, tuple) else (x, None)


def padding_mask(draw, x):
    """True where a position can be attended to; a sample may have no such position."""
    return np.random.default_rng(draw(st.integers(0, 9))).random(x.shape[:2]) < 0.6


def turned(x, base):
    """Rotary positions as products of complex numbers."""
    time, d = x.shape[1], x.shape[-1]
    angles = torch.arange(time)[:, None] / base ** (2 * torch.arange(d // 2) / d).double()
    z = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([z.real, z.imag], -1)


@st.composite
def attention(draw):
    """Our projections around `scaled_dot_product_attention`; all options become its mask or changes of q and k."""
    d, key_heads, times = draw(st.sampled_from([2, 4])), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    heads, features, batch, time = key_heads * times, draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    causal, window = draw(st.booleans()), draw(st.sampled_from([None, 1, 2, 4]))
    base, bias = draw(st.sampled_from([None, 100.0])), draw(st.sampled_from([None, nn.alibi]))
    softcap, qk_norm = draw(st.sampled_from([None, 1.5])), draw(st.booleans())
    layer = nn.attention(
        features,
        heads,
        head_features=d,
        key_heads=key_heads,
        is_causal=causal,
        window=window,
        rotary_base=base,
        bias=bias,
        softcap=softcap,
        qk_norm=qk_norm,
        use_bias=draw(st.booleans()),
    )
    x, kind = normal(batch, time, 3), draw(st.sampled_from(["x", "(x, mask)", "(x, mask of four axes)", "(x, memory)"]))
    if kind == "(x, mask)":
        x = (x, padding_mask(draw, x))
    elif kind == "(x, mask of four axes)":
        shape = tuple(draw(st.sampled_from([1, n])) for n in (batch, heads, time, time))
        x = (x, np.random.default_rng(0).random(shape) < 0.6)
    crossed = kind == "(x, memory)" and not causal
    if crossed:
        memory = normal(batch, draw(st.integers(1, 5)), 2)
        x = (x, (memory, padding_mask(draw, memory))) if draw(st.booleans()) else (x, memory)

    def peer(p, x):
        x, memory = x if crossed else (x, x)
        (x, own), (memory, mask) = pair(x), pair(memory)

        def product(name, x):
            y = torch.einsum("bti,ihd->bthd", x, p[name]["kernel"])
            return y + p[name]["bias"] if "bias" in p[name] else y

        q, k, v = product("query", x), product("key", memory), product("value", memory)
        if qk_norm:
            q, k = (F.rms_norm(a, (d,), p[f"{name}_norm"]["scale"], 1e-6) for a, name in ((q, "query"), (k, "key")))
        if base is not None:
            q, k = turned(q, base), turned(k, base)
        i, j = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])
        seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
        seen = seen & (j <= i) if causal else seen
        seen = seen & ((i - j).abs() < window) if window is not None else seen
        if mask is not None:
            seen = seen & (mask[:, None, None] if mask.ndim == 2 else mask)
        slopes = torch.zeros(heads)
        if bias is not None:
            lower = 2 ** int(np.log2(heads))  # the paper's slopes, then every other slope for twice as many heads
            series = lambda n: [2.0 ** (-8 * (h + 1) / n) for h in range(n)]  # noqa: E731
            slopes = torch.tensor(series(lower) + series(2 * lower)[::2][: heads - lower])
        added = -slopes[:, None, None] * (i - j).abs()
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        if softcap is None:
            attend_mask = added.double().masked_fill(~seen, -torch.inf).expand(len(x), heads, -1, -1)
            y = F.scaled_dot_product_attention(q, k, v, attend_mask, enable_gqa=True)
        else:
            k, v = (a.repeat_interleave(times, 1) for a in (k, v))
            scores = softcap * torch.tanh(q @ k.mT / d**0.5 / softcap) + added
            y = torch.where(seen, scores, -1e9).softmax(-1) * seen @ v
        y = torch.einsum("bhqd,hdo->bqo", y, p["output"]["kernel"]) + p["output"].get("bias", 0)
        return y if own is None else (y, own)

    return Case(layer, x, peer)


def projections(p, prefix=""):
    """Our parameters of an attention as those of a `torch.nn.MultiheadAttention`."""
    flat = lambda name: p[name]["kernel"].flatten(1).T  # noqa: E731
    return {
        f"{prefix}in_proj_weight": torch.cat([flat(name) for name in ("query", "key", "value")]),
        f"{prefix}in_proj_bias": torch.cat([p[name]["bias"].flatten() for name in ("query", "key", "value")]),
        f"{prefix}out_proj.weight": p["output"]["kernel"].flatten(0, 1).T,
        f"{prefix}out_proj.bias": p["output"]["bias"],
    }


@st.composite
def multi_head_attention(draw):
    """PyTorch's masks are true where something is hidden; at least one position is visible in each sequence."""
    heads, d, batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    features, causal, cross = heads * d, draw(st.booleans()), draw(st.booleans())
    x = normal(batch, time, features)
    if cross and not causal:
        memory = normal(batch, draw(st.integers(1, 4)), features)
        mask = padding_mask(draw, memory)
        mask[:, 0] = True
        x = (x, (memory, mask))
    module = torch.nn.MultiheadAttention(features, heads, batch_first=True).double()

    def peer(p, x):
        x, (memory, mask) = x if isinstance(x, tuple) else (x, (x, None))
        hidden = ~torch.ones(time, time, dtype=torch.bool).tril() if causal else None
        options = {"key_padding_mask": None if mask is None else ~mask, "attn_mask": hidden}
        return torch.func.functional_call(module, projections(p), (x, memory, memory), options)[0]

    return Case(nn.attention(features, heads, is_causal=causal), x, peer)


@st.composite
def transformer_block(draw):
    heads, d, hidden, cross = draw(st.integers(1, 2)), draw(st.integers(2, 3)), draw(st.integers(1, 5)), draw(st.booleans())
    features, pre_norm, causal = heads * d, draw(st.booleans()), draw(st.booleans())
    activation = draw(st.sampled_from(["relu", "gelu"]))
    ours = nn.relu if activation == "relu" else functools.partial(nn.gelu, approximate=False)
    layer = nn.transformer_block(
        nn.attention(features, heads, is_causal=causal),
        nn.feed_forward(features, hidden, activation=ours),
        cross=nn.attention(features, heads) if cross else None,
        pre_norm=pre_norm,
    )
    make = torch.nn.TransformerDecoderLayer if cross else torch.nn.TransformerEncoderLayer
    module = make(features, heads, hidden, 0.0, activation, batch_first=True, norm_first=pre_norm).double()
    x = normal(draw(st.integers(1, 2)), draw(st.integers(1, 4)), features)
    if cross:
        x = (x, normal(len(x), draw(st.integers(1, 4)), features))

    def peer(p, x):
        tensors = projections(p["attention"], "self_attn.")
        norms = {"norm1": "attention_norm", "norm2": "mlp_norm"}
        if cross:
            tensors |= projections(p["cross"], "multihead_attn.")
            norms = {"norm1": "attention_norm", "norm2": "cross_norm", "norm3": "mlp_norm"}
        for theirs, name in norms.items():
            tensors |= {f"{theirs}.weight": p[name]["scale"], f"{theirs}.bias": p[name]["bias"]}
        for theirs, name in (("linear1", "up"), ("linear2", "down")):
            tensors |= {f"{theirs}.weight": p["mlp"][name]["kernel"].T, f"{theirs}.bias": p["mlp"][name]["bias"]}
        inputs = x if cross else (x,)
        hidden = ~torch.ones(inputs[0].shape[1], inputs[0].shape[1], dtype=torch.bool).tril() if causal else None
        y = torch.func.functional_call(module, tensors, inputs, {"tgt_mask" if cross else "src_mask": hidden})
        return (y, x[1]) if cross else y

    return Case(layer, x, peer)


@st.composite
def feed_forward(draw):
    gated, use_bias, features, hidden = (
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 5)),
    )
    name = draw(st.sampled_from(["silu", "gelu", "relu"]))
    activation = functools.partial(F.gelu, approximate="tanh") if name == "gelu" else getattr(F, name)
    layer = nn.feed_forward(features, hidden, activation=getattr(nn, name), gated=gated, use_bias=use_bias)

    def peer(p, x):
        linear = lambda name, x: F.linear(x, p[name]["kernel"].T, p[name].get("bias"))  # noqa: E731
        return linear("down", activation(linear("gate", x)) * linear("up", x) if gated else activation(linear("up", x)))

    return Case(layer, normal(2, 3, draw(st.integers(1, 4))), peer)
