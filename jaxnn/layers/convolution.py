"""Convolution in one, two or three dimensions, channels last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.checks import whole
from jaxnn.core.combinators import serial
from jaxnn.core.dtypes import promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, stateless
from jaxnn.functional.initializers import he_normal, zeros

PerAxis = int | Sequence[int]  # one number for all spatial axes or one per axis


def conv(
    features: int,
    kernel_size: PerAxis,
    *,
    strides: PerAxis = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: PerAxis = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A convolution: y[p, o] = b[o] + Σ_{k, c} x[s·p + d·k − pad, c] w[k, c, o].

    As in other libraries it is a cross-correlation (LeCun et al. 1989). Parameters: `kernel` (*kernel_size,
    channels / groups, features) and `bias` (features,). PyTorch's weight is (features, channels / groups, *kernel_size); its
    `padding=p` is `((p, p), ...)`, and its `"same"` does not support strides.

    Args:
        features: The number of output channels.
        kernel_size: One number for all spatial axes or one per axis: 3 takes any number of spatial axes, `(3, 3)` takes two.
        strides: The strides s, one number for all spatial axes or one per axis.
        padding: With zeros: `"SAME"` (output size ⌈size / strides⌉), `"VALID"` (none), one pair `(low, high)` per axis, or
            `"CAUSAL"` (in one dimension, all zeros come first, so that no output depends on a later input). With the
            input's values, output size as for `"SAME"`: `"CIRCULAR"` and `"REFLECT"` (half of the padding on each side,
            the larger half last).
        dilation: The dilation d, the distance between neighboring kernel elements.
        groups: The number of groups of input and output channels that are convolved separately.
        use_bias: Whether to add the bias b.
        kernel_init: Initializer of the kernel; by default He's, with fan-in kernel size × channels / groups.
        bias_init: Initializer of the bias.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', features).

    Raises:
        ValueError: If the input's rank or number of channels does not fit the options.

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
    kernel_size: PerAxis,
    *,
    strides: PerAxis = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: PerAxis = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A transposed convolution: y[p, o] = b[o] + Σ x[i, c] w[k, c, o] over all i, k with s·i + d·k − pad = p.

    The transpose of `conv` as a linear map of its input, as in PyTorch and Keras. Parameters: `kernel` (*kernel_size,
    channels / groups, features) and `bias` (features,). PyTorch's weight is (channels, features / groups, *kernel_size).

    Args:
        features: The number of output channels.
        kernel_size: One number for all spatial axes or one per axis: 3 takes any number of spatial axes, `(3, 3)` takes two.
        strides: The strides s, the distance in the output between neighboring inputs, one number or one per axis.
        padding: How much of the output is cut off: `"SAME"` (output size size · strides), `"VALID"` (nothing) or one pair
            `(low, high)` per axis; PyTorch's `padding=p, output_padding=q` is `(p, p - q)`.
        dilation: The dilation d, the distance between neighboring kernel elements.
        groups: The number of groups of input and output channels that are convolved separately.
        use_bias: Whether to add the bias b.
        kernel_init: Initializer of the kernel; by default He's, with fan-in kernel size × channels / groups.
        bias_init: Initializer of the bias.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', features).

    Raises:
        ValueError: If the input's rank or number of channels does not fit the options.

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
    kernel_size: PerAxis,
    *,
    multiplier: int = 1,
    strides: PerAxis = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: PerAxis = 1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A convolution of each channel separately: y[p, m·c + j] = b[m·c + j] + Σₖ x[s·p + d·k − pad, c] w[k, 0, m·c + j].

    It is `conv` with one group per input channel (Sifre 2014). Parameters: `kernel` (*kernel_size, 1,
    m · channels) and `bias` (m · channels,); PyTorch's weight is (m · channels, 1, *kernel_size).

    Args:
        kernel_size: One number for all spatial axes or one per axis: 3 takes any number of spatial axes, `(3, 3)` takes two.
        multiplier: The number of output channels per input channel, m.
        strides: The strides s, as for `conv`.
        padding: The padding, as for `conv`.
        dilation: The dilation d, as for `conv`.
        use_bias: Whether to add the bias b.
        kernel_init: Initializer of the kernel; by default He's, with fan-in kernel size.
        bias_init: Initializer of the bias.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', m · channels).

    Raises:
        ValueError: If the input's rank or number of channels does not fit the options.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.depthwise_conv(3)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((8, 28, 28, 16)))
        >>> layer(params, jnp.ones((8, 28, 28, 16))).shape, params["kernel"].shape
        ((8, 28, 28, 16), (3, 3, 1, 16))
    """
    name, multiplier = "depthwise_conv", whole("depthwise_conv", "multiplier", multiplier)
    check_per_axis(name, kernel_size=kernel_size, strides=strides, dilation=dilation)

    def layer_for(x):
        spatial(name, "kernel_size", kernel_size, x)
        channels = x.shape[-1]
        options = strides, padding, dilation, channels, use_bias, kernel_init, bias_init
        return _convolution(name, _padded_conv, multiplier * channels, kernel_size, *options)

    return stateless(lambda key, x: layer_for(x).setup(x).params, lambda params, x: layer_for(x)(params, x), name)


