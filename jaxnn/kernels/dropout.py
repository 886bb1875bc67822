"""Dropout whose mask depends only on the key and each element's index, and is cheap enough to compute where it is used."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnn._jax import is_tracer
from jaxnn.kernels.forms import widen

STEPS = 2**24  # float32 holds every probability n / STEPS exactly
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def dropout(x: ArrayLike, rate: float | jax.Array, key: jax.Array) -> jax.Array:
    """Set elements of x to zero at random, and scale the others so that the expectation stays the same.

        y = x / p  with probability p,  else 0;        p = 1 − rate, rounded to a multiple of 2⁻²⁴

    The scale uses the rounded p, so the expectation of y is x. The mask is a function of the key and the index: it is
    the same in eager and compiled calls and on every backend, and a longer batch begins with the mask of a shorter
    one. An element costs one word of Threefry, written so that XLA fuses it into the product; JAX's own generator makes
    several passes over memory on a CPU.

    Args:
        x: A floating-point array of any shape.
        rate: The probability of a zero, in [0, 1]. It may be traced; then a rate outside of this range gives NaN. It has
            no derivative.
        key: A `jax.random.key` that is not used elsewhere.

    Returns:
        An array of x's shape and dtype.

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
        raise ValueError(f"dropout takes a rate in [0, 1], the fraction of elements to drop, got {rate}")
    return _dropout(x, rate, key)


@jax.jit  # one compiled program in an eager call
def _dropout(x: jax.Array, rate: float | jax.Array, key: jax.Array) -> jax.Array:
    return dropped(widen(x), rate, _words(key, x.shape)).astype(x.dtype)


def dropped(x: jax.Array, rate: float | jax.Array, words: jax.Array) -> jax.Array:
    """Apply `dropout` to x, in at least float32, with one random uint32 per element."""
    keep = 1 - jnp.asarray(rate, jnp.float32)
    steps = jnp.round(jnp.clip(keep, 0, 1) * STEPS).astype(jnp.uint32)
    scale = STEPS / jnp.maximum(steps, 1).astype(x.dtype)
    scale = jnp.where((keep >= 0) & (keep <= 1), scale, jnp.nan)
    kept = words >> 8 < steps  # a word's upper 24 bits
    return jnp.where(kept, x, 0) * scale


def _words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """One random uint32 per element: the first word of Threefry's block at (index in the batch, index in the example)."""
    batch, *example = shape or (1,)
    in_batch = jnp.arange(batch, dtype=jnp.uint32).reshape(batch, *(1 for _ in example))
    in_example = jnp.arange(math.prod(example), dtype=jnp.uint32).reshape(1, *example)
    return threefry(words_of(key), (in_batch, in_example))[0].reshape(shape)


def words_of(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two words of a key; of another generator's key, two words drawn from it."""
    words = jax.random.key_data(key)
    if words.shape != (2,):
        words = jax.random.bits(key, (2,), jnp.uint32)
    return words[0], words[1]


def threefry(key: tuple[jax.Array, jax.Array], block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 13 rounds: two random words from a key of two words and a counter of two words.

    From 8 rounds on, every bit of the result depends on every bit of the counter. JAX uses 20 rounds, which other uses than
    dropout may need. Salmon et al. (2011), 'Parallel random numbers: as easy as 1, 2, 3'.
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
