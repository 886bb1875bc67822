"""Networks with depthwise convolutions: MobileNetV2 and ConvNeXt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jaxnn as nn

_TABLE_2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(
    outputs: int, *, stages: Sequence[tuple[int, int, int, int]] = _TABLE_2, width: float = 1.0, dropout: float = 0.2
) -> nn.Layer:
    """MobileNetV2: inverted residual blocks with linear bottlenecks (Sandler et al. 2018).

    A block is a 1×1 convolution to more features, a 3×3 depthwise convolution, and a 1×1 convolution to fewer features
    without an activation; the activation is ReLU6. Equal blocks are one `nn.repeat`. For 1000 classes it has 3,504,872
    parameters, as in torchvision (the paper's 3.4 million).

    Args:
        outputs: The number of neurons of the output layer.
        stages: One tuple (t, c, n, s) per stage, by default table 2 of the paper: n blocks with t times the features inside
            and c output features, the first one with stride s. Small images usually need other strides.
        width: The factor for all numbers of features, which are rounded to multiples of 8; the last 1280 are not reduced.
        dropout: The dropout rate before the output layer.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs).

    Example:
        >>> import jax, jaxnn as nn
        >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
        >>> params, state = jax.eval_shape(nn.models.mobilenet_v2(1000).init, jax.random.key(0), images)
        >>> nn.trees.count(params)
        3504872
    """
    n_in = _multiple_of_8(32 * width)
    layers: dict[str, Any] = {"stem": _activated(nn.conv(n_in, 3, strides=2, padding=((1, 1), (1, 1)), use_bias=False))}
    for i, (expansion, channels, n, strides) in enumerate(stages):
        features = _multiple_of_8(channels * width)
        layers[f"stage_{i + 1}"] = _inverted(n_in, features, expansion, strides)
        if n > 1:
            layers[f"stage_{i + 1}_rest"] = nn.repeat(_inverted(features, features, expansion, 1), n - 1)
        n_in = features
    last = _multiple_of_8(1280 * max(width, 1.0))
    layers["last"] = _activated(nn.conv(last, 1, use_bias=False))
    return nn.serial(**layers, head=nn.serial(nn.global_avg_pool(), nn.dropout(dropout), output=nn.dense(outputs)))


def convnext(
    outputs: int,
    *,
    blocks: Sequence[int] = (3, 3, 9, 3),
    features: Sequence[int] = (96, 192, 384, 768),
    drop_path: float = 0.0,
) -> nn.Layer:
    """ConvNeXt (Liu et al. 2022): a convolutional network designed like a transformer.

    A block: y = x + γ · D φ(U N(C x)), with a 7×7 depthwise convolution C, layer norm N, four times the features between U and
    D, the exact GELU φ, and one γ per channel, initially 10⁻⁶. The default is ConvNeXt-T: for 1000 classes it has 28,589,128
    parameters, as in torchvision. ConvNeXt-S has (3, 3, 27, 3) blocks and 50,223,688 parameters.

    Args:
        outputs: The number of neurons of the output layer.
        blocks: The number of blocks of each stage, which are one `nn.repeat`.
        features: The number of features of each stage.
        drop_path: The rate of `nn.drop_path` in the last stage; it grows linearly from 0 in the first stage (in the paper it
            grows with each block, to 0.1 for ConvNeXt-T).

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs).

    Raises:
        ValueError: If `blocks` and `features` differ in length.

    Example:
        >>> import jax, jaxnn as nn
        >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
        >>> params, state = jax.eval_shape(nn.models.convnext(1000).init, jax.random.key(0), images)
        >>> nn.trees.count(params)
        28589128
    """
    if len(blocks) != len(features):
        raise ValueError(f"convnext takes as many blocks as features, one entry per stage, got {blocks} and {features}")
    norm, init = partial(nn.layer_norm, epsilon=1e-6), nn.initializers.truncated_normal(0.02)
    layers: dict[str, Any] = {}
    for i, (n, c) in enumerate(zip(blocks, features, strict=True)):
        size = 4 if i == 0 else 2
        resize = nn.conv(c, size, strides=size, padding="VALID", kernel_init=init)
        layers[f"downsample_{i + 1}"] = nn.serial(resize, norm()) if i == 0 else nn.serial(norm(), resize)
        rate = 0.0 if drop_path == 0 else drop_path * i / max(len(blocks) - 1, 1)
        block = nn.residual(
            nn.depthwise_conv(7, kernel_init=init),
            norm(),
            nn.feed_forward(c, 4 * c, activation=partial(nn.gelu, approximate=False), kernel_init=init),
            _layer_scale(),
            *([] if rate == 0 else [nn.drop_path(rate)]),
        )
        layers[f"stage_{i + 1}"] = nn.repeat(block, n)
    return nn.serial(**layers, head=nn.serial(nn.global_avg_pool(), norm(), output=nn.dense(outputs, kernel_init=init)))


def _inverted(n_in: int, features: int, expansion: int, strides: int) -> nn.Layer:
    """1×1 to `expansion` times the features, 3×3 depthwise, 1×1 back."""
    wide = [] if expansion == 1 else [_activated(nn.conv(n_in * expansion, 1, use_bias=False))]
    layers = {
        "expand": wide,
        "depthwise": [_activated(nn.depthwise_conv(3, strides=strides, padding=((1, 1), (1, 1)), use_bias=False))],
        "project": [nn.serial(nn.conv(features, 1, use_bias=False), nn.batch_norm())],
    }
    named = {name: layer for name, given in layers.items() for layer in given}
    return nn.residual(**named) if strides == 1 and n_in == features else nn.serial(**named)


def _activated(layer: nn.Layer) -> nn.Layer:
    return nn.serial(layer, nn.batch_norm(), nn.relu6)


def _multiple_of_8(features: float) -> int:
    """The nearest multiple of 8 that is not smaller by more than a tenth."""
    nearest = max(8, int(features + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * features else nearest + 8


def _layer_scale() -> nn.Layer:
    """y = γ x with one γ per channel (Touvron et al. 2021)."""

    def init(key, x):
        return {"scale": nn.param(nn.initializers.constant(1e-6), x.shape[-1:])}

    def apply(params, x):
        return x * nn.kernels.spread(params["scale"].astype(x.dtype), x)

    return nn.stateless(init, apply, "layer_scale")
