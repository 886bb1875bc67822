"""Tests of the losses against float64 NumPy, PyTorch and analytic derivatives; conventions, properties and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn.functional import losses
from jaxnn.functional.losses import (
    binary_cross_entropy,
    cross_entropy,
    hinge,
    huber,
    mae,
    mse,
    multiclass_hinge,
)

RNG = np.random.default_rng(0)
B, C = 6, 4
REAL = RNG.normal(size=(B, 3)) * 2
TARGETS = RNG.normal(size=(B, 3))
SIGNS = np.where(RNG.random((B, 3)) < 0.5, -1, 1)
BITS = (SIGNS + 1) // 2
LOGITS = RNG.normal(size=(B, C)) * 3
LABELS = np.array([0, 3, 1, 2, 2, 0])
ONE_HOT = np.eye(C)[LABELS]
SOFT = RNG.dirichlet(np.ones(C), B)
PROBABILITIES = RNG.dirichlet(np.ones(C), B)
CHANCES = RNG.uniform(0.02, 0.98, (B, 3))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def np_huber(p, t, delta=1.0):
    a = np.abs(p - t)
    return np.where(a <= delta, 0.5 * a**2, delta * (a - delta / 2))


def np_multiclass_hinge(p, t):
    own = np.eye(C)[t] == 1
    return np.maximum(0, 1 + np.where(own, -np.inf, p).max(-1) - p[own])


def np_multiclass_hinge_slope(p, t):
    own = np.eye(C)[t]
    rival = np.eye(C)[np.where(own == 1, -np.inf, p).argmax(-1)]
    return (np_multiclass_hinge(p, t) > 0)[:, None] * (rival - own)


def chance(**options):
    return lambda p, t, **kwargs: binary_cross_entropy(p, t, from_logits=False, **options, **kwargs)


def distribution(p, t, **kwargs):
    return cross_entropy(p, t, from_logits=False, **kwargs)


# name: (loss, predictions, targets, unreduced formula, its derivative with respect to the predictions)
CASES = {
    "mse": (mse, REAL, TARGETS, lambda p, t: (p - t) ** 2, lambda p, t: 2 * (p - t)),
    "mae": (mae, REAL, TARGETS, lambda p, t: np.abs(p - t), lambda p, t: np.sign(p - t)),
    "huber": (huber, REAL, TARGETS, np_huber, lambda p, t: np.clip(p - t, -1, 1)),
    "huber delta": (
        lambda p, t, **kw: huber(p, t, delta=0.3, **kw),
        REAL,
        TARGETS,
        lambda p, t: np_huber(p, t, 0.3),
        lambda p, t: np.clip(p - t, -0.3, 0.3),
    ),
    "hinge": (hinge, REAL, SIGNS, lambda p, t: np.maximum(0, 1 - t * p), lambda p, t: np.where(t * p < 1, -t, 0)),
    "multiclass hinge": (multiclass_hinge, LOGITS, LABELS, np_multiclass_hinge, np_multiclass_hinge_slope),
    "cross-entropy, labels": (
        cross_entropy,
        LOGITS,
        LABELS,
        lambda p, t: -np.log(softmax(p))[np.arange(B), t],
        lambda p, t: softmax(p) - np.eye(C)[t],
    ),
    "cross-entropy, soft": (
        cross_entropy,
        LOGITS,
        SOFT,
        lambda p, t: -(t * np.log(softmax(p))).sum(-1),
        lambda p, t: softmax(p) - t,
    ),
    "cross-entropy of probabilities, labels": (
        distribution,
        PROBABILITIES,
        LABELS,
        lambda p, t: -np.log(p)[np.arange(B), t],
        lambda p, t: -np.eye(C)[t] / p,
    ),
    "cross-entropy of probabilities, soft": (
        distribution,
        PROBABILITIES,
        SOFT,
        lambda p, t: -(t * np.log(p)).sum(-1),
        lambda p, t: -t / p,
    ),
    "binary cross-entropy": (
        binary_cross_entropy,
        REAL,
        BITS,
        lambda p, t: -t * np.log(sigmoid(p)) - (1 - t) * np.log(sigmoid(-p)),
        lambda p, t: sigmoid(p) - t,
    ),
    "binary cross-entropy of probabilities": (
        chance(),
        CHANCES,
        BITS,
        lambda p, t: -t * np.log(p) - (1 - t) * np.log1p(-p),
        lambda p, t: -t / p + (1 - t) / (1 - p),
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


def array(x, dtype=None):
    return jnp.asarray(x) if dtype is None or x.dtype.kind == "i" else jnp.asarray(x, dtype)


@pytest.mark.sample(4)
@each_case
def test_value_and_derivative_in_float64(case, x64):
    loss, p, t, formula, derivative = CASES[case]
    p, t = array(p), array(t)
    expected = formula(np.asarray(p), np.asarray(t))
    np.testing.assert_allclose(loss(p, t), expected.mean(), rtol=1e-12)
    np.testing.assert_allclose(loss(p, t, reduction="sum"), expected.sum(), rtol=1e-12)
    np.testing.assert_allclose(loss(p, t, reduction="none"), expected, rtol=1e-12, atol=1e-14)
    slope = jax.grad(lambda p: loss(p, t, reduction="sum"))(p)
    np.testing.assert_allclose(slope, derivative(np.asarray(p), np.asarray(t)), rtol=1e-12, atol=1e-14)


@pytest.mark.sample(4)
@each_case
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 2e-5), ("bfloat16", 2e-5), ("float16", 2e-5)])
def test_narrow_types_only_round_the_inputs(case, dtype, rtol):
    loss, p, t, formula, _ = CASES[case]
    p, t = array(p, dtype), array(t, dtype)
    value = loss(p, t)
    assert value.dtype == jnp.float32
    wide = lambda x: np.asarray(x).astype(float if jnp.issubdtype(x.dtype, jnp.floating) else int)  # noqa: E731
    np.testing.assert_allclose(value, formula(wide(p), wide(t)).mean(), rtol=rtol)
    assert jax.grad(loss)(p, t).dtype == p.dtype


@pytest.mark.sample(4)
@each_case
def test_transformations_agree(case):
    loss, p, t, *_ = CASES[case]
    p, t = array(p), array(t)
    single = loss(p, t, reduction="none")
    np.testing.assert_allclose(jax.jit(loss)(p, t), loss(p, t), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda p, t: loss(p, t, reduction="none"))(p, t), single, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(p, t), jax.grad(loss)(p, t), rtol=1e-5, atol=1e-7)


@pytest.mark.sample(2)
@each_case
def test_mask_is_a_slice_and_masked_nan_has_no_effect(case):
    loss, p, t, *_ = CASES[case]
    p, t = array(p), array(t)
    shape = loss(p, t, reduction="none").shape
    where = np.zeros(shape, bool)
    where[1:4] = True
    expected, expected_slope = jax.value_and_grad(loss)(p[1:4], t[1:4])
    corrupted = p.at[0].set(jnp.nan).at[5].set(jnp.inf)
    for call in (loss, jax.jit(loss)):
        value, slope = jax.value_and_grad(call)(corrupted, t, where=where)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(slope[1:4], expected_slope, rtol=1e-5, atol=1e-7)
        assert not slope[0].any()
        assert not slope[4:].any()
    assert not loss(corrupted, t, where=where, reduction="none")[0].any()


@pytest.mark.sample(4)
@each_case
def test_a_fully_masked_loss_is_zero(case):
    loss, p, t, *_ = CASES[case]
    p, t = array(p), array(t)
    nothing = jnp.zeros(loss(p, t, reduction="none").shape, bool)
    value, slope = jax.value_and_grad(loss)(p, t, where=nothing)
    assert value == 0
    assert not slope.any()
    assert loss(p[:0], t[:0]) == 0


@pytest.mark.sample(6)
@each_case
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_laws(case, seed):
    loss, p, t, *_ = CASES[case]
    rng = np.random.default_rng(seed)
    order = rng.permutation(B)
    p, t = np.asarray(array(p)), np.asarray(array(t))
    single = np.asarray(loss(p, t, reduction="none"))
    where = rng.random(single.shape) < 0.5
    np.testing.assert_allclose(loss(p[order], t[order], reduction="none"), single[order], rtol=1e-6)
    np.testing.assert_allclose(loss(p[order], t[order]), loss(p, t), rtol=1e-5)
    total = np.asarray(loss(p, t, where=where, reduction="sum"))
    np.testing.assert_allclose(total, single[where].sum(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss(p, t, where=where), total / max(1, where.sum()), rtol=1e-6)
    assert (single >= 0).all()


@each_case
def test_nan_propagates(case):
    loss, p, t, *_ = CASES[case]
    assert jnp.isnan(loss(array(p).at[0].set(jnp.nan), array(t)))


@pytest.mark.parametrize(
    ("case", "name", "change"),
    [
        ("mse", "mse_loss", lambda p, t: (p, t)),
        ("mae", "l1_loss", lambda p, t: (p, t)),
        ("huber", "huber_loss", lambda p, t: (p, t)),
        ("cross-entropy, labels", "cross_entropy", lambda p, t: (p, t.long())),
        ("cross-entropy, soft", "cross_entropy", lambda p, t: (p, t)),
        ("binary cross-entropy", "binary_cross_entropy_with_logits", lambda p, t: (p, t.to(p.dtype))),
        ("binary cross-entropy of probabilities", "binary_cross_entropy", lambda p, t: (p, t.to(p.dtype))),
        ("cross-entropy of probabilities, labels", "nll_loss", lambda p, t: (p.log(), t.long())),
    ],
)
def test_against_torch(case, name, change):
    torch = pytest.importorskip("torch")
    loss, p, t, *_ = CASES[case]
    theirs = getattr(torch.nn.functional, name)
    q = torch.tensor(p, dtype=torch.float32, requires_grad=True)
    target = torch.tensor(t) if t.dtype.kind == "i" else torch.tensor(t, dtype=torch.float32)
    value = theirs(*change(q, target))
    value.backward()
    p = jnp.asarray(p, jnp.float32)
    np.testing.assert_allclose(loss(p, array(t)), value.item(), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(p, array(t)), q.grad, rtol=1e-4, atol=1e-6)


# Conventions of the teaching notes


def test_mae_has_slope_0_at_exact_predictions():
    assert jax.grad(mae)(1.0, 1.0) == 0
    assert jax.grad(mae)(0.0, -0.0) == 0


@pytest.mark.parametrize("a", [1.0, -1.0, 0.0])
def test_huber_meets_at_delta(a):
    assert huber(a, 0.0) == 0.5 * a * a
    assert jax.grad(huber)(a, 0.0) == a
    assert jax.grad(lambda delta: huber(3.0, 0.0, delta=delta))(2.0) == 1.0  # d/dδ of δ(a − δ/2)
    sweep = jax.vmap(lambda delta: huber(3.0, 0.0, delta=delta))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(sweep, [2.5, 4.0])


def test_huber_of_a_huge_error():
    for a in (1e30, jnp.inf):
        assert jax.grad(huber)(jnp.float32(a), 0.0) == 1


def test_hinge_of_the_notes_is_a_sum_with_slope_0_on_the_edge():
    assert hinge(jnp.array([0.5, -1.0]), jnp.array([1, 1]), reduction="sum") == 2.5
    assert jax.grad(hinge)(1.0, 1) == 0


def test_multiclass_hinge_of_two_classes_is_hinge():
    score = jnp.linspace(-3, 3, 7)
    pair = jnp.stack([-score / 2, score / 2], axis=-1)
    for label in (0, 1):
        ours = multiclass_hinge(pair, jnp.full(7, label), reduction="none")
        np.testing.assert_allclose(ours, hinge(score, jnp.full(7, 2 * label - 1), reduction="none"), rtol=1e-6)


def test_multiclass_hinge_against_optax():
    theirs = optax.losses.multiclass_hinge_loss(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS))
    np.testing.assert_allclose(multiclass_hinge(LOGITS, LABELS, reduction="none"), theirs, rtol=1e-5)


@pytest.mark.parametrize("targets", [np.array([0, 1]), np.eye(3)[:2]])
def test_cross_entropy_of_extreme_logits(targets):
    logits = jnp.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]])
    value, slope = jax.value_and_grad(lambda x: cross_entropy(x, targets, reduction="sum"))(logits)
    assert value == 2e4
    np.testing.assert_array_equal(slope, [[0, 0, 0], [1, -1, 0]])


@pytest.mark.parametrize("target", [np.array(0), np.eye(3)[0]])
def test_an_excluded_class_costs_nothing(target):
    value, slope = jax.value_and_grad(cross_entropy)(jnp.array([0.0, -jnp.inf, 0.0]), target)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slope, [-0.5, 0, 0.5], atol=1e-7)


@pytest.mark.parametrize("x", [1e4, -1e4, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("y", [0, 1])
def test_binary_cross_entropy_of_extreme_logits(x, y):
    value, slope = jax.value_and_grad(binary_cross_entropy)(jnp.float32(x), y)
    right = (x > 0) == (y == 1)
    assert value == (0 if right else abs(x))
    assert slope == (0 if right else np.sign(x))


def test_small_binary_cross_entropies_are_accurate():
    np.testing.assert_allclose(binary_cross_entropy(30.0, 1), np.exp(-30.0), rtol=1e-5)
    np.testing.assert_allclose(chance()(1e-9, 0), 1e-9, rtol=1e-6)


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("targets", [np.array([1]), np.array([[0.0, 1.0, 0.0]])])
def test_probability_zero(dtype, targets):
    p = jnp.array([[1.0, 0.0, 0.0]], dtype)
    targets = jnp.asarray(targets)
    value, slope = jax.value_and_grad(distribution)(p, targets)
    assert 80 < value < 100
    assert jnp.isfinite(slope).all()
    assert slope[0, 1] == -1 / jnp.finfo(dtype).eps  # raises the correct class
    assert slope[0, 0] == slope[0, 2] == 0  # terms with y = 0 add nothing
    assert jnp.isfinite(jnp.square(slope.astype(jnp.float32))).all()
    assert distribution(p, jnp.array([0])) == 0
    step = p - slope * jnp.asarray(0.01 * float(jnp.finfo(dtype).eps), dtype)
    assert distribution(step, targets) < value


@pytest.mark.parametrize(("p", "y", "sign"), [(0.0, 1, -1), (1.0, 0, 1)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_binary_probability_zero(p, y, sign, dtype):
    value, slope = jax.value_and_grad(chance())(jnp.asarray(p, dtype), y)
    assert 80 < value < 100
    assert slope == sign / jnp.finfo(dtype).eps
    value, slope = jax.value_and_grad(chance())(jnp.asarray(p, dtype), 1 - y)
    assert value == 0
    assert slope == -sign


def test_probabilities_are_exact_down_to_the_smallest_normal_number():
    p = np.array([1e-37, 1e-20, 1e-7, 0.5, 1.0], np.float32)
    slope = jax.vmap(jax.grad(chance()), (0, None))(p, 1)
    np.testing.assert_allclose(chance()(p, np.ones(5), reduction="none"), -np.log(p.astype(float)), rtol=1e-6)
    np.testing.assert_allclose(slope, -1 / p.astype(float), rtol=1e-6)


@settings(max_examples=10)
@given(st.sampled_from([2, 5]), st.sampled_from([1, 4]), st.integers(0, 1000))
def test_labels_equal_one_hot_rows(classes, size, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(size, classes)).astype(np.float32) * 5, rng.integers(0, classes, size)
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    np.testing.assert_allclose(cross_entropy(logits, labels), cross_entropy(logits, one_hot), rtol=1e-5, atol=1e-7)
    p = softmax(logits.astype(float))
    np.testing.assert_allclose(distribution(p, labels), cross_entropy(logits, labels), rtol=1e-4, atol=1e-5)
    shifted = cross_entropy(logits + np.float32(3), labels)
    np.testing.assert_allclose(shifted, cross_entropy(logits, labels), rtol=1e-4, atol=1e-5)


def test_boolean_targets():
    x, true = jnp.array([0.3, -2.0]), jnp.array([True, False])
    for call in (binary_cross_entropy, jax.jit(binary_cross_entropy)):
        np.testing.assert_allclose(call(x, true, where=~true), binary_cross_entropy(x[1:], jnp.array([0])), rtol=1e-6)
    assert mse(x, true) == mse(x, true.astype(float))


def test_two_classes_equal_binary_cross_entropy():
    x = jnp.linspace(-5, 5, 11)
    pair = jnp.stack([jnp.zeros(11), x], axis=-1)
    for label in (0, 1):
        two = cross_entropy(pair, jnp.full(11, label), reduction="none")
        np.testing.assert_allclose(two, binary_cross_entropy(x, jnp.full(11, label), reduction="none"), rtol=1e-5)


def test_cross_entropy_of_sequences_and_narrow_labels():
    logits = jnp.zeros((2, 5, 300))
    assert cross_entropy(logits, jnp.zeros((2, 5), jnp.uint8), reduction="none").shape == (2, 5)
    np.testing.assert_allclose(jax.jit(cross_entropy)(logits, jnp.zeros((2, 5), jnp.uint8)), np.log(300), rtol=1e-6)
    assert cross_entropy(jnp.zeros(3), 1).shape == ()


def test_targets_are_differentiable():
    slope = jax.grad(cross_entropy, argnums=1)(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(slope, np.full((1, 2), np.log(2)), rtol=1e-6)


# Errors

F = np.ones((4, 1), np.float32)
ERRORS = {
    "column against vector": (mse, (F, F[:, 0]), {}, ValueError, ["[4, 1]", "[4]", "predictions[:, 0]", "targets[:, None]"]),
    "vector against column": (mae, (F[:, 0], F), {}, ValueError, ["[4]", "[4, 1]", "targets[:, 0]"]),
    "binary column": (binary_cross_entropy, (F, F[:, 0]), {}, ValueError, ["predictions[:, 0]"]),
    "lengths": (huber, (F, F[:3]), {}, ValueError, ["float32[4, 1]", "float32[3, 1]", "nothing is broadcast"]),
    "integer predictions": (mse, (np.arange(3), np.arange(3.0)), {}, TypeError, ["mse", "int32[3]", "floating-point"]),
    "complex predictions": (mse, (1j * F, F), {}, TypeError, ["complex64"]),
    "reduction": (mse, (F, F), {"reduction": "avg"}, ValueError, ["'avg'", "'mean', 'sum', 'none'"]),
    "no reduction": (cross_entropy, (LOGITS, LABELS), {"reduction": None}, ValueError, ["None", "'none'"]),
    "delta": (huber, (F, F), {"delta": 0.0}, ValueError, ["delta is 0.0", "positive"]),
    "NaN delta": (huber, (F, F), {"delta": float("nan")}, ValueError, ["positive"]),
    "deltas": (huber, (F, F), {"delta": np.ones(4)}, ValueError, ["single positive"]),
    "mask dtype": (mse, (F, F), {"where": np.ones((4, 1))}, TypeError, ["float32[4, 1]", "where != 0"]),
    "mask shape": (mse, (F, F), {"where": np.ones(4, bool)}, ValueError, ["bool[4]", "(4, 1)", "where[..., None]"]),
    "mask of classes": (
        cross_entropy,
        (LOGITS, LABELS),
        {"where": np.ones((B, C), bool)},
        ValueError,
        ["bool[6, 4]", "(6,)"],
    ),
    "hinge of 0 and 1": (hinge, (F, np.zeros((4, 1))), {}, ValueError, ["0.0", "-1 and 1", "2 * targets - 1"]),
    "label too high": (cross_entropy, (LOGITS, LABELS + 1), {}, ValueError, ["1 to 4", "4 classes", "targets - 1"]),
    "label too low": (cross_entropy, (LOGITS, LABELS - 1), {}, ValueError, ["-1 to 2", "4 classes, 0 to 3"]),
    "huge label": (cross_entropy, (LOGITS, LABELS + 2**32), {}, ValueError, ["4294967296"]),
    "label of hinge": (multiclass_hinge, (LOGITS, LABELS + 9), {}, ValueError, ["9 to 12"]),
    "integer one-hot": (cross_entropy, (LOGITS, ONE_HOT.astype(int)), {}, TypeError, ["int32[6, 4]", "astype(float)"]),
    "float labels": (cross_entropy, (LOGITS, LABELS * 1.0), {}, ValueError, ["float32[6]", "targets.astype(int)"]),
    "Boolean labels": (cross_entropy, (LOGITS, LABELS > 0), {}, TypeError, ["bool[6]", "targets.astype(int)"]),
    "column of labels": (cross_entropy, (LOGITS, LABELS[:, None]), {}, ValueError, ["int32[6, 1]", "targets[:, 0]"]),
    "one-hot hinge": (multiclass_hinge, (LOGITS, ONE_HOT), {}, TypeError, ["targets.argmax(-1)"]),
    "one-hot of another width": (cross_entropy, (LOGITS, ONE_HOT[:, :3]), {}, ValueError, ["[6, 4]", "[6, 3]"]),
    "one class": (cross_entropy, (F, np.zeros(4, int)), {}, ValueError, ["one class", "binary_cross_entropy"]),
    "no class axis": (cross_entropy, (np.float32(1), 0), {}, ValueError, ["no classes", "(..., classes)"]),
    "no classes": (cross_entropy, (F[:, :0], np.zeros(4, int)), {}, ValueError, ["no classes"]),
    "binary of -1": (binary_cross_entropy, (F, -F), {}, ValueError, ["-1.0", "0 to 1", "(targets + 1) / 2"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_state_the_input_and_the_remedy(case):
    loss, arguments, options, kind, words = ERRORS[case]
    with pytest.raises(kind) as caught:
        loss(*arguments, **options)
    assert all(word in str(caught.value) for word in [*words, loss.__name__]), str(caught.value)


@pytest.mark.parametrize("case", ["column against vector", "integer predictions", "integer one-hot", "mask shape"])
def test_errors_of_shape_and_type_are_raised_under_jit_too(case):
    loss, arguments, options, kind, words = ERRORS[case]
    with pytest.raises(kind) as caught:
        jax.jit(lambda a, k: loss(*a, **k))(arguments, options)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("loss", "predictions", "targets"),
    [
        (cross_entropy, np.ones((3, 2)), np.array([0, 2, -1])),
        (distribution, np.full((3, 2), 0.5), np.array([0, 2, -1])),
        (multiclass_hinge, np.ones((3, 2)), np.array([0, 2, -1])),
        (hinge, np.ones(3), np.array([1, 0, 2])),
        (binary_cross_entropy, np.ones(3), np.array([1, 2, -1])),
    ],
)
def test_bad_labels_are_nan_under_jit_and_ignored_where_masked(loss, predictions, targets):
    run = jax.jit(lambda p: loss(p, jnp.asarray(targets) + 0 * p[0].ravel()[0].astype(int), reduction="none"))
    p = jnp.asarray(predictions)
    np.testing.assert_array_equal(jnp.isnan(run(p)), [False, True, True])
    slope = jax.grad(lambda p: run(p).sum())(p)
    np.testing.assert_array_equal(jnp.isnan(slope).reshape(3, -1).any(axis=1), [False, True, True])
    where = np.array([True, False, False])
    expected = loss(p[:1], targets[:1])
    for call in (loss, jax.jit(loss)):
        assert call(p, targets, where=where) == expected


def test_label_smoothing_against_its_formula_and_torch():
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    labels = np.array([0, 3, 1, 1, 2])
    ours = losses.cross_entropy(logits, labels, label_smoothing=0.1)
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), label_smoothing=0.1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    soft = 0.9 * np.eye(4, dtype=np.float32)[labels] + 0.025
    np.testing.assert_allclose(losses.cross_entropy(logits, soft), ours, rtol=1e-6)
    probabilities = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(
        losses.cross_entropy(probabilities, labels, from_logits=False, label_smoothing=0.1), ours, rtol=1e-5
    )
    assert losses.cross_entropy(logits, labels, label_smoothing=0.0) == losses.cross_entropy(logits, labels)
    traced = jax.jit(lambda smoothing: losses.cross_entropy(logits, labels, label_smoothing=smoothing))
    np.testing.assert_allclose(traced(0.1), ours, rtol=1e-6)
    with pytest.raises(ValueError, match=r"label_smoothing is 1.0, expected a single number in \[0, 1\)"):
        losses.cross_entropy(logits, labels, label_smoothing=1.0)
