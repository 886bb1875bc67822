"""Smooth and almost smooth activations: sigmoids, exponential units and their relatives."""

from __future__ import annotations

import math
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional.activations._floating import option, widened


@jax.jit
@partial(widened, holomorphic=True)
def sigmoid(x: ArrayLike) -> jax.Array:
    """Squash to a probability: σ(x) = 1/(1 + e⁻ˣ).

    Derivative σ(x)(1 − σ(x)), at most ¼; range (0, 1). The teaching notes: for a binary output; its gradient vanishes
    for large ∣x∣, and it costs an exponential. Value and gradient are finite for every finite `x`.

    Args:
        x: Any array.

    Returns:
        σ(x), with the shape of `x`.

    Example:
        >>> sigmoid(0.0).item()
        0.5
    """
    return jax.nn.sigmoid(x)


@jax.jit
@partial(widened, holomorphic=True)
def tanh(x: ArrayLike) -> jax.Array:
    """Squash to (−1, 1): tanh(x) = (eˣ − e⁻ˣ)/(eˣ + e⁻ˣ).

    Derivative 1 − tanh²(x), at most 1; range (−1, 1). The teaching notes: zero-centered, unlike the sigmoid; its
    gradient also vanishes for large ∣x∣. Value and gradient are finite for every finite `x`.

    Args:
        x: Any array.

    Returns:
        tanh(x), with the shape of `x`.

    Example:
        >>> round(tanh(1.0).item(), 4)
        0.7616
    """
    return jnp.tanh(x)


@jax.jit
@widened
def elu(x: ArrayLike, alpha: ArrayLike = 1.0) -> jax.Array:
    """Saturate negative values at −β: f(x) = x if x > 0 else β(eˣ − 1).

    Derivative 1 if x > 0 else βeˣ, so β at 0; range (−β, ∞). The teaching notes: it avoids dying ReLU, with a larger
    gradient than leaky ReLU for negative x near 0; it costs an exponential. Value and gradient are finite for
    every finite `x`.

    Args:
        x: Any array.
        alpha: Scale β, a number or an array that broadcasts against `x` with equal rank.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [round(elu(x).item(), 4) for x in (-2.0, 3.0)]
        [-0.8647, 3.0]
    """
    x = jnp.asarray(x)
    return jax.nn.elu(x, jnp.asarray(alpha).astype(x.dtype))


@option("alpha", lambda alpha: alpha > 0, "positive number")
@jax.jit
@widened
def celu(x: ArrayLike, alpha: ArrayLike = 1.0) -> jax.Array:
    """Saturate negative values at −α, with continuous slope for every α: f(x) = max(0, x) + min(0, α(e^(x/α) − 1)).

    Derivative 1 if x > 0 else e^(x/α), so 1 at 0; range (−α, ∞). Barron (2017); `elu` for α = 1.

    Args:
        x: Any array.
        alpha: Scale α > 0, a scalar.

    Returns:
        f(x), with the shape of `x`.

    Raises:
        ValueError: If α is not a positive number.

    Example:
        >>> [round(celu(x, 2.0).item(), 4) for x in (-2.0, 3.0)]
        [-1.2642, 3.0]
    """
    x = jnp.asarray(x)
    return jax.nn.celu(x, jnp.asarray(alpha).astype(x.dtype))


@jax.jit
@widened
def selu(x: ArrayLike) -> jax.Array:
    """Preserve mean 0 and variance 1 from layer to layer: f(x) = λx if x > 0 else λα(eˣ − 1), α = 1.6733, λ = 1.0507.

    Klambauer et al. (2017), who give 16 digits of α and λ; for weights drawn by `lecun_normal`.

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [round(selu(x).item(), 4) for x in (-2.0, 3.0)]
        [-1.5202, 3.1521]
    """
    return jax.nn.selu(x)


