"""Scaled dot-product attention in blocks of queries."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from jaxnn._jax import is_tracer
from jaxnn.kernels.dropout import dropped, threefry, words_of
from jaxnn.kernels.forms import form_scope, widen

# Above this number of scores per head, the backward pass computes the scores of a block again instead of keeping them.
MAX_SCORES = 1024**2
# The number of queries in a block of a long sequence; their scores, of two heads at a time, stay in the cache.
BLOCK = 128


def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    bias: ArrayLike | None = None,
    softcap: float | None = None,
    dropout: float | jax.Array = 0.0,
    dropout_key: jax.Array | None = None,
    return_weights: bool = False,
    form: str | None = None,
) -> Any:
    """Scaled dot-product attention, softmax(q kᵀ / √d) v (Vaswani et al. 2017).

    For each head, with i over the queries and j over the keys that i may attend to:

        y[i] = Σ_j p[i, j] v[j]        p[i, j] = exp(s q[i]·k[j]) / Σ_j' exp(s q[i]·k[j'])

    On a CPU the queries are processed in blocks. A causal block uses only the keys up to its own end, so about half of the
    scores are never computed, and long sequences keep only a few blocks of them in memory.

    Args:
        query: (batch, queries, heads, d), floating-point.
        key: (batch, keys, heads, d), or with fewer heads that divide query's: a group of query heads shares each.
        value: (batch, keys, key heads, d_v).
        mask: Boolean, true where a query may attend to a key, of a shape that broadcasts to (batch, heads, queries, keys);
            None allows all. Pass a padding mask m of shape (batch, keys) as `m[:, None, None]`. A key to which no query may
            attend is not used, whatever its value.
        is_causal: Whether query i attends only to keys 0 to i; the numbers of keys and queries must be equal.
        scale: s; None is 1/√d.
        bias: Floating-point, added to the scores s q·k, of a shape that broadcasts as the mask's does.
        softcap: c, which limits the scores to ±c as c tanh(s q·k / c), before the bias (Gemma 2, 2024); None sets no limit.
        dropout: The rate of dropout of the weights p, in [0, 1]; the others are divided by 1 − rate. It may be traced.
        dropout_key: A random key for the dropout; required unless the rate is 0. The weights that are dropped depend on the
            key and their indices only, not on the form.
        return_weights: Whether to return p too, after dropout, for which the scores are computed a second time, all at once.
        form: None lets the backend decide, "blocks" or "xla" forces a form. They differ in rounding only.

    Returns:
        (batch, queries, heads, d_v), in query's dtype; scores and sums are at least float32. The output of a query that
        may attend to no key is zero. With `return_weights`, a pair of it and p, (batch, heads, queries, keys).

    Raises:
        ValueError: If the shapes do not match, softcap is not above 0, or dropout is outside of [0, 1] or without a key.
        TypeError: If the dtypes are not one floating-point dtype, or the mask is not boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> query, key = jnp.zeros((1, 2, 1, 4)), jnp.zeros((1, 2, 1, 4))
        >>> value = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
        >>> dot_product_attention(query, key, value, is_causal=True).ravel()
        Array([1., 2.], dtype=float32)
    """
    query, key, value = jnp.asarray(query), jnp.asarray(key), jnp.asarray(value)
    mask, bias = (None if v is None else jnp.asarray(v) for v in (mask, bias))
    _check(query, key, value, mask, bias, is_causal)
    batch, _, heads, d = query.shape
    if isinstance(softcap, (int, float)) and not softcap > 0:
        raise ValueError(f"attention takes a softcap above 0, the bound of the scores, got {softcap}")
    if not is_tracer(dropout) and not 0 <= dropout <= 1:
        raise ValueError(f"attention takes dropout in [0, 1], the fraction of weights to drop, got {dropout}")
    drops = is_tracer(dropout) or dropout != 0
    if drops and dropout_key is None:
        raise ValueError("attention with dropout takes a random key as dropout_key, got None")
    scale = d**-0.5 if scale is None else scale
    groups = heads // key.shape[2]
    # (batch · heads, length, d): the rows of a head are contiguous, as the products below need them
    heads_first = lambda x, times: _heads_first(jnp.repeat(widen(x), times, axis=2) if times > 1 else widen(x))  # noqa: E731
    q = heads_first(query, 1) * jnp.asarray(scale, widen(query).dtype)
    k, v = heads_first(key, groups), heads_first(value, groups)
    mask = None if mask is None else _mask_heads_first(mask, batch, heads)
    bias = None if bias is None else _mask_heads_first(bias.astype(q.dtype), batch, heads)
    if mask is not None:  # a product with 0 would still carry a NaN of a key that no query attends to, or the other way round
        q = jnp.where(mask.any(1)[..., None], q, jnp.zeros((), q.dtype))
        k, v = (jnp.where(mask.any(2)[..., None], a, jnp.zeros((), a.dtype)) for a in (k, v))
    random = None if dropout_key is None else (words_of(dropout_key), dropout, k.shape[1])
    attend = functools.partial(_attend, softcap, is_causal, random)
    row = jnp.arange(len(q), dtype=jnp.uint32) if drops else None  # of a head in the batch, for the random numbers
    operands = q, k, v, mask, bias, row
    with form_scope("attention", form, "blocks", query, key, value) as form:
        y = _in_blocks(attend, operands, is_causal) if form == "blocks" else attend(*operands, 0)
    y = y.reshape(batch, heads, *y.shape[1:]).swapaxes(1, 2).astype(query.dtype)
    if not return_weights:
        return y
    p, allowed = _exponentials(softcap, is_causal, q, k, mask, bias, 0)
    p = p / p.sum(1, keepdims=True)
    p = p if mask is None else jnp.where(allowed, p, jnp.zeros_like(p))  # for a query without keys
    p = p if row is None else _dropped_weights(p, random, row, 0)
    return y, p.reshape(batch, heads, *p.shape[1:]).swapaxes(2, 3).astype(query.dtype)


def _heads_first(x: jax.Array) -> jax.Array:
    return lax.collapse(x.swapaxes(1, 2), 0, 2)


def _mask_heads_first(mask: jax.Array, batch: int, heads: int) -> jax.Array:
    """Broadcast and reshape to (batch · heads, keys, queries); the last two axes may still be 1."""
    mask = lax.expand_dims(mask, range(4 - mask.ndim))
    mask = jnp.broadcast_to(mask, (batch, heads, *mask.shape[2:]))
    return lax.collapse(mask, 0, 2).swapaxes(1, 2)


def _attend(
    softcap: float | None,
    causal: bool,
    random: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    bias: jax.Array | None,
    row: jax.Array | None,
    first: int | jax.Array,
) -> jax.Array:
    """The definition, for a block of queries whose first query has the position `first`; `row` is None without dropout."""
    p, allowed = _exponentials(softcap, causal, q, k, mask, bias, first)
    kept = p if row is None else _dropped_weights(p, random, row, first)
    y = _kept(jnp.einsum("nkd,nkq->ndq", v, kept)) / _kept(p.sum(1)[:, None])  # divided last, where the array is smallest
    if mask is not None:
        y = jnp.where(allowed.any(1)[:, None], y, jnp.zeros_like(y))
    return y.swapaxes(1, 2)


def _exponentials(softcap, causal, q, k, mask, bias, first) -> tuple[jax.Array, jax.Array]:
    """The exponentials of the scores, whose sum over the keys is yet to divide them, and where they are allowed.

    Scores are (heads, keys, queries), so that the sums over keys run along whole rows, and none of the products, here and
    in the derivatives, is of the kind for which XLA's CPU compiler is slow (AᵀB with few columns).
    """
    scores = jnp.einsum("nkd,nqd->nkq", k, q)
    scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
    scores = scores if bias is None else scores + bias
    allowed = jnp.ones((1, 1, 1), bool) if mask is None else mask
    if causal:
        key_index, query_index = (lax.broadcasted_iota(jnp.int32, scores.shape[1:], axis) for axis in (0, 1))
        allowed = allowed & (key_index <= query_index + first)[None]
    lowest = jnp.asarray(jnp.finfo(scores.dtype).min / 2, scores.dtype)  # -inf would give NaN for a query without keys
    allowed = jnp.broadcast_to(allowed, scores.shape)
    scores = jnp.where(allowed, scores, lowest)
    return jnp.exp(scores - _kept(lax.stop_gradient(scores.max(1, keepdims=True)))), allowed


def _dropped_weights(p, random, row, first) -> jax.Array:
    """Dropout of p (heads, keys, queries), the same for any division into blocks: a function of head, query and key."""
    words, rate, keys = random
    key_index, query_index = (lax.broadcasted_iota(jnp.uint32, p.shape, axis) for axis in (1, 2))
    at = (query_index + jnp.asarray(first).astype(jnp.uint32)) * jnp.uint32(keys) + key_index
    return dropped(p, rate, threefry(words, (row[:, None, None], at))[0])


_kept = functools.partial(checkpoint_name, name="attention")


def _in_blocks(attend: Callable, operands: tuple, causal: bool) -> jax.Array:
    """Blocks of queries, unrolled; for long sequences in loops, two heads at a time, with their scores computed twice."""
    q, k, *_ = operands
    if q.shape[1] * k.shape[1] <= MAX_SCORES:
        return _unrolled(attend, operands, causal)
    keep = jax.checkpoint_policies.save_only_these_names("attention")
    rematerialized = jax.checkpoint(attend, policy=keep, prevent_cse=False)  # the loops prevent it
    heads_at_once = 2 - len(q) % 2
    split = lambda x: x.reshape(len(x) // heads_at_once, heads_at_once, *x.shape[1:])  # noqa: E731
    y = lax.map(lambda heads: _looped(rematerialized, heads, causal), jax.tree.map(split, operands))
    return lax.collapse(y, 0, 2)


def _unrolled(attend: Callable, operands: tuple, causal: bool) -> jax.Array:
    q, k, v, mask, bias, row = operands
    queries = q.shape[1]
    if not (causal and queries > 32):
        return attend(*operands, 0)
    size = max(32, math.ceil(queries / 8))  # smaller blocks save scores, but their products are slow to run and to compile
    blocks = []
    for low in range(0, queries, size):
        high = min(low + size, queries)
        block_mask, block_bias = (_mask_block(a, low, high, high) for a in (mask, bias))
        blocks.append(attend(q[:, low:high], k[:, :high], v[:, :high], block_mask, block_bias, row, low))
    return jnp.concatenate(blocks, axis=1)


def _looped(attend: Callable, operands: tuple, causal: bool) -> jax.Array:
    """Four parts of the queries, each with the keys up to its end, in a loop over blocks; then the remaining queries.

    The next loop reuses the memory of the last. With unrolled blocks, the scores of all would be in memory at once.
    """
    q, k, v, mask, bias, row = operands
    queries, keys, parts = q.shape[1], k.shape[1], 4 if causal else 1
    positions = causal or row is not None  # otherwise those of the queries do not matter

    def part_of(low: int, high: int, loop: bool) -> jax.Array:
        end = high if causal else keys
        part = (q[:, low:high], k[:, :end], v[:, :end], *(_mask_block(a, low, high, end) for a in (mask, bias)))
        if not loop:
            return attend(*part, row, low)

        def block(first: jax.Array) -> jax.Array:
            def slice_block(a: jax.Array | None, axis: int) -> jax.Array | None:
                return a if a is None or a.shape[axis] == 1 else lax.dynamic_slice_in_dim(a, first, BLOCK, axis)

            q, k, v, mask, bias = part
            of_block = slice_block(q, 1), k, v, slice_block(mask, 2), slice_block(bias, 2), row
            return attend(*of_block, first + low if positions else 0)

        y = lax.map(block, jnp.arange(0, high - low, BLOCK, dtype=jnp.int32))  # (blocks, heads, BLOCK, d)
        return lax.collapse(y.swapaxes(0, 1), 1, 3)

    edges = [BLOCK * (queries // BLOCK * i // parts) for i in range(parts + 1)]
    outputs = [part_of(low, high, True) for low, high in itertools.pairwise(edges) if low < high]
    if edges[-1] < queries:
        outputs.append(part_of(edges[-1], queries, False))
    return jnp.concatenate(outputs, axis=1)


def _mask_block(a: jax.Array | None, low: int, high: int, end: int) -> jax.Array | None:
    """The part of a mask or bias (heads, keys, queries) for a block of queries; the last two axes may be 1."""
    if a is None:
        return None
    a = a[:, :end] if a.shape[1] > 1 else a
    return a[..., low:high] if a.shape[2] > 1 else a


def _check(query: jax.Array, key: jax.Array, value: jax.Array, mask, bias, causal: bool) -> None:
    shapes = ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in (("query", query), ("key", key), ("value", value)))
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"attention takes query, key and value of shape (batch, length, heads, d), got {shapes}")
    if not query.dtype == key.dtype == value.dtype or not jnp.issubdtype(query.dtype, jnp.floating):
        raise TypeError(f"query, key and value must have the same floating-point dtype, got {shapes}; cast with .astype")
    if query.shape[0] != key.shape[0] or key.shape[:3] != value.shape[:3] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"batch sizes must be equal, key and value must agree in length and heads, query and key in d: got {shapes}"
        )
    if 0 in key.shape[1:] or 0 in query.shape[2:] or query.shape[2] % key.shape[2]:
        raise ValueError(f"the number of key's heads must divide query's, and there must be at least one key: got {shapes}")
    if causal and query.shape[1] != key.shape[1]:
        raise ValueError(f"causal attention takes as many keys as queries, got {shapes}; use a mask for other layouts")
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(f"mask must be boolean, true where a query may attend, got {mask.dtype}; convert it, as in mask > 0")
    if bias is not None and not jnp.issubdtype(bias.dtype, jnp.floating):
        raise TypeError(f"bias must be floating-point, got {bias.dtype}; use mask to exclude keys")
    full = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    for name, a in (("mask", mask), ("bias", bias)):
        if a is not None and (a.ndim > 4 or any(m not in (1, n) for m, n in zip(a.shape[::-1], full[::-1], strict=False))):
            raise ValueError(f"{name} {list(a.shape)} does not broadcast to (batch, heads, queries, keys) = {list(full)}")
