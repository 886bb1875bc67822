"""Early convolutional networks: LeNet-5, a small AlexNet, VGG."""

from __future__ import annotations

from typing import Any

import jaxnn as nn

_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def lenet5(outputs: int) -> nn.Layer:
    """LeNet-5 (LeCun et al. 1998), for images of 32×32: 5×5 convolutions, average pooling, dense layers, and tanh.

    The usual variant: pooling has no weights, the second convolution is not sparse, and the output is a dense layer. It has
    61,706 parameters for 10 classes and one channel; the paper's network, with fewer connections, has 60,000. Pad images of
    28×28 first: `nn.serial(nn.pad(2), nn.models.lenet5(10))`.

    Args:
        outputs: The number of neurons of the output layer.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs).

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.models.lenet5(10)
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 32, 32, 1)))
        >>> nn.trees.count(params), jax.eval_shape(model, params, jnp.ones((2, 32, 32, 1))).shape
        (61706, (2, 10))
    """
    init = nn.initializers.fan_in_uniform()
    layers: list[Any] = []
    for features in (6, 16):
        layers += [nn.conv(features, 5, padding="VALID", kernel_init=init), nn.tanh, nn.avg_pool(2)]
    layers.append(nn.flatten())
    for features in (120, 84):
        layers += [nn.dense(features, kernel_init=init), nn.tanh]
    return nn.serial(*layers, output=nn.dense(outputs, kernel_init=init))


def alexnet_small(outputs: int, *, features: int = 64, hidden: tuple[int, ...] = (384, 192)) -> nn.Layer:
    """A small AlexNet (Krizhevsky et al. 2012) for small images: convolutions, pooling, local response normalization.

    The "small AlexNet" of Zhang et al. (2017): two stages of a 5×5 convolution, 3×3 max pooling with stride 2 and local
    response normalization, then two dense hidden layers. For CIFAR-10 cropped to 28×28 it has the paper's 1,387,786
    parameters.

    Args:
        outputs: The number of neurons of the output layer.
        features: The number of features of each convolution.
        hidden: The number of neurons of each dense hidden layer.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs).

    Example:
        >>> import jax, jaxnn as nn
        >>> images = jax.ShapeDtypeStruct((1, 28, 28, 3), "float32")
        >>> params, state = jax.eval_shape(nn.models.alexnet_small(10).init, jax.random.key(0), images)
        >>> nn.trees.count(params)
        1387786
    """
    layers: list[Any] = []
    for _ in range(2):
        layers += [nn.conv(features, 5), nn.relu, nn.max_pool(3, strides=2, padding="SAME"), nn.local_response_norm()]
    layers.append(nn.flatten())
    for neurons in hidden:
        layers += [nn.dense(neurons), nn.relu]
    return nn.serial(*layers, output=nn.dense(outputs))


def vgg(depth: int, outputs: int, *, features: int = 64, hidden: int = 4096, dropout: float = 0.5) -> nn.Layer:
    """VGG: five stages of 3×3 convolutions with 2×2 max pooling, and three dense layers (Simonyan & Zisserman 2015).

    For images of 224×224 and 1000 classes VGG-11 has 132,863,336 parameters, VGG-13 133,047,848, VGG-16 138,357,544 and
    VGG-19 143,667,240, as in torchvision and in table 2 of the paper.

    Args:
        depth: The number of layers with weights, 11, 13, 16 or 19.
        outputs: The number of neurons of the output layer.
        features: The number of features of the first stage; it doubles from stage to stage, up to eight times this number.
        hidden: The number of neurons of each dense hidden layer.
        dropout: The dropout rate after each dense hidden layer.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs).

    Raises:
        ValueError: If `depth` is not one of these.

    Example:
        >>> import jax, jaxnn as nn
        >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
        >>> params, state = jax.eval_shape(nn.models.vgg(16, 1000).init, jax.random.key(0), images)
        >>> nn.trees.count(params)
        138357544
    """
    if depth not in _VGG:
        raise ValueError(f"vgg takes one of the depths {sorted(_VGG)}, got {depth!r}")
    stages = {}
    for i, n in enumerate(_VGG[depth]):
        convolutions = [layer for _ in range(n) for layer in (nn.conv(features * min(2**i, 8), 3), nn.relu)]
        stages[f"stage_{i + 1}"] = nn.serial(*convolutions, nn.max_pool(2))
    dense = [layer for _ in range(2) for layer in (nn.dense(hidden), nn.relu, nn.dropout(dropout))]
    return nn.serial(**stages, head=nn.serial(nn.flatten(), *dense, output=nn.dense(outputs)))