@partial(jax.jit, static_argnames="approximate")
@widened
def gelu(x: ArrayLike, approximate: bool = True) -> jax.Array:
    """Weight x by the probability that a standard normal variable is smaller: f(x) = x Φ(x).

    By default the approximation ½x(1 + tanh(√(2/π)(x + 0.044715x³))), as in `jax.nn` and GPT-2; PyTorch and Keras use the
    exact form by default. Hendrycks and Gimpel (2016).

    Args:
        x: Any array.
        approximate: Whether to approximate Φ with tanh; False for erf.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> round(gelu(1.0).item(), 4), round(gelu(1.0, approximate=False).item(), 4)
        (0.8412, 0.8413)
    """
    x = jnp.asarray(x)
    if not approximate:
        return jax.nn.gelu(x, approximate=False)
    # As in `jax.nn`, but clipped: at ±25 the tanh is ±1 in every dtype, and x³ does not overflow.
    z = jax.lax.clamp(jnp.asarray(-25, x.dtype), x, jnp.asarray(25, x.dtype))
    return x * (0.5 * (1.0 + jnp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * (z**3)))))


@jax.jit
@partial(widened, holomorphic=True)
def silu(x: ArrayLike) -> jax.Array:
    """Weight x by its sigmoid: f(x) = x σ(x). Also called `swish`.

    Range [−0.2785, ∞). Elfwing et al. (2018), Ramachandran et al. (2017).

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [round(silu(x).item(), 4) for x in (-2.0, 3.0)]
        [-0.2384, 2.8577]
    """
    return jax.nn.silu(x)


swish = silu


@jax.jit
@widened
def mish(x: ArrayLike) -> jax.Array:
    """Weight x by the tanh of its softplus: f(x) = x tanh(log(1 + eˣ)).

    Range [−0.3088, ∞). Misra (2019).

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [round(mish(x).item(), 4) for x in (-2.0, 3.0)]
        [-0.2525, 2.9865]
    """
    x = jnp.asarray(x)
    # Beyond 50 the tanh is 1 in every dtype; unclipped, the second derivative is 0 · ∞ for the largest x.
    return jnp.asarray(x) * jnp.tanh(jax.nn.softplus(jnp.minimum(x, 50)))


@option("threshold", lambda threshold: True, "number")
@option("beta", lambda beta: beta > 0, "positive number")
@jax.jit
@widened
def softplus(x: ArrayLike, beta: ArrayLike = 1.0, threshold: ArrayLike = 50.0) -> jax.Array:
    """A smooth ReLU: f(x) = log(1 + e^(βx))/β.

    Derivative σ(βx); range (0, ∞). Dugas et al. (2001). It does not overflow. PyTorch's is the same for `threshold=20`.

    Args:
        x: Any array.
        beta: Sharpness β > 0, a scalar; the larger, the closer to `relu`.
        threshold: Where βx is larger, f(x) is x. At 50 they are equal in every dtype.

    Returns:
        f(x), with the shape of `x`.

    Raises:
        ValueError: If β is not a positive number, or the threshold not finite.

    Example:
        >>> [round(softplus(x).item(), 4) for x in (0.0, 3.0)]
        [0.6931, 3.0486]
    """
    x = jnp.asarray(x)
    beta, threshold = (jnp.asarray(value).astype(x.dtype) for value in (beta, threshold))
    is_linear = beta * x > jnp.minimum(threshold, 50)  # beyond, β x may overflow
    return jnp.where(is_linear, x, jax.nn.softplus(jnp.where(is_linear, 0, beta * x)) / beta)


@jax.jit
@widened
def log_sigmoid(x: ArrayLike) -> jax.Array:
    """The logarithm of the sigmoid, computed without underflow: f(x) = log σ(x) = −log(1 + e⁻ˣ).

    `jax.nn.log_sigmoid`. Derivative σ(−x); range (−∞, 0).

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> log_sigmoid(-100.0).item()
        -100.0
    """
    return jax.nn.log_sigmoid(x)


@jax.jit
@widened
def soft_sign(x: ArrayLike) -> jax.Array:
    """Squash to (−1, 1) without an exponential: f(x) = x/(1 + ∣x∣).

    Derivative 1/(1 + ∣x∣)². Bergstra et al. (2009).

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [soft_sign(x).item() for x in (-1.0, 3.0)]
        [-0.5, 0.75]
    """
    return _soft_sign(x)


@jax.custom_jvp
def _soft_sign(x: jax.Array) -> jax.Array:
    return x / (1 + jnp.abs(x))


# The quotient rule is a difference of almost equal numbers for large x.
_soft_sign.defjvps(lambda tangent, y, x: tangent * jnp.square(1 / (1 + jnp.abs(x))))


