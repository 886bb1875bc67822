"""Every layer against PyTorch, in values and in all gradients, over shapes and options that Hypothesis draws."""

import pytest
from hypothesis import Phase, given, settings

import jaxnn as nn

from . import convolution
from .case import Row, compare

LAYERS = {
    "conv": Row(convolution.conv(), "conv1d, conv2d, conv3d"),
    "depthwise_conv": Row(convolution.depthwise_conv(), "conv1d, conv2d, conv3d"),
    "separable_conv": Row(convolution.separable_conv(), "conv1d, conv2d, conv3d"),
    "conv_transpose": Row(convolution.conv_transpose(), "conv_transpose1d"),
    "weight_norm": Row(convolution.weight_norm(), ""),
    "weight_standardization": Row(convolution.weight_standardization(), ""),
    "spectral_norm": Row(convolution.spectral_norm(), ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("row", LAYERS.values(), ids=LAYERS)
def test_layers_are_pytorchs(row):
    settings(max_examples=6, derandomize=True, database=None, deadline=None, phases=[Phase.generate])(given(row.cases)(compare))()
