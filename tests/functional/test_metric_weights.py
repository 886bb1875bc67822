"""Metrics with sample weights and of several outputs, against repeated samples, scikit-learn and SciPy."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from sklearn import metrics as sk

import jaxnn as nn
from jaxnn.functional import metrics
from tests.functional.test_metric_totals import METRICS as FEW

RNG = np.random.default_rng(0)
N, C, OUTPUTS = 24, 3, 3
LOGITS = RNG.normal(size=(N, C)).astype(np.float32)
LABELS = RNG.integers(0, C, N)
SCORES = RNG.normal(size=N).round(1).astype(np.float32)
NUMBERS = (SCORES + RNG.normal(size=N)).round(1).astype(np.float32)
TOKENS = RNG.integers(0, 3, (N, 6))
COUNTS = RNG.integers(0, 4, N)
WEIGHTS = (COUNTS * RNG.uniform(0.1, 1, N)).astype(np.float32)
CUT = 10

METRICS = {name: metric for name, (metric, _) in FEW.items()} | {
    "spearman": metrics.spearman(N),
    "roc_auc, exact": metrics.roc_auc(capacity=N),
    "average_precision, exact": metrics.average_precision(capacity=N),
    "a loss with a mask": metrics.mean(lambda p, y: (jnp.sum(jnp.where(y > 0, p, 0)), jnp.sum(jnp.where(y > 0, 1.0, 0)))),
}
SIMILAR = {"cohen_kappa", "mae", "mape", "matthews", "mean_iou", "perplexity", "precision", "recall", "rmse", "top_k_accuracy"}
RANKED = ("average_precision", "binary_accuracy", "f_beta", "roc_auc")
LARGE = {"spearman": metrics.spearman(4 * N)} | {
    f"{name}, exact": getattr(metrics, name)(capacity=4 * N) for name in ("roc_auc", "average_precision")
}


def data_of(name):
    if name == "bleu":
        return TOKENS, np.roll(TOKENS, 1)
    if name.split(",")[0] in RANKED:
        return SCORES, LABELS % 2
    if name in ("mae", "mape", "mean", "mse", "pearson", "r2", "rmse", "spearman", "a loss with a mask"):
        return SCORES, NUMBERS
    return LOGITS, LABELS


def references(weights):
    """scikit-learn's value of each metric that it has."""
    own, bits = LOGITS.argmax(-1), LABELS % 2
    p = np.exp(LOGITS.astype(float))
    deviations = np.cov(SCORES, NUMBERS, aweights=weights)
    rounded = SCORES.astype(np.float16)
    return {
        "accuracy": sk.accuracy_score(LABELS, own, sample_weight=weights),
        "average_precision": sk.average_precision_score(bits, rounded, sample_weight=weights),
        "average_precision, exact": sk.average_precision_score(bits, SCORES, sample_weight=weights),
        "binary_accuracy": sk.accuracy_score(bits, SCORES > 0, sample_weight=weights),
        "cohen_kappa": sk.cohen_kappa_score(LABELS, own, sample_weight=weights),
        "confusion_matrix": sk.confusion_matrix(LABELS, own, sample_weight=weights),
        "f1": sk.f1_score(LABELS, own, average="macro", sample_weight=weights),
        "f_beta": sk.fbeta_score(bits, SCORES > 0, beta=2.0, sample_weight=weights),
        "log_loss": sk.log_loss(LABELS, p / p.sum(-1, keepdims=True), sample_weight=weights),
        "mae": sk.mean_absolute_error(NUMBERS, SCORES, sample_weight=weights),
        "matthews": sk.matthews_corrcoef(LABELS, own, sample_weight=weights),
        "mean_iou": sk.jaccard_score(LABELS, own, average="macro", sample_weight=weights),
        "mse": sk.mean_squared_error(NUMBERS, SCORES, sample_weight=weights),
        "pearson": deviations[0, 1] / np.sqrt(deviations[0, 0] * deviations[1, 1]),
        "precision": sk.precision_score(LABELS, own, average="micro", sample_weight=weights),
        "r2": sk.r2_score(NUMBERS, SCORES, sample_weight=weights),
        "recall": sk.recall_score(LABELS, own, average="weighted", sample_weight=weights),
        "rmse": sk.root_mean_squared_error(NUMBERS, SCORES, sample_weight=weights),
        "roc_auc": sk.roc_auc_score(bits, rounded, sample_weight=weights),
        "roc_auc, exact": sk.roc_auc_score(bits, SCORES, sample_weight=weights),
        "top_k_accuracy": sk.top_k_accuracy_score(LABELS, LOGITS, k=2, sample_weight=weights),
    }


