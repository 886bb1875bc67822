"""Initializers of matrices with dependent entries; they have no `describe`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxnn.functional._checks import check_number
from jaxnn.functional.initializers._initializer import Shape, check_floating
from jaxnn.functional.initializers.scaled import fans


def orthogonal(scale: ArrayLike = 1.0) -> Callable[..., jax.Array]:
    """Draw a kernel that flattens to a matrix Q, (…·in, out), with orthonormal columns, or rows if it is wide, times `scale`.

    Uniform over such matrices, QᵀQ = I: Saxe et al. (2014). It has no `describe`, since its entries are not independent.

    Args:
        scale: Factor; may be traced.

    Returns:
        An initializer `(key, shape, dtype=float32) -> array`.

    Raises:
        TypeError: When called, if the dtype is not floating-point.
        ValueError: If the scale is not a single number; or, when called, if the shape has fewer than two axes.

    Example:
        >>> q = orthogonal()(jax.random.key(0), (5, 3))
        >>> bool(jnp.allclose(q.T @ q, jnp.eye(3), atol=1e-6))
        True
    """
    check_number("orthogonal", "scale", scale, lambda scale: True, "finite number")
    draw = jax.nn.initializers.orthogonal()

    def orthogonal(key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        fans("orthogonal()", shape)  # raises for other shapes
        check_floating("orthogonal()", dtype)
        wide: Any = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32  # narrow types have no QR decomposition
        return (jnp.asarray(scale).astype(wide) * draw(key, tuple(shape), wide)).astype(dtype)

    return orthogonal


def delta_orthogonal(scale: ArrayLike = 1.0) -> Callable[..., jax.Array]:
    """Draw a convolution kernel that is 0 except at its center, where it is scale · Q, with Q (in, out) and QQᵀ = I.

    Initially the convolution preserves the norm of every pixel, which makes very deep stacks trainable: Xiao et al. (2018).
    The center is the tap of the pixel itself under "SAME" padding.

    Args:
        scale: Factor; may be traced.

    Returns:
        An initializer `(key, shape, dtype=float32) -> array`.

    Raises:
        ValueError: When called, if the shape is not that of a kernel (…receptive field, in, out) with one to three spatial
            axes, or has more inputs than outputs.

    Example:
        >>> kernel = delta_orthogonal()(jax.random.key(0), (3, 2, 4))
        >>> bool(jnp.allclose(kernel[1] @ kernel[1].T, jnp.eye(2), atol=1e-6)), kernel[0].any().item()
        (True, False)
    """
    draw = orthogonal(scale)

    def delta_orthogonal(key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        *field, n_in, n_out = shape if len(shape) >= 2 else (0, 0)
        if not 1 <= len(field) <= 3 or n_in > n_out:
            raise ValueError(
                f"delta_orthogonal(): shape {tuple(shape)}, expected a convolution kernel (..., in, out) with one to three "
                "spatial axes and no more inputs than outputs; for others use orthogonal"
            )
        return jnp.zeros(tuple(shape), dtype).at[_center(field)].set(draw(key, (n_in, n_out), dtype))

    return delta_orthogonal


def identity(scale: ArrayLike = 1.0) -> Callable[..., jax.Array]:
    """Fill a kernel so that the layer returns its input, times `scale`: w[i, o] = 1 if i = o else 0.

    A matrix (in, out) is the identity; a convolution kernel (…, in, out) has it at its center, the tap of the pixel itself
    under "SAME" padding (PyTorch's `dirac_`). Surplus inputs are ignored, and surplus outputs are 0. For recurrent kernels
    see Le, Jaitly and Hinton (2015).

    Args:
        scale: Factor; may be traced.

    Returns:
        An initializer `(key, shape, dtype=float32) -> array`, which ignores the key.

    Raises:
        ValueError: If the scale is not a scalar; or, when called, if the shape has fewer than two axes.

    Example:
        >>> identity()(jax.random.key(0), (2, 3)).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    check_number("identity", "scale", scale, lambda scale: True, "number")

    def identity(key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        fans("identity()", shape)  # raises for other shapes
        *field, n_in, n_out = shape
        if 0 in field:
            return jnp.zeros(tuple(shape), dtype)
        return (
            jnp.zeros(tuple(shape), dtype)
            .at[_center(field)]
            .set(jnp.asarray(scale).astype(dtype) * jnp.eye(n_in, n_out, dtype=dtype))
        )

    return identity


def sparse(sparsity: float, *, stddev: ArrayLike = 0.01) -> Callable[..., jax.Array]:
    """Draw from N(0, stddev²), with an equal number of zeros among the inputs of each unit: Martens (2010).

    The ⌈sparsity · n⌉ zeros among a unit's n inputs (the fan-in) have random positions. In PyTorch's `sparse_`, whose
    matrices are transposed, the zeros are among the outputs of each input.

    Args:
        sparsity: Share of zeros, in [0, 1).
        stddev: Standard deviation of the other entries, ≥ 0; may be traced.

    Returns:
        An initializer `(key, shape, dtype=float32) -> array`.

    Raises:
        ValueError: If the share is not in [0, 1), or the standard deviation is negative; or, when called, if the shape has
            fewer than two axes.

    Example:
        >>> kernel = sparse(0.75)(jax.random.key(0), (8, 3))
        >>> (kernel != 0).sum(axis=0).tolist()
        [2, 2, 2]
    """
    check_number("sparse", "sparsity", sparsity, lambda sparsity: 0 <= sparsity < 1, "number in [0, 1)")
    check_number("sparse", "stddev", stddev, lambda stddev: stddev >= 0, "number >= 0")

    def sparse(key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        fan_in, _ = fans("sparse()", shape)
        check_floating("sparse()", dtype)
        wide: Any = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
        value_key, position_key = jax.random.split(key)
        drawn = jnp.asarray(stddev).astype(wide) * jax.random.normal(value_key, (fan_in, shape[-1]), wide)
        ranks = jax.random.permutation(
            position_key, jnp.broadcast_to(jnp.arange(fan_in)[:, None], drawn.shape), 0, independent=True
        )
        return jnp.where(ranks < math.ceil(sparsity * fan_in), 0, drawn).astype(dtype).reshape(tuple(shape))

    return sparse


def _center(field: list[int]) -> tuple[int, ...]:
    return tuple((size - 1) // 2 for size in field)
