"""The totals of every metric: large counts, empty batches, narrow labels, invalid samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.functional import metrics

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(6, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 2, 1, 1])
OUTPUTS = RNG.normal(size=6).astype(np.float32)
TARGETS = (OUTPUTS + RNG.normal(size=6)).astype(np.float32)
DOUBLINGS = 26
TOKENS = RNG.integers(0, 3, (6, 5))

CLASSES, BINARY, REGRESSION = (SCORES, LABELS), (OUTPUTS, LABELS % 2), (OUTPUTS, TARGETS)
METRICS = {
    "accuracy": (metrics.accuracy, CLASSES),
    "average_precision": (metrics.average_precision(), BINARY),
    "binary_accuracy": (metrics.binary_accuracy, BINARY),
    "bleu": (metrics.bleu(2), (TOKENS, TOKENS[::-1])),
    "calibration_error": (metrics.calibration_error(4), CLASSES),
    "cohen_kappa": (metrics.cohen_kappa(3), CLASSES),
    "confusion_matrix": (metrics.confusion_matrix(3), CLASSES),
    "f1": (metrics.f1(3), CLASSES),
    "f_beta": (metrics.f_beta(2.0), BINARY),
    "log_loss": (metrics.log_loss, CLASSES),
    "mae": (metrics.mae, REGRESSION),
    "mape": (metrics.mape, REGRESSION),
    "matthews": (metrics.matthews(3), CLASSES),
    "mean": (metrics.mean(lambda p, y: jnp.mean(p * y)), REGRESSION),
    "mean_iou": (metrics.mean_iou(3), CLASSES),
    "mse": (metrics.mse, REGRESSION),
    "pearson": (metrics.pearson, REGRESSION),
    "perplexity": (metrics.perplexity, CLASSES),
    "precision": (metrics.precision(3, average="micro"), CLASSES),
    "r2": (metrics.r2, REGRESSION),
    "recall": (metrics.recall(3, average="weighted"), CLASSES),
    "rmse": (metrics.rmse, REGRESSION),
    "roc_auc": (metrics.roc_auc(), BINARY),
    "top_k_accuracy": (metrics.top_k_accuracy(2), CLASSES),
}
each = pytest.mark.parametrize("name", METRICS)


def test_every_metric_is_here():
    assert set(METRICS) == set(metrics.__all__) - {"Metric", "as_metric", "multi_output", "weighted", "spearman"}


@pytest.mark.sample(3)
@each
def test_large_counts_do_not_stand_still(name):
    """Hundreds of millions of samples, and then a thousand small batches: the totals grow by exactly those."""
    metric, (p, y) = METRICS[name]
    one = metric.update(metric.init(), p, y)

    def run(one):
        many = jax.lax.fori_loop(0, DOUBLINGS, lambda _, totals: metric.merge(totals, totals), one)
        return many, jax.lax.fori_loop(0, 1000, lambda _, totals: metric.merge(totals, one), many)

    many, more = jax.device_get(jax.jit(run)(one))
    for total, value in one.items():
        if total.endswith("_rounding") or total in ("pivot", "mean"):
            continue
        wide = np.asarray(value, np.float64)
        if total + "_rounding" in one:
            grown = np.float64(more[total]) + more[total + "_rounding"] - many[total] - many[total + "_rounding"]
            np.testing.assert_allclose(grown, 1000 * wide, rtol=1e-5)
        else:
            np.testing.assert_array_equal(many[total], 2**DOUBLINGS * wide)
            np.testing.assert_array_equal(more[total], (2**DOUBLINGS + 1000) * wide)
    times = 2**DOUBLINGS + 1000 if name == "confusion_matrix" else 1
    np.testing.assert_allclose(metric.compute(more), np.asarray(metric(p, y)) * times, rtol=1e-4, atol=1e-6)


def test_a_billion_samples_one_by_one():
    many = {"sum": jnp.float32(2**29), "count": jnp.float32(2**30)}
    add = lambda _, totals: metrics.accuracy.update(totals, jnp.array([[0.0, 1.0]]), jnp.array([1]))  # noqa: E731
    totals = jax.jit(lambda many: jax.lax.fori_loop(0, 300, add, many))(metrics.accuracy.init() | many)
    assert totals["count"] == 2**30 + 256 and totals["count_rounding"] == 300 - 256  # as float32 has steps of 128 there
    assert totals["sum"] + 0.0 == np.float32(2**29 + 300)


@pytest.mark.sample(3)
@each
def test_an_empty_batch_changes_nothing(name):
    metric, (p, y) = METRICS[name]
    nothing = metric(p[:0], y[:0])
    assert (nothing == 0).all() if name == "confusion_matrix" else jnp.isnan(nothing).all()
    totals = metric.update(metric.update(metric.init(), p[:0], y[:0]), p, y)
    np.testing.assert_allclose(metric.compute(totals), metric(p, y), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_narrow_labels(dtype):
    scores, labels = RNG.normal(size=(3, 300)).astype(np.float32), np.array([0, 3, 127])
    for metric in (
        metrics.accuracy,
        metrics.top_k_accuracy(3),
        metrics.f1(300),
        metrics.confusion_matrix(300),
        metrics.matthews(300),
        metrics.log_loss,
        metrics.calibration_error(),
    ):
        for call in (metric, jax.jit(metric)):
            wide = metric(scores, labels)
            np.testing.assert_allclose(call(scores, labels.astype(dtype)), wide, rtol=1e-6, err_msg=metric.name)


@pytest.mark.parametrize("name", ["accuracy", "calibration_error", "confusion_matrix", "f1", "log_loss", "matthews"])
def test_a_label_that_is_no_class_gives_nan_under_jit(name):
    metric, (p, y) = METRICS[name]
    for label in (-1, 3):
        assert jnp.isnan(jax.jit(metric)(p, jnp.asarray(y).at[0].set(label))).all()


def test_nan_scores_and_labels_of_curves():
    for metric in (metrics.roc_auc(), metrics.average_precision()):
        assert jnp.isnan(metric(jnp.array([jnp.nan, 1.0]), jnp.array([0, 1])))
        assert jnp.isnan(jax.jit(metric)(jnp.array([0.0, 1.0]), jnp.array([0, 2])))
        where = jnp.array([True, True, False])
        assert metric(jnp.array([0.0, 1.0, jnp.nan]), jnp.array([0, 1, 1]), where) == 1


def test_an_infinite_total_stays_infinite():
    totals = metrics.mse.update(metrics.mse.init(), jnp.array([1e30]), jnp.array([0.0]))
    assert metrics.mse.compute(metrics.mse.update(totals, jnp.ones(1), jnp.ones(1))) == jnp.inf


def test_f_beta_of_any_weight():
    p, y = BINARY
    np.testing.assert_allclose(metrics.f_beta(1e30)(p, y), metrics.recall()(p, y), rtol=1e-6)
    np.testing.assert_allclose(metrics.f_beta(1e-30)(p, y), metrics.precision()(p, y), rtol=1e-6)
    for beta in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="f_beta: beta is"):
            metrics.f_beta(beta)
