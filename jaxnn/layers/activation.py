"""Activations with learned or random slopes."""

from __future__ import annotations

import jax

from jaxnn import kernels
from jaxnn.core.checks import number, require_key
from jaxnn.core.combinators import positionwise
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, stateless
from jaxnn.functional.activations import leaky_relu
from jaxnn.functional.initializers import constant


def prelu(*, negative_slope_init=constant(0.25)) -> Layer:
    """Leaky ReLU with a learned slope for each feature: y = x if x > 0 else βx (He et al. 2015).

    PyTorch's `PReLU` has one slope for all features by default. `leaky_relu` is the same as a function of x and β.

    Args:
        negative_slope_init: Initializer of the parameter `negative_slope`, β, (features,); 1/4 by default, as in the paper.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If the number of features differs from that of the slopes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.prelu(), jnp.array([[-2.0, 3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).tolist()
        [[-0.5, 3.0]]
    """

    def init(key, x):
        return {"negative_slope": param(negative_slope_init, (x.shape[-1],))}

    def apply(params, x):
        x, slope = promote(x, params["negative_slope"])
        if x.shape[-1:] != slope.shape:
            raise ValueError(f"prelu was initialized for {slope.size} features, got an input of shape {list(x.shape)}")
        return leaky_relu(x, kernels.spread(slope, x))

    return positionwise(stateless(init, apply))


def rrelu(*, low: float = 1 / 8, high: float = 1 / 3) -> Layer:
    """Leaky ReLU with a random slope for each element: y = x if x > 0 else βx, β ~ U[low, high) in training.

    At inference β is the mean, (low + high)/2. Xu et al. (2015); PyTorch's `RReLU`, with its bounds.

    Args:
        low: The smallest slope.
        high: The largest slope, at least `low`.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If `low` > `high`, or in training without a key.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.rrelu(low=0.0, high=0.5)({}, jnp.array([[-2.0, 3.0]])).tolist()
        [[-0.5, 3.0]]
    """
    low, high = number("rrelu", "low", low), number("rrelu", "high", high)
    if not low <= high:
        raise ValueError(f"rrelu takes low <= high, got {low} and {high}")

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, training=False):
        if not training:
            return leaky_relu(x, (low + high) / 2), state
        wide = at_least_float32(x).dtype
        return leaky_relu(x, jax.random.uniform(require_key(key), x.shape, wide, low, high)), state

    return positionwise(Layer(init, apply, "rrelu"))
