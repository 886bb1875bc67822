"""Compare every layer with PyTorch, in values and all gradients, over shapes and options that Hypothesis draws."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import Phase, given, settings

import jaxnn as nn

from . import attention, convolution, linear, normalization, pooling, recurrent
from .case import LOOSE, Row, compare

CONV_WEIGHT = "weights are (features, channels / groups, *window)"
POOL_PADDING = "one number pads both sides, by at most half of the window; it has no 'SAME'"
LOOP = "a loop of PyTorch operations: it has no such layer"

# layer (after a comma, the variant): its cases, PyTorch's name, and how its convention differs
LAYERS = {
    # products
    "dense": Row(linear.dense(), "functional.linear", "weights are (features, n_in)"),
    "dense, over axes": Row(linear.dense_over_axes(), "tensordot"),
    "bilinear": Row(linear.bilinear(), "functional.bilinear", "weights are (features, n_u, n_v)"),
    "einsum": Row(linear.einsum(), "einsum"),
    "lora": Row(linear.lora(), "functional.linear of the sum of its kernels"),
    "embedding": Row(
        linear.embedding(),
        "functional.embedding",
        "the padding index has a vector, initially zero, that is not learned; max_norm scales the parameters",
    ),
    "attend": Row(linear.attend(), "functional.linear with the embedding"),
    "learned_positions": Row(linear.learned_positions(), "functional.embedding of the positions"),
    "prelu": Row(linear.prelu(), "functional.prelu", "PReLU has one slope by default"),
    "rrelu": Row(linear.rrelu(), "functional.rrelu at inference"),
    # convolutions
    "conv": Row(convolution.conv(), "functional.conv1d, conv2d, conv3d", f"{CONV_WEIGHT}; 'same' has no strides"),
    "depthwise_conv": Row(convolution.depthwise_conv(), "functional.conv1d, conv2d, conv3d", CONV_WEIGHT),
    "separable_conv": Row(convolution.separable_conv(), "functional.conv1d, conv2d, conv3d", CONV_WEIGHT),
    "conv_transpose": Row(
        convolution.conv_transpose(),
        "functional.conv_transpose1d, conv_transpose2d, conv_transpose3d",
        "weights are (channels, features / groups, *window); padding=p, output_padding=q is (p, p - q)",
    ),
    "weight_norm": Row(
        convolution.weight_norm(), "nn.utils.parametrizations.weight_norm", "dim=0, but of a transposed convolution dim=1"
    ),
    "spectral_norm": Row(convolution.spectral_norm(), "nn.utils.parametrizations.spectral_norm", "u is `left`, v `right`"),
    "weight_standardization": Row(convolution.weight_standardization(), "functional.batch_norm of the kernel", tolerance=LOOSE),
    # pooling
    "max_pool": Row(pooling.max_pool(), "functional.max_pool1d, max_pool2d, max_pool3d", POOL_PADDING),
    "min_pool": Row(pooling.min_pool(), "-functional.max_pool1d, max_pool2d, max_pool3d of -x", POOL_PADDING),
    "avg_pool": Row(
        pooling.avg_pool(),
        "functional.avg_pool1d, avg_pool2d, avg_pool3d; divisor_override",
        f"count_include_pad is true by default; {POOL_PADDING}",
    ),
    "lp_pool": Row(
        pooling.lp_pool(),
        "functional.lp_pool1d, lp_pool2d, lp_pool3d",
        "odd p: the sum of xᵖ with its sign; ceil_mode: what overhangs is scaled up; no slope at 0",
    ),
    "adaptive_avg_pool": Row(pooling.adaptive("avg"), "functional.adaptive_avg_pool1d, ...2d, ...3d"),
    "adaptive_max_pool": Row(pooling.adaptive("max"), "functional.adaptive_max_pool1d, ...2d, ...3d"),
    "global_avg_pool": Row(pooling.global_pool("avg"), "functional.adaptive_avg_pool1d, ...2d, ...3d to size 1"),
    "global_max_pool": Row(pooling.global_pool("max"), "functional.adaptive_max_pool1d, ...2d, ...3d to size 1"),
    "unfold": Row(pooling.unfold(), "functional.unfold", "the windows are the last axis"),
    # shapes
    "upsample": Row(pooling.upsample(), "functional.interpolate", "'pytorch_nearest' is 'nearest', 'pytorch_cubic' 'bicubic'"),
    "resize": Row(pooling.resize(), "functional.interpolate", "it smooths only where antialias=True"),
    "grid_sample": Row(pooling.grid_sample(), "functional.grid_sample"),
    "channel_shuffle": Row(pooling.channel_shuffle(), "functional.channel_shuffle"),
    "pixel_shuffle": Row(pooling.pixel_shuffle("pixel_shuffle"), "functional.pixel_shuffle"),
    "pixel_unshuffle": Row(pooling.pixel_shuffle("pixel_unshuffle"), "functional.pixel_unshuffle"),
    "pad": Row(pooling.pad(), "functional.pad", "'edge' is 'replicate', 'wrap' 'circular'; there is no 'symmetric'"),
    "crop": Row(pooling.crop(), "functional.pad by negative numbers"),
    "flatten": Row(pooling.flatten(), "Tensor.reshape"),
    "reshape": Row(pooling.reshape(), "Tensor.reshape"),
    "permute": Row(pooling.permute(), "Tensor.permute"),
    # normalization
    "batch_norm": Row(normalization.batch_norm(), "functional.batch_norm", "momentum is 1 − m", tolerance=LOOSE),
    "layer_norm": Row(normalization.over_axes("layer_norm"), "functional.layer_norm", tolerance=LOOSE),
    "rms_norm": Row(
        normalization.over_axes("rms_norm"), "functional.rms_norm", "ε is by default that of the dtype", tolerance=LOOSE
    ),
    "unit_norm": Row(normalization.unit_norm(), "functional.normalize"),
    "group_norm": Row(normalization.grouped("group_norm"), "functional.group_norm", tolerance=LOOSE),
    "instance_norm": Row(
        normalization.grouped("instance_norm"), "functional.instance_norm", "by default without scale and bias", tolerance=LOOSE
    ),
    "local_response_norm": Row(normalization.local_response_norm(), "functional.local_response_norm"),
    # recurrent layers
    "rnn": Row(recurrent.module(["rnn"]), "nn.RNN", "two biases, whose sum is ours"),
    "lstm": Row(recurrent.module(["lstm"]), "nn.LSTM", "two biases, whose sum is ours"),
    "gru": Row(recurrent.module(["gru"]), "nn.GRU", "two biases, whose sum is ours in r and z"),
    "bidirectional": Row(recurrent.module(["rnn", "lstm", "gru"], both=True), "bidirectional=True of nn.RNN, LSTM, GRU"),
    "lstm, stacked": Row(recurrent.stack("lstm"), "num_layers of nn.LSTM"),
    "lstm, with peepholes and norms": Row(recurrent.loop("lstm"), LOOP),
    "gru, reset before the product": Row(recurrent.loop("gru"), LOOP),
    "minimal_gru": Row(recurrent.loop("minimal_gru"), LOOP),
    "ind_rnn": Row(recurrent.loop("ind_rnn"), LOOP),
    "conv_lstm": Row(recurrent.loop("conv_lstm"), LOOP),
    # attention
    "attention": Row(attention.attention(), "functional.scaled_dot_product_attention between projections", tolerance=LOOSE),
    "attention, as a module": Row(
        attention.multi_head_attention(), "nn.MultiheadAttention", "a mask is true where something is hidden", tolerance=LOOSE
    ),
    "feed_forward": Row(attention.feed_forward(), "functional.linear, twice or three times"),
    "transformer_block": Row(
        attention.transformer_block(), "nn.TransformerEncoderLayer, nn.TransformerDecoderLayer", tolerance=LOOSE
    ),
}

# layer: why it has no row, and the test that checks it instead
CHECKED_ELSEWHERE = {
    "add": ("a sum", "layers/test_linear.py::test_a_u_net_and_a_siamese_net"),
    "concatenate": ("no arithmetic", "layers/test_linear.py::test_a_u_net_and_a_siamese_net"),
    "multiply": ("a product", "layers/test_linear.py::test_a_u_net_and_a_siamese_net"),
    "max_unpool": ("its input is that of max_pool", "layers/test_pooling.py::test_unpooling_against_pytorch"),
    "locally_connected": ("none in PyTorch: NumPy", "layers/test_sampling.py::test_locally_connected_is_its_formula"),
    "merge_lora": ("none in PyTorch: NumPy", "layers/test_linear.py::test_lora_adds_a_product_of_low_rank_and_merges"),
    "sinusoidal_positions": ("none in PyTorch: NumPy", "layers/test_embedding.py::test_sinusoidal_positions_are_the_papers"),
    "rotary": (
        "none in PyTorch, but as complex numbers in attention's row",
        "layers/test_embedding.py::test_products_of_rotated_vectors_depend_only_on_distances",
    ),
    "apply_rotary": (
        "the rotation that rotary applies",
        "layers/test_embedding.py::test_rotary_of_some_features_in_neighboring_pairs_of_packed_sequences",
    ),
    "alibi": ("none in PyTorch, but in attention's row", "layers/test_embedding.py::test_alibi_has_the_slopes_of_the_paper"),
    "moe": ("none in PyTorch: NumPy", "layers/test_attention.py::test_moe_is_its_formula"),
    "carried": ("no arithmetic", "layers/test_recurrent.py::test_a_stack_applied_to_a_sequence_in_parts_equals_one_pass"),
    **dict.fromkeys(
        ("dropout", "spatial_dropout", "alpha_dropout"),
        ("its numbers are random: PyTorch's two values", "layers/test_dropout.py::test_values_are_pytorchs"),
    ),
    "drop_path": ("none in PyTorch", "layers/test_dropout.py::test_drop_path_drops_or_scales_whole_samples"),
    **dict.fromkeys(
        ("gaussian_dropout", "gaussian_noise"),
        ("none in PyTorch: moments", "layers/test_dropout.py::test_moments_of_standard_normal_inputs"),
    ),
    "repeat": ("the unrolled stack", "core/test_combinators.py::test_repeat_equals_the_unrolled_stack"),
    "remat": ("the same without", "core/test_combinators.py::test_remat_keeps_values_and_gradients"),
    "dtype_policy": ("casts", "core/test_combinators.py::test_dtype_policy_sets_the_dtypes_of_storage_and_computation"),
    "positionwise": ("passes a mask on", "core/test_layer.py::test_a_mask_travels_with_its_sequence"),
    **dict.fromkeys(
        ("serial", "residual", "parallel", "branch", "block"),
        ("wiring", "test_contract.py::test_names_and_shapes_are_golden"),
    ),
    **dict.fromkeys(
        ("Layer", "as_layer", "stateless", "param"),
        ("what layers are built from", "core/test_layer.py::test_a_custom_layer_works_like_any_other"),
    ),
}


def layer_of(row: str) -> str:
    return row.split(",")[0]


def test_every_layer_is_in_the_table():
    public = {
        name for name in nn.__all__ if getattr(getattr(nn, name), "__module__", "").startswith(("jaxnn.layers", "jaxnn.core"))
    }
    rows = {layer_of(row) for row in LAYERS}
    assert rows | CHECKED_ELSEWHERE.keys() == public
    assert not rows & CHECKED_ELSEWHERE.keys()


def test_the_table_agrees_with_docstrings_and_tests():
    """Each difference is in the layer's docstring too, and each test named instead of a row exists."""
    for row, entry in LAYERS.items():
        assert not entry.differs or "PyTorch" in getattr(nn, layer_of(row)).__doc__, row
    for file, test in (where.split("::") for _, where in CHECKED_ELSEWHERE.values()):
        assert f"def {test}(" in (Path(__file__).parents[1] / file).read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("row", LAYERS.values(), ids=LAYERS)
def test_layers_are_pytorchs(row):
    drawn = settings(max_examples=6, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    drawn(given(row.cases)(lambda case: compare(case, row.tolerance)))()


LONGEST = (40, 16, 6)  # of one, two and three axes
JOINT = {
    "max_pool": pooling.max_pool(longest=LONGEST),
    "avg_pool": pooling.avg_pool(longest=LONGEST),
    "conv": convolution.conv(longest=LONGEST),
    "conv_transpose": convolution.conv_transpose(longest=LONGEST),
    "grid_sample": pooling.grid_sample(),
    "embedding": linear.embedding(),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("cases", JOINT.values(), ids=JOINT)
def test_options_of_windows_drawn_jointly_in_float64(cases):
    """Sizes, windows, strides, dilations, groups, paddings, ceil mode and counted padding: values and all gradients."""
    drawn = settings(max_examples=30, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    with jax.enable_x64(True):
        drawn(given(cases)(lambda case: compare(case, 1e-11, np.float64)))()
