"""Metrics that are right over batches of any size: running totals that merge, and a value computed from them.

A metric is four pure functions, so it lives in a `scan` or under `jit` as well as in a host's loop:

    totals = metric.init()
    for x, y in batches:
        totals = metric.update(totals, predict(x), y)
    value = metric.compute(totals)

`metric(predictions, targets)` does the same with one batch. Totals of separate parts, such as two hosts', are joined
with `metric.merge(a, b)`, and those of the devices along a named axis with `metric.merge_across(totals, axis_name)`.
Merging is addition, `jax.lax.psum` across devices, for all metrics but `r2`, `pearson`, and those with a `capacity`.
Totals are in the default float, so float32 counts are exact up to 2²⁴ = 16.8 million.

`where`, a boolean mask, leaves samples out: its shape is that of the counted values or of their leading axes, such as
`(batch,)`. Shapes that do not fit are errors, as in `jaxnn.functional.losses`; so are labels that are no class. Under
`jit` their values cannot be looked at, and the metric is NaN instead. It is NaN as well when nothing was counted.

Predictions are logits, as the losses take them. For probabilities p of many classes pass log p where a metric looks at
more than their order; for p of a binary one, p − 0.5 where it decides, and p itself where it ranks.
"""

from jaxnn.functional.metrics.accuracy import accuracy, binary_accuracy, confusion_matrix, top_k_accuracy
from jaxnn.functional.metrics.agreement import cohen_kappa, f1, f_beta, matthews, mean_iou, precision, recall
from jaxnn.functional.metrics.probability import calibration_error, log_loss, perplexity
from jaxnn.functional.metrics.ranking import average_precision, roc_auc, spearman
from jaxnn.functional.metrics.regression import mae, mape, mse, pearson, r2, rmse
from jaxnn.functional.metrics.stream import Metric, as_metric, mean
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
    "pearson",
    "perplexity",
    "precision",
    "r2",
    "recall",
    "rmse",
    "roc_auc",
    "spearman",
    "top_k_accuracy",
]
