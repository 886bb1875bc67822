"""Cases of pooling, and of layers that rearrange values."""

import numpy as np
from hypothesis import strategies as st

import jaxnn as nn

from .case import Case, first, last, normal, torch
from .convolution import pairs_of, surroundings

F = torch.nn.functional


def per_axis(draw, axes, low, high):
    return tuple(draw(st.integers(low, high)) for _ in range(axes))


def ties(*shape):
    """Small whole numbers, many of them equal."""
    return np.random.default_rng(shape).integers(-3, 4, shape).astype(np.float32)


def of_axes(name, x):
    """PyTorch's function for as many spatial axes as `x` has."""
    return getattr(F, f"{name}{x.ndim - 2}d")


@st.composite
def windows(draw, dilated=True, longest=(8, 8, 8)):
    """Options of a pooling layer, its padding as pairs, and an input into which the window fits."""
    axes = draw(st.integers(1, 3))
    window, strides, dilation = (
        per_axis(draw, axes, 1, 4),
        per_axis(draw, axes, 1, 4),
        per_axis(draw, axes, 1, 3 if dilated else 1),
    )
    reach = [(w - 1) * d for w, d in zip(window, dilation, strict=True)]
    padding = draw(st.sampled_from(["VALID", "SAME", "pairs"]))
    if padding == "pairs":  # at most half of the window, as PyTorch requires
        padding = tuple((draw(st.integers(0, w // 2)),) * 2 for w in window)
    least = [1 if padding == "SAME" and set(dilation) == {1} else r + 1 for r in reach]
    sizes = tuple(n + more for n, more in zip(least, per_axis(draw, axes, 0, longest[axes - 1] - 4), strict=True))
    options = {"strides": strides, "padding": padding, "ceil_mode": padding != "SAME" and draw(st.booleans())}
    options |= {"dilation": dilation} if dilated else {}
    return window, options, pairs_of(padding, sizes, reach, strides), ties(draw(st.integers(1, 2)), *sizes, 2)


def largest(x, window, pairs, *, strides, padding, dilation, ceil_mode):
    """With PyTorch's own padding; for "SAME", which it lacks, after padding with −∞."""
    pool = of_axes("max_pool", x)
    if padding != "SAME":
        return last(pool(first(x), window, strides, [low for low, _ in pairs], dilation, ceil_mode))
    return last(pool(F.pad(first(x), surroundings(pairs), value=-torch.inf), window, strides, 0, dilation))


@st.composite
def max_pool(draw, **sizes):
    window, options, pairs, x = draw(windows(**sizes))
    return Case(nn.max_pool(window, **options), x, lambda p, x: largest(x, window, pairs, **options))


@st.composite
def min_pool(draw):
    window, options, pairs, x = draw(windows())
    return Case(nn.min_pool(window, **options), x, lambda p, x: -largest(-x, window, pairs, **options))


@st.composite
def avg_pool(draw, **sizes):
    window, options, pairs, x = draw(windows(dilated=False, **sizes))
    counted, strides, ceil_mode = draw(st.booleans()), options["strides"], options["ceil_mode"]
    divisors = [None, 3, -5] if x.ndim > 3 and options["padding"] != "SAME" else [None]  # PyTorch's 1-D pooling has none
    divisor = draw(st.sampled_from(divisors))
    theirs = {} if divisor is None else {"divisor_override": divisor}

    def peer(p, x):
        pool = of_axes("avg_pool", x)
        if options["padding"] != "SAME":
            return last(pool(first(x), window, strides, [low for low, _ in pairs], ceil_mode, counted, **theirs))
        total, share = (pool(F.pad(first(v), surroundings(pairs)), window, strides) for v in (x, torch.ones_like(x)))
        return last(total if counted else total / share)

    return Case(nn.avg_pool(window, **options, count_include_pad=counted, divisor=divisor), x, peer)


@st.composite
def unfold(draw):
    window, strides, dilation = (per_axis(draw, 2, 1, high) for high in (3, 3, 2))
    padding = tuple(draw(st.integers(0, (k - 1) * d)) for k, d in zip(window, dilation, strict=True))
    x = normal(2, *((k - 1) * d + 1 + draw(st.integers(0, 3)) for k, d in zip(window, dilation, strict=True)), 2)
    layer = nn.unfold(window, strides=strides, dilation=dilation, padding=tuple((p, p) for p in padding))

    def peer(_, x):
        y = F.unfold(first(x), window, dilation, padding, strides).movedim(-1, 1)
        out = [
            (n + 2 * p - (k - 1) * d - 1) // s + 1
            for n, p, k, d, s in zip(x.shape[1:-1], padding, window, dilation, strides, strict=True)
        ]
        return y.unflatten(1, out)

    return Case(layer, x, peer)


@st.composite
def lp_pool(draw):
    """Without zeros, where PyTorch's norm has no gradient."""
    axes = draw(st.integers(1, 3))
    window, strides = per_axis(draw, axes, 1, 4), per_axis(draw, axes, 1, 4)
    x = normal(2, *(n + draw(st.integers(0, 4)) for n in window), 2)
    p = draw(st.sampled_from([2.0, 4.0]))
    theirs = (p, window, strides) if axes > 1 else (p, window[0], strides[0])
    return Case(nn.lp_pool(window, p=p, strides=strides), x, lambda _, x: last(of_axes("lp_pool", x)(first(x), *theirs)))


@st.composite
def adaptive(draw, kind):
    axes = draw(st.integers(1, 3))
    size = per_axis(draw, axes, 1, 5)
    x = ties(draw(st.integers(1, 2)), *per_axis(draw, axes, 1, 7), 2)
    layer = getattr(nn, f"adaptive_{kind}_pool")(size)
    return Case(layer, x, lambda p, x: last(of_axes(f"adaptive_{kind}_pool", x)(first(x), size)))


@st.composite
def global_pool(draw, kind):
    axes = draw(st.integers(1, 3))
    x = ties(draw(st.integers(1, 2)), *per_axis(draw, axes, 1, 4), 3)
    layer = getattr(nn, f"global_{kind}_pool")()
    return Case(layer, x, lambda p, x: of_axes(f"adaptive_{kind}_pool", x)(first(x), 1).flatten(1))


@st.composite
def upsample(draw):
    axes = draw(st.integers(1, 3))
    fractions = st.sampled_from([0.5, 1.0, 1.1, 1.5, 2.3, 3.0])
    scale = per_axis(draw, axes, 1, 4) if draw(st.booleans()) else tuple(draw(fractions) for _ in range(axes))
    cubic = ["pytorch_cubic", *(["bicubic"] if all(s == int(s) for s in scale) else [])] if axes == 2 else []
    method = draw(st.sampled_from(["nearest", "pytorch_nearest", "linear", *cubic]))
    aligned = draw(st.booleans()) and method in ("linear", "pytorch_cubic")
    modes = {"linear": ["linear", "bilinear", "trilinear"][axes - 1], "nearest": "nearest-exact", "bicubic": "bicubic"}
    mode = modes.get(method, {"pytorch_nearest": "nearest", "pytorch_cubic": "bicubic"}.get(method))
    options = {} if "nearest" in method else {"align_corners": aligned} | ({"antialias": True} if method == "bicubic" else {})
    x = normal(2, *per_axis(draw, axes, 2, 4), 2)
    return Case(
        nn.upsample(scale, method=method, align_corners=aligned),
        x,
        lambda p, x: last(F.interpolate(first(x), scale_factor=[float(s) for s in scale], mode=mode, **options)),
    )


@st.composite
def resize(draw):
    axes, aligned = draw(st.integers(1, 3)), draw(st.booleans())
    size, x = per_axis(draw, axes, 1, 6), normal(2, *per_axis(draw, axes, 1, 6), 2)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[axes]
    return Case(
        nn.resize(size, align_corners=aligned, antialias=False),
        x,
        lambda p, x: last(F.interpolate(first(x), size=list(size), mode=mode, align_corners=aligned)),
    )


@st.composite
def grid_sample(draw):
    axes, (align, nearest) = draw(st.integers(2, 3)), draw(st.tuples(st.booleans(), st.booleans()))
    padding = draw(st.sampled_from(["zeros", "border", "reflection"]))
    x, grid = normal(2, *per_axis(draw, axes, 1, 5), 2), 1.3 * normal(2, *per_axis(draw, axes, 1, 3), axes, seed=1)
    mode = {"mode": "nearest" if nearest else "bilinear", "padding_mode": padding, "align_corners": align}
    layer = nn.grid_sample(method="nearest" if nearest else "linear", padding=padding, align_corners=align)
    return Case(layer, (x, grid.astype(np.float32)), lambda p, x: last(F.grid_sample(first(x[0]), x[1], **mode)))


@st.composite
def channel_shuffle(draw):
    groups, channels, axes = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = normal(2, *per_axis(draw, axes, 1, 3), groups * channels)
    return Case(nn.channel_shuffle(groups), x, lambda p, x: last(F.channel_shuffle(first(x), groups)))


@st.composite
def pixel_shuffle(draw, name):
    r, (height, width), channels = draw(st.integers(1, 3)), per_axis(draw, 2, 1, 3), draw(st.integers(1, 2))
    shape = (height, width, channels * r**2) if name == "pixel_shuffle" else (height * r, width * r, channels)
    return Case(getattr(nn, name)(r), normal(2, *shape), lambda p, x: last(getattr(F, name)(first(x), r)))


@st.composite
def pad(draw):
    axes = draw(st.integers(1, 3))
    mode, theirs = draw(st.sampled_from([("constant",) * 2, ("reflect",) * 2, ("edge", "replicate"), ("wrap", "circular")]))
    sizes = per_axis(draw, axes, 1, 4)
    most = {"constant": 3, "replicate": 3}
    least = -1 if mode == "constant" and min(sizes) > 2 else 0
    high = lambda n: most.get(theirs, n - (theirs == "reflect"))  # noqa: E731
    pairs = tuple(tuple(draw(st.integers(least, high(n))) for _ in range(2)) for n in sizes)
    layer = nn.pad(pairs, mode=mode)
    return Case(layer, normal(2, *sizes, 2), lambda p, x: last(F.pad(first(x), surroundings(pairs), mode=theirs)))


@st.composite
def crop(draw):
    axes = draw(st.integers(1, 3))
    pairs = tuple(per_axis(draw, 2, 0, 2) for _ in range(axes))
    x = normal(2, *(sum(pair) + draw(st.integers(1, 3)) for pair in pairs), 2)
    return Case(nn.crop(pairs), x, lambda p, x: last(F.pad(first(x), [-n for n in surroundings(pairs)])))


@st.composite
def flatten(draw):
    return Case(nn.flatten(), normal(*per_axis(draw, draw(st.integers(1, 4)), 1, 3)), lambda p, x: x.reshape(len(x), -1))


@st.composite
def reshape(draw):
    sizes = draw(st.permutations([2, 3, 4]))
    shape = draw(st.sampled_from([(24,), (-1, 6), (4, -1), (3, 2, 4)]))
    return Case(nn.reshape(*shape), normal(2, *sizes), lambda p, x: x.reshape(2, *shape))


@st.composite
def permute(draw):
    axes = draw(st.permutations(range(1, draw(st.integers(2, 5)))))
    x = normal(2, *range(2, 2 + len(axes)))
    return Case(nn.permute(*axes), x, lambda p, x: x.permute(0, *axes))
