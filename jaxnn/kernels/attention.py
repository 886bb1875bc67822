"""Scaled dot-product attention by blocks of queries."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from jaxnn.kernels.forms import chosen, widen

MOST_SCORES = 1024**2  # of one head: above, the backward pass computes a block's scores again instead of keeping them


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
    form: str | None = None,
) -> jax.Array:
    """Scaled dot-product attention, softmax(q kᵀ / √d) v (Vaswani et al. 2017).

    For each head, with i over queries and j over the keys that i may attend to::

        y[i] = Σ_j p[i, j] v[j]        p[i, j] = exp(s q[i]·k[j]) / Σ_j' exp(s q[i]·k[j'])

    On a CPU the queries are taken in blocks: a causal block sees the keys up to its own end only, so about half of the
    scores are never computed, and long sequences never hold more than a few blocks of them.

    Args:
        query: (batch, queries, heads, d), floating-point.
        key: (batch, keys, heads, d), or with fewer heads that divide query's: each serves a group of query heads.
        value: (batch, keys, key heads, d_v).
        mask: Which keys a query may attend to, boolean, of a shape that broadcasts to (batch, heads, queries, keys);
            None allows all. A padding mask m of shape (batch, keys) is given as ``m[:, None, None]``.
        is_causal: Whether query i sees only keys 0 to i; there must be as many keys as queries.
        scale: s; None is 1/√d.
        bias: Added to the scores s q·k, floating-point, of a shape that broadcasts as the mask's does.
        softcap: c, of scores kept within ±c as c tanh(s q·k / c), before the bias (Gemma 2, 2024); None leaves them.
        form: None lets the backend decide, "blocks" or "xla" forces a form. They differ in rounding only.

    Returns:
        (batch, queries, heads, d_v), in query's dtype; scores and sums are at least float32. A query that may attend to
        no key gives zero.

    Raises:
        ValueError: If the shapes do not fit each other.
        TypeError: If the dtypes are not the same floating-point one, or the mask is not boolean.

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
    scale = d**-0.5 if scale is None else scale
    groups = heads // key.shape[2]
    # (batch · heads, length, d): a head's rows lie together, as the products below want them
    flat = lambda x, times: _by_head(jnp.repeat(widen(x), times, axis=2) if times > 1 else widen(x))  # noqa: E731
    q, k, v = flat(query, 1) * jnp.asarray(scale, widen(query).dtype), flat(key, groups), flat(value, groups)
    allowed = None if mask is None else _mask_by_head(mask, batch, heads)
    added = None if bias is None else _mask_by_head(bias.astype(q.dtype), batch, heads)
    attend = functools.partial(_attend, softcap)
    with chosen("attention", form, "blocks", query, key, value) as form:
        if form == "blocks":
            y = _by_blocks(attend, (q, k, v, allowed, added), is_causal)
        else:
            y = attend(q, k, v, allowed, added, 0 if is_causal else None)
    return y.reshape(batch, heads, *y.shape[1:]).swapaxes(1, 2).astype(query.dtype)


def _by_head(x: jax.Array) -> jax.Array:
    return lax.collapse(x.swapaxes(1, 2), 0, 2)


def _mask_by_head(mask: jax.Array, batch: int, heads: int) -> jax.Array:
    """(batch · heads, keys, queries), the last two of which may still be 1."""
    mask = lax.expand_dims(mask, range(4 - mask.ndim))
    mask = jnp.broadcast_to(mask, (batch, heads, *mask.shape[2:]))
    return lax.collapse(mask, 0, 2).swapaxes(1, 2)


def _attend(
    softcap: float | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    allowed: jax.Array | None,
    bias: jax.Array | None,
    first: int | None,
) -> jax.Array:
    """The definition, for a block of queries of which the first is number `first` among the keys (None: not causal).

    Scores are (heads, keys, queries): so the sums over keys run along whole rows, and of all the products, here and in
    the derivatives, none is of the kind that XLA's CPU compiler is slow at (AᵀB with few columns).
    """
    scores = jnp.einsum("nkd,nqd->nkq", k, q)
    scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
    scores = scores if bias is None else scores + bias
    seen = jnp.ones((1, 1, 1), bool) if allowed is None else allowed
    if first is not None:
        at_key, at_query = (lax.broadcasted_iota(jnp.int32, scores.shape[1:], axis) for axis in (0, 1))
        seen = seen & (at_key <= at_query + first)[None]
    lowest = jnp.asarray(jnp.finfo(scores.dtype).min / 2, scores.dtype)  # -inf would make NaN of a row without keys
    seen = jnp.broadcast_to(seen, scores.shape)
    scores = jnp.where(seen, scores, lowest)
    p = jnp.exp(scores - _kept(lax.stop_gradient(scores.max(1, keepdims=True))))
    y = _kept(jnp.einsum("nkd,nkq->ndq", v, p)) / _kept(p.sum(1)[:, None])  # divided last, where there is least to divide
    if allowed is not None:
        y = jnp.where(seen.any(1)[:, None], y, jnp.zeros_like(y))
    return y.swapaxes(1, 2)


