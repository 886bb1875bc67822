"""Dropout: the one layer here that draws random numbers, in training only."""

from __future__ import annotations

import jax

from jaxnn import kernels
from jaxnn.core.combinators import positionwise
from jaxnn.core.layer import Layer
from jaxnn.core.options import fraction
from jaxnn.core.scope import require_key


def dropout(rate: float) -> Layer:
    """In training each unit is zero with probability `rate`, and divided by 1 − rate otherwise; at inference y = x.

    So the expected value is the same in both (Srivastava et al. 2014, 'inverted').

    Args:
        rate: the share of units that is dropped, in [0, 1); the teaching notes name 0.2 and 0.5. It may be traced.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: if `rate` lies outside, or in training without a key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.dropout(0.5), jnp.ones((2, 4))
        >>> y, state = layer.apply({}, {}, x, key=jax.random.key(0), training=True)
        >>> sorted(set(y.ravel().tolist())), (layer({}, x) == x).all().item()
        ([0.0, 2.0], True)
    """
    rate = fraction("dropout", "rate", rate)

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, training=False):
        if not training or (not isinstance(rate, jax.Array) and rate == 0):
            return x, state
        return kernels.dropout(x, rate, require_key(key)), state

    return positionwise(Layer(init, apply, "dropout"))
