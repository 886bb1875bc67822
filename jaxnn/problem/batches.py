"""The order of the data and the way through it, batch after batch, inside one program."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.kernels import forms


def leading_size(data: Any, axis: int = 0) -> int:
    """The number of samples: the length of every leaf's leading axis (in stacked batches, of the one after)."""
    return jax.tree.leaves(data)[0].shape[axis]


def even_size(n: int, most: int) -> int:
    """The size of batches of n samples, where it does not matter: more than half of `most`, and such that none is left over.

    A batch of another size is compiled for itself, which takes as long again. If no such size divides n, it is `most`.

    Example:
        >>> even_size(300, 256), even_size(10_000, 256), even_size(1009, 256)
        (150, 250, 256)
    """
    return next((size for size in range(most, most // 2, -1) if n % size == 0), most)


def over_batches(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, data: Any, batch_size: int, order: jax.Array | None = None
) -> tuple[Any, Any]:
    """`carry, out = step(carry, batch)` over all of `data`: full batches in one `scan`, then one with what is left.

    Args:
        step: as for `jax.lax.scan`.
        carry: its first carry.
        data: a pytree of arrays with one leading axis.
        batch_size: the length of a batch.
        order: the samples in the order in which they come; as they stand by default.

    Returns:
        The last carry, and the outputs joined along their leading axis.
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
    """`jax.lax.scan`, which inside `shard_map` wants a first carry that varies over the same mesh axes as the later ones."""
    if any(forms.varying(leaf) for leaf in jax.tree.leaves((carry, xs))):
        x = jax.tree.map(lambda a: a[0], xs)
        after = jax.eval_shape(step, carry, x)[0]
        carry = jax.tree.map(
            lambda a, b: jax.lax.pcast(a, tuple(forms.varying(b) - forms.varying(a)), to="varying"), carry, after
        )
    return jax.lax.scan(step, carry, xs, length)


def shuffled(key: jax.Array, n: int) -> jax.Array:
    """A random order of n samples, in a handful of elementwise operations instead of a sort.

    A Feistel network over Z_a × Z_b, a·b just above n: each round adds a keyed hash of one half to the other, which can be
    undone, so the whole is a permutation; positions that land at n or above go through again until all are below
    ('cycle walking', Black & Rogaway 2002). A sort of random numbers is exactly uniform over all n! orders; this one is
    so only as far as tests can tell, and many times cheaper.

    Args:
        key: of this order.
        n: how many samples, below 2³¹.

    Returns:
        Each of 0 … n − 1 once, int32.

    Example:
        >>> import jax
        >>> sorted(shuffled(jax.random.key(0), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    a = math.isqrt(max(n - 1, 0)) + 1
    b = -(-n // a)
    rounds = 8 if n > 255 else 24  # few samples need more: a round's hash then has few inputs to tell apart
    keys = jax.random.bits(key, (rounds,), jnp.uint32)

    def permuted(position):
        left, right = position // b, position % b
        for i in range(0, rounds, 2):
            left = _round(left, right, keys[i], a)
            right = _round(right, left, keys[i + 1], b)
        return left * b + right

    def walk(carry):
        order, there = carry
        order = jnp.where(there, order, permuted(order))
        return order, order < n

    positions = jnp.arange(-(-n // 16) * 16, dtype=jnp.uint32)  # XLA vectorizes a length that its registers divide
    carry = positions, jnp.zeros(positions.shape, bool)
    if axes := tuple(forms.varying(keys)):
        carry = jax.lax.pcast(carry, axes, to="varying")
    order, _ = jax.lax.while_loop(lambda carry: ~jnp.all(carry[1][:n]), walk, carry)
    return order[:n].astype(jnp.int32)


@partial(jax.jit, static_argnums=3)  # traced once for all rounds
def _round(x: jax.Array, other: jax.Array, key: jax.Array, modulus: int) -> jax.Array:
    """(x + a keyed hash of the other half) mod the modulus, x below it."""
    moved = x + _below(modulus, _hash(other, key))
    return jnp.where(moved >= modulus, moved - modulus, moved)


def _below(limit: int, bits: jax.Array) -> jax.Array:
    """⌊limit · bits / 2³²⌋ in 32-bit arithmetic, the limit below 2¹⁶: an even choice below the limit, without a division."""
    return ((bits >> 16) * limit + ((bits & 0xFFFF) * limit >> 16)) >> 16


def _hash(x: jax.Array, key: jax.Array) -> jax.Array:
    """Thirty-two well mixed bits of x and the key: two rounds of xor-shift and multiply (Ettinger's lowbias32)."""
    x = x ^ key
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
