"""3×3 convolution by tiles of 2×2 outputs, with 16 multiplications per tile instead of 36.

Winograd (1980), for networks Lavin and Gray (2015, https://arxiv.org/abs/1509.09308). Along one axis, three taps w give
two outputs y of four inputs d by four products instead of six:

    y = Aᵀ [(G w) ⊙ (Bᵀ d)]

    Bᵀ d = (d₀ − d₂, d₁ + d₂, d₂ − d₁, d₁ − d₃)
    G w  = (w₀, (w₀ + w₁ + w₂) / 2, (w₀ − w₁ + w₂) / 2, w₂)
    Aᵀ m = (m₀ + m₁ + m₂, m₁ − m₂ − m₃)

In two dimensions each transform is applied along both axes. Summed over the input channels, the products become sixteen
products of matrices, one per element of a transformed tile. The kernel's gradient is the same with the outer two
transforms transposed:

    ∂L/∂w = Gᵀ [(A ∂L/∂y) ⊙ (Bᵀ d)]

Each output depends on its own window only, as in the direct sum. Its rounding error is relative to the largest input
and the largest tap in the window, whereas that of the direct sum is relative to the products of the two.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn._jax import matmul_precision
from jaxnn.kernels.convolution.geometry import Geometry, output_shape
from jaxnn.kernels.windows import Padding

# The batch is processed in blocks of about this many transformed numbers per element of a tile, so that they stay in the
# cache.
BLOCK = 2**18
# Images with more transformed numbers than this, over all elements of a tile, cost more memory than they save time.
LARGEST_IMAGE = 2**24
# Measured limits of `is_faster`: the products per transformed number, twice as many in a kernel's gradient, where both
# factors are transformed; and the number of tiles times that, which has to outweigh the kernel's own transform.
MIN_PRODUCTS, MIN_PRODUCTS_OF_GRADIENT = 32, 64
MIN_TILES_TIMES_PRODUCTS = 50_000

Grid = Sequence[Sequence[jax.Array]]


def applies(x: Any, kernel: Any, geometry: Geometry, *, gradient: bool = False) -> bool:
    """Whether a convolution, or its gradient in the kernel, is computed by tiles.

    Under `jax.default_matmul_precision("highest")` it is not: tiles round relative to the largest numbers in a window, so
    that a tap of zero does not fully hide the input that it meets.

    Args:
        x: The input, or any object with its shape and dtype.
        kernel: The kernel, or any object with its shape.
        geometry: Strides, padding, dilations and groups.
        gradient: Whether to decide for the kernel's gradient.

    Returns:
        True if tiles are possible and faster.

    Example:
        >>> image, kernel = jax.ShapeDtypeStruct((64, 14, 14, 64), "float32"), jax.ShapeDtypeStruct((3, 3, 64, 64), "float32")
        >>> geometry = Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
        >>> applies(image, kernel, geometry)
        True
        >>> with jax.default_matmul_precision("highest"):
        ...     applies(image, kernel, geometry)
        False
    """
    *kernel_size, channels, features = kernel.shape
    plain = max(*geometry.strides, *geometry.lhs_dilation, *geometry.rhs_dilation, geometry.groups) == 1
    if kernel_size != [3, 3] or not plain or not all(isinstance(n, int) for n in x.shape):
        return False
    exact = matmul_precision() in ("highest", "float32")
    if exact or not jnp.issubdtype(x.dtype, jnp.floating):
        return False
    return is_faster(x.shape[0], output_shape(x, kernel, geometry)[1:-1], channels, features, gradient=gradient)


def is_faster(batch: int, out_sizes: Sequence[int], channels: int, features: int, *, gradient: bool = False) -> bool:
    """Whether tiles are faster than the direct sum, as measured.

    They are where each transformed number is used in many products, and where there are many tiles, most of them whole.

    Args:
        batch: The number of examples.
        out_sizes: Height and width of the output.
        channels: C_in.
        features: C_out.
        gradient: Whether to decide for the kernel's gradient, which is slower by tiles, since both its factors are
            transformed.

    Returns:
        True if they are.

    Example:
        >>> is_faster(64, (14, 14), 64, 64), is_faster(64, (14, 14), 16, 16)
        (True, False)
    """
    products = channels * features / (channels + features)  # per transformed number, up to a factor
    if 16 * math.prod(-(-n // 2) for n in out_sizes) * (channels + features) > LARGEST_IMAGE:
        return False
    least = MIN_PRODUCTS_OF_GRADIENT if gradient else MIN_PRODUCTS
    return products >= least and batch * math.prod(out_sizes) / 4 * products >= MIN_TILES_TIMES_PRODUCTS


def convolve(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Convolve images with 3×3 windows and strides of 1.

    Args:
        x: (batch, height, width, C_in), floating.
        kernel: (3, 3, C_in, C_out), of x's dtype.
        padding: A (low, high) pair for the height and one for the width; a negative number crops.

    Returns:
        (batch, out_height, out_width, C_out), in x's dtype.

    Example:
        >>> convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), ((0, 0), (0, 0)))[0, :, :, 0].tolist()
        [[9.0, 9.0], [9.0, 9.0]]
    """
    height, width = out_sizes = tuple(n + low + high - 2 for n, (low, high) in zip(x.shape[1:-1], padding, strict=True))
    channels, features = kernel.shape[-2:]
    factors = jnp.tensordot(_kernel_transform(x.dtype), kernel, 2)  # (4, 4, C_in, C_out)

    def block(x: jax.Array) -> jax.Array:
        tiles = _input_tiles(x, padding, out_sizes)
        products = _pairwise(lambda d, w: (_matrix(d) @ w).reshape(*d.shape[:-1], features), tiles, factors)
        y = jnp.stack([jnp.stack(row, 3) for row in _on_both_axes(_output_transform, products)], 2)
        return lax.collapse(lax.collapse(y, 3, 5), 1, 3)[:, :height, :width]  # from (batch, tiles, 2, tiles, 2, C_out)

    def step(i: jax.Array, y: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(y, block(_block(x, i, size)), i * size, 0)

    size = _block_size(len(x), out_sizes, BLOCK / (channels + features))
    if size == len(x):
        return block(_materialized(x))
    return lax.fori_loop(0, -(-len(x) // size), step, jnp.zeros_like(x, shape=(len(x), height, width, features)))


def kernel_gradient(x: jax.Array, g: jax.Array, padding: Padding) -> jax.Array:
    """The gradient of :func:`convolve` in its kernel.

    Args:
        x: (batch, height, width, C_in), floating.
        g: The output's gradient, (batch, out_height, out_width, C_out), of x's dtype.
        padding: A (low, high) pair for the height and one for the width; a negative number crops.

    Returns:
        (3, 3, C_in, C_out), in x's dtype.

    Example:
        >>> kernel_gradient(jnp.ones((1, 4, 4, 1)), jnp.ones((1, 2, 2, 1)), ((0, 0), (0, 0)))[..., 0, 0].tolist()
        [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """
    height, width = out_sizes = g.shape[1:-1]
    channels, features = x.shape[-1], g.shape[-1]

    def block(x: jax.Array, g: jax.Array) -> Grid:
        g = jnp.pad(g, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)])
        cotangents = _on_both_axes(_output_cotangent, [[g[:, i::2, j::2] for j in range(2)] for i in range(2)])
        return _pairwise(lambda d, m: _matrix(d).T @ _matrix(m), _input_tiles(x, padding, out_sizes), cotangents)

    def step(i: jax.Array, total: Grid) -> Grid:
        g_i = _block(g, i, size)
        if len(g) % size:  # the last block begins with examples of the one before
            counted = jnp.arange(size) < i * size - jnp.minimum(i * size, len(g) - size)
            g_i = jnp.where(counted[:, None, None, None], 0, g_i)
        return jax.tree.map(jnp.add, total, block(_block(x, i, size), g_i))

    # Smaller blocks than above, since both factors are transformed; but each adds to sums of channels · features numbers.
    size = _block_size(len(x), out_sizes, (BLOCK / 2 + channels * features) / (channels + features))
    if size == len(x):
        total = block(_materialized(x), _materialized(g))
    else:
        total = [[jnp.zeros_like(x, shape=(channels, features))] * 4] * 4
        total = lax.fori_loop(0, -(-len(x) // size), step, total)
    return jnp.tensordot(_kernel_transform(x.dtype), jnp.stack([jnp.stack(row) for row in total]), ((0, 1), (0, 1)))


# The transforms along one axis; the kernel's along both, as one product, which is its fastest form on so few numbers


def _input_transform(d: Sequence) -> Sequence:
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _output_transform(m: Sequence) -> Sequence:
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _output_cotangent(y: Sequence) -> Sequence:
    return y[0], y[0] + y[1], y[0] - y[1], -y[1]


def _kernel_transform(dtype: Any) -> jax.Array:
    factors = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return jnp.asarray(np.einsum("pi,qj->pqij", factors, factors), dtype)


def _on_both_axes(transform: Callable[[Sequence], Sequence], grid: Grid) -> Grid:
    columns = zip(*(transform(row) for row in grid), strict=True)
    return list(zip(*map(transform, columns), strict=True))


# Tiles, and blocks of examples


def _input_tiles(x: jax.Array, padding: Padding, out_sizes: Sequence[int]) -> Grid:
    """The transformed tiles: 4×4 arrays (batch, ⌈height / 2⌉, ⌈width / 2⌉, C_in), one per element of a tile."""
    tiles = [-(-n // 2) for n in out_sizes]
    edges = [(low, 2 * t + 2 - n - low, 0) for t, n, (low, _) in zip(tiles, x.shape[1:-1], padding, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    rows, columns = ([slice(i, i + 2 * t - 1, 2) for i in range(4)] for t in tiles)
    return _on_both_axes(_input_transform, [[x[:, row, column] for column in columns] for row in rows])


def _pairwise(f: Callable[[jax.Array, jax.Array], jax.Array], a: Any, b: Any) -> Grid:
    return [[f(*pair) for pair in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def _matrix(v: jax.Array) -> jax.Array:
    return lax.collapse(v, 0, v.ndim - 1)


def _block_size(batch: int, out_sizes: Sequence[int], most: float) -> int:
    """The number of examples with about `most` tiles: a power of two, or the whole batch."""
    tiles = math.prod(-(-n // 2) for n in out_sizes)
    return min(batch, 2 ** int(math.log2(max(1, most / tiles))))


def _block(v: jax.Array, i: jax.Array, size: int) -> jax.Array:
    """Block i of `size` examples; the last block begins early enough to be whole, as a dynamic slice does."""
    return lax.dynamic_slice_in_dim(v, i * size, size)


def _materialized(v: jax.Array) -> jax.Array:
    """Copy v in a loop, the only way to keep XLA from fusing the operations that compute v into each transform."""
    copy = lambda i, y: lax.dynamic_update_slice_in_dim(y, _block(v, i, 1), i, 0)  # noqa: E731
    return lax.fori_loop(0, len(v), copy, jnp.zeros_like(v))
