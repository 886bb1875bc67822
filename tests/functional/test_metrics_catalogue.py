"""Tests of the metrics of classes, ranks, probabilities, numbers and text; each group is compiled once and checked together."""

import math
from collections import Counter
from functools import reduce
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from jaxnn.functional import losses, metrics

RNG = np.random.default_rng(1)
N, C = 71, 6
CUTS = (32, 64)  # batches of 32, 32 and 7
WHERE = np.arange(N) % 3 != 0
LABELS = RNG.integers(0, C - 1, N)
LOGITS = (RNG.normal(size=(N, C)) + 2 * np.eye(C)[LABELS]).astype(np.float32)
LOGITS[:, -1] = -30  # a class that neither occurs nor is predicted
BITS = RNG.integers(0, 2, N)
LOGIT = (RNG.normal(size=N) + BITS).round(1).astype(np.float32)  # with ties
NUMBERS = (RNG.normal(size=N) * 3 + 100).round(1).astype(np.float32)
GUESSES = (NUMBERS + RNG.normal(size=N)).round(1).astype(np.float32)


def softmax(x):
    x = np.exp(x.astype(float) - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def of_classes(function, **options):
    """Return scikit-learn's function without labels: over the classes that occur or are predicted."""
    return lambda p, t: function(t, p.argmax(-1), **options)


def of_bits(function, **options):
    return lambda p, t: function(t, p > 0, **options)


def of_scores(function, rounded=False):
    return lambda p, t: function(t, p.astype(np.float16) if rounded else p)


def calibration(p, t):
    confidence, right = softmax(p).max(-1), p.argmax(-1) == t
    edges = np.linspace(0, 1, 11)
    bins = [(confidence > low) & (confidence <= high) for low, high in pairwise(edges)]
    return sum(abs(right[own].sum() - confidence[own].sum()) for own in bins) / len(t)


def log_loss(p, t):
    return sk.log_loss(t, softmax(p), labels=np.arange(C))


AVERAGES = {"macro": {}, "micro": {}, "weighted": {}, "none": {"labels": np.arange(C)}}
SHARES = {
    "precision": (metrics.precision, sk.precision_score, {}),
    "recall": (metrics.recall, sk.recall_score, {}),
    "f1": (metrics.f1, sk.f1_score, {}),
    "f_0.5": (lambda *a, **o: metrics.f_beta(0.5, *a, **o), sk.fbeta_score, {"beta": 0.5}),
}
GROUPS = {  # predictions, targets, and per name the metric and the value of scikit-learn
    "classes": (LOGITS, LABELS, {
        **{
            f"{average} {name}": (
                ours(C, average=average),
                of_classes(theirs, average=None if average == "none" else average, zero_division=0, **labels, **options),
            )
            for name, (ours, theirs, options) in SHARES.items()
            for average, labels in AVERAGES.items()
        },
        "mean_iou": (metrics.mean_iou(C), of_classes(sk.jaccard_score, average="macro")),
        "cohen_kappa": (metrics.cohen_kappa(C), of_classes(sk.cohen_kappa_score)),
        "matthews": (metrics.matthews(C), of_classes(sk.matthews_corrcoef)),
    }),
    "bits": (LOGIT, BITS, {
        **{name: (ours(), of_bits(theirs, **options)) for name, (ours, theirs, options) in SHARES.items()},
        "cohen_kappa": (metrics.cohen_kappa(), of_bits(sk.cohen_kappa_score)),
        "matthews": (metrics.matthews(), of_bits(sk.matthews_corrcoef)),
    }),
    "ranks": (LOGIT, BITS, {
        "roc_auc": (metrics.roc_auc(capacity=100), of_scores(sk.roc_auc_score)),
        "roc_auc, rounded": (metrics.roc_auc(), of_scores(sk.roc_auc_score, rounded=True)),
        "average_precision": (metrics.average_precision(capacity=N), of_scores(sk.average_precision_score)),
        "average_precision, rounded": (metrics.average_precision(), of_scores(sk.average_precision_score, rounded=True)),
    }),
    "probabilities": (LOGITS, LABELS, {
        "log_loss": (metrics.log_loss, log_loss),
        "perplexity": (metrics.perplexity, lambda p, t: np.exp(log_loss(p, t))),
        "calibration_error": (metrics.calibration_error(10), calibration),
    }),
    "numbers": (GUESSES, NUMBERS, {
        "rmse": (metrics.rmse, lambda p, t: sk.root_mean_squared_error(t, p)),
        "mape": (metrics.mape, lambda p, t: sk.mean_absolute_percentage_error(t, p)),
        "pearson": (metrics.pearson, lambda p, t: stats.pearsonr(p.astype(float), t.astype(float))[0]),
        "spearman": (metrics.spearman(80), lambda p, t: stats.spearmanr(p, t)[0]),
    }),
}  # fmt: skip
each = pytest.mark.parametrize("group", GROUPS)


def values_by_all_paths(metric, p, t, where):
    """Compute the metric in all supported ways: for all samples, for the unmasked ones, and for the first 70."""
    parts = list(zip(jnp.split(p, CUTS), jnp.split(t, CUTS), strict=True))
    separate = [metric.update(metric.init(), *part) for part in parts]
    merged = [reduce(metric.merge, totals) for totals in (separate, separate[::-1], [metric.init(), *separate, metric.init()])]
    corrupted = jnp.where(where.reshape(-1, *[1] * (p.ndim - 1)), p, jnp.nan)
    folded = jax.tree.map(lambda x: x[:70].reshape(7, 10, *x.shape[1:]), (p, t))
    scanned = jax.lax.scan(lambda totals, part: (metric.update(totals, *part), None), metric.init(), folded)[0]

    def everywhere(p, t):
        return metric.compute(metric.merge_across(metric.update(metric.init(), p, t), "devices"))

    devices = jax.vmap(everywhere, axis_name="devices")(*folded)
    return {
        "all": [metric(p, t), *map(metric.compute, merged), metric.compute(metric.update(separate[0], p[32:], t[32:]))],
        "masked": [metric(corrupted, t, where)],
        "first": [metric.compute(scanned), devices[0], devices[-1]],
    }


def values_by_calls(metric, p, t, where):
    return {"all": [metric(p, t)], "masked": [metric(p, t, where)], "first": []}


def check(group, rtol, compute=values_by_all_paths):
    p, t, cases = GROUPS[group]
    p, t = (x.astype(float) if x.dtype.kind == "f" and jax.config.jax_enable_x64 else x for x in (p, t))
    found = jax.jit(lambda *data: {name: compute(metric, *data) for name, (metric, _) in cases.items()})(p, t, WHERE)
    for name, (_, reference) in cases.items():
        for which, part in {"all": slice(None), "masked": WHERE, "first": slice(70)}.items():
            for value in found[name][which]:
                np.testing.assert_allclose(value, reference(p[part], t[part]), rtol=rtol, atol=rtol, err_msg=f"{name}, {which}")


@pytest.mark.slow
@each
def test_all_paths_equal_scikit_learn(group):
    check(group, 3e-6)


@pytest.mark.sample(2)
@each
def test_in_float64(group, x64):
    check(group, 1e-12, values_by_calls)


@pytest.mark.slow
@each
def test_bad_samples_are_nan_under_jit_and_errors_outside(group):
    p, t, cases = GROUPS[group]
    corrupted = np.where(np.arange(N).reshape(-1, *[1] * (p.ndim - 1)) == 4, np.float32(np.nan), p)
    wrong = np.where(np.arange(N) == 4, np.asarray(C if group in ("classes", "probabilities") else 2, t.dtype), t)
    bad = jax.jit(lambda p, t: {name: metric(p, t) for name, (metric, _) in cases.items()})
    empty = jax.jit(lambda p, t: {name: metric(p, t, jnp.zeros(len(t), bool)) for name, (metric, _) in cases.items()})
    for name, value in bad(corrupted, t).items():
        assert np.isnan(value).all(), name
    for name, value in empty(p, t).items():
        assert np.isnan(value).all(), name
    if group == "numbers":
        return
    for name, value in bad(p, wrong).items():
        assert np.isnan(value).all(), name
    for metric, _ in cases.values():
        with pytest.raises(ValueError, match="run from 0 to"):
            metric(p, wrong)


def test_over_devices_under_shard_map():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    size = 8 * len(jax.devices())
    sharded = jax.P("data")

    def everywhere(metric):
        def run(p, t):
            return metric.compute(metric.merge_across(metric.update(metric.init(), p, t), "data"))

        return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=(sharded, sharded), out_specs=jax.P()))

    chosen = [(g, n) for g, n in [("classes", "macro f1"), ("numbers", "pearson"), ("ranks", "roc_auc")]]
    for group, name in chosen:
        p, t, cases = GROUPS[group]
        metric, reference = cases[name]
        np.testing.assert_allclose(everywhere(metric)(p[:size], t[:size]), reference(p[:size], t[:size]), rtol=1e-5)


