"""Pooling and layers that rearrange values, against PyTorch; errors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn


def functional(name, *arguments, **options):
    """A function of `torch.nn.functional` over channels-last tensors; `{n}` in its name is the number of spatial axes."""

    def peer(torch, x):
        f = getattr(torch.nn.functional, name.format(n=x.ndim - 2))
        return f(x.movedim(-1, 1), *arguments, **options).movedim(1, -1)

    return peer


def smallest(torch, x):
    return -functional("max_pool{n}d", 3, 2, 1)(torch, -x)


def largest_of_all(torch, x):
    return torch.amax(x, tuple(range(1, x.ndim - 1)))


def mean_of_all(torch, x):
    return x.mean(tuple(range(1, x.ndim - 1)))


def permuted(torch, x):
    return x.permute(0, 3, 1, 2)


def margins(pad, mode, value=None):
    return functional("pad", pad, mode=mode, value=value)


ONE, TWO = ((1, 1),), ((1, 1), (1, 1))
CASES = {
    "max, ceil": (nn.max_pool(3, strides=2, padding=TWO, ceil_mode=True), (2, 6, 7, 2), ("max_pool2d", 3, 2, 1, 1, True)),
    "max, dilated": (nn.max_pool(2, strides=1, dilation=(2, 3)), (2, 6, 7, 2), ("max_pool2d", 2, 1, 0, (2, 3))),
    "max, dilated, ceil": (
        nn.max_pool(3, strides=2, padding=ONE, dilation=2, ceil_mode=True),
        (2, 8, 2),
        ("max_pool1d", 3, 2, 1, 2, True),
    ),
    "max 3-D": (nn.max_pool(2, strides=(1, 2, 1)), (1, 3, 4, 3, 2), ("max_pool3d", 2, (1, 2, 1))),
    "min": (nn.min_pool(3, strides=2, padding=TWO), (2, 5, 6, 2), smallest),
    "avg": (nn.avg_pool(3, strides=2, padding=TWO), (2, 6, 5, 2), ("avg_pool2d", 3, 2, 1, False, False)),
    "avg, counted padding": (
        nn.avg_pool(3, strides=2, padding=TWO, count_include_pad=True),
        (2, 6, 5, 2),
        ("avg_pool2d", 3, 2, 1),
    ),
    "avg, ceil": (
        nn.avg_pool(3, strides=2, padding=ONE, ceil_mode=True),
        (2, 6, 2),
        ("avg_pool1d", 3, 2, 1, True, False),
    ),
    "avg, ceil, counted padding": (
        nn.avg_pool(3, strides=2, padding=TWO, ceil_mode=True, count_include_pad=True),
        (2, 6, 4, 2),
        ("avg_pool2d", 3, 2, 1, True, True),
    ),
    "lp": (nn.lp_pool(3, strides=2, p=4), (2, 7, 6, 2), ("lp_pool2d", 4.0, 3, 2)),
    "adaptive avg": (nn.adaptive_avg_pool((3, 2)), (2, 7, 6, 2), ("adaptive_avg_pool2d", (3, 2))),
    "adaptive avg, more than there are": (nn.adaptive_avg_pool(5), (2, 3, 2), ("adaptive_avg_pool1d", 5)),
    "adaptive max": (nn.adaptive_max_pool((3, 4)), (2, 7, 5, 2), ("adaptive_max_pool2d", (3, 4))),
    "global max": (nn.global_max_pool(), (2, 3, 4, 2), largest_of_all),
    "global avg": (nn.global_avg_pool(), (2, 3, 4, 2), mean_of_all),
    "nearest": (nn.upsample((2, 3)), (2, 3, 2, 2), functional("interpolate", scale_factor=(2, 3))),
    "bilinear": (
        nn.upsample(2, method="bilinear"),
        (2, 3, 4, 2),
        functional("interpolate", scale_factor=2, mode="bilinear", align_corners=False),
    ),
    "trilinear": (
        nn.upsample(2, method="trilinear"),
        (1, 2, 3, 2, 2),
        functional("interpolate", scale_factor=2, mode="trilinear", align_corners=False),
    ),
    "corners aligned": (
        nn.upsample(3, method="linear", align_corners=True),
        (2, 3, 1, 2),  # one axis has a single pixel
        functional("interpolate", scale_factor=3, mode="bilinear", align_corners=True),
    ),
    "resize, corners aligned": (
        nn.resize((4, 1), align_corners=True, antialias=False),
        (2, 7, 3, 2),
        functional("interpolate", size=(4, 1), mode="bilinear", align_corners=True),
    ),
    "resize, smoothed": (
        nn.resize((3, 9)),
        (2, 7, 4, 2),
        functional("interpolate", size=(3, 9), mode="bilinear", align_corners=False, antialias=True),
    ),
    "resize, nearest": (
        nn.resize((3, 9), method="nearest"),
        (2, 7, 4, 2),
        functional("interpolate", size=(3, 9), mode="nearest-exact"),
    ),
    "resize, PyTorch's nearest": (
        nn.resize((3, 9), method="pytorch_nearest"),
        (2, 7, 4, 2),
        functional("interpolate", size=(3, 9), mode="nearest"),
    ),
    "resize, PyTorch's bicubic": (
        nn.resize((3, 9), method="pytorch_cubic"),
        (2, 7, 4, 2),
        functional("interpolate", size=(3, 9), mode="bicubic", align_corners=False),
    ),
    "upsample by a fraction": (
        nn.upsample((1.5, 2.3), method="pytorch_cubic"),
        (2, 5, 3, 2),
        functional("interpolate", scale_factor=(1.5, 2.3), mode="bicubic", align_corners=False),
    ),
    "pixel_shuffle": (nn.pixel_shuffle(3), (2, 2, 3, 18), ("pixel_shuffle", 3)),
    "pixel_unshuffle": (nn.pixel_unshuffle(2), (2, 4, 6, 3), ("pixel_unshuffle", 2)),
    "pad": (nn.pad(((2, 1), (0, 3))), (2, 3, 4, 2), margins((0, 3, 2, 1), "constant")),
    "pad, a value": (nn.pad(1, value=2.5), (2, 3, 2), margins((1, 1), "constant", 2.5)),
    "pad, reflect": (nn.pad(2, mode="reflect"), (2, 3, 4, 2), margins((2,) * 4, "reflect")),
    "pad, wrap": (nn.pad(2, mode="wrap"), (2, 3, 4, 2), margins((2,) * 4, "circular")),
    "crop": (nn.crop(((1, 0), (0, 2))), (2, 3, 4, 2), margins((0, -2, -1, 0), "constant")),
    "permute": (nn.permute(3, 1, 2), (2, 3, 4, 2), permuted),
}


@pytest.mark.sample(10)
@pytest.mark.parametrize("layer, shape, peer", CASES.values(), ids=CASES)
def test_against_pytorch(layer, shape, peer, equals_pytorch):
    equals_pytorch(layer, shape, functional(*peer) if isinstance(peer, tuple) else peer)


@settings(max_examples=5)
@given(st.data())
def test_windows_of_every_kind_against_pytorch(data):
    torch = pytest.importorskip("torch")
    window, dilation, strides = (data.draw(st.integers(1, high)) for high in (4, 3, 4))
    padding, ceil = data.draw(st.integers(0, window // 2)), data.draw(st.booleans())
    size = data.draw(st.integers((window - 1) * dilation + 1, 14))
    x = np.random.default_rng(size).integers(-3, 4, (1, size, 2)).astype(np.float32)  # with ties
    options = {"strides": strides, "padding": ((padding, padding),), "ceil_mode": ceil}
    inputs = torch.tensor(x, requires_grad=True)

    def both(layer, x, weights):
        def run(x, weights):
            y, back = jax.vjp(lambda x: layer({}, x), x)
            return y, back(weights)[0]

        return jax.jit(run)(x, weights)

    def same(layer, expected):
        weights = np.arange(1.0, expected.numel() + 1, dtype=np.float32).reshape(expected.movedim(1, -1).shape)
        y, gradient = both(layer, x, weights)
        np.testing.assert_allclose(y, expected.movedim(1, -1).detach(), rtol=1e-5)
        inputs.grad = None
        expected.backward(torch.tensor(weights).movedim(-1, 1))
        np.testing.assert_allclose(gradient, inputs.grad, rtol=1e-5)

    f, channels_first = torch.nn.functional, inputs.movedim(-1, 1)
    same(
        nn.max_pool(window, dilation=dilation, **options),
        f.max_pool1d(channels_first, window, strides, padding, dilation, ceil),
    )
    for counted in (False, True):
        expected = f.avg_pool1d(channels_first, window, strides, padding, ceil, counted)
        same(nn.avg_pool(window, count_include_pad=counted, **options), expected)


WINDOWS = [
    ((2, 5, 2), 2, {"strides": 1, "padding": ((1, 1),)}),
    ((2, 6, 5, 2), (3, 2), {"strides": (2, 1), "dilation": (1, 2), "padding": ((1, 0), (0, 1)), "ceil_mode": True}),
]


@pytest.mark.parametrize("shape, window, options", WINDOWS)
def test_indices_are_the_first_of_the_largest_values(shape, window, options):
    """A loop over windows, with ties, −∞ and NaN; the values are those of the layer without indices."""
    x = np.random.default_rng(0).integers(-2, 3, shape).astype(np.float32)
    x[0, 0], x[0, 1, ..., 0] = -np.inf, np.nan
    y, indices = map(np.asarray, jax.jit(lambda x: nn.max_pool(window, return_indices=True, **options)({}, x))(x))
    np.testing.assert_array_equal(y, nn.max_pool(window, **options)({}, x))
    flat = x.reshape(shape[0], -1, shape[-1])
    np.testing.assert_array_equal(
        np.take_along_axis(flat, np.asarray(indices).reshape(shape[0], -1, shape[-1]), 1).reshape(y.shape), y
    )
    space, axes = shape[1:-1], len(shape) - 2
    per_axis = lambda v: v if isinstance(v, tuple) else (v,) * axes  # noqa: E731
    k, s, d = (per_axis(v) for v in (window, options["strides"], options.get("dilation", 1)))
    for b, *at, c in np.ndindex(y.shape):
        positions = [
            [a * step + j * gap - low for j in range(n)]
            for a, n, step, gap, (low, _) in zip(at, k, s, d, options["padding"], strict=True)
        ]
        inside = [p for p in itertools.product(*positions) if all(0 <= q < n for q, n in zip(p, space, strict=True))]
        values = [x[(b, *p, c)] for p in inside]
        best = next((i for i, v in enumerate(values) if np.isnan(v)), None)
        best = int(np.argmax(values)) if best is None else best
        assert indices[(b, *at, c)] == np.ravel_multi_index(inside[best], space)


def test_unpooling_against_pytorch():
    torch = pytest.importorskip("torch")
    F, x = torch.nn.functional, np.random.default_rng(0).integers(-4, 5, (2, 7, 6, 3)).astype(np.float32)
    options = {"strides": (2, 3), "padding": ((1, 1), (0, 0))}
    pool, unpool = nn.max_pool(3, return_indices=True, **options), nn.max_unpool(3, **options)

    def both(x, cotangent):
        def f(x):
            y, indices = pool({}, x)
            return unpool({}, (y, indices)), (y, indices, nn.max_unpool(3, size=(8, 7))({}, (y, indices)))

        y, back, aux = jax.vjp(f, x, has_aux=True)
        return y, back(cotangent)[0], aux

    cotangent = np.random.default_rng(1).normal(size=(2, 7, 6, 3)).astype(np.float32)
    y, gradient, (pooled, indices, larger) = jax.jit(both)(x, cotangent)
    inputs = torch.tensor(x)
    values, theirs = F.max_pool2d(inputs.movedim(-1, 1), 3, (2, 3), (1, 0), return_indices=True)
    unpooled = lambda **size: F.max_unpool2d(values, theirs, 3, (2, 3), (1, 0), **size).movedim(1, -1)  # noqa: E731
    np.testing.assert_array_equal(pooled, values.movedim(1, -1).detach())
    np.testing.assert_array_equal(indices, theirs.movedim(1, -1))
    np.testing.assert_array_equal(y, unpooled().detach())
    np.testing.assert_array_equal(larger, unpooled(output_size=(8, 7)).detach())
    placed = np.zeros((2, 42, 3), np.float32)
    np.put_along_axis(placed, np.asarray(indices).reshape(2, -1, 3), 1, axis=1)
    # PyTorch counts a value that two windows share twice
    np.testing.assert_allclose(gradient, cotangent * placed.reshape(x.shape), rtol=1e-6)


def test_an_index_beyond_the_output_is_nan_and_unfold_is_a_loop():
    y = nn.max_unpool(2)({}, (jnp.ones((1, 2, 2)), jnp.array([[[0, 1], [4, 3]]])))
    np.testing.assert_array_equal(y[0], [[np.nan, 0], [np.nan, 1], [np.nan, 0], [np.nan, 1]])
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)
    y = nn.unfold((2, 3), strides=(2, 1), dilation=(3, 1))({}, x)
    for i, j in np.ndindex(y.shape[1:-1]):
        window = x[:, 2 * i : 2 * i + 4 : 3, j : j + 3]  # (batch, 2, 3, channels)
        np.testing.assert_array_equal(y[:, i, j], window.transpose(0, 3, 1, 2).reshape(2, -1))


@pytest.mark.parametrize("scale", [1, 0.7, 1.1, 2.3])
def test_resampling_by_any_scale_is_its_formula(scale):
    """A loop over pixels: the nearest ones, and a cubic polynomial through the four around, repeated beyond the border."""
    x = np.random.default_rng(0).normal(size=7)
    m = int(7 * scale)

    def kernel(d, a=-0.75):
        inner, outer = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return inner if d <= 1 else outer if d < 2 else 0

    def cubic(at):
        around = range(int(np.floor(at)) - 1, int(np.floor(at)) + 3)
        return sum(kernel(abs(at - j)) * x[min(max(j, 0), 6)] for j in around)

    expected = {
        "nearest": [x[min(int((i + 0.5) / scale), 6)] for i in range(m)],
        "pytorch_nearest": [x[i if m == 7 else int(i / scale + 1e-9)] for i in range(m)],
        "pytorch_cubic": [cubic((i + 0.5) / scale - 0.5) for i in range(m)],
    }
    y = jax.jit(lambda x: {method: nn.upsample(scale, method=method)({}, x) for method in expected})(x.reshape(1, 7, 1))
    for method, values in expected.items():
        np.testing.assert_allclose(y[method][0, :, 0], values, rtol=1e-5, atol=1e-6)


def test_dilated_averages_are_their_formula():
    x = np.random.default_rng(0).normal(size=(1, 9, 1))
    y = nn.avg_pool(3, strides=2, dilation=2)({}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(y[0, :, 0], [x[0, i : i + 5 : 2, 0].mean() for i in (0, 2, 4)], rtol=1e-5)


def test_a_p_norm_of_zeros_has_no_gradient_and_no_nan():
    gradient = jax.grad(lambda x: nn.lp_pool(2, p=3)({}, x).sum())(jnp.array([0.0, 0.0, 0.0, -2.0]).reshape(1, 4, 1))
    np.testing.assert_allclose(gradient.ravel(), [0, 0, 0, -1], atol=1e-6)


@pytest.mark.parametrize("layer", [nn.global_max_pool(), nn.adaptive_max_pool(1), nn.max_pool(2)])
def test_the_gradient_goes_to_the_first_of_equal_values(layer):
    gradient = jax.grad(lambda x: layer({}, x).sum())(jnp.array([[0.0, 2.0], [2.0, 2.0]]).reshape(1, 2, 2, 1))
    assert gradient.ravel().tolist() == [0, 1, 0, 0]


def test_shuffling_crop_and_permutation_have_inverses():
    x = jnp.arange(2.0 * 2 * 4 * 6 * 3).reshape(2, 2, 4, 6, 3)
    for there, back in (
        (nn.pixel_unshuffle(2), nn.pixel_shuffle(2)),
        (nn.pad(2), nn.crop(2)),
        (nn.permute(2, 3, 4, 1), nn.permute(4, 1, 2, 3)),
        (nn.flatten(), nn.reshape(2, -1, 6, 3)),
    ):
        np.testing.assert_array_equal(back({}, there({}, x)), x)


@pytest.mark.parametrize(
    "call, shape, match",
    [
        (lambda: nn.max_pool(2, dilation=3, padding=((2, 1),)), (1, 1, 1), "covers nothing"),
        (lambda: nn.lp_pool(2, p=0.5), (1, 4, 1), "at least 1"),
        (lambda: nn.reshape(5, -1), (2, 4, 3), "does not fit"),
        (lambda: nn.reshape(-1, -1), (2, 4), "one size"),
        (lambda: nn.permute(0, 1), (2, 4), "batch axis"),
        (lambda: nn.permute(2, 1), (2, 4), "3 axes"),
        (lambda: nn.pad(1, mode="REFLECT"), (2, 4, 1), "modes"),
        (lambda: nn.pad(((1, 1),)), (2, 4, 4, 1), "2 \\(low, high\\) pairs"),
        (lambda: nn.crop(2), (2, 4, 1), "leaves nothing"),
        (lambda: nn.upsample(2, method="fast"), (2, 4, 1), "method"),
        (lambda: nn.upsample(0.2), (2, 4, 1), "at least one pixel"),
        (lambda: nn.upsample((2, 2)), (2, 4, 1), "one scale per spatial axis"),
        (lambda: nn.resize(2, method="pytorch_nearest", align_corners=True), (2, 4, 1), "interpolates"),
        (lambda: nn.pixel_shuffle(2), (2, 4, 4, 6), "multiple of 4"),
        (lambda: nn.pixel_unshuffle(2), (2, 3, 4, 6), "divisible"),
    ],
)
def test_mistakes_are_named(call, shape, match):
    with pytest.raises(ValueError, match=match):
        call()({}, jnp.ones(shape))


def test_min_pool_of_integers_is_refused():
    with pytest.raises(TypeError, match="floating"):
        nn.min_pool(2)({}, jnp.ones((1, 4, 1), jnp.uint8))
