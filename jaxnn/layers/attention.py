"""Multi-head self-attention and cross-attention, with a cache of keys and values for decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn._jax import is_tracer
from jaxnn.core.block import compose
from jaxnn.core.checks import fraction, number, require_key, whole
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, stateless
from jaxnn.core.masks import split_mask, zero_padding
from jaxnn.core.text import array_text
from jaxnn.functional.initializers import glorot_uniform, ones, zeros
from jaxnn.layers.embedding import rotary
from jaxnn.layers.linear import dense


def attention(
    features: int,
    heads: int,
    *,
    head_features: int | None = None,
    key_heads: int | None = None,
    is_causal: bool = False,
    window: int | tuple[int, int] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    qk_norm: bool = False,
    rotary_base: float | None = None,
    bias: Callable[[int, jax.Array, jax.Array], jax.Array] | None = None,
    cache: int | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
    use_bias: bool = True,
    kernel_init=glorot_uniform(),
    output_init=None,
    bias_init=zeros,
) -> Layer:
    """Multi-head attention: softmax(q kᵀ / √d) v for each head, and a linear map of all heads (Vaswani et al. 2017).

    Parameters: `query`, `key` and `value` have kernels (n_in, heads, d), `output` has a kernel (heads, d, features); with
    `qk_norm` there are the scales of `query_norm` and `key_norm`, (d,).

    The input is one of the following. A mask is boolean and true where a position may be attended to; those of PyTorch's
    `MultiheadAttention` are true where it may not.

    - `x`, (batch, time, n_in): self-attention.
    - `(x, mask)`: self-attention with a mask, (batch, time) for a padded sequence, or with four axes that broadcast to
      (batch, heads, queries, keys).
    - `(x, memory)`: cross-attention to another sequence; each of the two may be a pair with its mask.
    - a dict with `query`, (batch, queries, n_in), and any of `key` (by default the query), `value` (by default the key),
      `mask` and `bias`: a mask (batch, keys), or one as above, and a floating-point array that is added to the scores, of four
      axes that broadcast likewise. A bias of −∞ is a mask of false. PyTorch's floating-point `attn_mask` is this bias.

    The output keeps the mask of `x` in a pair, so that layers stack. For a query that may attend to nothing it is the bias of
    the last linear map.

    Args:
        features: The number of output features.
        heads: The number of heads.
        head_features: The number of features per head, d; by default features / heads.
        key_heads: The number of heads of keys and values, each shared by heads / key_heads heads of the queries
            (grouped-query attention, Ainslie et al. 2023); by default `heads`.
        is_causal: Whether position i attends only to positions up to i.
        window: Position i attends only to positions j with |i − j| < window (Beltagy et al. 2020), or, for a pair
            (before, after), with i − before ≤ j ≤ i + after.
        scale: The factor s in softmax(s q kᵀ); 1 / √d by default, 1 / d in μP (Yang et al. 2021).
        softcap: The bound c in c · tanh(scores / c), which keeps scores within ±c; None for no bound.
        qk_norm: Whether queries and keys are divided by their root mean square, and scaled, before the product (a variant
            of Henry et al. 2020).
        rotary_base: Base of the rotary position embedding of queries and keys (`nn.rotary`), usually 10000; None for none.
        bias: A function `(heads, query_positions, key_positions) -> bias`, such as `nn.alibi`; the bias (heads, queries,
            keys) is added to the scores.
        cache: For decoding, the number of positions that the state has room for. Except in training, each input, of any
            length, then continues the sequence, and the outputs are those for the whole sequence at once. It requires
            causal attention. Outputs for positions beyond the cache are NaN.
        dropout: The dropout rate of the weights softmax(q kᵀ / √d), in [0, 1). It may be traced.
        return_weights: Whether to return `(y, weights)`, where y is the output and the weights, after dropout, have the shape
            (batch, heads, queries, keys). PyTorch averages them over the heads by default.
        use_bias: Whether the four linear maps have biases.
        kernel_init: Initializer of the four kernels, as matrices.
        output_init: Initializer of the output's kernel, by default `kernel_init`; deep stacks use a smaller one.
        bias_init: Initializer of the biases.

    Returns:
        A `Layer` to y, (batch, time, features), or to `(y, mask)`. With a cache its state `cache` has the entries `key` and
        `value`, (batch, cache, key_heads, d), and `seen`, the number of positions so far.

    Raises:
        ValueError: If the options contradict each other, or do not fit the input's shape; in training with dropout and
            without a key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> x, layer = jnp.ones((2, 5, 8)), nn.attention(8, 2, is_causal=True, cache=16)
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> apply = jax.jit(layer.apply)
        >>> whole, _ = apply(params, state, x)
        >>> first, state = apply(params, state, x[:, :3])
        >>> rest, state = apply(params, state, x[:, 3:])
        >>> jnp.allclose(whole, jnp.concatenate([first, rest], axis=1), atol=1e-5).item()
        True
    """
    features, heads = whole("attention", "features", features), whole("attention", "heads", heads)
    key_heads = heads if key_heads is None else whole("attention", "key_heads", key_heads)
    if head_features is None and features % heads:
        raise ValueError(
            f"attention: {heads} heads do not divide {features} features; pass head_features or change one of the two"
        )
    if heads % key_heads:
        raise ValueError(f"attention: key_heads must divide the number of heads, got {key_heads} and {heads}")
    if cache is not None and not is_causal:
        raise ValueError("attention with a cache must be causal, since later positions are not known yet: pass is_causal=True")
    scale = None if scale is None else number("attention", "scale", scale)
    softcap = None if softcap is None else number("attention", "softcap", softcap, 0, above=True)
    dropout = fraction("attention", "dropout", dropout)
    rotary_base = None if rotary_base is None else number("attention", "rotary_base", rotary_base, 0, above=True)
    d = features // heads if head_features is None else whole("attention", "head_features", head_features)

    def product(*sizes, axis=-1, kernel_init=kernel_init):
        return dense(sizes, axis=axis, use_bias=use_bias, kernel_init=kernel_init, bias_init=bias_init)

    children = {
        "query": product(heads, d),
        "key": product(key_heads, d),
        "value": product(key_heads, d),
        "cache": _heads(is_causal, window, scale, softcap, rotary_base, bias, cache, dropout, return_weights),
        "output": product(features, axis=(-2, -1), kernel_init=output_init or kernel_init),
    } | ({"query_norm": _rms_norm(), "key_norm": _rms_norm()} if qk_norm else {})

    def forward(run, x):
        (query, key, value), kept, mask, added = _read(x)
        if cache is not None and (mask is not None or added is not None):
            raise ValueError("attention with a cache takes no mask or bias, since the state stores neither for earlier keys")
        q, k, v = run("query", query), run("key", key), run("value", value)
        if qk_norm:
            q, k = run("query_norm", q), run("key_norm", k)
        y = run("cache", (q, k, v, mask, added))
        y, weights = y if return_weights else (y, None)
        y = run("output", y)
        y = y if kept is None else (y, kept)
        return (y, weights) if return_weights else y

    return compose("attention", children, forward, traced=True)


def _read(x: Any) -> tuple[tuple[Any, Any, Any], Any, Any, Any]:
    """(query, key, value), the mask of the output, and the mask and the bias (batch, heads, queries, keys); None for none."""
    bias = None
    if isinstance(x, dict):
        query, key, value, kept, mask, bias = _entries(x)
    else:
        query, kept = split_mask(x, any_shape=True)
        if kept is None and isinstance(query, tuple) and len(query) == 2:
            (query, kept), (key, mask) = (split_mask(part, any_shape=True) for part in query)
        else:
            key, mask = query, kept
        value = key
    parts = query, key, value
    if (
        any(getattr(a, "ndim", None) != 3 for a in parts)
        or len({a.shape[0] for a in parts}) > 1
        or key.shape[1] != value.shape[1]
    ):
        raise ValueError(
            "attention takes x, (x, mask), (x, memory), (x, (memory, mask)) or a dict of query, key, value, mask and bias; x, "
            "memory, query, key and value of shape (batch, time, features), key and value of one length, got "
            f"{array_text(x)}"
        )
    for m, a in ((kept, query), (mask, key)):
        if m is not None and m.ndim not in (2, 4):
            raise ValueError(f"attention takes a mask (batch, time) or (batch, heads, queries, keys), got {list(m.shape)}")
        if m is not None and m.ndim == 2 and m.shape != a.shape[:2]:
            raise ValueError(f"attention takes a mask (batch, time) = {list(a.shape[:2])}, got {list(m.shape)}")
    query = zero_padding(query, kept) if kept is not None and kept.ndim == 2 else query
    if mask is not None and mask.ndim == 2:
        key, value, mask = zero_padding(key, mask), zero_padding(value, mask), mask[:, None, None]
    return (query, key, value), (None if isinstance(x, dict) else kept), mask, bias


def _entries(x: dict) -> tuple:
    """Query, key, value, the masks of the queries and of the keys, and the bias of a dict."""
    if "query" not in x or not x.keys() <= {"query", "key", "value", "mask", "bias"}:
        raise ValueError(f"attention takes a dict of query and any of key, value, mask and bias, got {sorted(x)}")
    query, mask, bias = x["query"], x.get("mask"), x.get("bias")
    key = x.get("key", query)
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(f"attention takes a boolean mask, true where a position may be attended to, got {array_text(mask)}")
    kept = mask if "key" not in x else None  # the padding of a sequence that attends to itself
    if bias is not None and (not jnp.issubdtype(bias.dtype, jnp.floating) or bias.ndim != 4):
        raise ValueError(f"attention takes a bias that is floating-point and has four axes, got {array_text(bias)}")
    return query, key, x.get("value", key), kept, mask, bias


def _heads(is_causal, window, scale, softcap, rotary_base, bias, cache, dropout, return_weights) -> Layer:
    """From (q, k, v, mask, bias) to the outputs of all heads; the state holds earlier keys and values."""
    if isinstance(window, tuple):
        if len(window) != 2:
            raise ValueError(f"attention takes a window as a number or a pair (before, after), got {window}")
        before, after = (whole("attention", "window", n, 0) for n in window)
    elif window is not None:
        before = after = whole("attention", "window", window) - 1
    reach = None if window is None else (before, after)
    size = None if cache is None else whole("attention", "cache", cache)

    def init(key, x):
        _, k, v, *_ = x
        if size is None:
            return {}, {}
        empty = {name: param(zeros, (a.shape[0], size, *a.shape[2:])) for name, a in (("key", k), ("value", v))}
        return {}, empty | {"seen": param(zeros, (), jnp.int32)}

    def apply(params, state, x, *, key=None, training=False):
        q, k, v, mask, added = x
        cached = size is not None and not training
        at_q, at_k = (jnp.arange(a.shape[1], dtype=jnp.int32) for a in (q, k))
        if cached:
            at_q, at_k = at_q + state["seen"], at_k + state["seen"]
        if rotary_base is not None:
            q, k = rotary(q, at_q, base=rotary_base), rotary(k, at_k, base=rotary_base)
        full = jnp.zeros((), bool)
        if cached:
            full = at_q[-1] >= state["key"].shape[1]
            k, v, at_k, state = _extended(state, k, v, at_k)
        causal = is_causal and not cached and reach is None
        allowed = None if causal else _allowed(at_q[:, None], at_k[None], is_causal, reach)
        if allowed is not None:
            mask = allowed[None, None] if mask is None else mask & allowed[None, None]
        if added is not None:
            finite = ~jnp.isneginf(added)  # a bias of −∞ would give NaN for a query without keys
            mask = finite if mask is None else mask & finite
            added = jnp.where(finite, added, jnp.zeros((), added.dtype))
        if bias is not None:
            by_position = bias(q.shape[2], at_q, at_k)[None]
            added = by_position if added is None else jnp.add(*promote(by_position, added))
        options: dict[str, Any] = {"scale": scale, "bias": added, "softcap": softcap, "return_weights": return_weights}
        if training and (is_tracer(dropout) or dropout > 0):
            options |= {"dropout": dropout, "dropout_key": require_key(key)}
        y = kernels.dot_product_attention(q, k, v, mask=mask, is_causal=causal, **options)
        return (jax.tree.map(lambda a: jnp.where(full, jnp.full_like(a, jnp.nan), a), y) if cached else y), state

    return Layer(init, apply, "cache")


def _extended(state: dict, k: jax.Array, v: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, dict]:
    """Append new keys and values to the cache: the keys, the values, their positions, and the next state."""
    if state["key"].shape[0] != k.shape[0] or state["key"].shape[1] < k.shape[1]:
        raise ValueError(
            f"attention: the cache has the shape (batch, time) = {list(state['key'].shape[:2])}, got an input of "
            f"{list(k.shape[:2])}: call init with this batch size, and increase `cache` for longer sequences"
        )
    after = {
        name: jax.lax.dynamic_update_slice_in_dim(state[name], at_least_float32(new).astype(state[name].dtype), at[0], axis=1)
        for name, new in (("key", k), ("value", v))
    }
    positions = jnp.arange(state["key"].shape[1], dtype=jnp.int32)
    return after["key"].astype(k.dtype), after["value"].astype(v.dtype), positions, after | {"seen": at[-1] + 1}


def _allowed(i: jax.Array, j: jax.Array, is_causal: bool, reach: tuple[int, int] | None) -> jax.Array | None:
    """Whether a query at position i may attend to a key at position j; None if it always may."""
    conditions = [j <= i] if is_causal else []
    conditions += [i - reach[0] <= j, j <= i + reach[1]] if reach is not None else []
    return None if not conditions else jnp.stack(jnp.broadcast_arrays(*conditions)).all(0)


def _rms_norm() -> Layer:
    def init(key, x):
        return {"scale": param(ones, x.shape[-1:])}

    def apply(params, x):
        wide, scale = promote(at_least_float32(x), params["scale"])
        y = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
        return (y * kernels.spread(scale, y)).astype(x.dtype)

    return stateless(init, apply, "rms_norm")
