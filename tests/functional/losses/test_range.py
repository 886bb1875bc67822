"""Every loss at the edges: excluded classes, absent samples, empty batches, second derivatives, long sequences, bad options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.functional import losses

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(3, 4)).astype(np.float32)
LABELS = np.array([2, 1, 3])
ROWS = RNG.dirichlet(np.ones(4), 3).astype(np.float32)
BITS = np.array([1.0, 0.0, 1.0], np.float32)
SIGNS = 2 * BITS - 1
VECTORS = RNG.normal(size=(3, 3, 4)).astype(np.float32)

CLASSWISE = ["cross_entropy", "focal", "generalized_cross_entropy", "poly_cross_entropy", "sparsemax"]
LABELWISE = ["categorical_hinge", "multi_margin", "multiclass_hinge", "multiclass_perceptron"]
# name: arguments; the first is differentiated, and the first axis of each is that of the samples
ARGUMENTS = dict.fromkeys(CLASSWISE + LABELWISE, (SCORES, LABELS))
ARGUMENTS |= dict.fromkeys(("hinge", "hinge_embedding", "perceptron", "soft_margin", "squared_hinge"), (SCORES[:, 0], SIGNS))
ARGUMENTS |= dict.fromkeys(("binary_cross_entropy", "binary_focal", "binary_sparsemax", "contrastive"), (SCORES[:, 0], BITS))
ARGUMENTS |= dict.fromkeys(("huber", "log_cosh", "mae", "mape", "mse", "poisson_nll", "quantile"), (SCORES[:, 0], BITS + 1))
ARGUMENTS |= {"smooth_l1": (SCORES[:, 0], BITS), "msle": (np.abs(SCORES[:, 0]), BITS)}
ARGUMENTS |= dict.fromkeys(("multilabel_margin", "multilabel_soft_margin"), (SCORES, (SCORES > 0) * 1.0))
ARGUMENTS |= dict.fromkeys(("dice", "jaccard", "tversky"), (VECTORS, (VECTORS > 0) * 1.0))
ARGUMENTS |= {
    "circle": (SCORES, np.array([0, 0, 1])),
    "cosine_distance": (VECTORS[0], VECTORS[1]),
    "cosine_embedding": (VECTORS[0], VECTORS[1], SIGNS),
    "ctc": (VECTORS, np.array([[1], [2], [3]])),
    "gaussian_nll": (SCORES[:, 0], BITS, BITS + 1),
    "info_nce": (VECTORS[0], VECTORS[1]),
    "kl_divergence": (SCORES, ROWS),
    "margin_ranking": (SCORES[:, 0], SCORES[:, 1], SIGNS),
    "nt_xent": (SCORES, np.array([0, 0, 1])),
    "triplet_margin": tuple(VECTORS),
}
each = pytest.mark.parametrize("name", ARGUMENTS)


def _arguments(name):
    return [jnp.asarray(a, jnp.float32 if np.issubdtype(a.dtype, np.floating) else None) for a in ARGUMENTS[name]]


def _value_and_slope(name, first, *rest, **options):
    return jax.jit(jax.value_and_grad(lambda first: getattr(losses, name)(first, *rest, **options)))(first)


def test_every_loss_is_here():
    assert set(ARGUMENTS) == set(losses.__all__)


@pytest.mark.sample(12)
@each
def test_empty_batch(name):
    value, slope = _value_and_slope(name, *(a[:0] for a in _arguments(name)))
    assert value == 0 and slope.shape == (0, *ARGUMENTS[name][0].shape[1:])


INFINITE = ("cross_entropy", "focal", "binary_cross_entropy", "ctc", "info_nce", "mse")


@pytest.mark.sample(5)
@pytest.mark.parametrize(("name", "bad"), [(n, np.nan) for n in ARGUMENTS] + [(n, -np.inf) for n in INFINITE])
def test_a_sample_of_weight_0_is_absent(name, bad):
    """As the batch without the sample; its value and gradient do not become 0 · NaN."""
    arrays = _arguments(name)
    unreduced = getattr(losses, name)(*arrays, reduction="none").shape
    weights = jnp.broadcast_to(jnp.array([1.0, 3.0, 0.0]).reshape(3, *[1] * (len(unreduced) - 1)), unreduced)
    spoiled = arrays[0].at[2].set(bad)
    value, slope = _value_and_slope(name, spoiled, *arrays[1:], weights=weights)
    expected, expected_slope = _value_and_slope(name, *(a[:2] for a in arrays), weights=weights[:2])
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slope[:2], expected_slope, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(slope[2], 0)


def test_a_finite_sample_of_weight_0_has_a_derivative_with_respect_to_its_weight():
    unreduced = losses.mse(jnp.array([1.0, 3.0]), jnp.zeros(2), reduction="none")
    loss = lambda x, w: losses.mse(x, jnp.zeros(2), weights=w, reduction="sum")  # noqa: E731
    x, w = jnp.array([1.0, 3.0]), jnp.zeros(2)
    np.testing.assert_array_equal(jax.grad(loss, 1)(x, w), unreduced)
    np.testing.assert_array_equal(jax.jacobian(jax.grad(loss), 1)(x, w), np.diag([2.0, 6.0]))  # as reweighting of samples needs


def test_an_overflow_of_weight_0_is_absent():
    value, slope = _value_and_slope("poisson_nll", jnp.array([0.0, 200.0]), jnp.ones(2), weights=jnp.array([1.0, 0.0]))
    assert value == 1 and (slope == jnp.array([0.0, 0.0])).all()


# Excluded classes


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", [*CLASSWISE, *LABELWISE, "kl_divergence", "multilabel_soft_margin", "multilabel_margin"])
@pytest.mark.parametrize("kind", ["labels", "one-hot", "soft"])
def test_excluded_classes_count_as_if_they_were_not_there(name, kind):
    one_hot = np.eye(4, dtype=np.float32)[LABELS]
    targets = {"labels": LABELS, "one-hot": one_hot, "soft": ROWS * np.array([0, 1, 1, 1]) / ROWS[:, 1:].sum(1, keepdims=True)}
    if (name in LABELWISE) != (kind == "labels") and (name not in CLASSWISE):
        return  # takes other targets
    y = jnp.asarray(targets[kind], jnp.int32 if kind == "labels" else jnp.float32)
    loss = lambda scores: getattr(losses, name)(scores, y, reduction="sum")  # noqa: E731
    excluded, tangent = jnp.asarray(SCORES).at[:, 0].set(-jnp.inf), jnp.ones_like(SCORES).at[:, 0].set(0)
    (value, slope), change = jax.value_and_grad(loss)(excluded), jax.jvp(loss, (excluded,), (tangent * SCORES,))[1]
    fewer = y - 1 if kind == "labels" else y[:, 1:]
    rest = lambda scores: getattr(losses, name)(scores, fewer, reduction="sum")  # noqa: E731
    expected, expected_slope = jax.value_and_grad(rest)(jnp.asarray(SCORES[:, 1:]))
    share = 3 / 4 if name.startswith(("multi_", "multilabel")) else 1.0  # means over the classes
    if name == "categorical_hinge":
        assert jnp.isfinite(value) and jnp.isfinite(slope).all() and jnp.isfinite(change)
        return  # compares with 0 too
    np.testing.assert_allclose(value, share * expected, rtol=1e-5)
    np.testing.assert_allclose(slope[:, 1:], share * expected_slope, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(slope[:, 0], 0)
    np.testing.assert_allclose(change, share * np.sum(expected_slope * SCORES[:, 1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "name", ["binary_cross_entropy", "binary_focal", "binary_sparsemax", "soft_margin", "hinge", "perceptron"]
)
def test_certain_scores_of_two_classes(name):
    y = jnp.array([0.0, 1.0]) if name.startswith("binary") else jnp.array([-1.0, 1.0])
    loss = lambda x: getattr(losses, name)(x, y)  # noqa: E731
    x = jnp.array([-jnp.inf, jnp.inf])
    assert loss(x) == 0 and not jax.grad(loss)(x).any() and jax.jvp(loss, (x,), (jnp.ones(2),))[1] == 0


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_a_traced_label_smoothing_of_0_is_none(name):
    excluded = jnp.asarray(SCORES).at[:, 0].set(-jnp.inf)
    x, y = (excluded, jnp.asarray(LABELS)) if name == "cross_entropy" else (excluded[:, 0], jnp.zeros(3))
    value, slope = jax.jit(jax.value_and_grad(lambda x, s: getattr(losses, name)(x, y, label_smoothing=s)))(x, 0.0)
    expected, expected_slope = _value_and_slope(name, x, y)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-6)


# Second derivatives


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["huber", "log_cosh", "smooth_l1", "mse", "sparsemax", "focal", "binary_sparsemax"])
def test_second_derivatives_against_differences(name, x64):
    first, *rest = (jnp.asarray(a, None if np.issubdtype(a.dtype, np.integer) else jnp.float64) for a in ARGUMENTS[name])
    if name in ("huber", "log_cosh", "smooth_l1", "mse"):
        first = rest[0] + jnp.array([0.0, 0.3, -2.0])  # an error of 0 too
    slope = jax.grad(lambda x: getattr(losses, name)(x, *rest, reduction="sum"))
    steps = 1e-5 * jnp.eye(first.size).reshape(first.size, *first.shape)
    differences = jnp.stack([(slope(first + step) - slope(first - step)) / 2e-5 for step in steps])
    curvature = jax.jacobian(slope)(first).reshape(differences.shape)
    np.testing.assert_allclose(curvature, differences, atol=1e-4)


def test_sparsemax_of_large_scores():
    value, slope = _value_and_slope("sparsemax", jnp.array([[1e8, 1e8]]), jnp.array([0]))
    assert value == 0.25 and (slope == jnp.array([[-0.5, 0.5]])).all()


def test_smooth_l1_of_a_tiny_beta_is_mae():
    np.testing.assert_allclose(losses.smooth_l1(jnp.float32(1e-3), jnp.float32(0), beta=1e-37), 1e-3, rtol=1e-6)


# CTC


def _sweep(emitted, skips):
    """Return the logarithms of the probabilities of all beginnings that end in each state at each frame."""
    alpha, rows = np.full(emitted.shape[1] + 2, -np.inf), []
    alpha[2] = 0
    for frame in emitted:
        before = np.logaddexp(np.logaddexp(alpha[2:], alpha[1:-1]), np.where(skips, alpha[:-2], -np.inf))
        alpha[2:] = before + frame
        rows.append(alpha[2:].copy())
    return np.array(rows)


def _ctc_reference(logits, labels):
    """Loss and gradient of one sequence, from forward and backward logarithms in float64."""
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    states = np.zeros(2 * len(labels) + 1, int)
    states[1::2] = labels
    skips = np.r_[False, False, (states[2:] != 0) & (states[2:] != states[:-2])]

    skips_back = np.r_[False, False, (states[::-1][2:] != 0) & (states[::-1][2:] != states[::-1][:-2])]
    forward = _sweep(logs[:, states], skips)
    backward = _sweep(logs[::-1, states[::-1]], skips_back)[::-1, ::-1]  # the same from the end
    total = np.logaddexp(forward[-1, -1], forward[-1, -2])
    passing = np.exp(forward + backward - logs[:, states] - total)
    slope = np.exp(logs)
    for state, label in enumerate(states):
        slope[:, label] -= passing[:, state]
    return -total, slope


@pytest.mark.sample(1)
@pytest.mark.parametrize(("frames", "length", "spread"), [(40, 12, 8.0), (20_000, 30, 2.0)])
def test_ctc_of_long_sequences(frames, length, spread):
    rng = np.random.default_rng(1)
    logits = spread * rng.normal(size=(frames, 5))
    labels = rng.integers(1, 5, length)
    logits = logits.astype(np.float32)
    expected, expected_slope = _ctc_reference(logits.astype(np.float64), labels)
    value, slope = _value_and_slope("ctc", jnp.asarray(logits)[None], jnp.asarray(labels)[None])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope[0], expected_slope, atol=1e-4)


def test_ctc_of_certain_and_of_improbable_alignments():
    certain = jnp.array([[[0.0, 30.0], [0.0, 30.0]]])
    assert losses.ctc(certain, jnp.array([[1]])) == 0
    improbable = losses.ctc(-1e4 * certain, jnp.array([[1]]))
    np.testing.assert_allclose(improbable, 3e5 - np.log(2), rtol=1e-7)  # either frame is enough
    value, slope = _value_and_slope("ctc", jnp.array([[[0.0, -jnp.inf], [0.0, 0.0]]]), jnp.array([[1]]))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)  # only the second frame can emit the label
    np.testing.assert_allclose(slope, [[[0, 0], [0.5, -0.5]]], atol=1e-6)


@pytest.mark.slow
def test_ctc_has_second_derivatives():
    labels = jnp.array([[1, 2]])
    slope = jax.jit(jax.grad(lambda x: losses.ctc(x, labels)))
    x = jnp.asarray(RNG.normal(size=(1, 4, 3)), jnp.float32)
    direction = jnp.asarray(RNG.normal(size=(1, 4, 3)), jnp.float32)
    curvature = jax.jvp(slope, (x,), (direction,))[1]
    differences = (slope(x + 1e-2 * direction) - slope(x - 1e-2 * direction)) / 2e-2
    np.testing.assert_allclose(curvature, differences, atol=2e-3)


# Options and dtypes


@pytest.mark.sample(1)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_narrow_labels(dtype):
    scores = jnp.asarray(RNG.normal(size=(2, 4, 300)), jnp.float32)
    labels = np.array([[3, 100], [5, 127]])
    for loss in (losses.ctc, lambda scores, labels: losses.cross_entropy(scores[:, :2], labels)):
        np.testing.assert_array_equal(loss(scores, labels.astype(dtype)), loss(scores, labels))


@pytest.mark.parametrize(
    "name", ["mse", "binary_cross_entropy", "dice", "multilabel_margin", "gaussian_nll", "cosine_embedding"]
)
def test_complex_targets_are_refused(name):
    arrays = _arguments(name)
    place = 2 if name == "cosine_embedding" else 1
    arrays[place] = arrays[place].astype(jnp.complex64)
    with pytest.raises(TypeError, match=f"{name}: targets is complex64.*expected real numbers"):
        getattr(losses, name)(*arrays)


OPTIONS = {
    "binary_focal": {"gamma": (-1.0,), "alpha": (2.0,)},
    "circle": {"gamma": (0.0,), "margin": (2.0,)},
    "contrastive": {"margin": (0.0,)},
    "cross_entropy": {"label_smoothing": (1.0, 1 - 1e-9, -0.1)},  # 1 − 10⁻⁹ is 1 in float32
    "dice": {"smooth": (-1.0,)},
    "focal": {"gamma": (-1.0,)},
    "generalized_cross_entropy": {"q": (0.0, 2.0, 1e-40)},
    "hinge_embedding": {"margin": (0.0,)},
    "huber": {"delta": (0.0, 1e-50)},
    "info_nce": {"temperature": (0.0, 1e-45)},
    "poly_cross_entropy": {"epsilon": (-2.0,)},
    "quantile": {"quantile": (0.0, 1.0, 1 - 1e-10)},
    "smooth_l1": {"beta": (0.0, 1e-50)},
    "tversky": {"alpha": (-1.0,), "beta": (-1.0,)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_numbers_out_of_range_are_refused(name):
    for option, values in OPTIONS[name].items():
        for value in (*values, np.nan, np.inf, 1e39):
            with pytest.raises(ValueError, match=f"{name}: {option} is"):
                getattr(losses, name)(*_arguments(name), **{option: value})


# Class weights


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["labels", "rows"])
def test_class_weights_against_torch(smoothing, kind):
    torch = pytest.importorskip("torch")
    of_class, y = np.array([1.0, 2.0, 0.5, 3.0], np.float32), LABELS if kind == "labels" else ROWS
    for reduction in ("mean", "sum", "none"):
        x = torch.tensor(SCORES, requires_grad=True)
        options = {"weight": torch.tensor(of_class), "label_smoothing": smoothing, "reduction": reduction}
        theirs = torch.nn.functional.cross_entropy(x, torch.tensor(y), **options)
        theirs.sum().backward()
        options = {"class_weights": of_class, "label_smoothing": smoothing, "reduction": reduction}
        value, pull = jax.vjp(lambda scores, options=options: losses.cross_entropy(scores, y, **options), jnp.asarray(SCORES))
        np.testing.assert_allclose(value, theirs.detach(), rtol=1e-5)
        np.testing.assert_allclose(pull(jnp.ones_like(value))[0], x.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "generalized_cross_entropy", "poly_cross_entropy"])
def test_class_weights_are_the_weights_of_the_labels(name):
    loss, of_class = getattr(losses, name), jnp.array([1.0, 2.0, 0.5, 3.0])
    weights = jnp.array([1.0, 0.0, 2.0])
    np.testing.assert_allclose(
        loss(SCORES, LABELS, class_weights=of_class), loss(SCORES, LABELS, weights=of_class[LABELS]), 1e-6
    )
    both = loss(SCORES, LABELS, class_weights=of_class, weights=weights)
    np.testing.assert_allclose(both, loss(SCORES, LABELS, weights=of_class[LABELS] * weights), rtol=1e-6)
    rows = np.eye(4, dtype=np.float32)[LABELS]
    each = [loss(SCORES, y, class_weights=of_class, reduction="none") for y in (LABELS, rows)]
    np.testing.assert_allclose(each[0], each[1], rtol=1e-6)
    for wrong in (of_class[:2], -of_class, jnp.full(4, jnp.nan)):
        with pytest.raises(ValueError, match=f"{name}: class_weights"):
            loss(SCORES, LABELS, class_weights=wrong)


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1.0, 1e19, 1e30])
def test_distances_and_cosines_of_vectors_whose_squares_leave_the_range(scale):
    a, b = (jnp.asarray([np.array(v) * scale], jnp.float32) for v in ([3.0, 4.0], [4.0, 3.0]))

    def everything(a, b):
        cosine = lambda a: losses.cosine_distance(a, b)  # noqa: E731
        triplet = lambda a: losses.triplet_margin(a, jnp.zeros_like(a), b, margin=1e-37)  # noqa: E731
        return jax.value_and_grad(cosine)(a), jax.value_and_grad(triplet)(a), losses.info_nce(a, b, temperature=1.0)

    (distance, slope), (triplet, direction), nce = jax.jit(everything)(a, b)
    np.testing.assert_allclose(distance, 0.04, rtol=1e-4)
    np.testing.assert_allclose(np.float64(slope) * scale, [[(3 * 0.96 / 5 - 4 / 5) / 5, (4 * 0.96 / 5 - 3 / 5) / 5]], rtol=1e-4)
    np.testing.assert_allclose(triplet / scale, 5 - np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(direction, [[0.6 + 1 / np.sqrt(2), 0.8 - 1 / np.sqrt(2)]], rtol=1e-4)
    assert nce == 0
