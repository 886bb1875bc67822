"""Every layer against PyTorch, in values and in all gradients, over shapes and options that Hypothesis draws."""

import pytest
from hypothesis import Phase, given, settings

from . import convolution, linear, normalization, pooling
from .case import Row, compare

LAYERS = {
    "conv": Row(convolution.conv(), "conv1d, conv2d, conv3d"),
    "depthwise_conv": Row(convolution.depthwise_conv(), "conv1d, conv2d, conv3d"),
    "separable_conv": Row(convolution.separable_conv(), "conv1d, conv2d, conv3d"),
    "conv_transpose": Row(convolution.conv_transpose(), "conv_transpose1d"),
    "max_pool": Row(pooling.max_pool(), ""),
    "min_pool": Row(pooling.min_pool(), ""),
    "avg_pool": Row(pooling.avg_pool(), ""),
    "lp_pool": Row(pooling.lp_pool(), ""),
    "adaptive_avg_pool": Row(pooling.adaptive("avg"), ""),
    "adaptive_max_pool": Row(pooling.adaptive("max"), ""),
    "global_avg_pool": Row(pooling.global_pool("avg"), ""),
    "global_max_pool": Row(pooling.global_pool("max"), ""),
    "upsample": Row(pooling.upsample(), ""),
    "pixel_shuffle": Row(pooling.pixel_shuffle("pixel_shuffle"), ""),
    "pixel_unshuffle": Row(pooling.pixel_shuffle("pixel_unshuffle"), ""),
    "pad": Row(pooling.pad(), ""),
    "crop": Row(pooling.crop(), ""),
    "flatten": Row(pooling.flatten(), ""),
    "reshape": Row(pooling.reshape(), ""),
    "permute": Row(pooling.permute(), ""),
    "batch_norm": Row(normalization.batch_norm(), ""),
    "layer_norm": Row(normalization.over_axes("layer_norm"), ""),
    "rms_norm": Row(normalization.over_axes("rms_norm"), ""),
    "group_norm": Row(normalization.grouped("group_norm"), ""),
    "instance_norm": Row(normalization.grouped("instance_norm"), ""),
    "local_response_norm": Row(normalization.local_response_norm(), ""),
    "dense": Row(linear.dense(), ""),
    "dense over axes": Row(linear.dense_over_axes(), ""),
    "bilinear": Row(linear.bilinear(), ""),
    "einsum": Row(linear.einsum(), ""),
    "lora": Row(linear.lora(), ""),
    "embedding": Row(linear.embedding(), ""),
    "attend": Row(linear.attend(), ""),
    "learned_positions": Row(linear.learned_positions(), ""),
    "prelu": Row(linear.prelu(), ""),
    "rrelu": Row(linear.rrelu(), ""),
    "weight_norm": Row(convolution.weight_norm(), ""),
    "weight_standardization": Row(convolution.weight_standardization(), ""),
    "spectral_norm": Row(convolution.spectral_norm(), ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("row", LAYERS.values(), ids=LAYERS)
def test_layers_are_pytorchs(row):
    settings(max_examples=6, derandomize=True, database=None, deadline=None, phases=[Phase.generate])(
        given(row.cases)(compare)
    )()
