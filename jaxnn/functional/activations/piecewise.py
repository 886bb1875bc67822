"""Piecewise linear activations: rectifiers and the hard variants of smooth activations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_real
from jaxnn.functional.activations._floating import floating, option, widened


@jax.jit
def identity(x: ArrayLike) -> jax.Array:
    """Return `x` unchanged: f(x) = x. The activation `linear` is the same function.

    Derivative 1, range (−∞, ∞). The teaching notes: for the output layer of a regression; it adds no non-linearity, so a
    stack of layers with it is one linear map.

    Args:
        x: Any array.

    Returns:
        `x`.

    Example:
        >>> identity(-2.0).item()
        -2.0
    """
    return x  # type: ignore[return-value]  # an array under jit, whatever was passed


def linear(x: ArrayLike | None = None, *args: Any, **kwargs: Any) -> jax.Array:
    """Return `x` unchanged: f(x) = x, the activation that the teaching notes call linear. The same as `identity`.

    It is not the fully connected layer, which is `dense`: a call that looks like the construction of that layer, such as
    `linear(10)` or `linear(784, 10)`, is an error. To see a Python int, the function is not jitted as a whole.

    Args:
        x: Any array or float.
        *args: Not accepted: raise an error that names `dense`.
        **kwargs: Not accepted: raise an error that names `dense`.

    Returns:
        `x`.

    Raises:
        TypeError: If `x` is missing or a Python int, or if there are further arguments.

    Example:
        >>> linear(-2.0).item()
        -2.0
    """
    if x is None or args or kwargs or type(x) is int:
        features: list[Any] = [value for value in (x, *args, *kwargs.values()) if type(value) is int] or ["features"]
        raise TypeError(
            "linear is the activation f(x) = x, a function of one array, and is passed to a stack as nn.linear; "
            f"the fully connected layer is nn.dense({features[-1]})"
        )
    return identity(x)


@jax.jit
def relu(x: ArrayLike) -> jax.Array:
    """Set negative values to 0: f(x) = max(0, x).

    Derivative 1 if x > 0 else 0, so 0 at the kink (`jnp.maximum(x, 0)` has ½ there); range [0, ∞). The teaching notes:
    the default for hidden layers; a neuron whose output is always 0 no longer learns ("dying ReLU").

    Args:
        x: Any array.

    Returns:
        max(0, x), with the shape and dtype of `x`.

    Raises:
        TypeError: If `x` is complex.

    Example:
        >>> [relu(x).item() for x in (-2.0, 3.0)]
        [0.0, 3.0]
    """
    check_real("relu", "x", jnp.asarray(x))
    return jax.nn.relu(x)


@jax.jit
def relu6(x: ArrayLike) -> jax.Array:
    """Clip to [0, 6]: f(x) = min(max(0, x), 6). Krizhevsky (2010).

    Derivative 1 on (0, 6), else 0; range [0, 6], which suits low-precision arithmetic.

    Args:
        x: Any array.

    Returns:
        f(x), with the shape and dtype of `x`.

    Raises:
        TypeError: If `x` is complex.

    Example:
        >>> [relu6(x).item() for x in (-2.0, 3.0, 8.0)]
        [0.0, 3.0, 6.0]
    """
    check_real("relu6", "x", jnp.asarray(x))
    return jax.nn.relu6(x)


@jax.jit
@widened
def leaky_relu(x: ArrayLike, negative_slope: ArrayLike = 0.01) -> jax.Array:
    """Scale negative values: f(x) = x if x > 0 else βx.

    Derivative 1 if x > 0 else β, so β at the kink, as in the formula and in PyTorch (`jax.nn.leaky_relu` has 1
    there); range (−∞, ∞). The teaching notes: it avoids dying ReLU; β is chosen by hand. β = 0.01 is JAX's and
    PyTorch's default too, Keras's is 0.2 or 0.3. With a learned slope it is PReLU, the layer `prelu`.

    Args:
        x: Any array.
        negative_slope: Slope β, a number or an array that broadcasts against `x` with equal rank.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [round(leaky_relu(x).item(), 4) for x in (-2.0, 3.0)]
        [-0.02, 3.0]
    """
    x = jnp.asarray(x)
    return jnp.where(x > 0, x, jnp.asarray(negative_slope).astype(x.dtype) * x)


@jax.jit
def threshold(x: ArrayLike, threshold: ArrayLike, value: ArrayLike) -> jax.Array:
    """Replace values that are not above a threshold: f(x) = x if x > θ else v.

    Derivative 1 if x > θ else 0. PyTorch's and Keras's; `relu` is θ = v = 0. In a stack: `lambda x: nn.threshold(x, 1.0, 0.0)`.

    Args:
        x: Any array.
        threshold: Threshold θ, a scalar.
        value: Replacement v, a scalar.

    Returns:
        f(x), with the shape of `x`.

    Raises:
        TypeError: If `x` is complex.

    Example:
        >>> [threshold(x, 1.0, -1.0).item() for x in (0.5, 1.0, 2.0)]
        [-1.0, -1.0, 2.0]
    """
    x = floating(x)
    check_real("threshold", "x", x)
    return jnp.where(x <= jnp.asarray(threshold).astype(x.dtype), jnp.asarray(value).astype(x.dtype), x)  # keeps NaN


@jax.jit
@widened
def hard_sigmoid(x: ArrayLike) -> jax.Array:
    """Approximate the sigmoid by three line segments: f(x) = min(max(0, x + 3), 6)/6.

    Derivative 1/6 on (−3, 3), else 0; range [0, 1]. Howard et al. (2019), MobileNetV3; older texts and Keras 2 have slope 0.2.

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [hard_sigmoid(x).item() for x in (-4.0, 0.0, 4.0)]
        [0.0, 0.5, 1.0]
    """
    return jax.nn.hard_sigmoid(x)


@jax.jit
@widened
def hard_silu(x: ArrayLike) -> jax.Array:
    """Approximate `silu` without an exponential: f(x) = x · min(max(0, x + 3), 6)/6. Also called `hard_swish`.

    Howard et al. (2019), MobileNetV3. Range [−3/8, ∞).

    Args:
        x: Any array.

    Returns:
        f(x), with the shape of `x`.

    Example:
        >>> [hard_silu(x).item() for x in (-4.0, 0.0, 4.0)]
        [-0.0, 0.0, 4.0]
    """
    return jax.nn.hard_silu(x)


hard_swish = hard_silu


@jax.jit
def hard_tanh(x: ArrayLike) -> jax.Array:
    """Clip to [−1, 1]: f(x) = min(max(−1, x), 1).

    Derivative 1 on [−1, 1], else 0. Collobert (2004). For other bounds use `jnp.clip(x, low, high)`.

    Args:
        x: Any array.

    Returns:
        f(x), with the shape and dtype of `x`.

    Raises:
        TypeError: If `x` is complex.

    Example:
        >>> [hard_tanh(x).item() for x in (-2.0, 0.5, 2.0)]
        [-1.0, 0.5, 1.0]
    """
    check_real("hard_tanh", "x", jnp.asarray(x))
    return jax.nn.hard_tanh(x)


@option("threshold", lambda threshold: threshold >= 0, "nonnegative number")
@jax.jit
def hard_shrink(x: ArrayLike, threshold: ArrayLike = 0.5) -> jax.Array:
    """Set small values to 0: f(x) = x if ∣x∣ > λ else 0.

    Derivative 1 where ∣x∣ > λ, else 0. The hard threshold of Donoho and Johnstone (1994).

    Args:
        x: Any array.
        threshold: Threshold λ ≥ 0, a scalar.

    Returns:
        f(x), with the shape of `x`.

    Raises:
        ValueError: If λ is not a nonnegative number.

    Example:
        >>> [hard_shrink(x).item() for x in (-2.0, 0.25, 2.0)]
        [-2.0, 0.0, 2.0]
    """
    x = floating(x)
    check_real("hard_shrink", "x", x)
    return jnp.where(jnp.abs(x) <= jnp.asarray(threshold).astype(x.dtype), 0, x)  # this order keeps NaN


@option("threshold", lambda threshold: threshold >= 0, "nonnegative number")
@jax.jit
@widened
def soft_shrink(x: ArrayLike, threshold: ArrayLike = 0.5) -> jax.Array:
    """Shrink toward 0: f(x) = x − λ if x > λ, x + λ if x < −λ, else 0.

    Derivative 1 where ∣x∣ > λ, else 0. The soft threshold of Donoho and Johnstone (1994), the proximal map of λ∣x∣.

    Args:
        x: Any array.
        threshold: Threshold λ ≥ 0, a scalar.

    Returns:
        f(x), with the shape of `x`.

    Raises:
        ValueError: If λ is not a nonnegative number.

    Example:
        >>> [soft_shrink(x).item() for x in (-2.0, 0.25, 2.0)]
        [-1.5, 0.0, 1.5]
    """
    x = jnp.asarray(x)
    bound = jnp.asarray(threshold).astype(x.dtype)
    return jnp.where(x > bound, x - bound, jnp.where(x < -bound, x + bound, 0 * x))  # 0 · x keeps NaN