def every_path(metric, p, t, weights):
    """In one call, in batches, in a scan that has no weights at first, over devices, and with another scale of the weights."""
    form = metrics.weighted(metric)
    parts = [form.update(form.init(), p[own], t[own], weights=weights[own]) for own in (slice(CUT), slice(CUT, N))]
    batches = jax.tree.map(lambda x: x.reshape(2, N // 2, *x.shape[1:]), (p, t, weights))
    step = lambda totals, batch: (form.update(totals, *batch[:2], weights=batch[2]), None)  # noqa: E731
    unequal = metric.update(metric.update(metric.init(), p[:0], t[:0]), p[:CUT], t[:CUT], weights=weights[:CUT])

    def everywhere(p, t, weights):
        return form.compute(form.merge_across(form.update(form.init(), p, t, weights=weights), "devices"))

    return [
        metric(p, t, weights=weights),
        metric.compute(metric.update(unequal, p[CUT:], t[CUT:], weights=weights[CUT:])),
        form.compute(reduce(form.merge, [form.init(), *parts])),
        form.compute(jax.lax.scan(step, form.init(), batches)[0]),
        jax.vmap(everywhere, axis_name="devices")(*batches)[0],
    ]


def absent(p, weights):
    """The predictions, NaN where the weight is 0."""
    return p if p.dtype.kind == "i" else np.where(weights.reshape(-1, *[1] * (p.ndim - 1)) == 0, np.float32(np.nan), p)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(METRICS) - SIMILAR))
def test_whole_weights_are_repetitions(name):
    (p, t), metric = data_of(name), METRICS[name]
    expected = LARGE.get(name, metric)(np.repeat(p, COUNTS, axis=0), np.repeat(t, COUNTS, axis=0))
    for value in jax.jit(lambda *data: every_path(metric, *data))(absent(p, COUNTS), t, COUNTS):
        np.testing.assert_allclose(value, expected, rtol=3e-6, atol=1e-6)


@pytest.mark.slow
def test_scikit_learn_s_sample_weight():
    expected = references(WEIGHTS)
    values = jax.jit(lambda w: {name: METRICS[name](*data_of(name), weights=w) for name in expected})(WEIGHTS)
    for name, value in values.items():
        np.testing.assert_allclose(value, expected[name], rtol=5e-6, atol=1e-6, err_msg=name)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["accuracy", "f1", "r2", "roc_auc, exact"])
def test_weights_outside_jit(name):
    p, t = data_of(name)
    np.testing.assert_allclose(METRICS[name](absent(p, WEIGHTS), t, weights=WEIGHTS), references(WEIGHTS)[name], rtol=5e-6)
    scaled = METRICS[name](p, t, np.arange(N) > 3, 1e-6 * WEIGHTS)
    np.testing.assert_allclose(scaled, METRICS[name](p[4:], t[4:], weights=WEIGHTS[4:]), rtol=5e-6)


@pytest.mark.slow
def test_batches_with_and_without_weights():
    p, t = LOGITS, LABELS
    totals = metrics.f1(C).update(metrics.f1(C).init(), p[:CUT], t[:CUT])  # whole numbers
    totals = metrics.f1(C).update(totals, p[CUT:], t[CUT:], weights=WEIGHTS[CUT:])
    weights = np.concatenate([np.ones(CUT), WEIGHTS[CUT:]])
    expected = sk.f1_score(t, p.argmax(-1), average="macro", sample_weight=weights)
    np.testing.assert_allclose(metrics.f1(C).compute(totals), expected, rtol=3e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("weights", [-np.ones(N, np.float32), np.full(N, np.nan, np.float32)])
def test_bad_weights(weights):
    for metric, data in ((metrics.accuracy, (LOGITS, LABELS)), (metrics.r2, (SCORES, NUMBERS))):
        with pytest.raises(ValueError, match="expected nonnegative numbers"):
            metric(*data, weights=weights)
        assert jnp.isnan(jax.jit(lambda w, metric=metric, data=data: metric(*data, weights=w))(weights))


def test_errors_of_weights():
    with pytest.raises(TypeError, match="pass a mask as where="):
        metrics.accuracy(LOGITS, LABELS, weights=COUNTS > 0)
    with pytest.raises(ValueError, match=r"weights are float32\[3\], expected the shape \(24,\)"):
        metrics.f1(C)(LOGITS, LABELS, weights=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="expected a positive integer"):
        metrics.multi_output(metrics.r2, 0)
    with pytest.raises(ValueError, match="average is 'mean'"):
        metrics.multi_output(metrics.r2, 2, average="mean")
    with pytest.raises(TypeError, match="expected a Metric"):
        metrics.multi_output(nn.losses.mse, 2)
    with pytest.raises(ValueError, match=r"expected \(batch, 2\)"):
        metrics.multi_output(metrics.r2, 2)(np.ones((4, 3), np.float32), np.ones((4, 3)))


Y = (RNG.normal(size=(N, OUTPUTS)) * [1, 10, 1000] + [0, 5, 1e4]).astype(np.float32)
Y_HAT = (Y + RNG.normal(size=(N, OUTPUTS)) * [0.5, 3, 700]).astype(np.float32)


def correlations(function, p, t):
    return np.mean([function(p[:, i].astype(float), t[:, i].astype(float))[0] for i in range(p.shape[1])])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (metrics.r2, lambda p, t: sk.r2_score(t.astype(float), p.astype(float))),
        (metrics.pearson, lambda p, t: correlations(stats.pearsonr, p, t)),
        (metrics.spearman(N), lambda p, t: correlations(stats.spearmanr, p, t)),
    ],
    ids=["r2", "pearson", "spearman"],
)
def test_the_mean_over_outputs(metric, expected):
    value = expected(Y_HAT, Y)
    np.testing.assert_allclose(metric(Y_HAT, Y), value, rtol=1e-5)
    totals = metric.init()
    for own in (slice(0), slice(CUT), slice(CUT, N)):
        totals = metric.update(totals, Y_HAT[own], Y[own])
    np.testing.assert_allclose(metric.compute(totals), value, rtol=1e-5)
    several = metrics.multi_output(metric, OUTPUTS)
    halves = Y_HAT.reshape(2, -1, OUTPUTS), Y.reshape(2, -1, OUTPUTS)
    step = lambda totals, batch: (several.update(totals, *batch), None)  # noqa: E731
    np.testing.assert_allclose(several.compute(jax.lax.scan(step, several.init(), halves)[0]), value, rtol=1e-5)
    where = np.arange(N) % 3 > 0
    np.testing.assert_allclose(metric(Y_HAT, Y, where), expected(Y_HAT[where], Y[where]), rtol=1e-5)


