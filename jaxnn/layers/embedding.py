"""Embeddings of tokens and of positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.checks import number, whole
from jaxnn.core.combinators import positionwise
from jaxnn.core.dtypes import as_index, at_least_float32, promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, stateless
from jaxnn.core.masks import split_mask, zero_padding
from jaxnn.core.norms import power_norm, power_of_two
from jaxnn.functional.initializers import normal, zeros


def embedding(
    vocabulary: int,
    features: int,
    *,
    padding_index: int | None = None,
    max_norm: float | None = None,
    embedding_init=normal(1.0),
) -> Layer:
    """An embedding, one learned vector per token: y = E[x], as PyTorch's `Embedding`.

    Args:
        vocabulary: The number of tokens, which are numbered from 0.
        features: The length of each vector.
        padding_index: A token whose vector is always 0 and is not learned.
        max_norm: The largest norm of a vector, to which longer ones are scaled; None for no limit. The parameters stay as they
            are, and gradients are those of the scaled vectors; PyTorch scales the parameters themselves.
        embedding_init: Initializer of E, (vocabulary, features); N(0, 1) by default, as in PyTorch.

    Returns:
        A `Layer` from integers (...) to (..., features); a padded sequence `(x, mask)` keeps its mask, and the vectors of its
        padding are 0. The vector of another token outside the vocabulary is NaN, so that the mistake shows in the output.

    Raises:
        TypeError: If the input is not an integer array.
        ValueError: If `padding_index` is not in the vocabulary, or `max_norm` is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.embedding(100, 8)
        >>> tokens = jnp.array([[1, 5, 99]])
        >>> params, state = layer.init(jax.random.key(0), tokens)
        >>> layer(params, tokens).shape
        (1, 3, 8)
    """
    vocabulary, features = whole("embedding", "vocabulary", vocabulary), whole("embedding", "features", features)
    if padding_index is not None and whole("embedding", "padding_index", padding_index, 0) >= vocabulary:
        raise ValueError(f"embedding takes a padding_index from 0 to {vocabulary - 1}, got {padding_index}")

    if max_norm is not None:
        number("embedding", "max_norm", max_norm, 0, above=True)

    def init(key, x):
        return {"embedding": param(embedding_init, (vocabulary, features))}

    def vectors(params, x):
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"embedding takes integer tokens from 0 to {vocabulary - 1}, got {x.dtype}")
        x = as_index(x)
        y = _rows(params["embedding"], x)
        y = y if max_norm is None else _limited(y, max_norm)
        return y if padding_index is None else jnp.where((x == padding_index)[..., None], jnp.zeros_like(y), y)

    def apply(params, x):
        x, mask = split_mask(x)
        y = zero_padding(vectors(params, x), mask)
        return y if mask is None else (y, mask)

    return stateless(init, apply)


def attend(params: dict, x: jax.Array) -> jax.Array:
    """The output layer tied to an embedding: y = x Eᵀ, one logit per token (Press & Wolf 2017).

    Args:
        params: The parameters of the embedding; in a `block` they are `run.params("name")`.
        x: An array (..., features).

    Returns:
        An array (..., vocabulary).

    Raises:
        ValueError: If the number of features of `x` is not that of the embedding.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> def language_model(run, tokens):
        ...     x = run("body", run("tokens", tokens))
        ...     return nn.attend(run.params("tokens"), x)
        >>> model = nn.block(language_model, tokens=nn.embedding(9, 4), body=nn.lstm(4))
        >>> params, state = model.init(jax.random.key(0), jnp.array([[1, 2, 3]]))
        >>> model(params, jnp.array([[1, 2, 3]])).shape
        (1, 3, 9)
    """
    x, table = promote(x, params["embedding"])
    if x.shape[-1:] != table.shape[-1:]:
        raise ValueError(
            f"attend takes an input (..., {table.shape[-1]}) for an embedding {list(table.shape)}, got {list(x.shape)}"
        )
    return x @ table.T


def learned_positions(length: int, *, stateful: bool = False, embedding_init=normal(0.02)) -> Layer:
    """A learned vector added to each position: yₜ = xₜ + Pₜ (Gehring et al. 2017).

    Args:
        length: The number of positions.
        stateful: Whether successive inputs are parts of one sequence, except in training. The state then holds the number
            of earlier positions, `seen`, at which the next input starts.
        embedding_init: Initializer of P, `embedding` (length, features).

    Returns:
        A `Layer` that keeps the shape (batch, time, features); a padded sequence `(x, mask)` keeps its mask. With
        `stateful`, outputs at positions beyond `length` are NaN.

    Raises:
        ValueError: If the input does not have three axes, or is longer than `length`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.learned_positions(16)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 5, 4)))
        >>> layer(params, jnp.ones((2, 5, 4))).shape, params["embedding"].shape
        ((2, 5, 4), (16, 4))
    """
    length = whole("learned_positions", "length", length)

    def vectors(params, x, at):
        if x.shape[1] > length:
            raise ValueError(f"learned_positions takes at most {length} positions, got an input of shape {list(x.shape)}")
        return _rows(params["embedding"], at)

    def parameters(x):
        return {"embedding": param(embedding_init, (length, x.shape[-1]))}

    return _positions("learned_positions", parameters, vectors, stateful)


def sinusoidal_positions(*, base: float = 10000.0, stateful: bool = False) -> Layer:
    """Add sine waves: y[t, 2i] = x[t, 2i] + sin θ and y[t, 2i+1] = x[t, 2i+1] + cos θ with θ = t / base^(2i/d).

    The position embedding of Vaswani et al. (2017).

    Args:
        base: The longest wavelength divided by 2π.
        stateful: Whether successive inputs are parts of one sequence, as for `learned_positions`.

    Returns:
        A `Layer` that keeps the shape (batch, time, d); a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If the input does not have three axes.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.sinusoidal_positions()({}, jnp.zeros((1, 2, 2))).round(3).tolist()
        [[[0.0, 1.0], [0.8410000205039978, 0.5400000214576721]]]
    """

    base = number("sinusoidal_positions", "base", base, 0, above=True)

    def vectors(params, x, at):
        d = x.shape[-1]
        angles = _angles(at, (d + 1) // 2, 2 / d, base, at_least_float32(x, linear=True).real.dtype)
        return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(len(at), d + d % 2)[:, :d]

    return _positions("sinusoidal_positions", lambda x: {}, vectors, stateful)


def rotary(
    x: jax.Array,
    positions: jax.Array | None = None,
    *,
    base: float = 10000.0,
    features: int | None = None,
    interleaved: bool = False,
) -> jax.Array:
    """Rotate queries or keys by angles proportional to their position (rotary embedding, RoPE, Su et al. 2021).

    y[i] = x[i] cos θ − x[i + d/2] sin θ and y[i + d/2] = x[i + d/2] cos θ + x[i] sin θ with θ = t / base^(2i/d) at position
    t, so that products of queries and keys depend only on their distance. The paper pairs the features (2i, 2i + 1), which
    differs by a permutation of the features; most published models pair (i, i + d/2).

    Args:
        x: An array (batch, time, heads, features).
        positions: The positions t, (time,), or (batch, time) for positions that differ between samples, as in packed
            sequences; 0, 1, … by default.
        base: The longest wavelength divided by 2π.
        features: The number d of features to rotate, even, counted from the first; all by default.
        interleaved: Whether the features (2i, 2i + 1) are paired, as in the paper.

    Returns:
        An array of the shape and dtype of `x`; angles are computed in at least float32.

    Raises:
        ValueError: If `x` does not have four axes, or d is odd or larger than the number of features.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.rotary(jnp.ones((1, 2, 3, 4))).shape
        (1, 2, 3, 4)
    """
    d = x.shape[-1] if features is None else whole("rotary", "features", features)
    if x.ndim != 4 or d % 2 or d > x.shape[-1]:
        raise ValueError(
            f"rotary takes (batch, time, heads, features), an even number of which it rotates, got {list(x.shape)} and {d}"
        )
    at = jnp.arange(x.shape[1], dtype=jnp.int32) if positions is None else positions
    angles = _angles(at, d // 2, 2 / d, number("rotary", "base", base, 0, above=True), at_least_float32(x).dtype)
    return apply_rotary(x, jnp.cos(angles), jnp.sin(angles), interleaved=interleaved)


def apply_rotary(x: jax.Array, cos: jax.Array, sin: jax.Array, *, interleaved: bool = False) -> jax.Array:
    """Rotate pairs of features by given angles: (a, b) ↦ (a cos − b sin, b cos + a sin).

    The last step of `rotary`. Custom tables give its variants, such as other frequencies for long contexts, or YaRN, whose
    tables are scaled too (Peng et al. 2023).

    Args:
        x: An array (batch, time, heads, features).
        cos: The cosines for the first 2n features, (time, n) or (batch, time, n); other features are unchanged.
        sin: The sines, of the same shape.
        interleaved: Whether the features (2i, 2i + 1) are paired, rather than (i, i + n).

    Returns:
        An array of the shape and dtype of `x`.

    Raises:
        ValueError: If the shapes do not match.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> quarter = jnp.zeros((1, 1)), jnp.ones((1, 1))
        >>> nn.apply_rotary(jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3), *quarter).ravel().tolist()
        [-2.0, 1.0, 3.0]
    """
    n = cos.shape[-1]
    if x.ndim != 4 or cos.shape != sin.shape or 2 * n > x.shape[-1] or cos.shape[-2] != x.shape[1]:
        raise ValueError(
            "apply_rotary takes (batch, time, heads, features) and tables (time, n) or (batch, time, n) for 2n features, "
            f"got {list(x.shape)}, cos {list(cos.shape)} and sin {list(sin.shape)}"
        )
    (x,) = promote(x)
    wide = at_least_float32(x)
    cos, sin = (jnp.expand_dims(v.astype(wide.dtype), -2) for v in (cos, sin))
    cos, sin = (v if v.ndim == 4 else v[None] for v in (cos, sin))  # (batch or 1, time, 1, n)
    turned, rest = wide[..., : 2 * n], wide[..., 2 * n :]
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else jnp.split(turned, 2, axis=-1)
    pair = a * cos - b * sin, b * cos + a * sin
    turned = jnp.stack(pair, -1).reshape(turned.shape) if interleaved else jnp.concatenate(pair, -1)
    return jnp.concatenate([turned, rest], -1).astype(x.dtype)


def alibi(heads: int, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
    """The ALiBi bias of attention scores, −m_h |i − j| with slopes m_h = 2^(−8h/heads), h = 1 … heads (Press et al. 2022).

    If the number of heads is not a power of two, the slopes are those for the next lower power and every other slope for
    the next higher one, as in the paper's code. Use it as `attention(bias=nn.alibi)`.

    Args:
        heads: The number of heads.
        query_positions: The positions i of the queries, (queries,).
        key_positions: The positions j of the keys, (keys,).

    Returns:
        An array (heads, queries, keys) in the default float dtype.

    Raises:
        TypeError: If `heads` is not a whole number.
        ValueError: If it is below 1.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.alibi(8, jnp.arange(3), jnp.arange(3))[0].tolist()
        [[-0.0, -0.5, -1.0], [-0.5, -0.0, -0.5], [-1.0, -0.5, -0.0]]
    """
    whole("alibi", "heads", heads)
    i, j = (positions.astype(jnp.int32) for positions in (query_positions, key_positions))  # unsigned ones would wrap around
    lower = 2 ** (heads.bit_length() - 1)
    slopes = [2 ** (-8 * h / lower) for h in range(1, lower + 1)]
    slopes += [2 ** (-4 * h / lower) for h in range(1, 2 * lower, 2)][: heads - lower]
    distance = jnp.abs(i[:, None] - j[None]).astype(float)
    return -jnp.asarray(slopes, float)[:, None, None] * distance[None]


def _rows(table: jax.Array, index: jax.Array) -> jax.Array:
    """The rows of a table, NaN for an index outside of it.

    The gradient of a row is a sum over all its uses, so it is accumulated in at least float32.
    """
    index = jnp.where(index < 0, len(table), index)  # a negative index would count from the end
    return jnp.take(at_least_float32(table), index, axis=0, mode="fill", fill_value=jnp.nan).astype(table.dtype)


def _limited(vectors: jax.Array, max_norm: float) -> jax.Array:
    """The vectors, scaled down to `max_norm` where they are longer."""
    wide = at_least_float32(vectors)
    axes = (wide.ndim - 1,)
    scale = power_of_two(wide, axes)  # the squares of norms, in derivatives, would overflow or underflow
    norm, limit = power_norm(wide / scale, axes), max_norm / scale
    is_longer = norm > limit
    return (wide * (jnp.where(is_longer, limit, 1) / jnp.where(is_longer, norm, 1))).astype(vectors.dtype)


def _angles(at: jax.Array, n: int, step: float, base: float, dtype: Any) -> jax.Array:
    """The angles t / base^(step · i), (..., time, n)."""
    return at.astype(dtype)[..., None] * base ** (-step * jnp.arange(n, dtype=dtype))[(None,) * at.ndim]


def _positions(name: str, parameters: Callable, vectors: Callable, stateful: bool) -> Layer:
    """The layer x + vectors(params, x, positions), from position 0 or, if `stateful`, from the end of the last input."""

    def init(key, x):
        if x.ndim != 3:
            raise ValueError(f"{name} takes an input of shape (batch, time, features), got {list(x.shape)}")
        return parameters(x), {"seen": param(zeros, (), jnp.int32)} if stateful else {}

    def apply(params, state, x, *, key=None, training=False):
        x, *_ = promote(x)
        at = jnp.arange(x.shape[1], dtype=jnp.int32)
        if stateful and not training:
            at, state = at + state["seen"], {"seen": state["seen"] + x.shape[1]}
        # broadcast in at least float32, since the gradient is a sum over the batch
        added = jnp.broadcast_to(at_least_float32(vectors(params, x, at))[None], x.shape)
        return x + added.astype(x.dtype), state

    return positionwise(Layer(init, apply, name))
