"""Dtypes shared by the activations: what is converted, what is computed in float32, and what is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.functional._checks import check_number, check_real, spell


def floating(x: ArrayLike) -> jax.Array:
    """Return `x` unchanged if it is inexact, else converted to the default float."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def wide(x: jax.Array) -> jax.Array:
    """Return `x` in at least float32."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def widened(function: Callable[..., jax.Array], *, holomorphic: bool = False) -> Callable[..., jax.Array]:
    """Compute an activation in at least float32, and return the dtype of `x`.

    In float16, squares overflow at 256; in either narrow dtype, derivatives such as 1 − tanh² lose their digits. Complex
    numbers are refused unless the function is holomorphic.
    """

    @wraps(function)
    def activation(x: ArrayLike, *args: Any, **kwargs: Any) -> jax.Array:
        x = floating(x)
        if not holomorphic:
            check_real(function.__name__, "x", x)
        if jnp.finfo(x.dtype).bits >= 32:
            return function(x, *args, **kwargs)
        return function(x.astype(jnp.float32), *args, **kwargs).astype(x.dtype)

    return activation


def option(name: str, allowed: Callable[[Any], bool], expected: str) -> Callable[[Callable], Callable]:
    """Make a jitted activation check the value of an option, which is not known within the jitted function."""

    def decorate(jitted: Callable) -> Callable:
        position = list(inspect.signature(jitted).parameters).index(name)

        @wraps(jitted)
        def activation(*args: Any, **kwargs: Any) -> jax.Array:
            if name in kwargs or len(args) > position:
                value = kwargs[name] if name in kwargs else args[position]
                check_number(jitted.__name__, name, value, allowed, expected)
            return jitted(*args, **kwargs)

        activation.__dict__["lower"] = jitted.lower  # type: ignore[attr-defined]
        return activation

    return decorate


def check_axes(caller: str, x: jax.Array, axes: int | tuple[int, ...]) -> None:
    """Raise a ValueError if `x` is a scalar, or lacks one of the axes."""
    if x.ndim == 0:
        raise ValueError(
            f"{caller}: x is {spell(x)}, a scalar, expected at least one axis; pass x[None] for an axis of length 1"
        )
    for axis in (axes,) if isinstance(axes, int) else axes:
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"{caller}: axis is {axis}, expected one from {-x.ndim} to {x.ndim - 1} for x {spell(x)}")