@pytest.mark.slow
def test_outputs_with_weights():
    raw = metrics.multi_output(metrics.r2, OUTPUTS, average="none")(Y_HAT, Y, weights=WEIGHTS)
    np.testing.assert_allclose(raw, sk.r2_score(Y, Y_HAT, sample_weight=WEIGHTS, multioutput="raw_values"), rtol=1e-4)
    roots = metrics.multi_output(metrics.rmse, OUTPUTS)(Y_HAT, Y, weights=WEIGHTS)
    np.testing.assert_allclose(roots, sk.root_mean_squared_error(Y, Y_HAT, sample_weight=WEIGHTS), rtol=1e-5)
    each = np.where(np.arange(OUTPUTS) == 1, WEIGHTS[:, None], 1).astype(np.float32)
    value = metrics.multi_output(metrics.mae, OUTPUTS, average="none")(Y_HAT, Y, weights=each)
    np.testing.assert_allclose(value[0], np.abs(Y - Y_HAT)[:, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(value[1], np.average(np.abs(Y - Y_HAT)[:, 1], weights=WEIGHTS), rtol=1e-5)
    bits = RNG.integers(0, 2, (N, OUTPUTS))
    labels = metrics.weighted(metrics.multi_output(metrics.f1(), OUTPUTS))(Y_HAT - 5, bits, weights=WEIGHTS)
    np.testing.assert_allclose(labels, sk.f1_score(bits, Y_HAT > 5, average="macro", sample_weight=WEIGHTS), rtol=1e-5)


@pytest.mark.slow
def test_in_fit_and_evaluate():
    """Metrics take the weights of the data if they are asked to; others count each sample of positive weight once."""
    x = RNG.normal(size=(N, 2)).astype(np.float32)
    asked = {
        "r2": metrics.weighted(metrics.multi_output(metrics.r2, OUTPUTS)),
        "mae": metrics.weighted(metrics.mae),
        "plain": metrics.mae,
    }
    options = {"loss": nn.losses.mse, "optimizer": optax.sgd(1e-8), "epochs": 1, "key": jax.random.key(0), "progress": False}
    result = nn.fit(nn.dense(OUTPUTS), (x, Y, WEIGHTS), metrics=asked, batch_size=7, **options)
    values, p = nn.evaluate(result, (x, Y, WEIGHTS), batch_size=5), np.asarray(nn.predict(result, x))
    for found in (values, result.history.last):
        np.testing.assert_allclose(found["r2"], sk.r2_score(Y, p, sample_weight=WEIGHTS), rtol=1e-3)
        np.testing.assert_allclose(found["mae"], sk.mean_absolute_error(Y, p, sample_weight=WEIGHTS), rtol=1e-3)
        np.testing.assert_allclose(found["plain"], np.abs(Y - p)[WEIGHTS > 0].mean(), rtol=1e-3)
    with pytest.raises(ValueError, match=r"nn.metrics.multi_output\(metric, outputs\)"):
        nn.fit(nn.dense(OUTPUTS), (x, Y), metrics={"r2": metrics.r2}, **options)