@pytest.mark.slow
def test_the_error_of_rounded_scores_is_within_the_documented_bound():
    scores = (RNG.normal(size=4000) * 1e-2 + 1).astype(np.float32)  # some 80 values in float16
    bits = RNG.random(4000) < 1 / (1 + np.exp(-2e2 * (scores - 1)))
    rounded, bits = scores.astype(np.float16), bits.astype(int)
    values, place = np.unique(rounded, return_inverse=True)
    assert len(values) < 150
    positive, negative = np.bincount(place, bits), np.bincount(place, 1 - bits)
    at_or_above = (positive + negative)[::-1].cumsum()[::-1]
    bounds = {
        metrics.roc_auc: (positive * negative).sum() / bits.sum() / (1 - bits).sum() / 2,
        metrics.average_precision: (positive / bits.sum() * (positive + negative - 1) / at_or_above).sum(),
    }
    for make, bound in bounds.items():
        error = abs(make()(scores, bits) - make(capacity=4000)(scores, bits))
        assert 1e-6 < error <= bound < 0.4


def test_rounding_is_to_float16_over_its_whole_range():
    scores = np.array([np.inf, 1e30, 65504, 65500, 1, 1e-3, 6e-8, 0.0, -0.0, -6e-8, -1, -65504, -1e9, -np.inf], np.float32)
    for bits in RNG.integers(0, 2, (5, len(scores))):
        clipped = np.clip(scores, -65504, 65504).astype(np.float16)
        np.testing.assert_allclose(metrics.roc_auc()(scores, bits), sk.roc_auc_score(bits, clipped), rtol=1e-6)
        np.testing.assert_allclose(metrics.roc_auc()(scores.astype(jnp.bfloat16)[4:], bits[4:]),
                                   sk.roc_auc_score(bits[4:], clipped[4:]), rtol=1e-6)  # fmt: skip


