"""jaxnn: neural networks as pure functions, for JAX.

A model is a pair of pure functions over a plain dict of arrays; training runs, populations and the rest are functions of
that pair. Start at `jaxnn.core.layer`.

    import jaxnn as nn
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from jaxnn.core import importing as _importing  # first: it holds Ctrl-C until all is imported

# isort: split
from jaxnn import kernels
from jaxnn.core import trees
from jaxnn.core.block import block
from jaxnn.core.combinators import branch, dtype_policy, parallel, positionwise, remat, repeat, residual, serial
from jaxnn.core.foreign_names import no_attribute as _no_attribute
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, as_layer, stateless
from jaxnn.functional import initializers
from jaxnn.functional.activations import *  # noqa: F403
from jaxnn.functional.activations import __all__ as _activations
from jaxnn.layers.activation import prelu, rrelu
from jaxnn.layers.attention import attention
from jaxnn.layers.convolution import conv, conv_transpose, depthwise_conv, separable_conv
from jaxnn.layers.dropout import alpha_dropout, drop_path, dropout, gaussian_dropout, gaussian_noise, spatial_dropout
from jaxnn.layers.embedding import alibi, apply_rotary, attend, embedding, learned_positions, rotary, sinusoidal_positions
from jaxnn.layers.linear import bilinear, dense, einsum
from jaxnn.layers.locally_connected import locally_connected
from jaxnn.layers.lora import lora, merge_lora
from jaxnn.layers.merging import add, concatenate, multiply
from jaxnn.layers.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    rms_norm,
    unit_norm,
)
from jaxnn.layers.pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    lp_pool,
    max_pool,
    min_pool,
)
from jaxnn.layers.recurrence import bidirectional, carried
from jaxnn.layers.recurrent import gru, lstm, rnn
from jaxnn.layers.recurrent_variants import conv_lstm, ind_rnn, minimal_gru
from jaxnn.layers.reparametrization import spectral_norm, weight_norm, weight_standardization
from jaxnn.layers.sampling import grid_sample
from jaxnn.layers.shapes import (
    channel_shuffle,
    crop,
    flatten,
    pad,
    permute,
    pixel_shuffle,
    pixel_unshuffle,
    reshape,
    resize,
    upsample,
)
from jaxnn.layers.transformer import feed_forward, moe, transformer_block
from jaxnn.layers.unpooling import max_unpool, unfold

if TYPE_CHECKING:
    from jaxnn import autodiff, data, estimators, inspect, io, models, population
    from jaxnn.compiled import clear_programs
    from jaxnn.disk_cache import compilation_cache
    from jaxnn.functional import losses, metrics, schedules
    from jaxnn.inspect import summary
    from jaxnn.population.sweep import sweep
    from jaxnn.problem.objective import Objective
    from jaxnn.problem.problem import Problem
    from jaxnn.train import callbacks
    from jaxnn.train.evaluation import evaluate, predict
    from jaxnn.train.feed import DataError
    from jaxnn.train.fit import fit
    from jaxnn.train.generation import generate
    from jaxnn.train.history import History
    from jaxnn.train.learning_rate_finder import LearningRates, find_learning_rate
    from jaxnn.train.optimizers import by_path, decay_mask, named_optimizer
    from jaxnn.train.result import FitResult, NonFiniteError
    from jaxnn.train.state import TrainState
    from jaxnn.train.training import Training, init_train_state, train_epoch, train_run, train_step, training

__version__ = "0.1.0"

__all__ = [
    *_activations,
    "DataError",
    "FitResult",
    "History",
    "Layer",
    "LearningRates",
    "NonFiniteError",
    "Objective",
    "Problem",
    "TrainState",
    "Training",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "add",
    "alibi",
    "alpha_dropout",
    "apply_rotary",
    "as_layer",
    "attend",
    "attention",
    "autodiff",
    "avg_pool",
    "batch_norm",
    "bidirectional",
    "bilinear",
    "block",
    "branch",
    "by_path",
    "callbacks",
    "carried",
    "channel_shuffle",
    "clear_programs",
    "compilation_cache",
    "concatenate",
    "conv",
    "conv_lstm",
    "conv_transpose",
    "crop",
    "data",
    "decay_mask",
    "dense",
    "depthwise_conv",
    "drop_path",
    "dropout",
    "dtype_policy",
    "einsum",
    "embedding",
    "estimators",
    "evaluate",
    "feed_forward",
    "find_learning_rate",
    "fit",
    "flatten",
    "gaussian_dropout",
    "gaussian_noise",
    "generate",
    "global_avg_pool",
    "global_max_pool",
    "grid_sample",
    "group_norm",
    "gru",
    "ind_rnn",
    "init_train_state",
    "initializers",
    "inspect",
    "instance_norm",
    "io",
    "kernels",
    "layer_norm",
    "learned_positions",
    "local_response_norm",
    "locally_connected",
    "lora",
    "losses",
    "lp_pool",
    "lstm",
    "max_pool",
    "max_unpool",
    "merge_lora",
    "metrics",
    "min_pool",
    "minimal_gru",
    "models",
    "moe",
    "multiply",
    "named_optimizer",
    "pad",
    "parallel",
    "param",
    "permute",
    "pixel_shuffle",
    "pixel_unshuffle",
    "population",
    "positionwise",
    "predict",
    "prelu",
    "remat",
    "repeat",
    "reshape",
    "residual",
    "resize",
    "rms_norm",
    "rnn",
    "rotary",
    "rrelu",
    "schedules",
    "separable_conv",
    "serial",
    "sinusoidal_positions",
    "spatial_dropout",
    "spectral_norm",
    "stateless",
    "summary",
    "sweep",
    "train_epoch",
    "train_run",
    "train_step",
    "training",
    "transformer_block",
    "trees",
    "unfold",
    "unit_norm",
    "upsample",
    "weight_norm",
    "weight_standardization",
]


_LATER = {  # what is imported when it is first used: not every program trains, and models are built from the names above
    **dict.fromkeys(("autodiff", "data", "estimators", "inspect", "io", "models", "population"), ""),
    **dict.fromkeys(("losses", "metrics", "schedules"), "functional"),
    "callbacks": "train",
    "fit": "train.fit",
    **dict.fromkeys(("FitResult", "NonFiniteError"), "train.result"),
    **dict.fromkeys(("LearningRates", "find_learning_rate"), "train.learning_rate_finder"),
    "Objective": "problem.objective",
    "TrainState": "train.state",
    **dict.fromkeys(("Training", "init_train_state", "train_epoch", "train_run", "train_step", "training"), "train.training"),
    **dict.fromkeys(("evaluate", "predict"), "train.evaluation"),
    "generate": "train.generation",
    "DataError": "train.feed",
    "Problem": "problem.problem",
    "clear_programs": "compiled",
    "compilation_cache": "disk_cache",
    "History": "train.history",
    **dict.fromkeys(("by_path", "decay_mask", "named_optimizer"), "train.optimizers"),
    "summary": "inspect",
    "sweep": "population.sweep",
}


def __getattr__(name: str):
    if name not in _LATER:
        raise _no_attribute("nn", name, __all__)
    room = _LATER[name]
    if room in ("", "functional") or name == "callbacks":
        return _import_module(".".join(filter(None, ("jaxnn", room, name))))
    return getattr(_import_module(f"jaxnn.{room}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_importing.release()
