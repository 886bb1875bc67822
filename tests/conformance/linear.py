"""Cases of products with a matrix, embeddings, and activations with parameters."""

import numpy as np
from hypothesis import strategies as st

import jaxnn as nn

from .case import Case, normal, torch

F = torch.nn.functional


def shape_of(draw, most=3):
    return tuple(draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, most))))


def padded(draw, x):
    """`x`, or a pair of it and a mask over its leading axes; the layer's output is then a pair too."""
    if x.ndim != 3 or not draw(st.booleans()):
        return x
    return x, np.arange(x.shape[1]) < np.arange(1, len(x) + 1)[:, None]


def kept(function):
    """`function(params, x)` that passes a mask on; vectors at padded positions are 0, and so are those of tokens there."""

    def masked(params, x):
        if not isinstance(x, tuple):
            return function(params, x)
        x, mask = x
        zero = lambda a: a * mask.reshape(*mask.shape, *[1] * (a.ndim - mask.ndim))  # noqa: E731
        return (function(params, zero(x)) if x.is_floating_point() else zero(function(params, x))), mask

    return masked


@st.composite
def dense(draw):
    shape, features = shape_of(draw), draw(st.integers(1, 5))
    layer = nn.dense(features, use_bias=draw(st.booleans()))
    x = padded(draw, normal(*shape, draw(st.integers(1, 5))))
    return Case(layer, x, kept(lambda p, x: F.linear(x, p["kernel"].T, p.get("bias"))))


@st.composite
def dense_over_axes(draw):
    shape = (2, *shape_of(draw))
    axes = draw(st.permutations(range(1, len(shape))))[: draw(st.integers(1, len(shape) - 1))]
    features = shape_of(draw, 2)
    layer = nn.dense(features, axis=tuple(i - len(shape) for i in axes), use_bias=draw(st.booleans()))

    def peer(p, x):
        y = torch.tensordot(x, p["kernel"], (axes, list(range(len(axes)))))
        return y + p["bias"] if "bias" in p else y

    return Case(layer, normal(*shape), peer)


@st.composite
def bilinear(draw):
    shape, (n_u, n_v, features) = shape_of(draw), (draw(st.integers(1, 4)) for _ in range(3))
    layer = nn.bilinear(features, use_bias=draw(st.booleans()))
    pair = normal(*shape, n_u), normal(*shape, n_v, seed=1)
    return Case(layer, pair, lambda p, x: F.bilinear(*x, p["kernel"].permute(2, 0, 1).contiguous(), p.get("bias")))


@st.composite
def einsum(draw):
    """The bias has the features in the order of the output."""
    equation, bias_to = draw(
        st.sampled_from([("bti,iho->btho", "ho"), ("bti,iho->bhto", "hto"), ("...i,io->...o", "o"), ("bgi,gio->bgo", "o")])
    )
    sizes = {axis: draw(st.integers(1, 4)) for axis in "ho" if axis in equation}
    layer = nn.einsum(equation, **sizes, use_bias=draw(st.booleans()))

    def peer(p, x):
        y = torch.einsum(equation, x, p["kernel"])
        if "bias" not in p:
            return y
        return y + (p["bias"][:, None] if bias_to == "hto" else p["bias"])

    return Case(layer, normal(2, draw(st.integers(1, 4)), draw(st.integers(1, 4))), peer)


@st.composite
def lora(draw):
    rank, alpha = draw(st.integers(1, 3)), draw(st.sampled_from([None, 8.0]))
    layer, x = nn.dense(draw(st.integers(1, 5)), use_bias=draw(st.booleans())), normal(*shape_of(draw), draw(st.integers(1, 5)))

    def peer(p, x):
        change = p["down"] @ p["up"] * (1 if alpha is None else alpha / rank)
        return F.linear(x, (p["base"]["kernel"] + change).T, p["base"].get("bias"))

    return Case(nn.lora(layer, rank, alpha=alpha), x, peer)


@st.composite
def embedding(draw):
    vocabulary, features = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    padding_index = draw(st.sampled_from([None, 0, vocabulary - 1]))
    tokens = padded(draw, np.random.default_rng(0).integers(0, vocabulary, shape_of(draw)))
    max_norm = draw(st.sampled_from([None, 0.5, 2.0]))

    def peer(p, x):
        table = p["embedding"]
        if max_norm is not None:  # PyTorch writes the scaled vectors into the table, which no gradient sees
            theirs = F.embedding(torch.arange(vocabulary), table.detach().clone(), max_norm=max_norm)
            table = table * (max_norm / table.norm(dim=-1, keepdim=True)).clamp(max=1)
            assert torch.allclose(table, theirs, rtol=1e-6)
        if padding_index is not None:  # PyTorch keeps that vector and only gives it no gradient
            table = table.masked_fill((torch.arange(vocabulary) == padding_index)[:, None], 0)
        return F.embedding(x, table, padding_index)

    layer = nn.embedding(vocabulary, features, padding_index=padding_index, max_norm=max_norm)
    return Case(layer, tokens, kept(peer))


@st.composite
def attend(draw):
    """The output that is tied to an embedding: a linear layer with its table."""
    n, features = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    table = nn.embedding(n, features).setup(np.zeros((1, 1), np.int32)).params
    layer = nn.stateless(lambda key, x: table, nn.attend)
    return Case(layer, normal(*shape_of(draw), features), lambda p, x: F.linear(x, p["embedding"]))


@st.composite
def learned_positions(draw):
    length, features = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    x = padded(draw, normal(2, draw(st.integers(1, length)), features))
    return Case(nn.learned_positions(length), x, kept(lambda p, x: x + F.embedding(torch.arange(x.shape[1]), p["embedding"])))


@st.composite
def prelu(draw):
    x = padded(draw, normal(*shape_of(draw), draw(st.integers(1, 4))))
    return Case(nn.prelu(), x, kept(lambda p, x: F.prelu(x.movedim(-1, 1), p["negative_slope"]).movedim(1, -1)))


@st.composite
def rrelu(draw):
    low = draw(st.floats(0.0, 0.5))
    high = draw(st.floats(low, 1.0))
    x = normal(*shape_of(draw), 3)
    return Case(nn.rrelu(low=low, high=high), x, lambda p, x: F.rrelu(x, low, high, training=False))
