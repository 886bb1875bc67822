"""Residual networks: ResNet with post- and pre-activation, and WideResNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jaxnn as nn

_BLOCKS = {  # by depth: the number of blocks of each stage, and whether they are bottlenecks
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


def resnet(
    depth: int, outputs: int, *, features: int = 64, pre_activation: bool = False, small_images: bool = False
) -> nn.Layer:
    """A residual network (He et al. 2016a), optionally with activations before the convolutions (He et al. 2016b).

    It has four stages, each with half the resolution and twice the features of the previous one. The blocks are two 3×3
    convolutions (depths 18 and 34) or bottlenecks of 1×1, 3×3 and 1×1 convolutions (depths 50, 101 and 152), with the stride
    at the 3×3 convolution, as in PyTorch and unlike the first paper. Equal blocks of a stage are one `nn.repeat`. For 1000
    classes ResNet-18 has 11,689,512 parameters and ResNet-50 25,557,032, as in torchvision.

    Args:
        depth: The number of layers with weights, 18, 34, 50, 101 or 152.
        outputs: The number of neurons of the output layer.
        features: The number of features of the first stage.
        pre_activation: Whether normalization and activation come before the convolutions, without an activation after the
            sums.
        small_images: Whether to start with a 3×3 convolution at full resolution, for images of about 32×32 pixels such as
            CIFAR's, rather than a 7×7 convolution with stride 2 and pooling.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs).

    Raises:
        ValueError: If `depth` is not one of these.

    Example:
        >>> import jax, jaxnn as nn
        >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
        >>> params, state = jax.eval_shape(nn.models.resnet(50, 1000).init, jax.random.key(0), images)
        >>> nn.trees.count(params)
        25557032
    """
    if depth not in _BLOCKS:
        raise ValueError(f"resnet takes one of the depths {sorted(_BLOCKS)}, got {depth!r}")
    blocks, bottleneck = _BLOCKS[depth]
    expansion = 4 if bottleneck else 1
    stem: list[Any] = [_conv(features, 3) if small_images else _conv(features, 7, 2)]
    stem += [] if pre_activation else [nn.batch_norm(), nn.relu]
    stem += [] if small_images else [nn.max_pool(3, strides=2, padding=((1, 1), (1, 1)))]
    stages = {}
    for i, n in enumerate(blocks):
        block = partial(_block, _bottleneck if bottleneck else _plain, features * 2**i, expansion, pre_activation)
        stages[f"stage_{i + 1}"] = _stage(block, n, 1 if i == 0 else 2, changes=i > 0 or bottleneck)
    end = [nn.batch_norm(), nn.relu] if pre_activation else []
    return nn.serial(stem=nn.serial(*stem), **stages, head=_head(outputs, end))


def wide_resnet(depth: int, width: int, outputs: int, *, dropout: float = 0.0) -> nn.Layer:
    """A wide residual network for images of about 32×32 pixels (Zagoruyko & Komodakis 2016).

    It has three stages of (depth − 4)/6 pre-activation blocks with 16, 32 and 64 times `width` features. For 10 classes
    WRN-28-10 has 36,479,194 parameters (36.5 million in the paper) and WRN-40-4 8,949,210 (8.9 million).

    Args:
        depth: The number of layers, 6 n + 4; the best in the paper is 28.
        width: The factor for the number of features, k in the paper; the best there is 10.
        outputs: The number of neurons of the output layer.
        dropout: The dropout rate between the two convolutions of a block; 0.3 in the paper's models with dropout.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs).

    Raises:
        ValueError: If `depth` is not 6 n + 4.

    Example:
        >>> import jax, jaxnn as nn
        >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
        >>> params, state = jax.eval_shape(nn.models.wide_resnet(28, 10, 10).init, jax.random.key(0), images)
        >>> nn.trees.count(params)
        36479194
    """
    n, rest = divmod(depth - 4, 6)
    if n < 1 or rest:
        raise ValueError(f"wide_resnet takes a depth 6 n + 4, such as 10, 16, 22 or 28, got {depth!r}")
    stages = {}
    for i in range(3):
        block = partial(_block, partial(_plain, dropout=dropout), 16 * width * 2**i, 1, True)
        stages[f"stage_{i + 1}"] = _stage(block, n, 1 if i == 0 else 2, changes=i > 0 or width > 1)
    return nn.serial(stem=_conv(16, 3), **stages, head=_head(outputs, [nn.batch_norm(), nn.relu]))


def _stage(block: Callable[..., nn.Layer], n: int, strides: int, *, changes: bool) -> nn.Layer:
    """A stage of `n` blocks; the first may change the shape, and the others are one `nn.repeat`."""
    if not changes:
        return nn.serial(rest=nn.repeat(block(1, False), n))
    first = block(strides, True)
    return nn.serial(first=first) if n == 1 else nn.serial(first=first, rest=nn.repeat(block(1, False), n - 1))


def _block(
    convolutions: Callable[..., list], features: int, expansion: int, pre_activation: bool, strides: int, changes: bool
) -> nn.Layer:
    """One residual block; if it changes the shape, the shortcut is a 1×1 convolution."""
    layers = convolutions(features, strides)
    if not pre_activation:
        shortcut = nn.serial(_conv(features * expansion, 1, strides), nn.batch_norm()) if changes else None
        return nn.serial(nn.residual(*layers, nn.batch_norm(), shortcut=shortcut), nn.relu)
    if not changes:
        return nn.residual(nn.batch_norm(), nn.relu, *layers)
    # here both branches begin with the activation (He et al. 2016b, section 4.1)
    return nn.serial(nn.batch_norm(), nn.relu, nn.residual(*layers, shortcut=_conv(features * expansion, 1, strides)))


def _plain(features: int, strides: int, dropout: float = 0.0) -> list[Any]:
    between = [] if dropout == 0 else [nn.dropout(dropout)]
    return [_conv(features, 3, strides), nn.batch_norm(), nn.relu, *between, _conv(features, 3)]


def _bottleneck(features: int, strides: int) -> list[Any]:
    narrow = [_conv(features, 1), nn.batch_norm(), nn.relu, _conv(features, 3, strides), nn.batch_norm(), nn.relu]
    return [*narrow, _conv(4 * features, 1)]


def _conv(features: int, kernel_size: int, strides: int = 1) -> nn.Layer:
    """A convolution with symmetric padding, as in the papers' code; `"SAME"` with a stride pads only the end."""
    around = (kernel_size // 2, kernel_size // 2)
    return nn.conv(features, kernel_size, strides=strides, padding=(around, around), use_bias=False)


def _head(outputs: int, end: Sequence[Any]) -> nn.Layer:
    return nn.serial(*end, nn.global_avg_pool(), output=nn.dense(outputs))
