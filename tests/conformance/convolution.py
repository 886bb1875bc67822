"""Cases of convolutions, and of layers whose kernels are computed."""

from hypothesis import strategies as st

import jaxnn as nn

from .case import Case, first, last, normal, torch

F = torch.nn.functional
MODES = {"CIRCULAR": "circular", "REFLECT": "reflect"}


def surroundings(pairs):
    """(low, high) pairs in the order of `F.pad`, the last axis first."""
    return [n for pair in reversed(pairs) for n in pair]


def pairs_of(padding, sizes, reach, strides):
    """The (low, high) padding of each axis, as the docstring of `conv` defines it."""
    if padding == "SAME":
        reach = [max((-(-n // s) - 1) * s + r + 1 - n, 0) for n, s, r in zip(sizes, strides, reach, strict=True)]
    if padding == "VALID":
        return [(0, 0) for r in reach]
    if padding == "CAUSAL":
        return [(r, 0) for r in reach]
    return [(r // 2, r - r // 2) for r in reach] if isinstance(padding, str) else padding


@st.composite
def windows(draw, paddings, axes=None, longest=(4, 4, 4)):
    """The options of a convolution, and input sizes into which the kernel fits."""
    axes = draw(st.integers(1, 3)) if axes is None else axes
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel_size, strides, dilation = per_axis(1, 4), per_axis(1, 3), per_axis(1, 2)
    reach = [(k - 1) * d for k, d in zip(kernel_size, dilation, strict=True)]
    padding = draw(st.sampled_from([p for p in paddings if p != "CAUSAL" or axes == 1]))
    padding = tuple(zip(per_axis(-1, 3), per_axis(-1, 3), strict=True)) if padding == "pairs" else padding
    if padding in ("SAME", "CAUSAL"):
        least = [1] * axes
    elif padding in MODES:
        least = [r - r // 2 + 1 for r in reach]  # one more than what either side takes
    else:
        pairs = pairs_of(padding, None, reach, strides)
        least = [max(r + 1 - a - b, 1 - min(a, 0) - min(b, 0)) for r, (a, b) in zip(reach, pairs, strict=True)]
    sizes = tuple(n + more for n, more in zip(least, per_axis(0, longest[axes - 1] - 1), strict=True))
    return {"kernel_size": kernel_size, "strides": strides, "dilation": dilation, "padding": padding}, sizes, reach


def convolved(x, kernel, bias=None, *, strides=1, dilation=1, padding="VALID", groups=1):
    """PyTorch's convolution, with its own "same" padding where it has one and after `F.pad` otherwise."""
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    weight = kernel.movedim((-1, -2), (0, 1))
    if padding == "SAME" and set(strides) == {1}:
        return last(convolve(first(x), weight, bias, padding="same", dilation=dilation, groups=groups))
    spread = (dilation,) * (x.ndim - 2) if dilation == 1 else dilation
    reach = [(k - 1) * d for k, d in zip(kernel.shape, spread, strict=False)]
    pairs = pairs_of(padding, x.shape[1:-1], reach, strides)
    x = F.pad(first(x), surroundings(pairs), mode=MODES.get(padding if isinstance(padding, str) else "", "constant"))
    return last(convolve(x, weight, bias, strides, 0, dilation, groups))


PADDINGS = ("SAME", "VALID", "pairs", "CAUSAL", "CIRCULAR", "REFLECT")


@st.composite
def conv(draw, **longest):
    options, sizes, _ = draw(windows(PADDINGS, **longest))
    groups = draw(st.integers(1, 3))
    channels, features = (groups * draw(st.integers(1, 2)) for _ in range(2))
    more = {k: v for k, v in options.items() if k != "kernel_size"} | {"groups": groups}
    layer = nn.conv(features, **options, groups=groups, use_bias=draw(st.booleans()))
    return Case(layer, normal(draw(st.integers(1, 3)), *sizes, channels), lambda p, x: convolved(x, **p, **more))


@st.composite
def depthwise_conv(draw):
    options, sizes, _ = draw(windows(PADDINGS))
    channels = draw(st.integers(1, 3))
    more = {k: v for k, v in options.items() if k != "kernel_size"} | {"groups": channels}
    layer = nn.depthwise_conv(**options, multiplier=draw(st.integers(1, 3)), use_bias=draw(st.booleans()))
    return Case(layer, normal(2, *sizes, channels), lambda p, x: convolved(x, **p, **more))


@st.composite
def separable_conv(draw):
    options, sizes, _ = draw(windows(PADDINGS))
    channels = draw(st.integers(1, 3))
    more = {k: v for k, v in options.items() if k != "kernel_size"} | {"groups": channels}
    features, multiplier = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    layer = nn.separable_conv(features, **options, multiplier=multiplier, use_bias=draw(st.booleans()))

    def peer(p, x):
        return convolved(convolved(x, **p["depthwise"], **more), **p["pointwise"])

    return Case(layer, normal(2, *sizes, channels), peer)


@st.composite
def conv_transpose(draw, longest=(4, 4, 4)):
    """PyTorch's own paddings, and any others as what is cut off, or added in zeros to, its whole output."""
    axes, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    sizes, kernel_size, strides, dilation = per_axis(1, longest[axes - 1]), per_axis(1, 4), per_axis(1, 3), per_axis(1, 2)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    whole = [(n - 1) * s + w for n, s, w in zip(sizes, strides, spans, strict=True)]
    padding = draw(st.sampled_from(["SAME", "VALID", "PyTorch's", "pairs"]))
    own = {}
    if padding == "PyTorch's":
        output_padding = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilation, strict=True))
        cut = tuple(draw(st.integers(0, (n + q - 1) // 2)) for n, q in zip(whole, output_padding, strict=True))
        own = {"padding": cut, "output_padding": output_padding}
        padding = pairs = tuple((p, p - q) for p, q in zip(cut, output_padding, strict=True))
    elif padding == "pairs":
        low = [draw(st.integers(-2, min(2, n - 1))) for n in whole]
        padding = pairs = tuple((p, draw(st.integers(-2, min(2, n - 1 - p)))) for p, n in zip(low, whole, strict=True))
    elif padding == "SAME":
        more = [w - s for w, s in zip(spans, strides, strict=True)]
        pairs = [(max(m, 0) // 2, m - max(m, 0) // 2) for m in more]
    else:
        pairs = [(0, 0)] * axes
    channels, features = (groups * draw(st.integers(1, 2)) for _ in range(2))
    layer = nn.conv_transpose(
        features,
        kernel_size,
        strides=strides,
        dilation=dilation,
        padding=padding,
        groups=groups,
        use_bias=draw(st.booleans()),
    )

    def peer(p, x):
        kernel, bias = p["kernel"], p.get("bias")
        weight = kernel.movedim((-1, -2), (1, 0))  # (C_in / groups, C_out, *window); theirs (C_in, C_out / groups, *window)
        weight = weight.reshape(weight.shape[0], groups, -1, *kernel_size).transpose(0, 1).reshape(channels, -1, *kernel_size)
        weight = weight.contiguous()  # else PyTorch's gradient fails
        transposed = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[axes]
        if own:
            return last(transposed(first(x), weight, bias, strides, groups=groups, dilation=dilation, **own))
        y = transposed(first(x), weight, None, strides, groups=groups, dilation=dilation)
        y = last(F.pad(y, [-n for n in surroundings(pairs)]))
        return y if bias is None else y + bias

    return Case(layer, normal(2, *sizes, channels), peer)


@st.composite
def with_kernel(draw):
    """A layer with a kernel, an input, and the layer as a function of a kernel and a bias."""
    kind = draw(st.sampled_from(["dense", "conv", "conv_transpose"]))
    features, channels = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    if kind == "dense":
        return nn.dense(features), normal(3, channels), lambda x, w, b: F.linear(x, w.T, b)
    size = draw(st.integers(1, 3))
    x = normal(2, 5, channels)
    if kind == "conv":
        return nn.conv(features, size, padding="VALID"), x, convolved
    transposed = lambda x, w, b: last(F.conv_transpose1d(first(x), w.permute(1, 2, 0), b))  # noqa: E731
    return nn.conv_transpose(features, size, padding="VALID"), x, transposed


@st.composite
def weight_norm(draw):
    layer, x, function = draw(with_kernel())

    def peer(p, x):
        return function(x, torch._weight_norm(p["kernel"], p["scale"], p["kernel"].ndim - 1), p["bias"])

    return Case(nn.weight_norm(layer), x, peer)


@st.composite
def weight_standardization(draw):
    """Over its fan-in a kernel is normalized as a batch with the features for channels."""
    layer, x, function = draw(with_kernel())
    epsilon = draw(st.sampled_from([1e-5, 1e-2]))

    def peer(p, x):
        matrix = p["kernel"].reshape(-1, p["kernel"].shape[-1])
        kernel = F.batch_norm(matrix, None, None, training=True, eps=epsilon).reshape(p["kernel"].shape)
        return function(x, kernel, p["bias"])

    return Case(nn.weight_standardization(layer, epsilon=epsilon), x, peer)


@st.composite
def spectral_norm(draw):
    """A step of the power iteration in training, from any vectors; the gradient knows nothing of them."""
    layer, x, function = draw(with_kernel())
    training = draw(st.booleans())

    def peer(p, state, x):
        matrix = p["kernel"].reshape(-1, p["kernel"].shape[-1]).T
        module = torch.nn.utils.parametrizations._SpectralNorm(matrix.detach(), n_power_iterations=1, dim=0)
        module.train(training)
        left, right = (state[name].detach().clone() for name in ("left", "right"))
        kernel = torch.func.functional_call(module, {"_u": left, "_v": right}, (matrix,)).T.reshape(p["kernel"].shape)
        return function(x, kernel, p["bias"]), {"left": left, "right": right}  # both are written to

    return Case(nn.spectral_norm(layer), x, peer, training)
