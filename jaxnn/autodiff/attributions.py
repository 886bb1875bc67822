"""Attributions: which parts of one input a network's output depends on.

They take `f(x) -> scalar`, a function of one input without batch axis, such as the logit of a class,
`lambda x: model(params, x[None])[0, label]`; `jax.vmap` maps over inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.core.checks import check_key, function, number, whole
from jaxnn.core.text import array_text


def saliency(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The magnitude of the gradient, |∂f/∂x| (Simonyan et al. 2013, arXiv:1312.6034).

    Args:
        f: `f(x) -> scalar`, of one input.
        x: The input, an array of any shape.

    Returns:
        An array like x. For one value per pixel, the paper takes the maximum over channels.

    Raises:
        TypeError: If `f` is not a function, or x is not an array of real numbers.
        ValueError: If `f` does not return one real number.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.saliency(lambda x: x[0] ** 2 - x[1], jnp.array([3.0, 1.0])).tolist()
        [6.0, 1.0]
    """
    f, x = of_input("saliency", f, x)
    return jnp.abs(jax.grad(f)(x))


def integrated_gradients(
    f: Callable[[jax.Array], jax.Array], x: jax.Array, baseline: Any = 0.0, *, steps: int = 32
) -> jax.Array:
    """The gradient along the line from a baseline x₀, (x − x₀) ∘ ∫₀¹ ∂f/∂x (x₀ + t (x − x₀)) dt.

    Its sum is f(x) − f(x₀), the law of completeness (Sundararajan et al. 2017, arXiv:1703.01365). The integral is Gauss and
    Legendre's, exact for polynomials; how far the sum is from f(x) − f(x₀) tells its error.

    Args:
        f: `f(x) -> scalar`, of one input.
        x: The input, an array of any shape.
        baseline: x₀, an input without information: a number, or an array that broadcasts to x.
        steps: The number of gradients, which are taken at once.

    Returns:
        An array like x.

    Raises:
        TypeError: If `f` is not a function, x is not an array of real numbers, or `steps` not a whole number.
        ValueError: If `f` does not return one real number, `steps` is less than 1, or the baseline does not broadcast to x.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.integrated_gradients(lambda x: x[0] ** 2 - x[1], jnp.array([3.0, 1.0])).round(4).tolist()
        [9.0, -1.0]
    """
    f, x = of_input("integrated_gradients", f, x)
    start = jnp.broadcast_to(jnp.asarray(baseline, x.dtype), x.shape)
    nodes = np.polynomial.legendre.leggauss(whole("integrated_gradients", "steps", steps))
    positions, weights = (jnp.asarray(a / 2, x.dtype) for a in (nodes[0] + 1, nodes[1]))
    gradients = jax.vmap(lambda t: jax.grad(f)(start + t * (x - start)))(positions)
    return (x - start) * jnp.tensordot(weights, gradients, 1)


def smooth_grad(
    f: Callable[[jax.Array], jax.Array], x: jax.Array, key: jax.Array, *, noise: Any, samples: int = 32
) -> jax.Array:
    """SmoothGrad: the mean of the gradient around the input, E ∂f/∂x (x + ε), ε ~ N(0, σ²) (Smilkov et al. 2017).

    Args:
        f: `f(x) -> scalar`, of one input.
        x: The input, an array of any shape.
        key: A random key.
        noise: σ; the paper takes 10 to 20% of the range of x.
        samples: The number of gradients, which are taken at once.

    Returns:
        An array like x, with signs.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `f` does not return one real number, `samples` is less than 1, or `noise` negative.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.smooth_grad(lambda x: x[0] - x[1], jnp.ones(2), jax.random.key(0), noise=0.1).tolist()
        [1.0, -1.0]
    """
    f, x = of_input("smooth_grad", f, x)
    noise = jnp.asarray(number("smooth_grad", "noise", noise, 0), x.dtype)
    keys = jax.random.split(check_key(key), whole("smooth_grad", "samples", samples))
    return jax.vmap(lambda key: jax.grad(f)(x + noise * jax.random.normal(key, x.shape, x.dtype)))(keys).mean(0)