_kept = functools.partial(checkpoint_name, name="attention")


def _by_blocks(attend: Callable, operands: tuple, causal: bool) -> jax.Array:
    """All blocks of queries one after another; of long sequences one head at a time, their scores computed twice."""
    q, k, *_ = operands
    if q.shape[1] * k.shape[1] <= MOST_SCORES:
        return _blocks(operands, attend, causal)
    keep = jax.checkpoint_policies.save_only_these_names("attention")
    again = jax.checkpoint(attend, policy=keep, static_argnums=5, prevent_cse=False)  # the loop prevents it
    one = lambda head: _blocks(jax.tree.map(lambda x: x[None], head), again, causal)[0]  # noqa: E731
    return lax.map(one, operands)


def _blocks(operands: tuple, attend: Callable, causal: bool) -> jax.Array:
    q, k, v, allowed, bias = operands
    queries, keys = q.shape[1], k.shape[1]
    if queries * keys <= MOST_SCORES and not (causal and queries > 32):
        return attend(q, k, v, allowed, bias, 0 if causal else None)
    size = max(32, math.ceil(queries / 8))  # smaller blocks save scores, but their products are slow and many to compile
    rows = []
    for low in range(0, queries, size):
        high = min(low + size, queries)
        end = high if causal else keys
        parts = (_part(a, low, high, end) for a in (allowed, bias))
        rows.append(attend(q[:, low:high], k[:, :end], v[:, :end], *parts, low if causal else None))
    return jnp.concatenate(rows, axis=1)


def _part(a: jax.Array | None, low: int, high: int, end: int) -> jax.Array | None:
    """What a block of queries needs of a mask or a bias (heads, keys, queries), whose last two axes may be 1."""
    if a is None:
        return None
    a = a[:, :end] if a.shape[1] > 1 else a
    return a[..., low:high] if a.shape[2] > 1 else a


def _check(query: jax.Array, key: jax.Array, value: jax.Array, mask, bias, causal: bool) -> None:
    shapes = ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in (("query", query), ("key", key), ("value", value)))
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"attention takes (batch, length, heads, d) three times, got {shapes}")
    if not query.dtype == key.dtype == value.dtype or not jnp.issubdtype(query.dtype, jnp.floating):
        raise TypeError(f"query, key and value must have the same floating-point dtype, got {shapes}; cast with .astype")
    if query.shape[0] != key.shape[0] or key.shape[:3] != value.shape[:3] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"batch sizes must be equal, key and value must agree in length and heads, query and key in d: got {shapes}"
        )
    if 0 in key.shape[1:] or 0 in query.shape[2:] or query.shape[2] % key.shape[2]:
        raise ValueError(f"key's heads must divide query's, and there must be a key to attend to: got {shapes}")
    if causal and query.shape[1] != key.shape[1]:
        raise ValueError(f"causal attention takes as many keys as queries, got {shapes}; give a mask for other layouts")
    if mask is not None and mask.dtype != jnp.bool_:
        raise TypeError(f"mask must be boolean, true where a query may attend, got {mask.dtype}; compare, as in mask > 0")
    if bias is not None and not jnp.issubdtype(bias.dtype, jnp.floating):
        raise TypeError(f"bias must be floating-point, got {bias.dtype}; what may be attended to is said by mask")
    full = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    for name, a in (("mask", mask), ("bias", bias)):
        if a is not None and (a.ndim > 4 or any(m not in (1, n) for m, n in zip(a.shape[::-1], full[::-1], strict=False))):
            raise ValueError(f"{name} {list(a.shape)} does not broadcast to (batch, heads, queries, keys) = {list(full)}")