def separable_conv(
    features: int,
    kernel_size: PerAxis,
    *,
    multiplier: int = 1,
    strides: PerAxis = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: PerAxis = 1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A depthwise convolution without bias, then a 1×1 convolution: y = P ∗ (D ∗ x) + b (Sifre 2014; Chollet 2017).

    Parameters: `depthwise/kernel` (*kernel_size, 1, m · channels), `pointwise/kernel` (1, ..., m · channels, features) and
    `pointwise/bias` (features,). In PyTorch these are two layers, whose weights have their axes in another order, as for
    `conv`.

    Args:
        features: The number of output channels.
        kernel_size: The kernel size of the depthwise convolution.
        multiplier: The number of depthwise kernels per channel, m.
        strides: The strides of the depthwise convolution, as for `conv`.
        padding: The padding, as for `conv`.
        dilation: The dilation of the depthwise convolution.
        use_bias: Whether to add the bias b.
        kernel_init: Initializer of both kernels.
        bias_init: Initializer of the bias.

    Returns:
        A `Layer` from (batch, *space, channels) to (batch, *space', features).

    Raises:
        ValueError: If the input's rank or number of channels does not fit the options.

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
    check_per_axis(name, kernel_size=kernel_size, strides=strides, dilation=dilation)

    def init(key, x):
        size = spatial(name, "kernel_size", kernel_size, x)
        if x.shape[-1] % groups or features % groups:
            raise ValueError(f"{name}: {groups} groups must divide both the {x.shape[-1]} channels and the {features} features")
        initializer = kernel_init if groups == 1 else _InGroups(kernel_init, groups)
        params = {"kernel": param(initializer, (*size, x.shape[-1] // groups, features))}
        return params | ({"bias": param(bias_init, (features,))} if use_bias else {})

    def apply(params, x):
        spatial(name, "kernel_size", kernel_size, x)
        steps, dilations = spatial(name, "strides", strides, x), spatial(name, "dilation", dilation, x)
        x, kernel = promote(x, params["kernel"])
        y = convolve(x, kernel, strides=steps, padding=padding, dilation=dilations, groups=groups)
        return y + kernels.spread(params["bias"].astype(y.dtype), y) if use_bias else y

    return stateless(init, apply, name)


_MODES = {"CIRCULAR": "wrap", "REFLECT": "reflect"}  # the names of jnp.pad


def _padded_conv(x, kernel, *, padding, dilation, **options):
    """`kernels.conv` with the further paddings `"CAUSAL"`, `"CIRCULAR"` and `"REFLECT"`."""
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:-2], dilation, strict=True)]
    if padding == "CAUSAL":
        if len(reach) != 1:
            raise ValueError(f'conv with padding="CAUSAL" takes an input (batch, time, channels), got {list(x.shape)}')
        padding = ((reach[0], 0),)
    elif padding in _MODES:
        for n, r in zip(x.shape[1:-1], reach, strict=True):
            if r - r // 2 > n - (padding == "REFLECT"):
                raise ValueError(
                    f"conv with padding={padding!r} pads an axis of {n} values with {r - r // 2} of them: use a larger input, "
                    "or a smaller kernel or dilation"
                )
        x = jnp.pad(x, [(0, 0), *((r // 2, r - r // 2) for r in reach), (0, 0)], mode=_MODES[padding])
        padding = "VALID"
    elif isinstance(padding, str) and padding not in ("SAME", "VALID"):
        raise ValueError(
            'conv takes padding "SAME", "VALID", "CAUSAL", "CIRCULAR", "REFLECT" or one (low, high) pair per spatial axis, '
            f"got {padding!r}"
        )
    return kernels.conv(x, kernel, padding=padding, dilation=dilation, **options)


def spatial(layer: str, option: str, value: PerAxis, x) -> tuple[int, ...]:
    """Return an option of a layer as one number per spatial axis of `x`.

    Raises:
        ValueError: If `x` does not have one to three spatial axes, or `value` has another number of entries.
    """
    axes = x.ndim - 2
    if not 1 <= axes <= 3:
        raise ValueError(
            f"{layer} takes an input of shape (batch, ..., channels) with one to three spatial axes, got {list(x.shape)}"
            + ("; add a channel axis to an image by x[..., None]" if x.ndim in (2, 3) else "")
        )
    if isinstance(value, Sequence):
        if len(value) != axes:
            raise ValueError(f"{layer} takes {option} for {axes} spatial axes of an input {list(x.shape)}, got {tuple(value)}")
        return tuple(whole(layer, option, v) for v in value)
    return (whole(layer, option, value),) * axes


def check_per_axis(layer: str, **options: PerAxis) -> None:
    """Check options of one positive number for all spatial axes or one per axis, before there is an input.

    Raises:
        TypeError: If an entry is not a whole number.
        ValueError: If an entry is below 1.
    """
    for option, value in options.items():
        for v in value if isinstance(value, (tuple, list)) else (value,):
            whole(layer, option, v)


class _InGroups:
    """The initializer of a kernel of several groups, with the fans of one group; each output sees one group of inputs."""

    def __init__(self, initializer: Callable, groups: int):
        self._initializer = initializer
        if hasattr(initializer, "describe"):
            self.describe = lambda shape: initializer.describe((*shape[:-1], shape[-1] // groups))

    def __call__(self, key, shape, dtype):
        return self._initializer(key, shape, dtype)
