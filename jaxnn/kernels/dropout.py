"""Dropout whose mask depends on the key and on each element's place alone, cheap enough to be computed where it is used."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn._jax import is_tracer
from jaxnn.kernels.forms import widen

STEPS = 2**24  # float32 holds every probability n / STEPS exactly
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def dropout(x: ArrayLike, rate: float | jax.Array, key: jax.Array) -> jax.Array:
    """Set elements of x to zero at random, and scale the others so that the mean stays.

        y = x / p  with probability p,  else 0;        p = 1 − rate, rounded to a multiple of 2⁻²⁴

    The scale is that of the rounded p, so the expectation of y is x. The mask is a function of the key and of the place:
    the same in a plain call, in a compiled one and on every backend, and a longer batch begins with the mask of a shorter
    one. An element costs one word of Threefry, written so that XLA fuses it into the product; JAX's own generator makes
    several passes over memory on a CPU.

    Args:
        x: Floating-point, any shape.
        rate: The probability of a zero, in [0, 1]; at 1 everything is dropped. It may be traced, and then y is NaN where
            it lies outside; it has no derivative.
        key: A `jax.random.key` that nothing else draws from.

    Returns:
        An array like x.

    Raises:
        TypeError: If x is not floating-point.
        ValueError: If the rate lies outside [0, 1].

    Example:
        >>> y = dropout(jnp.ones((2, 100)), 0.75, jax.random.key(0))
        >>> sorted(set(y.ravel().tolist()))
        [0.0, 4.0]
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"dropout takes floating-point numbers, got {x.dtype}; cast with .astype")
    if not is_tracer(rate) and not 0 <= rate <= 1:
        raise ValueError(f"dropout takes a rate in [0, 1], the share that is dropped, got {rate}")
    return _dropout(x, rate, key)


@jax.jit  # called outside of any program, it is one program
def _dropout(x: jax.Array, rate: float | jax.Array, key: jax.Array) -> jax.Array:
    wide = widen(x)
    keep = 1 - jnp.asarray(rate, jnp.float32)
    steps = jnp.round(jnp.clip(keep, 0, 1) * STEPS).astype(jnp.uint32)
    scale = STEPS / jnp.maximum(steps, 1).astype(wide.dtype)
    scale = jnp.where((keep >= 0) & (keep <= 1), scale, jnp.nan)
    kept = _words(key, x.shape) >> 8 < steps  # a word's upper 24 bits
    return (jnp.where(kept, wide, 0) * scale).astype(x.dtype)


def _words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """One random uint32 for each place: the first word of Threefry's block at (row, place in the row)."""
    words = jax.random.key_data(key)
    if words.shape != (2,):  # a key of another generator
        words = jax.random.bits(key, (2,), jnp.uint32)
    rows, *row = shape or (1,)
    row_numbers = jnp.arange(rows, dtype=jnp.uint32).reshape(rows, *(1 for _ in row))
    places = jnp.arange(math.prod(row), dtype=jnp.uint32).reshape(1, *row)
    return threefry((words[0], words[1]), (row_numbers, places))[0].reshape(shape)


def threefry(key: tuple[jax.Array, jax.Array], block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 13 rounds: two random words of a key of two words and a block number of two words.

    Every bit of the result depends on every bit of the block from 8 rounds on; JAX makes 20, as numbers drawn for other
    purposes than dropping units may need. Salmon et al. (2011), 'Parallel random numbers: as easy as 1, 2, 3'.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    a, b = block[0] + keys[0], block[1] + keys[1]
    for i in range(13):
        a, b = a + b, _rotate(b, ROTATIONS[i % 8])
        b ^= a
        if i % 4 == 3:
            n = i // 4 + 1
            a, b = a + keys[n % 3], b + (keys[(n + 1) % 3] + jnp.uint32(n))
    return a, b


def _rotate(word: jax.Array, bits: int) -> jax.Array:
    return word << bits | word >> 32 - bits
