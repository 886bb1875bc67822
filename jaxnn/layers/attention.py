"""Multi-head attention, over the input itself or over a memory, with a cache of keys and values for decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.block import compose
from jaxnn.core.checks import whole
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, stateless
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
    use_bias: bool = True,
    kernel_init=glorot_uniform(),
    output_init=None,
    bias_init=zeros,
) -> Layer:
    """Multi-head attention: for each head softmax(q kᵀ / √d) v, and a product with all heads' outputs (Vaswani et al. 2017).

    Parameters: `query`, `key` and `value` with kernels (n_in, heads, d), `output` with a kernel (heads, d, features), and
    for `qk_norm` the scales of `query_norm` and `key_norm`, (d,).

    The input says what attends to what; a mask is boolean and true where there is something to attend to (those of PyTorch's
    `MultiheadAttention` are true where there is not):

    - `x`, (batch, time, n_in): every position to all others;
    - `(x, mask)`: the mask (batch, time) of a padded sequence, or one of four axes that broadcast to (batch, heads,
      queries, keys);
    - `(x, memory)`: to another sequence (cross-attention), where each of the two may be a pair with its mask.

    A mask of `x` is kept in the output, so that layers stack. A query without anything to attend to gets the output's bias.

    Args:
        features: Of the output.
        heads: How many.
        head_features: d; by default features / heads.
        key_heads: How many heads keys and values have, each serving heads / key_heads of the queries' (grouped-query
            attention, Ainslie et al. 2023); by default `heads`.
        is_causal: Whether position i sees only the positions up to i.
        window: Position i sees only positions j with |i − j| < window (Beltagy et al. 2020); (before, after) for
            i − before ≤ j ≤ i + after.
        scale: s in softmax(s q kᵀ); 1 / √d by default, 1 / d in μP (Yang et al. 2021).
        softcap: Scores are kept within ±softcap, by tanh.
        qk_norm: Whether queries and keys are divided by their root mean square, and scaled, before the product (a form of
            Henry et al. 2020).
        rotary_base: Turn queries and keys by `nn.rotary` with this base, usually 10000; None does not.
        bias: (heads, query positions, key positions) ↦ what is added to the scores, (heads, queries, keys), as `nn.alibi`.
        cache: For decoding: how many positions the state has room for. Then, except in training, the input is what follows
            on what came before, of any length, and the output is as if all had come at once. Causal attention only. What
            reaches beyond the cache is NaN.
        use_bias: Whether the four products have biases.
        kernel_init: Initializer of the four kernels, as matrices.
        output_init: That of the output's, where it is another one, such as a smaller one for deep stacks.
        bias_init: Initializer of the biases.

    Returns:
        A `Layer` to (batch, time, features), or to `(y, mask)`; with a cache its state is `cache`: `key` and `value`
        (batch, cache, key_heads, d) and the number of positions `seen`.

    Raises:
        ValueError: If the options or the input's shapes do not fit each other.

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
        raise ValueError(f"attention has {features} features in {heads} heads: they must divide, or give head_features")
    if heads % key_heads:
        raise ValueError(f"attention has {heads} heads and {key_heads} key_heads: these must divide those")
    if cache is not None and not is_causal:
        raise ValueError("attention with a cache is causal: what comes later is not known yet; pass is_causal=True")
    d = features // heads if head_features is None else whole("attention", "head_features", head_features)

    def product(*sizes, axis=-1, kernel_init=kernel_init):
        return dense(sizes, axis=axis, use_bias=use_bias, kernel_init=kernel_init, bias_init=bias_init)

    children = {
        "query": product(heads, d),
        "key": product(key_heads, d),
        "value": product(key_heads, d),
        "cache": _heads(is_causal, window, scale, softcap, rotary_base, bias, cache),
        "output": product(features, axis=(-2, -1), kernel_init=output_init or kernel_init),
    } | ({"query_norm": _rms_norm(), "key_norm": _rms_norm()} if qk_norm else {})

    def forward(run, x):
        (x, kept), memory, mask = _read(x)
        if cache is not None and mask is not None:
            raise ValueError("attention with a cache takes no mask: the state does not say which cached keys are padding")
        q, k, v = run("query", x), run("key", memory), run("value", memory)
        if qk_norm:
            q, k = run("query_norm", q), run("key_norm", k)
        y = run("output", run("cache", (q, k, v) if mask is None else (q, k, v, mask)))
        return y if kept is None else (y, kept)

    return compose("attention", children, forward, traced=True)


def split_any_mask(x: Any) -> tuple[Any, Any]:
    """`(x, mask)` of a pair whose second is boolean, `(x, None)` of anything else."""
    paired = isinstance(x, tuple) and len(x) == 2 and getattr(x[1], "dtype", None) == jnp.bool_
    return x if paired else (x, None)


