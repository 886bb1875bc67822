"""Convolution in one, two or three dimensions, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.checks import whole
from jaxnn.core.combinators import serial
from jaxnn.core.dtypes import promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, stateless
from jaxnn.functional.initializers import he_normal, zeros

Size = int | Sequence[int]


def conv(
    features: int,
    kernel_size: Size,
    *,
    strides: Size = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: Size = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A convolution: y[p, o] = b[o] + Σ_{k, c} x[s·p + d·k − pad, c] w[k, c, o], a cross-correlation as everywhere.

    The layer of LeCun et al. (1989). Parameters: `kernel` (*kernel_size, channels / groups, features) and `bias`
    (features,). PyTorch's weight has the last two axes first, in the other order; its `padding=p` is `((p, p), ...)`, and
    its `"same"` takes no strides.

    Args:
        features: The number of output channels.
        kernel_size: 3 for 3, 3×3 or 3×3×3 by the input's number of spatial axes; `(3, 3)` fixes that number.
        strides: s, one number or one an axis.
        padding: `"SAME"` (output size ⌈size / strides⌉), `"VALID"` (none) or `((low, high), ...)`, one pair an axis, all
            with zeros; `"CIRCULAR"` and `"REFLECT"`, the same output size, the input's own values around it (half of the
            kernel's reach on each side, the larger half last); `"CAUSAL"`, in one dimension: all of the zeros come first,
            so that no output sees a later input.
        dilation: d, the distance between the kernel's taps.
        groups: Input and output channels in that many groups that do not mix.
        use_bias: Whether b is there.
        kernel_init: Initializer of the kernel; He's by default, fan-in kernel size × channels / groups.
        bias_init: Initializer of b.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', features).

    Raises:
        ValueError: If the input's rank or channels do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.conv(32, 3, strides=2)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 28, 28, 1)))
        >>> layer(params, jnp.ones((8, 28, 28, 1))).shape, params["kernel"].shape
        ((8, 14, 14, 32), (3, 3, 1, 32))
    """
    return _convolution(
        "conv", _padded_conv, features, kernel_size, strides, padding, dilation, groups, use_bias, kernel_init, bias_init
    )


def conv_transpose(
    features: int,
    kernel_size: Size,
    *,
    strides: Size = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: Size = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A transposed convolution: y[p, o] = b[o] + Σ x[i, c] w[k, c, o] over all i, k with s·i + d·k − pad = p.

    The transpose of `conv` in its input, with the two axes of features exchanged: PyTorch's and Keras's layer. Parameters:
    `kernel` (*kernel_size, channels / groups, features) and `bias` (features,). PyTorch's weight is (channels,
    features / groups, *kernel_size).

    Args:
        features: The number of output channels.
        kernel_size: 3 for 3, 3×3 or 3×3×3 by the input's number of spatial axes; `(3, 3)` fixes that number.
        strides: s, the distance of neighbouring input points in the output, one number or one an axis.
        padding: `"SAME"` (output size size · strides), `"VALID"` (all of the output) or `((low, high), ...)`, what is cut
            off the output, one pair an axis; PyTorch's `padding=p, output_padding=q` is `(p, p - q)`.
        dilation: d, the distance between the kernel's taps.
        groups: Input and output channels in that many groups that do not mix.
        use_bias: Whether b is there.
        kernel_init: Initializer of the kernel; He's by default, fan-in kernel size × channels / groups.
        bias_init: Initializer of b.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', features).

    Raises:
        ValueError: If the input's rank or channels do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.conv_transpose(16, 4, strides=2)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 14, 14, 32)))
        >>> layer(params, jnp.ones((8, 14, 14, 32))).shape, params["kernel"].shape
        ((8, 28, 28, 16), (4, 4, 32, 16))
    """
    return _convolution(
        "conv_transpose",
        kernels.conv_transpose,
        features,
        kernel_size,
        strides,
        padding,
        dilation,
        groups,
        use_bias,
        kernel_init,
        bias_init,
    )


def depthwise_conv(
    kernel_size: Size,
    *,
    multiplier: int = 1,
    strides: Size = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: Size = 1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A convolution of each channel on its own: y[p, m·c + j] = b[m·c + j] + Σₖ x[s·p + d·k − pad, c] w[k, 0, m·c + j].

    It is `conv` with as many groups as the input has channels (Sifre 2014). Parameters: `kernel` (*kernel_size, 1,
    m · channels) and `bias` (m · channels,); PyTorch's weight is (m · channels, 1, *kernel_size).

    Args:
        kernel_size: 3 for 3, 3×3 or 3×3×3 by the input's number of spatial axes; `(3, 3)` fixes that number.
        multiplier: m, the number of kernels a channel.
        strides: s, as for `conv`.
        padding: As for `conv`.
        dilation: d, the distance between the kernel's taps.
        use_bias: Whether b is there.
        kernel_init: Initializer of the kernel; He's by default, its fan-in the kernel's size.
        bias_init: Initializer of b.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', m · channels).

    Raises:
        ValueError: If the input's rank or channels do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.depthwise_conv(3)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 28, 28, 16)))
        >>> layer(params, jnp.ones((8, 28, 28, 16))).shape, params["kernel"].shape
        ((8, 28, 28, 16), (3, 3, 1, 16))
    """
    name, multiplier = "depthwise_conv", whole("depthwise_conv", "multiplier", multiplier)

    def of(x):
        spatial(name, "kernel_size", kernel_size, x)
        channels = x.shape[-1]
        options = strides, padding, dilation, channels, use_bias, kernel_init, bias_init
        return _convolution(name, _padded_conv, multiplier * channels, kernel_size, *options)

    return stateless(lambda key, x: of(x).setup(x).params, lambda params, x: of(x)(params, x), name)


