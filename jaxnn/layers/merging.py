"""Functions that merge several arrays into one, for the outputs of `branch` and `parallel`."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxnn.core.dtypes import promote


def concatenate(xs: Sequence[jax.Array], *, axis: int = -1) -> jax.Array:
    """Concatenate arrays along an axis: y = [x₁, x₂, …], by `jax.numpy.concatenate`.

    The skip connections of a U-Net (Ronneberger et al. 2015) are `serial(branch(identity, inner), concatenate)`.

    Args:
        xs: Arrays that agree in all axes except `axis`.
        axis: The axis; in a stack, `functools.partial(nn.concatenate, axis=1)` sets another one than the last.

    Returns:
        One array.

    Raises:
        ValueError: If `xs` is not a tuple, or the shapes do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.branch(nn.identity, nn.dense(3)), nn.concatenate)
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> model(params, jnp.ones((2, 4))).shape
        (2, 7)
    """
    _check("concatenate", xs)
    return jnp.concatenate(promote(*xs), axis)


def add(xs: Sequence[jax.Array]) -> jax.Array:
    """Add arrays of one shape element by element: y = x₁ + x₂ + …, as Keras's `Add`.

    Args:
        xs: The arrays.

    Returns:
        One array.

    Raises:
        ValueError: If `xs` is not a tuple, or the shapes differ, since nothing is broadcast.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.add((jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))).tolist()
        [4.0, 6.0]
    """
    return _reduced("add", operator.add, xs)


def multiply(xs: Sequence[jax.Array]) -> jax.Array:
    """Multiply arrays of one shape element by element: y = x₁ · x₂ · …, as Keras's `Multiply`.

    Args:
        xs: The arrays.

    Returns:
        One array.

    Raises:
        ValueError: If `xs` is not a tuple, or the shapes differ, since nothing is broadcast.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.multiply((jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))).tolist()
        [3.0, 8.0]
    """
    return _reduced("multiply", operator.mul, xs)


def _reduced(name: str, operation: Callable, xs: Sequence[jax.Array]) -> jax.Array:
    _check(name, xs)
    if len({x.shape for x in xs}) > 1:
        raise ValueError(f"{name} takes arrays of one shape, got {[list(x.shape) for x in xs]}")
    return functools.reduce(operation, promote(*xs))


def _check(name: str, xs: Sequence[jax.Array]) -> None:
    if not isinstance(xs, (tuple, list)) or not xs:
        raise ValueError(f"{name} takes a non-empty tuple of arrays, as branch and parallel return it, got {type(xs).__name__}")
