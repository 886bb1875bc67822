"""Composition of augmentations."""

from __future__ import annotations

import jax

from jaxnn.data.augment._shared import Augment


def chain(*augments: Augment) -> Augment:
    """Apply augmentations from left to right; the k-th, counted from 0, receives the key `fold_in(key, k)`.

    An augmentation appended at the end leaves the draws of the others unchanged.

    Args:
        *augments: Augmentations of this package, or any functions `(key, (x, y)) -> (x, y)`.

    Returns:
        `augment(key, (x, y)) -> (x, y)`; the identity if there are no arguments.

    Raises:
        TypeError: If an argument is not a function, or returns something other than a pair.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn.data.augment import chain, mixup, random_crop, random_flip
        >>> augment = chain(random_flip(), random_crop(4), mixup(0.2, classes=10))
        >>> x, y = jax.jit(augment)(jax.random.key(0), (jnp.ones((8, 32, 32, 3)), jnp.arange(8)))
        >>> x.shape, y.shape
        ((8, 32, 32, 3), (8, 10))
    """
    for k, function in enumerate(augments):
        if not callable(function):
            raise TypeError(f"chain: argument {k} is {function!r}, expected a function (key, (x, y)) -> (x, y)")

    def augment(key, batch):
        for k, function in enumerate(augments):
            batch = function(jax.random.fold_in(key, k), batch)
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                name = getattr(function, "__qualname__", repr(function))
                raise TypeError(f"chain: argument {k}, {name}, returned a {type(batch).__name__}; expected a pair (x, y)")
        return tuple(batch)

    return augment
