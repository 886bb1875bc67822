"""Streaming metrics: running totals that can be merged, and a value computed from them, exact for batches of any size.

A metric is a set of four pure functions, so it works in a `scan` and under `jit` as well as in a Python loop:

    totals = metric.init()
    for x, y in batches:
        totals = metric.update(totals, predict(x), y)
    value = metric.compute(totals)

`metric(predictions, targets)` does the same with one batch. `metric.merge(a, b)` merges totals of separate parts, such as
two hosts; `metric.merge_across(totals, axis_name)` merges those of all devices along a named axis. Merging is addition,
and `jax.lax.psum` across devices, for all metrics except `r2`, `pearson`, and those with a `capacity`. Counts are whole
numbers, exact up to 2³¹; sums are floats with what they lose in rounding beside them, so that they do not stand still.

`where`, a boolean mask, leaves samples out: its shape is that of the counted values or of their leading axes, such as
`(batch,)`. Shapes that do not match are errors, as in `jaxnn.functional.losses`; so are labels that are not a class. Under
`jit` the values are not known, and the metric is NaN instead. It is also NaN if nothing was counted.

`weights`, nonnegative numbers of such a shape, count each sample that often, as scikit-learn's `sample_weight`; a sample of
weight 0 is absent. `weighted(metric)` has the totals of a `scan` with weights, and takes those of the data in `fit`.

Predictions are logits, as for the losses. To pass probabilities p: of several classes, pass log p if a metric uses more
than their order; of a binary classification, pass p − 0.5 to metrics that threshold, and p itself to metrics that rank.
"""

from jaxnn.core.foreign_names import no_attribute
from jaxnn.functional.metrics.accuracy import accuracy, binary_accuracy, confusion_matrix, top_k_accuracy
from jaxnn.functional.metrics.agreement import cohen_kappa, f1, f_beta, matthews, mean_iou, precision, recall
from jaxnn.functional.metrics.outputs import multi_output
from jaxnn.functional.metrics.probability import calibration_error, log_loss, perplexity
from jaxnn.functional.metrics.ranking import average_precision, roc_auc, spearman
from jaxnn.functional.metrics.regression import mae, mape, mse, pearson, r2, rmse
from jaxnn.functional.metrics.stream import Metric, as_metric, mean, weighted
from jaxnn.functional.metrics.text import bleu

__all__ = [
    "Metric",
    "accuracy",
    "as_metric",
    "average_precision",
    "binary_accuracy",
    "bleu",
    "calibration_error",
    "cohen_kappa",
    "confusion_matrix",
    "f1",
    "f_beta",
    "log_loss",
    "mae",
    "mape",
    "matthews",
    "mean",
    "mean_iou",
    "mse",
    "multi_output",
    "pearson",
    "perplexity",
    "precision",
    "r2",
    "recall",
    "rmse",
    "roc_auc",
    "spearman",
    "top_k_accuracy",
    "weighted",
]


def __getattr__(name: str):
    raise no_attribute("nn.metrics", name, __all__)
