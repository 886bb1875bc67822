"""Feature coverage of jaxnn and other libraries: the table of `jaxnn/pages/other_libraries.md`, from names that are looked up.

python bench/coverage.py       # writes the table between its two comments

The cell of another library is ✓ if the given name exists in the installed library (and, after a colon, a parameter of that
name), "by hand" if a few lines with that library suffice, and – otherwise. optax's losses and schedules count for Flax,
Equinox and Haiku, whose users use them. Each feature of jaxnn names a test that verifies it; `tests/test_coverage.py` checks
that the names and the tests exist.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

HAND = "by hand"
PAGE = Path(__file__).parent.parent / "jaxnn" / "pages" / "other_libraries.md"
BEGIN, END = "<!-- coverage: written by bench/coverage.py -->", "<!-- end of coverage -->"
PEERS = {"flax": "Flax", "equinox": "Equinox", "haiku": "Haiku", "stax": "stax", "keras": "Keras 3", "torch": "PyTorch"}


class Row(NamedTuple):
    """A feature: its name in jaxnn, the test that verifies it, and its name in each other library."""

    what: str
    ours: str | None = None
    test: str | None = None
    flax: str | None = None
    equinox: str | None = None
    haiku: str | None = None
    stax: str | None = None
    keras: str | None = None
    torch: str | None = None


def by_hand(*peers: str) -> dict[str, str]:
    """Mark the feature as a few lines of code in these libraries."""
    return dict.fromkeys(peers, HAND)


ROWS: dict[str, tuple[Row, ...]] = {
    "linear": (
        Row("dense", "dense", "layers/test_layers.py::test_dense_is_the_formula_of_the_notes", "nnx.Linear", "nn.Linear",
            "Linear", "Dense", "layers.Dense", "nn.Linear"),
        Row("over several or named axes", "einsum", "layers/test_linear.py::test_einsum_is_numpys", "nnx.Einsum",
            keras="layers.EinsumDense"),
        Row("low-rank adaptation of any layer", "lora",
            "layers/test_linear.py::test_lora_adds_a_product_of_low_rank_and_merges", "nnx.LoRA",
            keras="layers.Dense.enable_lora"),
        Row("embedding, output tied to it", "attend",
            "layers/test_embedding.py::test_a_tied_output_is_the_product_with_the_table",
            "nnx.Embed.attend", "nn.Shared", keras="layers.ReversibleEmbedding", **by_hand("haiku", "torch")),
        Row("rotary positions", "rotary",
            "layers/test_embedding.py::test_products_of_rotated_vectors_depend_only_on_distances",
            equinox="nn.RotaryPositionalEmbedding"),
    ),
    "convolution": (
        Row("1–3-D, strided", "conv", "layers/test_layers.py::test_conv_against_pytorch", "nnx.Conv", "nn.Conv", "ConvND",
            "GeneralConv", "layers.Conv3D", "nn.Conv3d"),
        Row("transposed, 1–3-D", "conv_transpose", "kernels/convolution/test_conv_transpose.py::test_equals_pytorch",
            "nnx.ConvTranspose", "nn.ConvTranspose", "ConvNDTranspose", "GeneralConvTranspose", "layers.Conv3DTranspose",
            "nn.ConvTranspose3d"),
        Row("circular, reflecting, causal padding", "conv:padding", "layers/test_convolution.py::test_against_pytorch",
            "nnx.Conv:padding", "nn.Conv:padding_mode", "pad.causal", torch="nn.Conv2d:padding_mode", keras=HAND),
        Row("depthwise, separable", "separable_conv", "layers/test_convolution.py::test_against_pytorch",
            haiku="SeparableDepthwiseConv2D", keras="layers.SeparableConv2D", **by_hand("flax", "equinox", "torch")),
        Row("weights not shared over space", flax="linen.ConvLocal"),
    ),
    "pooling": (
        Row("max, average", "max_pool", "layers/test_pooling.py::test_against_pytorch", "nnx.max_pool", "nn.MaxPool2d",
            "MaxPool", "MaxPool", "layers.MaxPooling2D", "nn.MaxPool2d"),
        Row("adaptive", "adaptive_avg_pool", "layers/test_pooling.py::test_against_pytorch", equinox="nn.AdaptiveAvgPool2d",
            keras="layers.AdaptiveAveragePooling2D", torch="nn.AdaptiveAvgPool2d"),
        Row("unpooling, im2col", "max_unpool", "layers/test_pooling.py::test_unpooling_against_pytorch",
            torch="nn.MaxUnpool2d"),
        Row("resizing", "resize", "layers/test_pooling.py::test_against_pytorch", keras="layers.Resizing",
            torch="nn.Upsample", **by_hand("flax", "equinox", "haiku", "stax")),
    ),
    "normalization": (
        Row("batch, over devices", "batch_norm:axis_name",
            "layers/test_normalization.py::test_statistics_over_devices_are_those_of_the_whole_batch",
            "nnx.BatchNorm:axis_name", "nn.BatchNorm:axis_name", "BatchNorm:cross_replica_axis",
            keras="layers.BatchNormalization:synchronized", torch="nn.SyncBatchNorm"),
        Row("batch, of padded sequences", "batch_norm",
            "layers/test_normalization.py::test_batch_norm_ignores_padding",
            "nnx.BatchNorm.__call__:mask", keras="layers.BatchNormalization.call:mask"),
        Row("layer, group, instance", "group_norm", "layers/test_normalization.py::test_against_pytorch", "nnx.GroupNorm",
            "nn.GroupNorm", "GroupNorm", keras="layers.GroupNormalization", torch="nn.GroupNorm"),
        Row("spectral, of weights", "spectral_norm", "layers/test_convolution.py::test_spectral_norm_against_pytorch",
            "nnx.SpectralNorm", "nn.SpectralNorm", "SpectralNorm", keras="layers.SpectralNormalization",
            torch="nn.utils.parametrizations.spectral_norm"),
    ),
    "noise": (
        Row("dropout along axes", "dropout", "layers/test_dropout.py::test_units_that_are_dropped_together",
            "nnx.Dropout:broadcast_dims", haiku="dropout:broadcast_dims", keras="layers.Dropout:noise_shape",
            torch="nn.Dropout2d"),
        Row("alpha, Gaussian", "alpha_dropout", "layers/test_dropout.py::test_moments_of_standard_normal_inputs",
            keras="layers.AlphaDropout", torch="nn.AlphaDropout"),
        Row("stochastic depth", "drop_path", "layers/test_dropout.py::test_drop_path_drops_or_scales_whole_samples"),
    ),
    "recurrence": (
        Row("LSTM, GRU", "lstm", "layers/test_recurrent.py::test_every_gradient_against_pytorch", "nnx.LSTMCell",
            "nn.LSTMCell", "LSTM", keras="layers.LSTM", torch="nn.LSTM"),
        Row("of padded sequences", "lstm", "layers/test_layers.py::test_padding_changes_neither_values_nor_gradients",
            "nnx.RNN.__call__:seq_lengths", keras="layers.LSTM.call:mask", torch="nn.utils.rnn.pack_padded_sequence",
            **by_hand("equinox", "haiku")),
        Row("bidirectional", "bidirectional", "layers/test_recurrent.py::test_both_directions_of_a_padded_sequence",
            "nnx.Bidirectional", keras="layers.Bidirectional", torch="nn.RNNBase:bidirectional", **by_hand("equinox", "haiku")),
        Row("peepholes, normalized gates", "lstm:peephole",
            "layers/test_recurrent.py::test_recurrences_are_their_formulas_also_for_sequences_in_parts"),
    ),
    "attention": (
        Row("multi-head, cross", "attention", "layers/test_attention.py::test_attention_against_pytorch",
            "nnx.MultiHeadAttention", "nn.MultiheadAttention", "MultiHeadAttention", keras="layers.MultiHeadAttention",
            torch="nn.MultiheadAttention"),
        Row("grouped queries", "attention:key_heads", "layers/test_attention.py::test_attention_is_its_formula",
            keras="layers.GroupQueryAttention", torch=HAND),
        Row("windows, soft cap", "attention:window", "layers/test_attention.py::test_attention_is_its_formula",
            torch="nn.attention.flex_attention.flex_attention"),
        Row("cache of keys and values", "attention:cache",
            "layers/test_attention.py::test_decoding_with_the_cache_equals_the_full_pass_at_every_position",
            "nnx.MultiHeadAttention.init_cache"),
        Row("dropout of its weights", "attention:dropout", "layers/test_attention.py::test_dropout_of_the_weights",
            flax="nnx.MultiHeadAttention:dropout_rate", equinox="nn.MultiheadAttention:dropout_p",
            keras="layers.MultiHeadAttention:dropout", torch="nn.MultiheadAttention:dropout"),
        Row("transformer blocks", "transformer_block", "layers/test_attention.py::test_transformer_blocks_against_pytorch",
            torch="nn.TransformerDecoderLayer"),
        Row("mixture of experts", "moe", "layers/test_attention.py::test_moe_is_its_formula"),
    ),
    "whole models": (
        Row("layers repeated by one scan", "repeat", "core/test_combinators.py::test_repeat_equals_the_unrolled_stack",
            "nnx.scan", haiku="layer_stack", **by_hand("equinox", "stax")),
        Row("of the literature, sizes exact", "models", "models/test_models.py::test_parameter_counts_and_output_shapes",
            haiku="nets.ResNet50", keras="applications.ResNet50"),
        Row("with pretrained weights", keras="applications.ResNet50:weights"),
        Row("a table of shapes, FLOPs and memory", "summary",
            "programs/test_costs.py::test_the_count_agrees_with_xla_within_2_percent",
            "nnx.tabulate", haiku="experimental.tabulate", keras="Model.summary"),
    ),
    "training": (
        Row("losses that take a mask and weights", "losses",
            "functional/losses/test_formulas.py::test_value_gradient_mask_weights_and_vmap",
            keras="losses.Loss.__call__:sample_weight",
            **by_hand("flax", "equinox", "haiku", "torch")),
        Row("metrics merged over batches", "metrics",
            "functional/test_metrics_catalogue.py::test_all_paths_equal_scikit_learn",
            "nnx.metrics.MultiMetric", keras="metrics.Metric"),
        Row("an epoch as one program", "train_run", "train/test_fit.py::test_fit_matches_the_pure_run",
            **by_hand("flax", "equinox", "haiku", "stax")),
        Row("a killed run continues to the same bits", "fit:checkpoints", "train/test_resume.py::test_killed_once",
            keras="callbacks.BackupAndRestore", **by_hand("flax", "equinox", "haiku", "stax", "torch")),
        Row("a population of networks as one program", "sweep", "population/test_sweep.py::test_a_member_equals_the_run_of_fit",
            **by_hand("flax", "equinox", "haiku", "stax", "torch")),
        Row("where and for which samples NaN began", "inspect.find_nonfinite",
            "inspect/test_nonfinite.py::test_a_forward_value_names_layer_operation_samples_and_the_users_own_line"),
        Row("one network over several devices", flax="nnx.with_partitioning", equinox="filter_shard",
            keras="distribution.ModelParallel", torch="nn.parallel.DistributedDataParallel", **by_hand("haiku", "stax")),
        Row("export to other runtimes", keras="Model.export", torch="onnx.export"),
        Row("low precision: float8, integers", flax="linen.Fp8DotGeneralOp", keras="Model.quantize", torch="ao.quantization"),
    ),
}  # fmt: skip


def look_up(root: str, dotted: str) -> Any:
    """Return the object with this name, and check that it has the parameter named after the colon, if any.

    Raises:
        AttributeError: If there is no such object, or it has no such parameter.
    """
    path, _, parameter = dotted.partition(":")
    value: Any = importlib.import_module(root)
    for name in path.split("."):
        if not hasattr(value, name) and inspect.ismodule(value):
            try:
                importlib.import_module(f"{value.__name__}.{name}")
            except ModuleNotFoundError as error:
                raise AttributeError(f"{root} has no {dotted}") from error
        value = getattr(value, name)
    function = value.__init__ if inspect.isclass(value) else value  # a metaclass may hide its signature
    if parameter and parameter not in inspect.signature(function).parameters:
        raise AttributeError(f"{root}.{path} has no parameter {parameter}")
    return value


def mark(peer: str, dotted: str | None) -> str:
    """Return the cell of another library, after looking up its name."""
    if dotted is None or dotted == HAND:
        return dotted or "–"
    look_up({"stax": "jax.example_libraries.stax"}.get(peer, peer), dotted)
    return "✓"


def ours(row: Row) -> str:
    """Return the cell of jaxnn."""
    name, _, option = (row.ours or "").partition(":")
    return f"`{name}({option}=…)`" if option else f"`{name}`" if name else "–"


def table() -> str:
    """Return the whole table, after looking up all names."""
    lines = [f"| | | jaxnn | {' | '.join(PEERS.values())} |", f"|---|---|---|{'---|' * len(PEERS)}"]
    for group, rows in ROWS.items():
        for i, row in enumerate(rows):
            cells = [group if i == 0 else "", row.what, ours(row), *(mark(peer, getattr(row, peer)) for peer in PEERS)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the table into its page."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    warnings.simplefilter("ignore")
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
    print(f"{sum(map(len, ROWS.values()))} rows", file=sys.stderr)


if __name__ == "__main__":
    main()
