"""Convolution with windows of 3×3 by tiles of 2×2 outputs, each by 16 multiplications instead of 36.

Winograd (1980), for networks Lavin and Gray (2015, https://arxiv.org/abs/1509.09308). Along one axis, three taps w give
two outputs y of four inputs d by four products instead of six:

    y = Aᵀ [(G w) ⊙ (Bᵀ d)]

    Bᵀ d = (d₀ − d₂, d₁ + d₂, d₂ − d₁, d₁ − d₃)
    G w  = (w₀, (w₀ + w₁ + w₂) / 2, (w₀ − w₁ + w₂) / 2, w₂)
    Aᵀ m = (m₀ + m₁ + m₂, m₁ − m₂ − m₃)

Along two axes each transform is applied to either. With all input channels summed, the products are sixteen products of
matrices, one for each place in a tile. The kernel's gradient is the same with the outer two transposed:

    ∂L/∂w = Gᵀ [(A ∂L/∂y) ⊙ (Bᵀ d)]

Each output depends on its own window alone, as in the direct sum. Its rounding error is relative to the largest input
and the largest tap in there, where that of the direct sum is relative to the products of the two.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn._jax import matmul_precision
from jaxnn.kernels.convolution.geometry import Member, output_shape
from jaxnn.kernels.windows import Pairs

# Examples are gone through in blocks of about so many transformed numbers a place in a tile, so that they stay in the cache.
BLOCK = 2**18
# Images of more transformed numbers, over all places in a tile, would take more memory than is saved in time.
LARGEST_IMAGE = 2**24
# As measured: what a transformed number must be worth (see `pays`), in a kernel's gradient twice that, as both factors are
# transformed; and tiles times worth, which have to make up for the kernel's own transform.
LEAST_WORTH, LEAST_WORTH_OF_GRADIENT = 32, 64
LEAST_TILES_TIMES_WORTH = 50_000

Grid = Sequence[Sequence[jax.Array]]


def by_tiles(x: Any, kernel: Any, member: Member, *, gradient: bool = False) -> bool:
    """Whether a convolution, or its gradient in the kernel, is computed by tiles.

    Under `jax.default_matmul_precision("highest")` it is not: tiles round relative to the largest numbers in a window, so
    that a tap of zero does not quite hide what it meets.

    Args:
        x: The input, or anything with its shape and dtype.
        kernel: The kernel, or anything with its shape.
        member: Strides, padding, dilations and groups.
        gradient: Whether it is the kernel's gradient that is asked for.

    Returns:
        True if so.

    Example:
        >>> image, kernel = jax.ShapeDtypeStruct((64, 14, 14, 64), "float32"), jax.ShapeDtypeStruct((3, 3, 64, 64), "float32")
        >>> member = Member((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
        >>> by_tiles(image, kernel, member)
        True
        >>> with jax.default_matmul_precision("highest"):
        ...     by_tiles(image, kernel, member)
        False
    """
    *window, channels, features = kernel.shape
    plain = max(*member.strides, *member.lhs_dilation, *member.rhs_dilation, member.groups) == 1
    if window != [3, 3] or not plain or not all(isinstance(n, int) for n in x.shape):
        return False
    exact = matmul_precision() in ("highest", "float32")
    if exact or not jnp.issubdtype(x.dtype, jnp.floating):
        return False
    return pays(x.shape[0], output_shape(x, kernel, member)[1:-1], channels, features, gradient=gradient)


def pays(batch: int, places: Sequence[int], channels: int, features: int, *, gradient: bool = False) -> bool:
    """Whether tiles are faster than the direct sum, as far as it has been measured.

    They are where each transformed number serves many products, and where there are many tiles, mostly whole.

    Args:
        batch: Number of examples.
        places: Height and width of the output.
        channels: C_in.
        features: C_out.
        gradient: Whether the kernel's gradient is asked for, which is slower by tiles: both its factors are transformed.

    Returns:
        True where they are.

    Example:
        >>> pays(64, (14, 14), 64, 64), pays(64, (14, 14), 16, 16)
        (True, False)
    """
    worth = channels * features / (channels + features)  # products for each transformed number, up to a factor
    if 16 * math.prod(-(-n // 2) for n in places) * (channels + features) > LARGEST_IMAGE:
        return False
    least = LEAST_WORTH_OF_GRADIENT if gradient else LEAST_WORTH
    return worth >= least and batch * math.prod(places) / 4 * worth >= LEAST_TILES_TIMES_WORTH


def convolve(x: jax.Array, kernel: jax.Array, padding: Pairs) -> jax.Array:
    """Convolve images with windows of 3×3, in strides of one.

    Args:
        x: (batch, height, width, C_in), floating.
        kernel: (3, 3, C_in, C_out), of x's dtype.
        padding: A (low, high) pair for the height and one for the width; a negative number crops.

    Returns:
        (batch, *places, C_out), in x's dtype.

    Example:
        >>> convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), ((0, 0), (0, 0)))[0, :, :, 0].tolist()
        [[9.0, 9.0], [9.0, 9.0]]
    """
    height, width = places = tuple(n + low + high - 2 for n, (low, high) in zip(x.shape[1:-1], padding, strict=True))
    channels, features = kernel.shape[-2:]
    factors = jnp.tensordot(_kernel_transform(x.dtype), kernel, 2)  # (4, 4, C_in, C_out)

    def block(x: jax.Array) -> jax.Array:
        tiles = _input_tiles(x, padding, places)
        products = _pairwise(lambda d, w: (_rows(d) @ w).reshape(*d.shape[:-1], features), tiles, factors)
        y = jnp.stack([jnp.stack(row, 3) for row in _on_both_axes(_output_transform, products)], 2)
        return lax.collapse(lax.collapse(y, 3, 5), 1, 3)[:, :height, :width]  # from (batch, tiles, 2, tiles, 2, C_out)

    def step(i: jax.Array, y: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(y, block(_block(x, i, size)), i * size, 0)

    size = _block_size(len(x), places, BLOCK / (channels + features))
    if size == len(x):
        return block(_apart(x))
    return lax.fori_loop(0, -(-len(x) // size), step, jnp.zeros_like(x, shape=(len(x), height, width, features)))


def kernel_gradient(x: jax.Array, g: jax.Array, padding: Pairs) -> jax.Array:
    """The gradient of :func:`convolve` in its kernel.

    Args:
        x: (batch, height, width, C_in), floating.
        g: The output's gradient, (batch, *places, C_out), of x's dtype.
        padding: A (low, high) pair for the height and one for the width; a negative number crops.

    Returns:
        (3, 3, C_in, C_out), in x's dtype.

    Example:
        >>> kernel_gradient(jnp.ones((1, 4, 4, 1)), jnp.ones((1, 2, 2, 1)), ((0, 0), (0, 0)))[..., 0, 0].tolist()
        [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """
    height, width = places = g.shape[1:-1]
    channels, features = x.shape[-1], g.shape[-1]

    def block(x: jax.Array, g: jax.Array) -> Grid:
        g = jnp.pad(g, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)])
        cotangents = _on_both_axes(_output_cotangent, [[g[:, i::2, j::2] for j in range(2)] for i in range(2)])
        return _pairwise(lambda d, m: _rows(d).T @ _rows(m), _input_tiles(x, padding, places), cotangents)

    def step(i: jax.Array, total: Grid) -> Grid:
        g_i = _block(g, i, size)
        if len(g) % size:  # the last block begins with examples of the one before
            known = jnp.arange(size) < i * size - jnp.minimum(i * size, len(g) - size)
            g_i = jnp.where(known[:, None, None, None], 0, g_i)
        return jax.tree.map(jnp.add, total, block(_block(x, i, size), g_i))

    # Smaller blocks than above, as both factors are transformed; yet each adds to sums of channels · features numbers.
    size = _block_size(len(x), places, (BLOCK / 2 + channels * features) / (channels + features))
    if size == len(x):
        total = block(_apart(x), _apart(g))
    else:
        total = [[jnp.zeros_like(x, shape=(channels, features))] * 4] * 4
        total = lax.fori_loop(0, -(-len(x) // size), step, total)
    return jnp.tensordot(_kernel_transform(x.dtype), jnp.stack([jnp.stack(row) for row in total]), ((0, 1), (0, 1)))


# The transforms along one axis, and the kernel's along both, as one product: on so few numbers that is its fastest form


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


# The tiles, and the blocks of examples


def _input_tiles(x: jax.Array, padding: Pairs, places: Sequence[int]) -> Grid:
    """The transformed tiles: 4×4 arrays (batch, ⌈height / 2⌉, ⌈width / 2⌉, C_in), one for each place in a tile."""
    tiles = [-(-n // 2) for n in places]
    edges = [(low, 2 * t + 2 - n - low, 0) for t, n, (low, _) in zip(tiles, x.shape[1:-1], padding, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    rows, columns = ([slice(i, i + 2 * t - 1, 2) for i in range(4)] for t in tiles)
    return _on_both_axes(_input_transform, [[x[:, row, column] for column in columns] for row in rows])


def _pairwise(f: Callable[[jax.Array, jax.Array], jax.Array], a: Any, b: Any) -> Grid:
    return [[f(*pair) for pair in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def _rows(v: jax.Array) -> jax.Array:
    return lax.collapse(v, 0, v.ndim - 1)


def _block_size(batch: int, places: Sequence[int], most: float) -> int:
    """How many examples have about so many tiles: a power of two, or all."""
    tiles = math.prod(-(-n // 2) for n in places)
    return min(batch, 2 ** int(math.log2(max(1, most / tiles))))


def _block(v: jax.Array, i: jax.Array, size: int) -> jax.Array:
    """Block i of `size` examples; one that would reach beyond the end begins earlier, as a dynamic slice does."""
    return lax.dynamic_slice_in_dim(v, i * size, size)


def _apart(v: jax.Array) -> jax.Array:
    """v as it lies in memory; what made it would else be computed anew in each transform, which only a loop prevents."""
    copy = lambda i, y: lax.dynamic_update_slice_in_dim(y, _block(v, i, 1), i, 0)  # noqa: E731
    return lax.fori_loop(0, len(v), copy, jnp.zeros_like(v))