@pytest.mark.slow
def test_more_samples_than_the_capacity_give_nan():
    exact = metrics.roc_auc(capacity=70)
    assert not np.isnan(exact(LOGIT[:70], BITS[:70]))
    assert np.isnan(exact(LOGIT, BITS))
    parts = [exact.update(exact.init(), LOGIT[part], BITS[part]) for part in (slice(50), slice(50, 71))]
    assert np.isnan(exact.compute(exact.merge(*parts)))
    assert not np.isnan(exact(LOGIT, BITS, np.arange(N) > 0))


@pytest.mark.slow
def test_zero_denominators():
    ones = jnp.ones(4)
    right = jnp.array([0, 1, 1, 0])
    with np.errstate(all="ignore"):
        assert metrics.precision()(-ones, right) == sk.precision_score(right, -ones > 0, zero_division=0) == 0
    assert metrics.recall()(ones, jnp.zeros(4, int)) == 0
    assert metrics.matthews()(ones, right) == sk.matthews_corrcoef(right, ones > 0) == 0
    assert jnp.isnan(metrics.cohen_kappa()(ones, jnp.ones(4, int)))
    for one_class in (metrics.roc_auc(), metrics.roc_auc(capacity=4)):
        assert jnp.isnan(one_class(ones, jnp.ones(4, int))) and jnp.isnan(one_class(ones, jnp.zeros(4, int)))
    for no_positive in (metrics.average_precision(), metrics.average_precision(capacity=4)):
        assert jnp.isnan(no_positive(ones, jnp.zeros(4, int)))
        assert no_positive(ones, jnp.ones(4, int)) == 1
    for flat in (metrics.pearson, metrics.spearman(4)):
        assert jnp.isnan(flat(ones, jnp.arange(4.0))) and jnp.isnan(flat(jnp.arange(4.0), ones))
    assert metrics.mape(jnp.array([1.0]), jnp.array([0.0])) == 2.0**52 == sk.mean_absolute_percentage_error([0.0], [1.0])
    assert metrics.mape(jnp.array([0.0]), jnp.array([0.0])) == 0


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_pearson_does_not_cancel(offset):
    y = (RNG.normal(size=2000) * 4 + offset).astype(np.float32)
    x = (y / 2 + RNG.normal(size=2000)).astype(np.float32)
    expected = stats.pearsonr(x.astype(float), y.astype(float))[0]
    totals = [
        metrics.pearson.update(metrics.pearson.init(), *part) for part in zip(x.reshape(40, 50), y.reshape(40, 50), strict=True)
    ]
    np.testing.assert_allclose(metrics.pearson.compute(reduce(metrics.pearson.merge, totals)), expected, rtol=2e-5)


def test_tokens_and_pixels():
    p, t = LOGITS[:70].reshape(7, 10, C), LABELS[:70].reshape(7, 10)
    where = np.arange(10)[None, :] < np.arange(7)[:, None] + 2  # sequences of 2 to 8 tokens
    np.testing.assert_allclose(metrics.perplexity(p, t, where), np.exp(log_loss(p[where], t[where])), rtol=1e-6)
    np.testing.assert_allclose(metrics.mean_iou(C)(p, t), sk.jaccard_score(t.ravel(), p.argmax(-1).ravel(), average="macro"))
    np.testing.assert_allclose(metrics.log_loss(p, t), losses.cross_entropy(p, t), rtol=1e-6)
    np.testing.assert_allclose(
        metrics.log_loss(np.log(softmax(LOGITS)), np.eye(C)[LABELS]), log_loss(LOGITS, LABELS), rtol=1e-5
    )


