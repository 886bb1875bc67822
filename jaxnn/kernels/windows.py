"""The arithmetic of sliding windows, shared by convolution and pooling, on plain Python integers."""

import operator
from collections.abc import Sequence

Padding = tuple[tuple[int, int], ...]

# Forms that process a window tap by tap are unrolled. Up to this number of taps they compile fast and run at least as fast
# as XLA's in all but the largest windows.
MAX_TAPS = 64


def per_axis(value: int | Sequence[int], axes: int, name: str) -> tuple[int, ...]:
    """Repeat one positive integer for each spatial axis, or check that there is one per axis.

    Args:
        value: An integer, or one integer per spatial axis.
        axes: The number of spatial axes.
        name: The value's name in an error.

    Returns:
        A tuple of `axes` positive integers.

    Raises:
        ValueError: If the number of values is wrong, or one is below 1.
        TypeError: If a value is not an integer.

    Example:
        >>> per_axis(2, 3, "strides")
        (2, 2, 2)
    """
    try:
        values = tuple(operator.index(v) for v in value) if isinstance(value, Sequence) else (operator.index(value),) * axes
    except TypeError:
        raise TypeError(f"{name} must be an integer or one integer per spatial axis, got {value!r}") from None
    if len(values) != axes:
        raise ValueError(f"{name} has {len(values)} values {values} for {axes} spatial axes; give one integer or {axes}")
    if min(values) < 1:
        raise ValueError(f"{name} must be at least 1, got {values}")
    return values


def dilated_size(size: int, dilation: int) -> int:
    """The length of `size` elements that lie `dilation` apart; 0 for no elements.

    Example:
        >>> dilated_size(3, 2), dilated_size(0, 2)
        (5, 0)
    """
    return (size - 1) * dilation + 1 if size else 0


def resolve_padding(
    padding: str | Sequence[tuple[int, int]],
    sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
) -> Padding:
    """Turn "SAME", "VALID" or explicit pairs into explicit pairs.

    "SAME" gives ⌈size / stride⌉ outputs. Where the total padding is odd, its larger half comes last (XLA's and
    TensorFlow's rule; PyTorch's `padding=k // 2` differs from it for strides above 1).

    Args:
        padding: "SAME", "VALID", or one (low, high) pair per spatial axis.
        sizes: The input's spatial sizes.
        window: The window's sizes, including dilation.
        strides: The window's strides.

    Returns:
        One (low, high) pair per spatial axis.

    Raises:
        ValueError: If the padding is another string or does not hold one pair per axis.

    Example:
        >>> resolve_padding("SAME", (7, 8), (3, 3), (1, 2))
        ((1, 1), (0, 1))
    """
    if padding == "VALID":
        return ((0, 0),) * len(sizes)
    if padding == "SAME":
        totals = [max((-(-n // s) - 1) * s + w - n, 0) for n, w, s in zip(sizes, window, strides, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    expected = f'padding must be "SAME", "VALID" or {len(sizes)} (low, high) pairs, got {padding!r}'
    if isinstance(padding, str):
        raise ValueError(expected)
    try:
        pairs = tuple((operator.index(low), operator.index(high)) for low, high in padding)
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    if len(pairs) != len(sizes):
        raise ValueError(expected)
    return pairs


def output_sizes(sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: Padding) -> tuple[int, ...]:
    """The number of window positions along each axis: ⌊(size + low + high − window) / stride⌋ + 1, at least 0.

    Example:
        >>> output_sizes((7, 8), (3, 3), (1, 2), ((1, 1), (0, 1)))
        (7, 4)
    """
    axes = zip(sizes, window, strides, padding, strict=True)
    return tuple(max((n + low + high - w) // s + 1, 0) for n, w, s, (low, high) in axes)
