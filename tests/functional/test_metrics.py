"""Tests of the metrics against scikit-learn: unequal batches, masks and invalid input."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from jaxnn.functional import losses, metrics

RNG = np.random.default_rng(0)
N, C = 71, 5
CUTS = (32, 64)  # batches of 32, 32 and 7
LOGITS = RNG.normal(size=(N, C)).astype(np.float32)
LABELS = RNG.integers(0, C, N)
LOGITS[np.arange(N), LABELS] += 1
LOGIT, BITS = RNG.normal(size=N).astype(np.float32), RNG.integers(0, 2, N)
Y = RNG.normal(size=N).astype(np.float32)
Y_HAT = (Y + RNG.normal(size=N) / 2).astype(np.float32)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


# name: (metric, predictions, targets, value of scikit-learn as a function of predictions and targets)
CASES = {
    "accuracy": (metrics.accuracy, LOGITS, LABELS, lambda p, t: sk.accuracy_score(t, p.argmax(-1))),
    "accuracy, one-hot": (
        metrics.accuracy,
        LOGITS,
        np.eye(C)[LABELS],
        lambda p, t: sk.accuracy_score(t.argmax(-1), p.argmax(-1)),
    ),
    "binary_accuracy": (metrics.binary_accuracy, LOGIT, BITS, lambda p, t: sk.accuracy_score(t, p > 0)),
    "top_3_accuracy": (
        metrics.top_k_accuracy(3),
        LOGITS,
        LABELS,
        lambda p, t: sk.top_k_accuracy_score(t, p, k=3, labels=np.arange(C)),
    ),
    "confusion_matrix": (
        metrics.confusion_matrix(C),
        LOGITS,
        LABELS,
        lambda p, t: sk.confusion_matrix(t, p.argmax(-1), labels=np.arange(C)),
    ),
    "r2": (metrics.r2, Y_HAT, Y, lambda p, t: sk.r2_score(t.astype(float), p.astype(float))),
    "r2 of a column": (metrics.r2, Y_HAT[:, None], Y[:, None], lambda p, t: sk.r2_score(t.astype(float), p.astype(float))),
    "mse": (metrics.mse, Y_HAT, Y, lambda p, t: sk.mean_squared_error(t, p)),
    "mae": (metrics.mae, Y_HAT, Y, lambda p, t: sk.mean_absolute_error(t, p)),
    "cross_entropy": (
        metrics.mean(losses.cross_entropy),
        LOGITS,
        LABELS,
        lambda p, t: sk.log_loss(t, softmax(p.astype(float)), labels=np.arange(C)),
    ),
}
each = pytest.mark.parametrize("name", CASES)


def parts(p, t, cuts=CUTS):
    return list(zip(np.split(p, cuts), np.split(t, cuts), strict=True))


@pytest.mark.sample(2)
@each
def test_one_pass_and_unequal_batches(name):
    metric, p, t, reference = CASES[name]
    expected = reference(p, t)
    np.testing.assert_allclose(metric(p, t), expected, rtol=2e-6)
    totals = metric.init()
    for batch in parts(p, t):
        totals = metric.update(totals, *batch)
    np.testing.assert_allclose(metric.compute(totals), expected, rtol=2e-6)
    separate = [metric.update(metric.init(), *batch) for batch in parts(p, t)]
    np.testing.assert_allclose(metric.compute(reduce(metric.merge, separate)), expected, rtol=2e-6)
    np.testing.assert_allclose(metric.compute(reduce(metric.merge, separate[::-1])), expected, rtol=2e-6)
    np.testing.assert_allclose(metric.compute(metric.merge(metric.init(), totals)), expected, rtol=2e-6)


@each
def test_in_a_scan_under_jit(name):
    metric, p, t, reference = CASES[name]
    batched = jax.tree.map(lambda x: jnp.asarray(x[:70]).reshape(7, 10, *x.shape[1:]), (p, t))

    @jax.jit
    def run(data):
        totals = jax.lax.scan(lambda totals, batch: (metric.update(totals, *batch), None), metric.init(), data)[0]
        return metric.compute(totals)

    np.testing.assert_allclose(run(batched), reference(p[:70], t[:70]), rtol=5e-6)
    assert all(total.dtype in (jnp.float32, jnp.int32) for total in jax.tree.leaves(metric.init()))


@pytest.mark.sample(4)
@each
def test_mask_is_a_slice(name):
    metric, p, t, reference = CASES[name]
    where = np.arange(N) % 3 == 0
    corrupted = np.where(where.reshape(-1, *[1] * (p.ndim - 1)), p, np.float32(np.nan))
    for call in (metric, jax.jit(metric)):
        np.testing.assert_allclose(call(corrupted, t, where), reference(p[where], t[where]), rtol=5e-6)


@each
def test_an_empty_batch_changes_nothing(name):
    metric, p, t, _ = CASES[name]
    totals = metric.update(metric.init(), p, t)
    after = metric.update(totals, p[:0], t[:0])
    after = metric.update(after, p, t, np.zeros(N, bool))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after, totals)
    assert jnp.isnan(metric.compute(metric.init())) if name != "confusion_matrix" else True


@pytest.mark.slow
@settings(max_examples=5)
@given(st.lists(st.integers(0, N), min_size=1, max_size=2).map(sorted))
def test_any_split_into_batches_gives_the_same_value(cuts):
    totals = [metrics.r2.update(metrics.r2.init(), *batch) for batch in parts(Y_HAT, Y, cuts)]
    np.testing.assert_allclose(metrics.r2.compute(reduce(metrics.r2.merge, totals)), sk.r2_score(Y, Y_HAT), rtol=1e-5)


@pytest.mark.parametrize("offset", [0, 1e3, 1e6, -1e7])
def test_r2_does_not_cancel(offset):
    y = (RNG.normal(size=5000) * 4 + offset).astype(np.float32)
    y_hat = (y + RNG.normal(size=5000)).astype(np.float32)
    expected = sk.r2_score(y.astype(float), y_hat.astype(float))
    totals = metrics.r2.init()
    for batch in parts(y_hat, y, range(32, 5000, 32)):
        totals = metrics.r2.update(totals, *batch)
    np.testing.assert_allclose(metrics.r2.compute(totals), expected, rtol=2e-5)
    np.testing.assert_allclose(metrics.r2(y_hat, y), expected, rtol=2e-5)


def test_r2_of_equal_targets():
    same = jnp.full(4, 3.1)
    assert metrics.r2(same, same) == sk.r2_score(same, same) == 1
    assert metrics.r2(same + 1, same) == sk.r2_score(same, same + 1) == 0
    assert jnp.isnan(metrics.r2(jnp.ones(1), jnp.ones(1)))
    assert jnp.isnan(metrics.r2(same.at[0].set(jnp.nan), same))


def test_nan_predictions_are_wrong():
    p = LOGITS.copy()
    p[:10] = np.nan
    right = (LOGITS.argmax(-1) == LABELS)[10:].sum()
    np.testing.assert_allclose(metrics.accuracy(p, LABELS), right / N, rtol=1e-6)
    assert metrics.top_k_accuracy(C)(np.full((3, C), np.nan), LABELS[:3]) == 0
    assert metrics.binary_accuracy(jnp.full(2, jnp.nan), jnp.array([0, 1])) == 0
    assert jnp.isnan(metrics.confusion_matrix(C)(p, LABELS)).any()
    assert jnp.isnan(metrics.mse(jnp.array([jnp.nan, 1.0]), jnp.ones(2)))


def test_ties_go_to_the_lower_class():
    tied = jnp.zeros((3, 3))
    assert [metrics.top_k_accuracy(k)(tied, jnp.array([0, 1, 2])) for k in (1, 2, 3)] == [
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
        1,
    ]


def test_sequences_and_columns():
    p, t = LOGITS[:70].reshape(7, 10, C), LABELS[:70].reshape(7, 10)
    np.testing.assert_allclose(metrics.accuracy(p, t), metrics.accuracy(LOGITS[:70], LABELS[:70]))
    where = np.arange(7) < 3
    np.testing.assert_allclose(metrics.accuracy(p, t, where), metrics.accuracy(p[:3], t[:3]))
    np.testing.assert_allclose(metrics.confusion_matrix(C)(p, t).sum(), 70)
    assert metrics.binary_accuracy(LOGIT[:, None], BITS) == metrics.binary_accuracy(LOGIT[:, None], BITS[:, None])
    assert metrics.binary_accuracy(LOGIT, BITS == 1) == metrics.binary_accuracy(LOGIT, BITS)
    assert metrics.accuracy(LOGITS.astype(jnp.bfloat16), LABELS).dtype == jnp.float32


def test_any_loss_is_a_metric():
    assert metrics.as_metric(metrics.r2) is metrics.r2
    assert metrics.as_metric(losses.huber).name == "huber"
    assert metrics.mean(lambda p, t: jnp.mean(p["a"] - t))({"a": jnp.ones(3)}, jnp.zeros(3)) == 1
    with pytest.raises(TypeError, match="'accuracy'"):
        metrics.as_metric("accuracy")


@pytest.mark.slow
def test_float64(x64):
    for metric, p, t, reference in CASES.values():
        p, t = (x.astype(float) if x.dtype.kind == "f" else x for x in (p, t))
        np.testing.assert_allclose(metric(p, t), reference(p, t), rtol=1e-12)


def test_bad_labels_are_nan_under_jit():
    bad = np.where(np.arange(N) == 3, C, LABELS)
    for metric in (metrics.accuracy, metrics.top_k_accuracy(2), metrics.confusion_matrix(C)):
        assert jnp.isnan(jax.jit(metric)(LOGITS, bad)).any()
        assert not jnp.isnan(jax.jit(metric)(LOGITS, bad, np.arange(N) != 3)).any()
        assert not jnp.isnan(metric(LOGITS, bad, np.arange(N) != 3)).any()
    assert jnp.isnan(jax.jit(metrics.binary_accuracy)(LOGIT, 2 * BITS))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: metrics.accuracy(LOGITS, LABELS + 1), ValueError, ["accuracy", "1 to 5", "5 classes"]),
        (lambda: metrics.accuracy(LOGITS, LABELS[:, None]), ValueError, ["int32[71, 1]", "targets[:, 0]"]),
        (lambda: metrics.accuracy(LOGITS, LABELS * 1.0), TypeError, ["float32[71]", "targets.astype(int)"]),
        (lambda: metrics.accuracy(LABELS, LABELS), TypeError, ["int32[71]", "floating-point"]),
        (lambda: metrics.accuracy(LOGIT, BITS), ValueError, ["one score", "binary_accuracy"]),
        (lambda: metrics.accuracy(LOGIT[:, None], BITS), ValueError, ["one score", "binary_accuracy"]),
        (lambda: metrics.accuracy(LOGITS, LABELS, np.ones(N)), TypeError, ["where != 0"]),
        (lambda: metrics.accuracy(LOGITS, LABELS, np.ones(3, bool)), ValueError, ["bool[3]", "(71,)"]),
        (lambda: metrics.binary_accuracy(LOGIT, 2 * BITS - 1), ValueError, ["-1 to 1", "0 and 1"]),
        (lambda: metrics.binary_accuracy(LOGIT, BITS[:3]), ValueError, ["[71]", "[3]"]),
        (lambda: metrics.binary_accuracy(LOGIT, BITS[:, None]), ValueError, ["targets[:, 0]"]),
        (lambda: metrics.top_k_accuracy(0), ValueError, ["k is 0", "positive integer"]),
        (lambda: metrics.top_k_accuracy(6)(LOGITS, LABELS), ValueError, ["[71, 5]", "at least 6 classes"]),
        (lambda: metrics.confusion_matrix(3)(LOGITS, LABELS), ValueError, ["num_classes=3", "[71, 5]"]),
        (lambda: metrics.confusion_matrix(2.5), ValueError, ["num_classes is 2.5"]),
        (lambda: metrics.r2(Y, Y[:, None]), ValueError, ["targets[:, 0]"]),
        (lambda: metrics.r2(LOGITS[None], LOGITS[None]), ValueError, ["(batch, outputs)"]),
        (lambda: metrics.mse(Y, Y[:3]), ValueError, ["[71]", "[3]"]),
        (lambda: metrics.mse(1.0, 1.0), ValueError, ["leading batch axis"]),
        (lambda: metrics.mean(lambda p, t: p - t)(Y, Y), ValueError, ["float32[71]", "scalar"]),
    ],
)
def test_errors(call, kind, words):
    with pytest.raises(kind) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)
