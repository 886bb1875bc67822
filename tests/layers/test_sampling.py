"""Layers and options that other libraries have, against loops in NumPy: sampling, weights per position, divisors, bounds."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

RNG = np.random.default_rng(0)


def sampled(x, position, padding):
    """The value of one image (*space, channels) at a position in pixels, interpolated along each axis."""

    def pixel(at):
        n = np.array(x.shape[:-1])
        if padding == "border":
            at = np.clip(at, 0, n - 1)
        return x[tuple(at)] if ((at >= 0) & (at < n)).all() else np.zeros(x.shape[-1])

    below = np.floor(position).astype(int)
    share = position - below
    corners = itertools.product((0, 1), repeat=len(position))
    return sum(np.prod(np.where(c, share, 1 - share)) * pixel(below + c) for c in map(np.array, corners))


@pytest.mark.parametrize(
    ("axes", "padding", "align_corners"), [(1, "zeros", True), (2, "zeros", False), (2, "border", True), (3, "border", False)]
)
@pytest.mark.sample(1)
def test_samples_are_their_formula(axes, padding, align_corners, x64):
    sizes = np.array([4, 3, 2])[:axes]
    x, grid = RNG.normal(size=(2, *sizes, 2)), RNG.uniform(-1.6, 1.6, size=(2, 5, *[1] * (axes - 1), axes))
    centers = grid[..., ::-1]  # (x, y) to (row, column)
    pixels = (centers + 1) / 2 * (sizes - 1) if align_corners else ((centers + 1) * sizes - 1) / 2
    y = jax.jit(nn.grid_sample(padding=padding, align_corners=align_corners))({}, (x, grid))
    for i, j in np.ndindex(2, 5):
        np.testing.assert_allclose(y[i, j].ravel(), sampled(x[i], pixels[i, j].ravel(), padding), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_reflections_repeat_the_input():
    x = jnp.arange(4.0).reshape(1, 4, 1)
    for align_corners, period in ((True, [0, 1, 2, 3, 2, 1]), (False, [0, 1, 2, 3, 3, 2, 1, 0])):
        pixels = np.arange(-9, 12)
        grid = 2 * pixels / 3 - 1 if align_corners else (2 * pixels + 1) / 4 - 1
        layer = nn.grid_sample(method="nearest", padding="reflection", align_corners=align_corners)
        y = layer({}, (x, jnp.asarray(grid, jnp.float32).reshape(1, -1, 1)))
        np.testing.assert_array_equal(y.ravel(), [period[p % len(period)] for p in pixels])


@pytest.mark.slow
def test_a_sample_sees_only_its_own_pixels():
    x = jnp.array([jnp.nan, 1.0, 2.0, jnp.inf]).reshape(1, 4, 1)
    layer = nn.grid_sample(align_corners=True)
    at = lambda pixels: (2 * jnp.asarray(pixels) / 3 - 1).reshape(1, -1, 1)  # noqa: E731
    y = layer({}, (x, at([1.0, 1.5, 2.0, -50.0, jnp.inf, 1e30])))
    np.testing.assert_allclose(y.ravel(), [1, 1.5, 2, 0, 0, 0], rtol=1e-6)
    assert jnp.isnan(layer({}, (x, at([jnp.nan, 0.5])))).all()
    many = nn.grid_sample(padding="border")  # the gradient of a pixel sums over all samples
    gradient = jax.grad(lambda x: many({}, (x, jnp.zeros((1, 3000, 1)))).astype(jnp.float32).sum())
    assert gradient(jnp.zeros((1, 1, 1), jnp.bfloat16)) == jnp.bfloat16(3000)
    assert layer({}, (x[:0], jnp.zeros((0, 5, 1)))).shape == (0, 5, 1)


def connected(x, kernel, bias, strides, low, dilation):
    """A loop over positions, one image (height, width, channels) padded by zeros."""
    window = kernel.shape[2:4]
    x = np.pad(x, [(p, p + 9) for p in low] + [(0, 0)])
    y = np.array(bias)
    for i, j, a, b in np.ndindex(*kernel.shape[:2], *window):
        y[i, j] += x[i * strides[0] + a * dilation[0], j * strides[1] + b * dilation[1]] @ kernel[i, j, a, b]
    return y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("padding", "low", "strides", "dilation"), [("VALID", (0, 0), (1, 2), (2, 1)), (((1, 0), (0, 1)), (1, 0), (2, 1), (1, 1))]
)
def test_locally_connected_is_its_formula(padding, low, strides, dilation, x64):
    layer = nn.locally_connected(3, (2, 3), strides=strides, padding=padding, dilation=dilation)
    x = RNG.normal(size=(2, 5, 6, 2))
    shapes, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: RNG.normal(size=s.shape), shapes)
    expected = [connected(image, params["kernel"], params["bias"], strides, low, dilation) for image in x]
    np.testing.assert_allclose(layer(params, jnp.asarray(x)), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
def test_equal_weights_at_every_position_are_a_convolution():
    x = jnp.asarray(RNG.normal(size=(2, 5, 4, 2)), jnp.float32)
    local, shared = (make(3, 2, padding="VALID") for make in (nn.locally_connected, nn.conv))
    params, _ = shared.init(jax.random.key(0), x)
    like, _ = jax.eval_shape(local.init, jax.random.key(0), x)
    params = params | {"bias": jnp.arange(3.0)}
    spread = jax.tree.map(lambda a, s: jnp.broadcast_to(a, s.shape), params, like)
    value, pull = jax.vjp(lambda p, x: local(p, x), spread, x)
    expected, expected_pull = jax.vjp(lambda p, x: shared(p, x), params, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    (gradients, dx), (shared_gradients, shared_dx) = pull(jnp.cos(value)), expected_pull(jnp.cos(value))
    np.testing.assert_allclose(dx, shared_dx, rtol=1e-5, atol=1e-5)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(gradients[name].sum((0, 1)), shared_gradients[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_each_position_draws_a_kernel_with_the_fan_of_one():
    x = jnp.ones((1, 40, 1))
    params, _ = nn.locally_connected(50, 8).init(jax.random.key(0), x)
    np.testing.assert_allclose(params["kernel"].std((1, 2, 3)), math.sqrt(2 / 8), rtol=0.2)
    params, _ = nn.locally_connected(8, 8, kernel_init=nn.initializers.orthogonal()).init(jax.random.key(0), x)
    square = params["kernel"].reshape(-1, 8, 8)
    np.testing.assert_allclose(square @ square.swapaxes(1, 2), np.broadcast_to(np.eye(8), square.shape), atol=1e-5)
    with pytest.raises(ValueError, match="of the size that it was initialized for"):
        nn.locally_connected(50, 8)({"kernel": jnp.ones((33, 8, 1, 50))}, jnp.ones((1, 41, 1)))


def test_options_of_pooling_padding_and_channels():
    x = RNG.normal(size=(1, 5, 1)).astype(np.float32)
    y = nn.avg_pool(2, strides=2, padding=((1, 1),), ceil_mode=True, divisor=-4)({}, x)
    padded = np.pad(x.ravel(), (1, 2))
    np.testing.assert_allclose(y.ravel(), [-padded[i : i + 2].sum() / 4 for i in (0, 2, 4)], rtol=1e-6)
    np.testing.assert_array_equal(nn.pad(((-2, 1),), value=7.0)({}, x).ravel(), [*x.ravel()[2:], 7])
    channels = np.arange(6).reshape(1, 6)
    np.testing.assert_array_equal(nn.channel_shuffle(3)({}, channels), channels.reshape(3, 2).T.reshape(1, 6))


@pytest.mark.slow
@pytest.mark.parametrize("largest", [1.0, 1e-30, 1e25])
def test_bounded_vectors_and_their_gradient(largest):
    table = (RNG.normal(size=(6, 4)) * largest).astype(np.float32)
    table[2] = 0
    layer, tokens = nn.embedding(6, 4, max_norm=largest), jnp.arange(6)
    norm = np.linalg.norm(table.astype(float), axis=-1, keepdims=True)
    scale = np.minimum(largest / np.maximum(norm, 1e-100), 1)
    value, pull = jax.vjp(lambda table: layer({"embedding": table}, tokens), jnp.asarray(table))
    np.testing.assert_allclose(value, table * scale, rtol=1e-5)
    cotangent = np.cos(np.arange(24.0)).reshape(6, 4)
    unit = table / np.maximum(norm, 1e-100)
    along = np.where(scale < 1, (cotangent * unit).sum(-1, keepdims=True) * unit, 0)
    np.testing.assert_allclose(pull(jnp.asarray(cotangent, jnp.float32))[0], scale * (cotangent - along), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "x", "kind", "match"),
    [
        (lambda: nn.grid_sample(method="cubic"), None, ValueError, "method"),
        (nn.grid_sample, jnp.ones((1, 4, 1)), ValueError, r"pair \(x, grid\)"),
        (nn.grid_sample, (jnp.ones((1, 4, 1)), jnp.ones((1, 4, 2))), ValueError, r"\[1, 4, 2\]"),
        (nn.grid_sample, (jnp.ones((1, 4, 1)), jnp.ones((1, 4, 1), jnp.int32)), TypeError, "floating-point grid"),
        (lambda: nn.avg_pool(2, divisor=0), None, ValueError, "other than 0"),
        (lambda: nn.avg_pool(2, divisor=math.inf), None, ValueError, "finite divisor"),
        (lambda: nn.embedding(3, 2, max_norm=0), None, ValueError, "max_norm above 0"),
        (lambda: nn.channel_shuffle(4), jnp.ones((1, 6)), ValueError, "multiple of 4"),
        (lambda: nn.pad(-1, mode="edge"), jnp.ones((1, 4, 1)), ValueError, "padding"),
        (lambda: nn.pad(-2), jnp.ones((1, 4, 1)), ValueError, "leaves nothing"),
    ],
)
def test_mistakes_are_named(make, x, kind, match):
    with pytest.raises(kind, match=match):
        make()({}, x)
