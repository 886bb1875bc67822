"""The initializer: a function that draws an array and can describe its distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

Shape = Sequence[int]

_DRAW: dict[str, Callable[..., jax.Array]] = {
    "normal": jax.random.normal,
    "truncated_normal": lambda key, shape, dtype: jax.random.truncated_normal(key, -2, 2, shape, dtype),
    "uniform": lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -1, 1),
}


def check_floating(caller: str, dtype: DTypeLike) -> None:
    """Raise a TypeError unless random numbers of this dtype are real floating-point numbers."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{caller}: dtype is {jnp.dtype(dtype).name}, expected a floating-point dtype")


@dataclass(frozen=True, eq=False)
class Initializer:
    """An initializer that can describe what it draws, returned by the functions of this package.

    Args:
        text: The call that created it, for `__name__` and `repr`.
        distribution: Distribution of z: "normal", "truncated_normal", "uniform" or "constant".
        scale: Function from the shape to the factor on z.
        offset: Number that is added.

    Example:
        >>> import jaxnn as nn
        >>> nn.initializers.he_normal()
        he_normal()
        >>> nn.initializers.he_normal().describe((8, 32))
        ('normal', 0.5, 0.0)
        >>> nn.initializers.he_normal()(jax.random.key(0), (8, 32)).shape
        (8, 32)
    """

    text: str
    distribution: str
    scale: Callable[[Shape], ArrayLike]
    offset: ArrayLike = 0.0

    def describe(self, shape: Shape) -> tuple[str, ArrayLike, ArrayLike]:
        """Return `(distribution, scale, offset)`: the array drawn for `shape` is offset + scale · z.

        Args:
            shape: Shape of the array.

        Returns:
            The name of the distribution of z, the scale and the offset.
        """
        return self.distribution, self.scale(shape), self.offset

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Draw an array.

        Args:
            key: A JAX random key.
            shape: Shape of the array.
            dtype: Dtype of the array; narrow floats are drawn in float32 and rounded. Constants may have any dtype.

        Returns:
            The array.

        Raises:
            TypeError: If random numbers are requested in a dtype that is not floating-point, or a complex constant in a
                real one.
        """
        distribution, scale, offset = self.describe(shape)
        if distribution == "constant":
            if jnp.iscomplexobj(offset) and not jnp.issubdtype(dtype, jnp.complexfloating):
                raise TypeError(f"{self}: dtype is {jnp.dtype(dtype).name}, expected a complex dtype for a complex number")
            return jnp.full(tuple(shape), offset, dtype)
        check_floating(repr(self), dtype)
        wide = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
        z = _DRAW[distribution](key, tuple(shape), wide)
        return (jnp.asarray(offset).astype(wide) + jnp.asarray(scale).astype(wide) * z).astype(dtype)

    @property
    def __name__(self) -> str:
        return self.text.partition("(")[0]

    def __repr__(self) -> str:
        return self.text
