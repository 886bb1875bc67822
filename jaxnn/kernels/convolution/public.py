"""Convolution of channels-last arrays in one, two or three spatial dimensions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn.core.primitives import definitions_are_open
from jaxnn.kernels.convolution.geometry import LABELS, Member, by_xla
from jaxnn.kernels.forms import choose_form
from jaxnn.kernels.windows import dilated, output_sizes, per_axis, resolve_padding


def conv(
    x: ArrayLike,
    kernel: ArrayLike,
    *,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    form: str | None = None,
) -> jax.Array:
    """Convolve (strictly: cross-correlate, as every neural-network library does).

    With stride s, low padding p and dilation d, along one axis:

        y[b, j, o] = Σ_{t, c} x[b, j·s + t·d − p, c] · kernel[t, c, o]

    where x is 0 outside itself. On a CPU the convolution and all its derivatives are written so that they stay fast
    inside `jax.lax.scan`; elsewhere XLA's own form is used. There, windows of 3×3 over many channels are computed with
    fewer multiplications (Winograd 1980), unless `jax.default_matmul_precision("highest")` asks for the sum as it stands.

    Args:
        x: The input, (batch, *space, C_in), with one to three spatial axes.
        kernel: The kernel, (*window, C_in / groups, C_out), of x's dtype.
        strides: Step of the window, one integer or one per spatial axis.
        padding: "SAME" (⌈size / stride⌉ outputs), "VALID" (none), or a (low, high) pair per spatial axis, where a
            negative number crops.
        dilation: Distance between the kernel's taps, one integer or one per spatial axis.
        groups: The features are cut into so many groups, each convolved on its own; `groups=C_in` is depthwise.
        form: None lets the backend decide, "canonical" or "xla" forces a form. They differ in rounding only.

    Returns:
        (batch, *places, C_out), in x's dtype.

    Raises:
        ValueError: If the shapes, groups or options do not fit each other, or the kernel exceeds the padded input.
        TypeError: If the dtypes differ, or an option is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(5.0).reshape(1, 5, 1)
        >>> moving_sum = jnp.ones((3, 1, 1))
        >>> conv(x, moving_sum, padding="VALID").ravel()
        Array([3., 6., 9.], dtype=float32)
        >>> conv(x, moving_sum, strides=2).shape
        (1, 3, 1)
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    _check_operands(x, kernel, groups)
    axes, sizes = x.ndim - 2, x.shape[1:-1]
    strides, dilation = per_axis(strides, axes, "strides"), per_axis(dilation, axes, "dilation")
    window = tuple(dilated(k, d) for k, d in zip(kernel.shape[:-2], dilation, strict=True))
    padding = resolve_padding(padding, sizes, window, strides)
    if 0 in output_sizes(sizes, window, strides, padding):
        raise ValueError(
            f"the kernel does not fit into the input: kernel sizes {kernel.shape[:-2]} with dilation {dilation} span "
            f"{window}, the input has {sizes} with padding {padding}; use a smaller kernel, or pad more"
        )
    member = Member(strides, padding, (1,) * axes, dilation, groups)
    return _convolve(x, kernel, member, form)