@jax.jit
@partial(widened, holomorphic=True)
def tanh_shrink(x: ArrayLike) -> jax.Array:
    """The difference of x and its tanh: f(x) = x − tanh x.

    Derivative tanh²(x), 0 at 0. PyTorch's `tanhshrink`.

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> round(tanh_shrink(1.0).item(), 4)
        0.2384
    """
    return _tanh_shrink(x)


@jax.custom_jvp
def _tanh_shrink(x: jax.Array) -> jax.Array:
    """Return x − tanh x, near 0 as x q/(1 + q) with Lambert's fraction tanh x = x/(1 + q), in which nothing cancels."""
    near = jnp.abs(x) < 1
    square = jnp.square(jnp.where(near, x, 0))
    q = reduce(lambda below, odd: square / (odd + below), range(21, 1, -2), jnp.zeros_like(square))
    return jnp.where(near, x * (q / (1 + q)), x - jnp.tanh(x))


_tanh_shrink.defjvps(lambda tangent, y, x: tangent * jnp.square(jnp.tanh(x)))


@jax.jit
@partial(widened, holomorphic=True)
def exponential(x: ArrayLike) -> jax.Array:
    """The exponential: f(x) = eˣ.

    Equal to its derivative; range (0, ∞). As in Keras, for outputs that are rates; it overflows above 88 in float32.

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> exponential(0.0).item()
        1.0
    """
    return jnp.exp(x)


@option("b", lambda b: b >= 0, "nonnegative number")
@jax.jit
@widened
def squareplus(x: ArrayLike, b: ArrayLike = 4.0) -> jax.Array:
    """A smooth ReLU with a square root: f(x) = (x + √(x² + b))/2.

    Range (0, ∞). Barron (2021).

    Args:
        x: Any array.
        b: Smoothness b ≥ 0, a scalar; 0 gives the ReLU.

    Returns:
        f(x), with the shape of `x`.

    Raises:
        ValueError: If b is not a nonnegative number.

    Example:
        >>> squareplus(0.0).item()
        1.0
    """
    x = jnp.asarray(x)
    return _smooth_relu(x, jnp.asarray(b).astype(x.dtype))


@jax.custom_jvp
def _smooth_relu(x: jax.Array, b: jax.Array) -> jax.Array:
    """Return (x + r)/2 with r = √(x² + b), for negative x as b/(2(r − x)), in which nothing cancels."""
    r = _radius(x, b)
    return jnp.where(x < 0, b / (2 * (r - jnp.minimum(x, 0))), x / 2 + r / 2)


@_smooth_relu.defjvp
def _smooth_relu_jvp(primals, tangents):  # the derivatives of y are y/r and 1/(4r)
    y, r = _smooth_relu(*primals), jnp.maximum(_radius(*primals), jnp.finfo(primals[0].dtype).tiny)
    return y, y / r * tangents[0] + tangents[1] / (4 * r)


@jax.custom_jvp
def _radius(x: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.hypot(x, jnp.sqrt(b))  # no overflow


@_radius.defjvp
def _radius_jvp(primals, tangents):
    r = jnp.maximum(_radius(*primals), jnp.finfo(primals[0].dtype).tiny)
    return _radius(*primals), primals[0] / r * tangents[0] + tangents[1] / (2 * r)


@jax.jit
@widened
def sparse_plus(x: ArrayLike) -> jax.Array:
    """A ReLU with its corner replaced by a parabola: f(x) = 0 if x ≤ −1, x if x ≥ 1, else ¼(x + 1)².

    Derivative `sparse_sigmoid`; range [0, ∞). The counterpart of `softplus` for sparsemax: Martins and Astudillo (2016).

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [sparse_plus(x).item() for x in (-2.0, 0.0, 2.0)]
        [0.0, 0.25, 2.0]
    """
    x = jnp.asarray(x)
    corner = jnp.square(jnp.clip(x, -1, 1) + 1) / 4  # clipped, so that neither the square nor its derivative overflows
    return jnp.where(x >= 1, x, corner)


@jax.jit
@widened
def sparse_sigmoid(x: ArrayLike) -> jax.Array:
    """The two-class sparsemax: f(x) = 0 if x ≤ −1, 1 if x ≥ 1, else ½(x + 1).

    Range [0, 1], the bounds included. Martins and Astudillo (2016).

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [sparse_sigmoid(x).item() for x in (-2.0, 0.5, 2.0)]
        [0.0, 0.75, 1.0]
    """
    return jax.nn.sparse_sigmoid(x)
