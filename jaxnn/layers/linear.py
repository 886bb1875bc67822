"""The dense layer and the embedding: products with a matrix, whole or one row at a time."""

from __future__ import annotations

import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.combinators import positionwise
from jaxnn.core.draw import param
from jaxnn.core.dtypes import promote
from jaxnn.core.layer import Layer, stateless
from jaxnn.core.options import whole
from jaxnn.functional.initializers import he_normal, normal, zeros


def dense(features: int, *, use_bias: bool = True, kernel_init=he_normal(), bias_init=zeros) -> Layer:
    """A fully connected layer: z = x W + b, that is zⱼ = Σᵢ xᵢ wᵢⱼ + bⱼ.

    n_in · n_out + n_out parameters: `kernel` (n_in, n_out) and `bias` (n_out,).

    Args:
        features: n_out, the number of neurons.
        use_bias: whether b is there.
        kernel_init: initializer of W; He's by default, for ReLU. `fan_in_uniform()` suits sigmoid and tanh.
        bias_init: initializer of b.

    Returns:
        A `Layer` from (..., n_in) to (..., features); a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: if the input's last axis is not the one the kernel was made for.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.dense(10)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((32, 784)))
        >>> layer(params, jnp.ones((32, 784))).shape, nn.trees.count(params)
        ((32, 10), 7850)
    """
    features = whole("dense", "features", features)

    def init(key, x):
        if x.ndim < 2:
            raise ValueError(
                f"dense is made for an input of shape (batch, ..., features), got {list(x.shape)}: "
                "a single sample is x[None], a single feature x[:, None]"
            )
        params = {"kernel": param(kernel_init, (x.shape[-1], features))}
        return params | ({"bias": param(bias_init, (features,))} if use_bias else {})

    def apply(params, x):
        n_in = params["kernel"].shape[0]
        if x.shape[-1:] != (n_in,):
            raise ValueError(
                f"dense was made for {n_in} input features, got an input of shape {list(x.shape)}: "
                "give it what init was given, or init the model anew for this input"
            )
        x, kernel = promote(x, params["kernel"])
        return kernels.linear(x, kernel, params.get("bias"))

    return positionwise(stateless(init, apply))


def embedding(vocabulary: int, features: int, *, embedding_init=normal(1.0)) -> Layer:
    """A learned vector for each of a finite number of tokens: y = E[x].

    Args:
        vocabulary: how many tokens there are; they are numbered from 0.
        features: the length of each vector.
        embedding_init: initializer of E, (vocabulary, features); N(0, 1) by default, as in PyTorch.

    Returns:
        A `Layer` from integers (...) to (..., features); a padded sequence `(x, mask)` keeps its mask. A token outside
        the vocabulary gives NaN, which no later layer can hide.

    Raises:
        TypeError: if the input is not of integers.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.embedding(100, 8)
        >>> tokens = jnp.array([[1, 5, 99]])
        >>> params, state = layer.init(jax.random.key(0), tokens)
        >>> layer(params, tokens).shape
        (1, 3, 8)
    """
    vocabulary, features = whole("embedding", "vocabulary", vocabulary), whole("embedding", "features", features)

    def init(key, x):
        return {"embedding": param(embedding_init, (vocabulary, features))}

    def apply(params, x):
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"embedding takes integer tokens from 0 to {vocabulary - 1}, got {x.dtype}")
        tokens = jnp.where(x < 0, vocabulary, x)  # a negative index would count from the end
        return jnp.take(params["embedding"], tokens, axis=0, mode="fill", fill_value=jnp.nan)

    return positionwise(stateless(init, apply))