def grad_cam(features: Callable[[jax.Array], jax.Array], head: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Grad-CAM: the features that speak for an output, by position, relu(Σ_c α_c a_c) with α_c the mean of ∂f/∂a_c.

    f = head ∘ features, and a are the features, of which the mean is over positions (Selvaraju et al. 2017,
    arXiv:1610.02391).

    Args:
        features: `features(x) -> a`, (*positions, channels), the first part of the network for one input.
        head: `head(a) -> scalar`, the rest of it and the output in question.
        x: The input, an array of any shape.

    Returns:
        (*positions,); `jax.image.resize` brings it to the size of x.

    Raises:
        TypeError: If a part is not a function, or x is not an array of real numbers.
        ValueError: If `head` does not return one real number, or the features have no axis of channels.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> body, head = nn.serial(nn.conv(4, 3), nn.relu), nn.serial(nn.global_avg_pool(), nn.dense(2))
        >>> x = jnp.ones((6, 6, 1))
        >>> body_params, _ = body.init(jax.random.key(0), x[None])
        >>> head_params, _ = head.init(jax.random.key(1), jnp.ones((1, 6, 6, 4)))
        >>> nn.autodiff.grad_cam(
        ...     lambda x: body(body_params, x[None])[0], lambda a: head(head_params, a[None])[0, 1], x).shape
        (6, 6)
    """
    function("grad_cam", "features", features, "features(x) -> a")
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"grad_cam takes x as an array of real numbers, got {array_text(x)}")
    head, a = of_input("grad_cam", head, features(x))
    if not a.ndim:
        raise ValueError("grad_cam takes features(x) -> (*positions, channels), got one number")
    weights = jax.grad(head)(a).mean(tuple(range(a.ndim - 1)))
    return jax.nn.relu(jnp.tensordot(a, weights, 1))


def occlusion(
    f: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    size: int | Sequence[int],
    *,
    stride: int = 1,
    value: Any = 0.0,
) -> jax.Array:
    """How much an output drops where a window of the input is hidden, f(x) − f(x with the window) (Zeiler & Fergus 2013).

    Args:
        f: `f(x) -> scalar`, of one input.
        x: The input, (*positions, channels).
        size: The size of the window along each axis of positions; an int for the same along all.
        stride: The distance between windows. The last window of an axis ends with it, so that all positions are covered.
        value: What the window shows: a number, or an array that broadcasts to (*size, channels).

    Returns:
        The drop by position of the window, with ⌈(n − size) / stride⌉ + 1 windows along an axis of n positions.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `f` does not return one real number, or the window does not fit x.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.occlusion(lambda x: x.sum(), jnp.arange(5.0)[:, None], 2, stride=2).tolist()
        [1.0, 5.0, 7.0]
    """
    f, x = of_input("occlusion", f, x)
    sizes = (size,) * (x.ndim - 1) if isinstance(size, (int, np.integer)) else tuple(size)
    sizes, stride = tuple(whole("occlusion", "size", s) for s in sizes), whole("occlusion", "stride", stride)
    if not sizes or len(sizes) != x.ndim - 1 or any(s > n for s, n in zip(sizes, x.shape, strict=False)):
        raise ValueError(
            f"occlusion takes x as (*positions, channels) and a window that fits it, got {array_text(x)} and {size}"
        )
    window = jnp.broadcast_to(jnp.asarray(value, x.dtype), (*sizes, x.shape[-1]))
    starts = [[*range(0, n - s, stride), n - s] for s, n in zip(sizes, x.shape, strict=False)]

    def hidden(start: jax.Array) -> jax.Array:
        return f(lax.dynamic_update_slice(x, window, (*start, jnp.zeros((), start.dtype))))

    outputs = lax.map(hidden, jnp.asarray(list(itertools.product(*starts)), jnp.int32), batch_size=64)
    return f(x) - outputs.reshape(tuple(map(len, starts)))


def of_input(caller: str, f: Any, x: Any) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """A function of one input, checked when it is traced to return one real number, and the input.

    Raises:
        TypeError: If `f` is not a function, or x is not an array of real numbers.
    """
    function(caller, "f", f, "f(x) -> scalar")
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"{caller} takes x as an array of real numbers, got {array_text(x)}")

    def checked(x: jax.Array) -> jax.Array:
        value = f(x)
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(
                f"{caller} takes f(x) -> one real number, for one input without batch axis; f returned {array_text(value)}"
            )
        return jnp.asarray(value)

    return checked, jnp.asarray(x)