def test_labels_of_a_narrow_type():
    scores = np.eye(300, dtype=np.float32)[:100]
    assert metrics.recall(300)(scores, np.arange(100).astype(np.int8)) == 1
    assert metrics.recall(300)(scores, np.arange(100).astype(np.uint8)) == 1


def reference_bleu(predicted, reference, order=4):
    """The formula of the paper, with counters of tuples."""
    matched, total = np.zeros(order), np.zeros(order)
    for p, r in zip(predicted, reference, strict=True):
        for n in range(1, order + 1):
            ours, theirs = (Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (p, r))
            matched[n - 1] += sum(min(count, theirs[gram]) for gram, count in ours.items())
            total[n - 1] += sum(ours.values())
    c, r = sum(map(len, predicted)), sum(map(len, reference))
    return min(1, math.exp(1 - r / c)) * math.exp(np.log(matched / total).mean()) if matched.all() else 0.0


def padded(sequences, time):
    return np.array([[*s, *[-1] * (time - len(s))] for s in sequences])


@pytest.mark.slow
def test_bleu():
    reference = [RNG.integers(0, 3, RNG.integers(4, 12)).tolist() for _ in range(20)]
    predicted = [s[: RNG.integers(3, 12)] + RNG.integers(0, 3, RNG.integers(0, 3)).tolist() for s in reference]
    p, t, where = padded(predicted, 14), padded(reference, 12), np.arange(20) % 2 == 0
    metric = metrics.bleu()
    np.testing.assert_allclose(metric(p, t), reference_bleu(predicted, reference), rtol=1e-5)
    np.testing.assert_allclose(metric(t, t), 1, rtol=1e-6)
    np.testing.assert_allclose(metric(p, t, where), reference_bleu(predicted[::2], reference[::2]), rtol=1e-5)
    parts = [metric.update(metric.init(), p[part], t[part]) for part in (slice(13), slice(13, 20))]
    np.testing.assert_allclose(metric.compute(metric.merge(*parts)), metric(p, t), rtol=1e-6)
    assert metrics.bleu()(p[:, :3], t) == 0  # no 4-gram at all
    the = np.array([[7] * 7])  # the paper's: "the the the the the the the" against "the cat is on the mat"
    np.testing.assert_allclose(metrics.bleu(1)(the, np.array([[7, 1, 2, 3, 7, 4]])), 2 / 7, rtol=1e-6)
    assert jnp.isnan(metric(p, t, np.zeros(20, bool)))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: metrics.precision(3)(LOGITS, LABELS), ValueError, ["num_classes=3", "[71, 6]"]),
        (lambda: metrics.precision(3, average="mean"), ValueError, ["'mean'", "'macro', 'micro', 'weighted', 'none'"]),
        (lambda: metrics.recall(0), ValueError, ["recall", "num_classes is 0"]),
        (lambda: metrics.f_beta(-1), ValueError, ["beta is -1", "positive"]),
        (lambda: metrics.f1()(LOGIT, 2 * BITS - 1), ValueError, ["f1", "-1 to 1", "0 and 1"]),
        (lambda: metrics.f1()(LOGITS, LABELS), ValueError, ["[71, 6]", "differ in shape"]),
        (lambda: metrics.roc_auc()(LOGIT, BITS, np.ones(N)), TypeError, ["where != 0"]),
        (lambda: metrics.roc_auc(capacity=1.5), ValueError, ["capacity is 1.5"]),
        (lambda: metrics.spearman(9)(LOGITS[None], LOGITS[None]), ValueError, ["spearman", "(batch, outputs)"]),
        (lambda: metrics.pearson(GUESSES, NUMBERS[:, None]), ValueError, ["targets[:, 0]"]),
        (lambda: metrics.calibration_error(0), ValueError, ["bins is 0"]),
        (lambda: metrics.log_loss(LOGITS, LABELS[:4]), ValueError, ["[71, 6]", "[4]"]),
        (lambda: metrics.mape(LABELS, LABELS), TypeError, ["floating-point"]),
        (lambda: metrics.bleu()(LOGITS, LOGITS), TypeError, ["tokens", "-1 for padding"]),
        (lambda: metrics.bleu()(LABELS, LABELS), ValueError, ["(batch, time)"]),
        (lambda: metrics.bleu()(LABELS[:, None], LABELS[:4, None]), ValueError, ["differ in length"]),
    ],
)
def test_errors(call, kind, words):
    with pytest.raises(kind) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)
