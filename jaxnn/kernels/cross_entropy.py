"""Softmax cross-entropy of a linear layer's output, one chunk of tokens at a time, for large vocabularies."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxnn._jax import is_tracer
from jaxnn.kernels.forms import widen

# The number of logits in memory at once, 64 MB of float32: small compared with the kernel and its gradient, and so large
# that reading the kernel for each chunk costs little.
MAX_LOGITS = 2**24


def linear_cross_entropy(
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    chunk: int | None = None,
) -> jax.Array:
    """Compute the cross-entropy loss of each token from the input of the last linear layer.

    With logits z, for a token h with label y:

        z = h W + b,        loss = log Σⱼ exp zⱼ − z_y

    This equals `losses.cross_entropy(hidden @ kernel + bias, labels, reduction="none")`, but the logits, (tokens,
    vocabulary), are never in memory as a whole. Those of a chunk of tokens are computed again for the gradient: four
    products instead of three, at about the same speed, since the plain form is bound by memory. If all logits fit in one
    chunk, they are kept.

    Args:
        hidden: h, (..., d), floating-point.
        kernel: W, (d, vocabulary), of h's dtype; for tied embeddings, the transpose of their table.
        labels: y, integers of shape (...), from 0.
        bias: b, (vocabulary,), or None.
        chunk: The number of tokens per chunk; None takes as many as have 2²⁴ logits together.

    Returns:
        The losses, (...), in at least float32; half precision is computed in float32. If the labels are traced, so that
        no error can be raised, a label that is not a class gives NaN in loss and gradient.

    Raises:
        TypeError: If hidden and kernel are not floating-point arrays of one dtype, or the labels are not integers.
        ValueError: If the shapes do not match, the chunk is below 1, or a label is not a class.

    Example:
        >>> hidden, kernel = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> [round(loss, 4) for loss in linear_cross_entropy(hidden, kernel, jnp.array([0, 2])).tolist()]
        [0.2395, 1.0986]
    """
    hidden, kernel, labels = jnp.asarray(hidden), jnp.asarray(kernel), jnp.asarray(labels)
    bias = jnp.zeros(kernel.shape[1:], hidden.dtype) if bias is None else jnp.asarray(bias)
    _check(hidden, kernel, bias, labels)
    if chunk is None:
        chunk = -(-labels.size // _chunk_count(labels.size * kernel.shape[1]))
    elif operator.index(chunk) < 1:
        raise ValueError(f"chunk must be at least one token, got {chunk}")
    return _in_chunks(hidden, kernel, bias, labels, chunk=chunk)


def _chunk_count(logits: int) -> int:
    """A power of two, which divides most numbers of tokens: no padding, and equal shares on several devices."""
    return 1 << max(-(-logits // MAX_LOGITS) - 1, 0).bit_length()


@functools.partial(jax.jit, static_argnames="chunk")
def _in_chunks(hidden: jax.Array, kernel: jax.Array, bias: jax.Array, labels: jax.Array, *, chunk: int) -> jax.Array:
    hidden, kernel, bias = widen(hidden), widen(kernel), widen(bias)
    (d, vocabulary), tokens = kernel.shape, labels.size
    classes = labels.astype(int)  # a narrower type may not hold the vocabulary's size
    known = (classes >= 0) & (classes < vocabulary)
    hidden = hidden * jnp.where(known, 1, jnp.nan).astype(hidden.dtype)[..., None]  # a product, so that the gradient is NaN too
    hidden, classes = hidden.reshape(-1, d), classes.reshape(-1)
    if tokens <= chunk:
        return _losses(hidden, classes, kernel, bias).reshape(labels.shape)

    chunks = -(-tokens // chunk)
    missing = chunks * chunk - tokens
    hidden, classes = jnp.pad(hidden, ((0, missing), (0, 0))), jnp.pad(classes, (0, missing))
    # Each chunk takes tokens from the whole batch, so that a batch that is sharded over devices is not moved.
    hidden, classes = (a.reshape(chunk, chunks, *a.shape[1:]).swapaxes(0, 1) for a in (hidden, classes))
    losses_of_chunk = jax.checkpoint(lambda part: _losses(part[0], part[1], kernel, bias))
    losses = lax.map(losses_of_chunk, (hidden, classes)).swapaxes(0, 1)
    return losses.reshape(-1)[:tokens].reshape(labels.shape)


def _losses(hidden: jax.Array, classes: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    logits = _product(hidden, kernel) + bias.astype(hidden.dtype)[None]  # (tokens, vocabulary)
    is_label = lax.broadcasted_iota(classes.dtype, logits.shape, 1) == classes[:, None]
    of_label = jnp.where(is_label, logits, 0).sum(axis=-1)  # a dense selection, whose gradient needs no scatter
    return jax.nn.logsumexp(logits, axis=-1) - of_label


@jax.custom_jvp
def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    """`x @ w`, with a kernel gradient that is fast on a CPU: XLA computes xᵀ g slowly unless xᵀ is stored."""
    return x @ w


@_product.defjvp
def _product_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x, w), (dx, dw) = primals, tangents
    transposed = lax.optimization_barrier(x.T)  # without it the compiler folds the transposition into the product
    of_w = lax.dot_general(transposed, dw, (((0,), (0,)), ((), ())))  # its own transpose is transposed @ g
    return x @ w, dx @ w + of_w


def _check(hidden: jax.Array, kernel: jax.Array, bias: jax.Array, labels: jax.Array) -> None:
    if hidden.dtype != kernel.dtype or not jnp.issubdtype(hidden.dtype, jnp.floating):
        raise TypeError(
            f"hidden and kernel must be floating-point arrays of one dtype, got {hidden.dtype} and {kernel.dtype}; "
            "cast one of them with .astype"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}; pass labels.astype(int), or one_hot.argmax(-1)")
    got = f"hidden {list(hidden.shape)}, kernel {list(kernel.shape)}, bias {list(bias.shape)}, labels {list(labels.shape)}"
    fits = hidden.ndim > 0 and kernel.ndim == 2 and hidden.shape[-1] == kernel.shape[0]
    if not fits or bias.shape != kernel.shape[1:] or labels.shape != hidden.shape[:-1] or kernel.shape[1] < 2:
        raise ValueError(f"expected hidden (..., d), kernel (d, at least 2 classes), bias (classes,), labels (...); got {got}")
    if is_tracer(labels) or not labels.is_fully_addressable or not labels.size:
        return
    values = np.asarray(labels)
    if values.min() < 0 or values.max() >= kernel.shape[1]:
        raise ValueError(
            f"labels run from {values.min()} to {values.max()}, but the kernel has {kernel.shape[1]} classes, numbered from "
            "0; for padding tokens, pass jnp.where(mask, labels, 0) and mask the losses"
        )
