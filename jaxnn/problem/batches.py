"""Random orders of the samples, and loops over batches inside one program."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn._jax import vary_over, varying_axes


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


def over_batches(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, data: Any, batch_size: int, order: jax.Array | None = None
) -> tuple[Any, Any]:
    """Loop `carry, out = step(carry, batch)` over `data`: full batches in one `scan`, then a batch of the remaining samples.

    Args:
        step: The function of a step, as for `jax.lax.scan`.
        carry: The initial carry.
        data: A pytree of arrays that share the length of their leading axis.
        batch_size: The number of samples per batch.
        order: The indices of the samples in the order of the loop; by default the order of the data.

    Returns:
        The final carry, and the outputs concatenated along their leading axis.
    """
    n = leading_size(data)
    full, rest = divmod(n, batch_size)
    joined = []

    def batch_at(index):
        return jax.tree.map(lambda a: jnp.asarray(a).at[index].get(mode="promise_in_bounds"), data)

    def cut(a):
        return a[: full * batch_size].reshape(full, batch_size, *a.shape[1:])

    if full:
        if order is None:
            carry, out = scan(step, carry, jax.tree.map(cut, data))
        else:
            carry, out = scan(lambda carry, index: step(carry, batch_at(index)), carry, cut(order))
        joined.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out))
    if rest:
        last = jax.tree.map(lambda a: a[n - rest :], data) if order is None else batch_at(order[n - rest :])
        carry, out = step(carry, last)
        joined.append(out)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts) if len(parts) > 1 else parts[0], *joined)


def scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, length: int | None = None) -> tuple[Any, Any]:
    """`jax.lax.scan`, with an initial carry that inside `shard_map` varies over the same mesh axes as the later ones."""
    if any(varying_axes(leaf) for leaf in jax.tree.leaves((carry, xs))):
        x = jax.tree.map(lambda a: a[0], xs)
        after = jax.eval_shape(step, carry, x)[0]
        carry = jax.tree.map(lambda a, b: vary_over(a, varying_axes(b)), carry, after)
    return jax.lax.scan(step, carry, xs, length)


def shuffled(key: jax.Array, n: int) -> jax.Array:
    """A random permutation of n samples, by a few elementwise operations instead of a sort.

    A Feistel network over Z_a × Z_b with a·b just above n: each round adds a keyed hash of one half to the other half. A
    round is invertible, so the whole is a permutation. Positions that map to n or above are mapped again until all are below
    n ("cycle walking", Black & Rogaway 2002). A sort of random numbers is exactly uniform over all n! orders; this function
    is uniform only as far as the tests can tell, but many times cheaper.

    Args:
        key: The key.
        n: The number of samples, below 2³¹.

    Returns:
        The numbers 0 … n − 1 in random order, int32.

    Example:
        >>> import jax
        >>> sorted(shuffled(jax.random.key(0), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    a = math.isqrt(max(n - 1, 0)) + 1
    b = -(-n // a)
    rounds = 8 if n > 255 else 24  # for few samples, the hash of a round has few different inputs
    keys = jax.random.bits(key, (rounds,), jnp.uint32)

    def permuted(position):
        left, right = position // b, position % b
        for i in range(0, rounds, 2):
            left = _round(left, right, keys[i], a)
            right = _round(right, left, keys[i + 1], b)
        return left * b + right

    def walk(carry):
        order, inside = carry
        order = jnp.where(inside, order, permuted(order))
        return order, order < n

    positions = jnp.arange(-(-n // 16) * 16, dtype=jnp.uint32)  # XLA vectorizes only whole registers
    carry = jax.tree.map(lambda a: vary_over(a, varying_axes(keys)), (positions, jnp.zeros(positions.shape, bool)))
    order, _ = jax.lax.while_loop(lambda carry: ~jnp.all(carry[1][:n]), walk, carry)
    return order[:n].astype(jnp.int32)


@partial(jax.jit, static_argnums=3)  # traced once for all rounds
def _round(x: jax.Array, other: jax.Array, key: jax.Array, modulus: int) -> jax.Array:
    """(x + hash(other)) mod modulus, for x below the modulus; the hash is keyed."""
    moved = x + _below(modulus, _hash(other, key))
    return jnp.where(moved >= modulus, moved - modulus, moved)


def _below(limit: int, bits: jax.Array) -> jax.Array:
    """⌊limit · bits / 2³²⌋ in 32-bit arithmetic, for a limit up to 2¹⁶: a uniform choice below it without a division."""
    return ((bits >> 16) * limit + ((bits & 0xFFFF) * limit >> 16)) >> 16


def _hash(x: jax.Array, key: jax.Array) -> jax.Array:
    """Hash x and the key to 32 bits by two rounds of xor-shift and multiplication (Ettinger's lowbias32)."""
    x = x ^ key
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