def _read(x: Any) -> tuple[tuple[Any, Any], Any, Any]:
    """The queries with their mask, what they attend to, and the mask (batch, heads, queries, keys) of that, or None."""
    if isinstance(x, tuple) and len(x) == 2 and getattr(x[1], "dtype", None) != jnp.bool_:
        (x, kept), (memory, mask) = map(split_any_mask, x)
    else:
        x, kept = split_any_mask(x)
        memory, mask = x, kept
    if any(getattr(a, "ndim", None) != 3 for a in (x, memory)) or x.shape[0] != memory.shape[0]:
        raise ValueError(
            "attention takes x, (x, mask), (x, memory) or (x, (memory, mask)), x and memory of shape (batch, time, features)"
        )
    if mask is not None and mask.ndim == 2:
        if mask.shape != memory.shape[:2]:
            raise ValueError(f"a mask of a padded sequence is (batch, time), {list(memory.shape[:2])}, got {list(mask.shape)}")
        mask = mask[:, None, None]
    if mask is not None and mask.ndim != 4:
        raise ValueError(f"a mask is (batch, time) or (batch, heads, queries, keys), any of them 1, got {list(mask.shape)}")
    return (x, kept), memory, mask


def _heads(is_causal, window, scale, softcap, rotary_base, bias, cache) -> Layer:
    """(q, k, v) or (q, k, v, mask) ↦ the outputs of all heads; the keys and values seen so far are its state."""
    if isinstance(window, tuple):
        before, after = (whole("attention", "window", n, 0) for n in window)
    elif window is not None:
        before = after = whole("attention", "window", window) - 1
    around = None if window is None else (before, after)
    size = None if cache is None else whole("attention", "cache", cache)

    def init(key, x):
        _, k, v, *_ = x
        if size is None:
            return {}, {}
        rows = {"key": param(zeros, (k.shape[0], size, *k.shape[2:])), "value": param(zeros, (v.shape[0], size, *v.shape[2:]))}
        return {}, rows | {"seen": param(zeros, (), jnp.int32)}

    def apply(params, state, x, *, key=None, training=False):
        q, k, v, *masks = x
        mask = masks[0] if masks else None
        cached = size is not None and not training
        at_q, at_k = jnp.arange(q.shape[1]), jnp.arange(k.shape[1])
        if cached:
            at_q, at_k = at_q + state["seen"], at_k + state["seen"]
        if rotary_base is not None:
            q, k = rotary(q, at_q, base=rotary_base), rotary(k, at_k, base=rotary_base)
        full = jnp.zeros((), bool)
        if cached:
            full = at_q[-1] >= state["key"].shape[1]
            k, v, at_k, state = _extended(state, k, v, at_k)
        causal = is_causal and not cached and around is None
        near = None if causal else _near(at_q[:, None], at_k[None], is_causal, around)
        if near is not None:
            mask = near[None, None] if mask is None else mask & near[None, None]
        added = None if bias is None else bias(q.shape[2], at_q, at_k)[None]
        y = kernels.dot_product_attention(q, k, v, mask=mask, is_causal=causal, scale=scale, bias=added, softcap=softcap)
        return (jnp.where(full, jnp.full_like(y, jnp.nan), y) if cached else y), state

    return Layer(init, apply, "cache")


def _extended(state: dict, k: jax.Array, v: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, dict]:
    """The cache with what is new written behind what is there: keys, values, their positions, and the next state."""
    if state["key"].shape[0] != k.shape[0] or state["key"].shape[1] < k.shape[1]:
        raise ValueError(
            f"the cache is for (batch, time) = {list(state['key'].shape[:2])}, got {list(k.shape[:2])}: "
            "init gives one for the batch size it is called with, and `cache` positions"
        )
    after = {
        name: jax.lax.dynamic_update_slice_in_dim(state[name], new.astype(state[name].dtype), at[0], axis=1)
        for name, new in (("key", k), ("value", v))
    }
    positions = jnp.arange(state["key"].shape[1])
    return after["key"].astype(k.dtype), after["value"].astype(v.dtype), positions, after | {"seen": at[-1] + 1}


def _near(i: jax.Array, j: jax.Array, is_causal: bool, around: tuple[int, int] | None) -> jax.Array | None:
    """Which keys j the queries i see for their positions' sake."""
    conditions = [j <= i] if is_causal else []
    conditions += [i - around[0] <= j, j <= i + around[1]] if around is not None else []
    return None if not conditions else jnp.stack(jnp.broadcast_arrays(*conditions)).all(0)


def _rms_norm() -> Layer:
    def init(key, x):
        return {"scale": param(ones, x.shape[-1:])}

    def apply(params, x):
        wide, scale = promote(at_least_float32(x), params["scale"])
        y = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
        return (y * kernels.spread(scale, y)).astype(x.dtype)

    return stateless(init, apply, "rms_norm")
