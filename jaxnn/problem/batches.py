"""Random orders of the samples, loops over batches inside one program, and sizes that share programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn._jax import platforms_of, vary_over, varying_axes

COARSE_BYTES, MOST_PADDED_BYTES = 2**20, 2**26


def leading_size(data: Any, axis: int = 0) -> int:
    """The number of samples: the length of an axis that all leaves share, the leading one by default."""
    return jax.tree.leaves(data)[0].shape[axis]


def abstract_batch(data: Any, batch_size: int) -> Any:
    """The shapes and dtypes of a full batch of the data; of all of them, if they are fewer."""
    n = min(batch_size, leading_size(data))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype), data)


def even_size(n: int, most: int) -> int:
    """A batch size, greater than `most / 2` and at most `most`, that divides n samples evenly; `most` if there is none.

    It is for loops whose result does not depend on the batch size: a last batch of another size would be compiled separately.

    Example:
        >>> even_size(300, 256), even_size(10_000, 256), even_size(1009, 256)
        (150, 250, 256)
    """
    return next((size for size in range(most, most // 2, -1) if n % size == 0), most)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Padded:
    """Samples with further rows after them, so that data of different sizes share programs.

    The number of full batches is traced. The number of samples in the last, smaller batch is traced only if that batch is
    `filled`, with copies of its last sample that have weight 0. No row after the samples is ever read.

    Attributes:
        data: A pytree of arrays; `(x, y)` or `(x, y, weights)` if the last batch is filled.
        full: The number of full batches, int32; None if there is none.
        last: The number of samples in the last, smaller batch, int32, if it is filled; otherwise None.
        batch_size: The number of samples per batch.
        rest: The number of rows in the last, smaller batch; 0 if there is none.
    """

    data: Any
    full: jax.Array | None
    last: jax.Array | None
    batch_size: int = field(metadata={"static": True})
    rest: int = field(metadata={"static": True})

    @property
    def samples(self) -> Any:
        """The number of samples."""
        return (0 if self.full is None else self.full) * self.batch_size + (self.rest if self.last is None else self.last)

    @property
    def batches(self) -> Any:
        """The number of batches."""
        return (0 if self.full is None else self.full) + int(self.rest > 0)

    def batch(self, i: Any, order: jax.Array | None = None, *, last: bool = False) -> Any:
        """Full batch number i, or the last, smaller one, of the data in their order or in another one."""
        low, size = i * self.batch_size, self.rest if last else self.batch_size
        if last and self.last is not None:
            index = low + _repeated(size, self.last)
            return _weighted(_gathered(self.data, index if order is None else order[index]), self.last)
        cut = lambda a: jax.lax.dynamic_slice_in_dim(a, low, size)  # noqa: E731
        if order is None:
            return jax.tree.map(cut, self.data)
        return _gathered(self.data, cut(order))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Filled:
    """Samples in batches of one size, for loops whose result does not depend on it; all have weights, as `filled` ones.

    Attributes:
        data: `(x, y)` or `(x, y, weights)`, with rows after the samples that are never read.
        samples: The number of samples, int32.
        batch_size: The number of samples per batch.
    """

    data: Any
    samples: Any
    batch_size: int = field(metadata={"static": True})

    def batch(self, i: Any) -> Any:
        """Batch number i."""
        low = i * self.batch_size
        count = jnp.minimum(self.samples - low, self.batch_size)
        return _weighted(_gathered(self.data, low + _repeated(self.batch_size, count)), count)


def filled(batch: Any, size: int) -> Any:
    """A batch `(x, y)` or `(x, y, weights)` with `size` rows: copies of its last sample that have weight 0 are added.

    Example:
        >>> import jax.numpy as jnp
        >>> filled((jnp.array([[3.0], [4.0]]), jnp.array([1, 0])), 3)[2]
        Array([1., 1., 0.], dtype=float32)
    """
    n = leading_size(batch)
    return _weighted(_gathered(batch, _repeated(size, n)), n)


def filled_size(n: int, most: int) -> int:
    """The number of rows to fill a batch of n samples to, at most `most`: 16, 32, 64, …

    Example:
        >>> filled_size(3, 100), filled_size(17, 100), filled_size(70, 100), filled_size(3, 8)
        (16, 32, 100, 8)
    """
    return min(16 << max(math.ceil(math.log2(n / 16)), 0), most)


def _repeated(size: int, n: Any) -> jax.Array:
    """0 … n − 1, followed by further n − 1."""
    return jnp.minimum(jnp.arange(size, dtype=jnp.int32), jnp.asarray(n, jnp.int32) - 1)


def _weighted(batch: Any, n: Any) -> Any:
    """A batch whose samples from number n on have weight 0."""
    x, y, *weights = batch
    weight = weights[0] if weights else jnp.ones(leading_size(batch), jnp.float32)
    return x, y, jnp.where(jnp.arange(weight.shape[0]) < n, weight, jnp.zeros((), weight.dtype))


def padded(data: Any, batch_size: int, *, fill: bool = False) -> Padded:
    """Pad data on the device to one of few numbers of rows.

    Args:
        data: A pytree of arrays that share the length of their leading axis.
        batch_size: The number of samples per batch.
        fill: Whether to fill the last batch with samples of weight 0, if it is smaller.
    """
    full, rest = divmod(leading_size(data), batch_size)
    rows, last = rest, None
    if fill and rest:
        rows, last = filled_size(rest, batch_size), np.int32(rest)
    size = padded_size(data)
    return Padded(with_rows(data, size), np.int32(full) if full else None, last, batch_size, rows)  # type: ignore[arg-type]


def in_batches(data: Any, batch_size: int, *, fill: bool) -> Padded | Filled:
    """Pad data on the device likewise, for loops whose result does not depend on the batch size.

    Args:
        data: A pytree of arrays that share the length of their leading axis.
        batch_size: The number of samples per batch, at most.
        fill: Whether to fill the last batch with samples of weight 0.
    """
    n = leading_size(data)
    if not fill:
        return padded(data, even_size(n, batch_size))
    return Filled(with_rows(data, padded_size(data)), np.int32(n), filled_size(n, batch_size))


def padded_size(data: Any) -> int:
    """The number of rows to pad data to: a power of 4 for small data, otherwise at most an eighth more than there are.

    Data that are large, or lie on several devices, are not padded.
    """
    n, leaves = leading_size(data), jax.tree.leaves(data)
    row_bytes = sum(leaf.nbytes for leaf in leaves) / n
    coarse = 4 ** max(math.ceil(math.log(n, 4) - 1e-9), 2)
    if any(len(leaf.devices()) > 1 or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in leaves):
        return n
    if coarse * row_bytes <= COARSE_BYTES:
        return coarse
    unit = 1 << max(n.bit_length() - 4, 0)
    return -(-n // unit) * unit if n * row_bytes <= MOST_PADDED_BYTES else n


def with_rows(data: Any, size: int) -> Any:
    """The data with `size` rows: their last row is repeated, or the rows from `size` on are left out."""
    n = leading_size(data)
    return data if n == size else jax.tree.map(partial(_with_rows, n=n, size=size), data)


def _with_rows(a: jax.Array, *, n: int, size: int) -> jax.Array:
    if platforms_of(a) != {"cpu"} or len(a.devices()) > 1:
        return a[:size] if size < n else jnp.concatenate([a, jnp.repeat(a[-1:], size - n, 0)])
    known = np.asarray(a)  # a view, and NumPy compiles nothing
    out = known[:size] if size < n else np.concatenate([known, np.broadcast_to(known[-1:], (size - n, *known.shape[1:]))])
    return jax.device_put(out, a.sharding) if a.committed else jnp.asarray(out, a.dtype)


def over_batches(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, data: Any, batch_size: int, order: jax.Array | None = None
) -> tuple[Any, Any]:
    """Loop `carry, out = step(carry, batch)` over `data`: full batches in one `scan`, then a batch of the remaining samples.

    Args:
        step: The function of a step, as for `jax.lax.scan`.
        carry: The initial carry.
        data: A pytree of arrays that share the length of their leading axis, or such data `Padded` or `Filled`.
        batch_size: The number of samples per batch.
        order: The indices of the samples in the order of the loop; by default the order of the data.

    Returns:
        The final carry, and the outputs concatenated along their leading axis; None for `Padded` and `Filled` data.
    """
    if isinstance(data, Filled):
        batches = -(-data.samples // data.batch_size)
        return jax.lax.fori_loop(0, batches, lambda i, carry: step(carry, data.batch(i))[0], carry), None
    if isinstance(data, Padded):
        if data.full is not None:
            carry = jax.lax.fori_loop(0, data.full, lambda i, carry: step(carry, data.batch(i, order))[0], carry)
        return (step(carry, data.batch(data.batches - 1, order, last=True))[0] if data.rest else carry), None
    n = leading_size(data)
    full, rest = divmod(n, batch_size)
    joined = []

    def cut(a):
        return a[: full * batch_size].reshape(full, batch_size, *a.shape[1:])

    if full:
        if order is None:
            carry, out = scan(step, carry, jax.tree.map(cut, data))
        else:
            carry, out = scan(lambda carry, index: step(carry, _gathered(data, index)), carry, cut(order))
        joined.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out))
    if rest:
        last = jax.tree.map(lambda a: a[n - rest :], data) if order is None else _gathered(data, order[n - rest :])
        carry, out = step(carry, last)
        joined.append(out)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts) if len(parts) > 1 else parts[0], *joined)


def _gathered(data: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(a).at[index].get(mode="promise_in_bounds"), data)


def scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, length: int | None = None) -> tuple[Any, Any]:
    """`jax.lax.scan`, with an initial carry that inside `shard_map` varies over the same mesh axes as the later ones."""
    if any(varying_axes(leaf) for leaf in jax.tree.leaves((carry, xs))):
        x = jax.tree.map(lambda a: a[0], xs)
        after = jax.eval_shape(step, carry, x)[0]
        carry = jax.tree.map(lambda a, b: vary_over(a, varying_axes(b)), carry, after)
    return jax.lax.scan(step, carry, xs, length)


def shuffled(key: jax.Array, n: Any, size: int | None = None) -> jax.Array:
    """A random permutation of n samples, by a few elementwise operations instead of a sort.

    A Feistel network over Z_a × Z_b with a·b just above n: each round adds a keyed hash of one half to the other half. A
    round is invertible, so the whole is a permutation. Positions that map to n or above are mapped again until all are below
    n ("cycle walking", Black & Rogaway 2002). Where a and b are odd, every round is an even permutation; a last fair coin
    swaps the first two positions, so that odd orders are as frequent as even ones. A sort of random numbers is exactly
    uniform over all n! orders; this function is uniform only as far as the tests can tell, but many times cheaper.

    Args:
        key: The key.
        n: The number of samples, below 2³¹; it may be traced if `size` is given.
        size: The length of the result, at least n, and at most 256 if n is; by default n.

    Returns:
        The numbers 0 … n − 1 in random order, int32, followed by zeros. The order depends on the key and n only.

    Example:
        >>> import jax
        >>> sorted(shuffled(jax.random.key(0), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    size = n if size is None else size
    a, b = _sides(n)
    rounds = 8 if size > 256 else 24  # for few samples, the hash of a round has few different inputs
    *keys, coin = jax.random.bits(key, (rounds + 1,), jnp.uint32)
    n = jnp.asarray(n, jnp.uint32)

    def permuted(pair):
        left, right = pair >> 16, pair & 0xFFFF
        for i in range(0, rounds, 2):
            left = _round(left, right, keys[i], a)
            right = _round(right, left, keys[i + 1], b)
        return left << 16 | right

    def number(pair):
        return (pair >> 16) * b + (pair & 0xFFFF)

    def walk(carry):
        pairs, first = carry
        return jnp.where(jnp.where(first, beyond, number(pairs) < n), pairs, permuted(pairs)), jnp.zeros_like(first)

    positions = jnp.arange(-(-size // 16) * 16, dtype=jnp.uint32)  # XLA vectorizes only whole registers
    beyond = positions >= n
    swapped = jnp.where((positions < 2) & (n > 1), positions ^ (coin & 1), positions)
    pairs = jnp.where(beyond, 0, swapped // b << 16 | swapped % b)  # one array, so that a round is computed once
    carry = vary_over(pairs, varying_axes(coin)), jnp.asarray(True)
    pairs, _ = jax.lax.while_loop(lambda carry: carry[1] | ~jnp.all(number(carry[0]) < n), walk, carry)
    return jnp.where(beyond, 0, number(pairs))[:size].astype(jnp.int32)


def _sides(n: Any) -> tuple[jax.Array, jax.Array]:
    """The smallest a and b, uint32, with a > √(n − 1) and a·b ≥ n."""
    if isinstance(n, int):
        side = math.isqrt(max(n - 1, 0)) + 1
        return jnp.uint32(side), jnp.uint32(-(-n // side))
    last = jnp.maximum(n, 1).astype(jnp.uint32) - 1
    root = jnp.sqrt(last.astype(jnp.float32)).astype(jnp.uint32)  # off by one at most
    root = jnp.where(root * root > last, root - 1, root)
    a = jnp.where((root + 1) * (root + 1) <= last, root + 1, root) + 1
    return a, (last + a) // a


@jax.jit  # traced once for all rounds
def _round(x: jax.Array, other: jax.Array, key: jax.Array, modulus: jax.Array) -> jax.Array:
    """(x + hash(other)) mod modulus, for x below the modulus; the hash is keyed."""
    moved = x + _below(modulus, _hash(other, key))
    return jnp.where(moved >= modulus, moved - modulus, moved)


def _below(limit: jax.Array, bits: jax.Array) -> jax.Array:
    """⌊limit · bits / 2³²⌋ in 32-bit arithmetic, for a limit up to 2¹⁶: a uniform choice below it without a division."""
    return ((bits >> 16) * limit + ((bits & 0xFFFF) * limit >> 16)) >> 16


def _hash(x: jax.Array, key: jax.Array) -> jax.Array:
    """Hash x and the key to 32 bits by two rounds of xor-shift and multiplication (Ettinger's lowbias32)."""
    x = x ^ key
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
