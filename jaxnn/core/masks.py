"""Padded sequences `(x, mask)`: one rule for all layers.

A mask is boolean, true where there is data, with one entry per position of the leading axes of x. The values at the other
positions are replaced by zeros before a layer uses them: multiplied by 0, a NaN there would still reach the outputs at valid
positions, and in the backward pass every gradient.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnn.core.text import array_text


def split_mask(x: Any, *, any_shape: bool = False) -> tuple[Any, Any]:
    """Split an input into `(x, mask)` if it is a padded sequence, else into `(x, None)`.

    Args:
        x: An input of a layer, of arrays or their `jax.ShapeDtypeStruct`.
        any_shape: Whether a mask may have another shape than the leading axes of x, as those of attention.

    Returns:
        The values, and the mask or None.

    Raises:
        TypeError: If the mask is not boolean.
        ValueError: If its shape is not that of the leading axes of x.
    """
    if not (isinstance(x, tuple) and len(x) == 2 and hasattr(x[0], "shape") and hasattr(x[1], "shape")):
        return x, None
    values, mask = x
    if mask.dtype != np.bool_:
        if jnp.issubdtype(mask.dtype, jnp.integer) and mask.ndim > 0 and (any_shape or mask.ndim < values.ndim):
            raise TypeError(
                "a padded sequence (x, mask) takes a boolean mask that is true where there is data, got "
                f"{array_text(x)}: convert the mask, as in mask.astype(bool)"
            )
        return x, None
    if not any_shape and values.shape[: mask.ndim] != mask.shape:
        raise ValueError(
            f"a padded sequence (x, mask) takes one boolean per position: for x of shape {list(values.shape)} the mask must be "
            f"{list(values.shape[: mask.ndim])}, got {list(mask.shape)}"
        )
    return values, mask


def zero_padding(x: Any, mask: Any) -> Any:
    """`x` with zeros where the mask over its leading axes is false; `x` itself without a mask.

    Example:
        >>> zero_padding(jnp.array([[1.0, jnp.nan]]), jnp.array([[True, False]])).tolist()
        [[1.0, 0.0]]
    """
    if mask is None:
        return x
    mask = jnp.reshape(mask, (*mask.shape, *(1 for _ in range(x.ndim - mask.ndim))))
    return jnp.where(mask, x, jnp.zeros((), x.dtype))


def with_mask(y: Any, mask: Any) -> Any:
    """The output `(y, mask)` of a layer that keeps all positions; `y` itself without a mask.

    Raises:
        ValueError: If y has other positions than the mask.
    """
    if mask is None:
        return y
    if hasattr(y, "shape") and y.shape[: mask.ndim] != mask.shape:
        raise ValueError(
            f"the mask {list(mask.shape)} of a padded sequence (x, mask) does not fit the output {list(y.shape)}: pass a "
            "layer that does not keep the positions the values alone"
        )
    return y, mask