def conv_transpose(
    x: ArrayLike,
    kernel: ArrayLike,
    *,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    form: str | None = None,
) -> jax.Array:
    """Transposed convolution: each input point spreads the kernel over the output (Zeiler et al. 2010).

    With stride s, low padding p and dilation d, along one axis:

        y[b, j, o] = Σ_{i, t, c} x[b, i, c] · kernel[t, c, o]        over all i, t with  i·s + t·d − p = j

    It is the transpose of `conv` in its input, with the kernel's two feature axes exchanged, and PyTorch's and
    Keras's convention; `jax.lax.conv_transpose` flips the kernel in space. On a CPU, input points that lie apart are
    not filled up with zeros: outputs that meet the same part of the kernel are a convolution of their own.

    Args:
        x: The input, (batch, *space, C_in), with one to three spatial axes.
        kernel: The kernel, (*window, C_in / groups, C_out), of x's dtype.
        strides: Distance of neighbouring input points in the output, one integer or one per spatial axis.
        padding: "SAME" (size · stride outputs), "VALID" (all (size − 1) · stride + span of them, where the kernel spans
            (taps − 1) · dilation + 1), or a (low, high) pair per spatial axis that is cut off those; a negative number
            adds zeros. PyTorch's `padding=p, output_padding=q` is `(p, p - q)`.
        dilation: Distance between the kernel's taps, one integer or one per spatial axis.
        groups: The features are cut into so many groups, each convolved on its own.
        form: None lets the backend decide, "canonical" or "xla" forces a form. They differ in rounding only.

    Returns:
        (batch, *places, C_out), in x's dtype.

    Raises:
        ValueError: If the shapes, groups or options do not fit each other, or the padding leaves no output.
        TypeError: If the dtypes differ, or an option is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> conv_transpose(x, jnp.ones((3, 1, 1)), strides=2, padding="VALID").ravel()
        Array([1., 1., 3., 2., 2.], dtype=float32)
        >>> conv_transpose(x, jnp.ones((3, 1, 1)), strides=2).shape
        (1, 4, 1)
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    _check_operands(x, kernel, groups)
    axes = x.ndim - 2
    strides, dilation = per_axis(strides, axes, "strides"), per_axis(dilation, axes, "dilation")
    window = tuple(dilated(k, d) for k, d in zip(kernel.shape[:-2], dilation, strict=True))
    if padding == "SAME":
        surplus = [w - s for w, s in zip(window, strides, strict=True)]
        padding = tuple((low, more - low) for more in surplus for low in (max(more, 0) // 2,))
    padding = resolve_padding(padding, x.shape[1:-1], window, strides)
    around = tuple((w - 1 - low, w - 1 - high) for w, (low, high) in zip(window, padding, strict=True))
    if 0 in output_sizes([dilated(n, s) for n, s in zip(x.shape[1:-1], strides, strict=True)], window, (1,) * axes, around):
        raise ValueError(f"nothing is left of the output after a padding of {padding} is cut off; use a smaller padding")
    member = Member((1,) * axes, around, strides, dilation, groups)
    kernel = jnp.flip(kernel, range(axes))
    return _convolve(x, kernel, member, form)


def _check_operands(x: jax.Array, kernel: jax.Array, groups: int) -> None:
    shapes = f"input {x.dtype}{list(x.shape)}, kernel {kernel.dtype}{list(kernel.shape)}"
    if x.ndim - 2 not in LABELS or kernel.ndim != x.ndim:
        raise ValueError(
            "conv takes an input (batch, *space, C_in) and a kernel (*window, C_in / groups, C_out) with the same one "
            f"to three spatial axes, got {shapes}; a single example needs a batch axis, x[None]"
        )
    if x.dtype != kernel.dtype:
        raise TypeError(f"the input and the kernel must have one dtype, got {shapes}; cast one with .astype")
    if per_axis(groups, 1, "groups") and (x.shape[-1] % groups or kernel.shape[-1] % groups):
        raise ValueError(f"groups={groups} must divide the {x.shape[-1]} input and {kernel.shape[-1]} output channels")
    if kernel.shape[-2] * groups != x.shape[-1]:
        raise ValueError(
            f"the input has {x.shape[-1]} channels (its last axis), the kernel takes {kernel.shape[-2]} in each of "
            f"{groups} group(s): {shapes}; the kernel's axis before the last must be {x.shape[-1] // groups}"
        )
    if 0 in kernel.shape or 0 in x.shape[1:]:
        raise ValueError(f"only the batch may be empty, got {shapes}")


def _convolve(x: jax.Array, kernel: jax.Array, member: Member, form: str | None) -> jax.Array:
    if choose_form(form, "canonical", x, kernel) == "xla" or definitions_are_open():
        return by_xla(x, kernel, member)
    from jaxnn.kernels.convolution.primitive import convolve  # not at import: a primitive needs jax.extend, thus Pallas

    return convolve(x, kernel, member)
