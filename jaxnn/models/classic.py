"""The three kinds of networks in the teaching notes: dense, convolutional and recurrent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jaxnn as nn


def mlp(
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: Any = nn.relu,
    dropout: float = 0.0,
    kernel_init: Any = nn.initializers.he_normal(),
) -> nn.Layer:
    """A multilayer perceptron: flattened input, hidden layers, and an output layer without activation.

    Args:
        hidden: The number of neurons of each hidden layer.
        outputs: The number of neurons of the output layer: one for regression, one per class for classification.
        activation: The activation after each hidden layer.
        dropout: The dropout rate after each activation.
        kernel_init: Initializer of every kernel.

    Returns:
        A `Layer` from (batch, ...) to (batch, outputs).

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.models.mlp([256, 128], 10)
        >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 28, 28, 1)))
        >>> nn.trees.count(params)
        235146
    """
    layers: list[Any] = [nn.flatten()]
    for n in hidden:
        layers += [nn.dense(n, kernel_init=kernel_init), activation, *_dropout(dropout)]
    return nn.serial(*layers, output=nn.dense(outputs, kernel_init=kernel_init))


def cnn(
    outputs: int,
    *,
    features: Sequence[int] = (32, 64),
    hidden: int = 128,
    activation: Any = nn.relu,
    dropout: float = 0.0,
    kernel_init: Any = nn.initializers.he_normal(),
) -> nn.Layer:
    """A LeNet-like network (LeCun et al. 1998): 3×3 convolutions, each with 2×2 max pooling, then dense layers.

    Args:
        outputs: The number of neurons of the output layer.
        features: The number of features of each convolution.
        hidden: The number of neurons of the dense hidden layer.
        activation: The activation after each convolution and the hidden layer.
        dropout: The dropout rate before each dense layer.
        kernel_init: Initializer of every kernel.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs).

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.models.cnn(10)
        >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 28, 28, 1)))
        >>> nn.trees.count(params)
        421642
    """
    layers: list[Any] = []
    for n in features:
        layers += [nn.conv(n, 3, kernel_init=kernel_init), activation, nn.max_pool(2)]
    layers += [nn.flatten(), *_dropout(dropout), nn.dense(hidden, kernel_init=kernel_init), activation, *_dropout(dropout)]
    return nn.serial(*layers, output=nn.dense(outputs, kernel_init=kernel_init))


def rnn(
    features: int,
    outputs: int,
    *,
    dropout: float = 0.0,
    kernel_init: Any = nn.initializers.fan_in_uniform(),
) -> nn.Layer:
    """An LSTM over a sequence, or over the rows of an image, with a dense layer on its last state.

    Args:
        features: The number of features of the LSTM.
        outputs: The number of neurons of the output layer.
        dropout: The dropout rate on the last state.
        kernel_init: Initializer of every kernel.

    Returns:
        A `Layer` from (batch, time, features) or (batch, rows, columns, channels) to (batch, outputs).

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.models.rnn(64, 10)
        >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
        >>> model(params, jnp.ones((5, 8, 8, 1))).shape
        (5, 10)
    """

    def rows(x):
        return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]) if x.ndim == 4 else x

    return nn.serial(
        rows,
        nn.lstm(features, return_sequences=False, kernel_init=kernel_init),
        *_dropout(dropout),
        output=nn.dense(outputs, kernel_init=kernel_init),
    )


def _dropout(rate: Any) -> list[nn.Layer]:
    """The dropout layer in a list, which is empty for a rate that is known to be zero."""
    return [] if isinstance(rate, (int, float)) and rate == 0 else [nn.dropout(rate)]
