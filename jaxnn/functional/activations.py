"""Activation functions: the six of the teaching notes, written out, and the rest of `jax.nn`'s under its own names.

Each is a jitted function of `x` that keeps shape and floating dtype; an integer `x` is read as the default float where
the result is not an integer. `__name__` is the function's own, so a layer made of it is called by it.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "linear",
    "log1mexp",
    "log_sigmoid",
    "log_softmax",
    "logmeanexp",
    "logsumexp",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "standardize",
    "swish",
    "tanh",
]


def _floating(x: ArrayLike) -> jax.Array:
    """Return `x` itself if it is inexact, else as the default float."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


@jax.jit
def identity(x: ArrayLike) -> jax.Array:
    """Return `x` unchanged: f(x) = x. Also called `linear`.

    Derivative 1, range (−∞, ∞). The teaching notes: for the output layer of a regression; it adds no non-linearity, so
    a stack of layers with it is one linear map.

    Args:
        x: any array.

    Returns:
        `x`.

    Example:
        >>> identity(-2.0).item()
        -2.0
    """
    return x  # type: ignore[return-value]  # under jit an array, whatever came in


linear = identity


@jax.jit
def sigmoid(x: ArrayLike) -> jax.Array:
    """Squash to a probability: σ(x) = 1/(1 + e⁻ˣ).

    Derivative σ(x)(1 − σ(x)), at most ¼; range (0, 1). The teaching notes: for a binary output; its gradient vanishes
    for large ∣x∣, and it costs an exponential. Value and gradient are finite for every finite `x`.

    Args:
        x: any array.

    Returns:
        σ(x), of `x`'s shape.

    Example:
        >>> sigmoid(0.0).item()
        0.5
    """
    return jax.nn.sigmoid(_floating(x))


@jax.jit
def relu(x: ArrayLike) -> jax.Array:
    """Cut off what is negative: f(x) = max(0, x).

    Derivative 1 if x > 0 else 0, so 0 at the kink (`jnp.maximum(x, 0)` has ½ there); range [0, ∞). The teaching notes:
    the default for hidden layers; a neuron whose output is always 0 no longer learns ("dying ReLU").

    Args:
        x: any array.

    Returns:
        max(0, x), of `x`'s shape and dtype.

    Example:
        >>> [relu(x).item() for x in (-2.0, 3.0)]
        [0.0, 3.0]
    """
    return jax.nn.relu(x)


@jax.jit
def leaky_relu(x: ArrayLike, negative_slope: ArrayLike = 0.01) -> jax.Array:
    """Damp what is negative: f(x) = x if x > 0 else βx.

    Derivative 1 if x > 0 else β, so β at the kink, as the formula reads (PyTorch's choice; `jax.nn.leaky_relu` has 1
    there); range (−∞, ∞). The teaching notes: it mends dying ReLU; β is chosen by hand. β = 0.01 is JAX's and
    PyTorch's default too, Keras's is 0.2 or 0.3.

    Args:
        x: any array.
        negative_slope: β, a number or an array that broadcasts against `x` by equal rank.

    Returns:
        f(x), of `x`'s shape.

    Example:
        >>> [round(leaky_relu(x).item(), 4) for x in (-2.0, 3.0)]
        [-0.02, 3.0]
    """
    x = _floating(x)
    return jnp.where(x > 0, x, jnp.asarray(negative_slope).astype(x.dtype) * x)


@jax.jit
def elu(x: ArrayLike, alpha: ArrayLike = 1.0) -> jax.Array:
    """Bend what is negative towards −β: f(x) = x if x > 0 else β(eˣ − 1).

    Derivative 1 if x > 0 else βeˣ, so β at 0; range (−β, ∞). The teaching notes: it mends dying ReLU, with a larger
    gradient on the negative side than leaky ReLU near 0; it costs an exponential. Value and gradient are finite for
    every finite `x`.

    Args:
        x: any array.
        alpha: β, a number or an array that broadcasts against `x` by equal rank.

    Returns:
        f(x), of `x`'s shape.

    Example:
        >>> [round(elu(x).item(), 4) for x in (-2.0, 3.0)]
        [-0.8647, 3.0]
    """
    x = _floating(x)
    return jax.nn.elu(x, jnp.asarray(alpha).astype(x.dtype))


@jax.jit
def tanh(x: ArrayLike) -> jax.Array:
    """Squash to (−1, 1): tanh(x) = (eˣ − e⁻ˣ)/(eˣ + e⁻ˣ).

    Derivative 1 − tanh²(x), at most 1; range (−1, 1). The teaching notes: centred on 0, unlike the sigmoid; its
    gradient vanishes for large ∣x∣ too. Value and gradient are finite for every finite `x`.

    Args:
        x: any array.

    Returns:
        tanh(x), of `x`'s shape.

    Example:
        >>> round(tanh(1.0).item(), 4)
        0.7616
    """
    return jnp.tanh(_floating(x))


# The rest is jax.nn's, and its documentation holds. What it leaves unjitted is jitted here.
celu = jax.nn.celu
gelu = jax.jit(jax.nn.gelu, static_argnames="approximate")
glu = jax.nn.glu
hard_sigmoid = jax.nn.hard_sigmoid
hard_silu = jax.nn.hard_silu
hard_swish = jax.nn.hard_swish
hard_tanh = jax.nn.hard_tanh
log1mexp = jax.jit(jax.nn.log1mexp)
log_sigmoid = jax.nn.log_sigmoid
log_softmax = jax.nn.log_softmax
logmeanexp = jax.nn.logmeanexp
logsumexp = jax.jit(jax.nn.logsumexp, static_argnames=("axis", "keepdims", "return_sign"))
mish = jax.nn.mish
relu6 = jax.jit(jax.nn.relu6)
selu = jax.nn.selu
silu = jax.nn.silu
soft_sign = jax.nn.soft_sign
softmax = jax.jit(jax.nn.softmax, static_argnames="axis")
softplus = jax.nn.softplus
sparse_plus = jax.nn.sparse_plus
sparse_sigmoid = jax.nn.sparse_sigmoid
squareplus = jax.nn.squareplus
standardize = jax.nn.standardize
swish = jax.nn.swish