def separable_conv(
    features: int,
    kernel_size: Size,
    *,
    multiplier: int = 1,
    strides: Size = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: Size = 1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A depthwise convolution, without bias, and a 1×1 convolution after it: y = P ∗ (D ∗ x) + b.

    Sifre (2014); Chollet (2017), Xception.

    Parameters: `depthwise/kernel` (*kernel_size, 1, m · channels), `pointwise/kernel` (1, ..., m · channels, features) and
    `pointwise/bias` (features,). PyTorch has it as two layers, with other axes of the weights as for `conv`.

    Args:
        features: The number of output channels.
        kernel_size: That of the depthwise convolution.
        multiplier: m, the number of depthwise kernels a channel.
        strides: Of the depthwise convolution, as for `conv`.
        padding: As for `conv`.
        dilation: Of the depthwise convolution.
        use_bias: Whether there is a bias at the end.
        kernel_init: Initializer of both kernels.
        bias_init: Initializer of the bias.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', features).

    Raises:
        ValueError: If the input's rank or channels do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.separable_conv(32, 3)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 28, 28, 16)))
        >>> layer(params, jnp.ones((8, 28, 28, 16))).shape, nn.trees.count(params)
        ((8, 28, 28, 32), 688)
    """
    depthwise = depthwise_conv(
        kernel_size,
        multiplier=multiplier,
        strides=strides,
        padding=padding,
        dilation=dilation,
        use_bias=False,
        kernel_init=kernel_init,
    )
    pointwise = conv(features, 1, use_bias=use_bias, kernel_init=kernel_init, bias_init=bias_init)
    return replace(serial(depthwise=depthwise, pointwise=pointwise), name="separable_conv")


def _convolution(
    name, convolve, features, kernel_size, strides, padding, dilation, groups, use_bias, kernel_init, bias_init
) -> Layer:
    features, groups = whole(name, "features", features), whole(name, "groups", groups)

    def init(key, x):
        size = spatial(name, "kernel_size", kernel_size, x)
        if x.shape[-1] % groups or features % groups:
            raise ValueError(f"{name} in {groups} groups: the {x.shape[-1]} channels and {features} features must both divide")
        params = {"kernel": param(kernel_init, (*size, x.shape[-1] // groups, features))}
        return params | ({"bias": param(bias_init, (features,))} if use_bias else {})

    def apply(params, x):
        spatial(name, "kernel_size", kernel_size, x)
        step, spread = spatial(name, "strides", strides, x), spatial(name, "dilation", dilation, x)
        x, kernel = promote(x, params["kernel"])
        y = convolve(x, kernel, strides=step, padding=padding, dilation=spread, groups=groups)
        return y + kernels.spread(params["bias"].astype(y.dtype), y) if use_bias else y

    return stateless(init, apply, name)


_MODES = {"CIRCULAR": "wrap", "REFLECT": "reflect"}  # as jnp.pad calls them


def _padded_conv(x, kernel, *, padding, dilation, **options):
    """`kernels.conv`, and the paddings that are not of zeros or not on both sides."""
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:-2], dilation, strict=True)]
    if padding == "CAUSAL":
        if len(reach) != 1:
            raise ValueError(f'padding="CAUSAL" is for (batch, time, channels), got an input of shape {list(x.shape)}')
        padding = ((reach[0], 0),)
    elif padding in _MODES:
        for n, r in zip(x.shape[1:-1], reach, strict=True):
            if r - r // 2 > n - (padding == "REFLECT"):
                raise ValueError(
                    f"padding={padding!r} takes {r - r // 2} values from the input's own {n} along an axis: use a larger "
                    "input, or a smaller kernel or dilation"
                )
        x = jnp.pad(x, [(0, 0), *((r // 2, r - r // 2) for r in reach), (0, 0)], mode=_MODES[padding])
        padding = "VALID"
    elif isinstance(padding, str) and padding not in ("SAME", "VALID"):
        raise ValueError(
            'conv takes padding "SAME", "VALID", "CAUSAL", "CIRCULAR", "REFLECT" or one (low, high) pair per spatial axis, '
            f"got {padding!r}"
        )
    return kernels.conv(x, kernel, padding=padding, dilation=dilation, **options)


def spatial(layer: str, option: str, value: Size, x) -> tuple[int, ...]:
    """An option as one number for each spatial axis of `x`.

    Raises:
        ValueError: If `x` has no spatial axes, more than three, or not as many as `value` has numbers.
    """
    axes = x.ndim - 2
    if not 1 <= axes <= 3:
        raise ValueError(
            f"{layer} takes an input of shape (batch, ..., channels) with one to three spatial axes, got {list(x.shape)}"
            + ("; an image without a channel axis gets one by x[..., None]" if x.ndim in (2, 3) else "")
        )
    if isinstance(value, Sequence):
        if len(value) != axes:
            raise ValueError(f"{layer} has {option} {tuple(value)}, and the input {list(x.shape)} has {axes} spatial axes")
        return tuple(whole(layer, option, v) for v in value)
    return (whole(layer, option, value),) * axes
