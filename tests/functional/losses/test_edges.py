"""Tests of the losses in edge cases: weights, zeros and extremes, invalid targets, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn.functional import losses

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(5, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1, 1, 2])


def value_and_slope(loss, p, *rest, **options):
    return jax.value_and_grad(lambda p: loss(p, *rest, **options))(jnp.asarray(p, jnp.float32))


@pytest.mark.slow
def test_labels_and_rows_have_the_same_second_derivatives():
    curvature = lambda y: jax.hessian(lambda p: losses.cross_entropy(p, y))(LOGITS)  # noqa: E731
    np.testing.assert_allclose(curvature(LABELS), curvature(np.eye(4, dtype=np.float32)[LABELS]), atol=1e-7)


# Weights


def test_a_weight_of_two_is_a_duplicated_sample():
    twice = np.array([0, 0, 1, 2, 3, 3, 4])
    ours = losses.cross_entropy(LOGITS, LABELS, weights=np.array([2, 1, 1, 2, 1]))
    np.testing.assert_allclose(ours, losses.cross_entropy(LOGITS[twice], LABELS[twice]), rtol=1e-6)


def test_class_weights_against_torch():
    torch = pytest.importorskip("torch")
    of_class = np.array([1.0, 2.0, 0.5, 3.0], np.float32)
    theirs = torch.nn.functional.cross_entropy(torch.tensor(LOGITS), torch.tensor(LABELS), weight=torch.tensor(of_class))
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS, weights=of_class[LABELS]), theirs, rtol=1e-6)


def test_zero_weights_give_zero():
    value, slope = value_and_slope(losses.mse, [1.0, 2.0], jnp.zeros(2), weights=jnp.zeros(2))
    assert value == 0 and not slope.any()
    assert jax.grad(lambda w: losses.mse(jnp.ones(2), jnp.zeros(2), weights=w))(jnp.ones(2)).shape == (2,)  # differentiable


# Zeros and extremes


def test_log_cosh_small_and_huge():
    for a in (1e-4, 1.0, 30.0, -1e30):
        value, slope = value_and_slope(losses.log_cosh, a, 0.0)
        expected = a * a / 2 if abs(a) < 0.1 else np.logaddexp(a, -a) - np.log(2)
        np.testing.assert_allclose([value, slope], [expected, np.tanh(a)], rtol=1e-6)


def test_exact_predictions_have_zero_gradient():
    for loss, right in ((losses.quantile, 2.0), (losses.mape, 2.0), (losses.log_cosh, 2.0), (losses.smooth_l1, 2.0)):
        assert value_and_slope(loss, right, 2.0) == (0, 0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_certain_predictions(gamma):
    for x, label, cost in ((1e4, 0, 0), (1e4, 1, 1e4)):
        value, slope = value_and_slope(losses.focal, [x, 0.0], jnp.array(label), gamma=gamma)
        assert value == cost and jnp.isfinite(slope).all()
        value, slope = value_and_slope(losses.binary_focal, x, 1 - label, gamma=gamma)
        assert value == cost and jnp.isfinite(slope)


def test_a_rate_of_zero_has_a_useful_gradient():
    value, slope = value_and_slope(losses.poisson_nll, 0.0, 2, from_logs=False)
    assert 150 < value < 200 and np.isfinite(slope) and slope < -1e6
    assert value_and_slope(losses.poisson_nll, 0.0, 0, from_logs=False) == (0, 1)


def test_kl_divergence_with_excluded_classes():
    value, slope = value_and_slope(losses.kl_divergence, [0.0, -np.inf, 0.0], jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slope, [-0.5, 0, 0.5], atol=1e-7)
    slope = jax.grad(losses.kl_divergence, argnums=1)(jnp.zeros(2), jnp.array([1.0, 0.0]))
    assert jnp.isfinite(slope).all()


def test_zero_vectors_and_equal_vectors():
    zeros, ones = jnp.zeros((1, 3)), jnp.ones((1, 3))
    for loss, arrays in (
        (losses.cosine_distance, (zeros, ones)),
        (losses.triplet_margin, (ones, ones, ones)),
        (losses.info_nce, (zeros, ones)),
        (losses.cosine_embedding, (zeros, ones, jnp.array([1]))),
    ):
        value, slope = value_and_slope(loss, *arrays)
        assert jnp.isfinite(value) and jnp.isfinite(slope).all()
    assert losses.cosine_distance(zeros, ones) == losses.triplet_margin(ones, ones, ones) == 1


@pytest.mark.slow
def test_a_batch_without_positives_or_without_negatives():
    z = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
    for loss in (losses.nt_xent, losses.circle):
        value, slope = value_and_slope(loss, z, jnp.arange(3))
        assert value == 0 and not slope.any()
        value, slope = value_and_slope(loss, z, jnp.zeros(3, int))
        assert value < 1e-6 and jnp.isfinite(slope).all()


def test_empty_masks_and_excluded_pixels():
    empty = jnp.full((1, 4, 1), -jnp.inf)
    for loss in (losses.dice, losses.jaccard, losses.tversky):
        value, slope = value_and_slope(loss, empty, jnp.zeros((1, 4, 1)))
        assert value == 0 and not slope.any()
    x, y = RNG.normal(size=(1, 4, 1)).astype(np.float32), np.array([1, 0, 1, 0]).reshape(1, 4, 1)
    out = np.array([False, False, True, True]).reshape(1, 4, 1)
    ours = losses.dice(np.where(out, -np.inf, x), np.where(out, 0, y))
    np.testing.assert_allclose(ours, losses.dice(x[:, :2], y[:, :2]), rtol=1e-6)


def test_masked_images_may_have_any_target():
    x, y = RNG.normal(size=(2, 4, 1)).astype(np.float32), np.array([1, 0, 1, 0, 255, 255, 0, 0]).reshape(2, 4, 1)
    ours = losses.dice(x, y, where=np.array([[True], [False]]))
    np.testing.assert_allclose(ours, losses.dice(x[:1], y[:1]), rtol=1e-6)


def test_overlap_of_mutually_exclusive_classes_against_optax():
    logits = jnp.asarray(RNG.normal(size=(2, 3, 3, 4)), jnp.float32)
    truth = jax.nn.one_hot(RNG.integers(0, 4, (2, 3, 3)), 4)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = optax.losses.dice_loss(logits, truth, smooth=1.0, alpha=0.3, beta=0.7)
    ours = losses.tversky(jax.nn.softmax(logits), truth, alpha=0.3, beta=0.7, from_logits=False, smooth=1.0)
    np.testing.assert_allclose(ours, theirs.mean(), rtol=1e-5)
    twice = losses.dice(jax.nn.softmax(logits), truth, from_logits=False, smooth=2.0)
    half = losses.tversky(jax.nn.softmax(logits), truth, from_logits=False, smooth=1.0)
    np.testing.assert_allclose(twice, half, rtol=1e-5)


def test_ctc_with_padding_against_torch():
    torch = pytest.importorskip("torch")
    logits, labels = RNG.normal(size=(3, 6, 5)).astype(np.float32), np.array([[1, 1, 3], [2, 4, 4], [3, 1, 2]])
    frames, lengths = np.array([6, 4, 2]), np.array([3, 2, 3])
    masks = {
        "predictions_mask": np.arange(6)[None] < frames[:, None],
        "targets_mask": np.arange(3)[None] < lengths[:, None],
    }
    q = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.ctc_loss(
        torch.log_softmax(q, -1).swapaxes(0, 1), torch.tensor(labels), list(frames), list(lengths), blank=0, reduction="none"
    )
    theirs[:2].sum().backward()
    where = np.array([True, True, False])
    corrupted = logits.copy()
    corrupted[~masks["predictions_mask"]] = corrupted[2] = np.nan

    def run(p):
        whole = losses.ctc(logits, labels, **masks, reduction="none")
        return losses.ctc(p, labels, **masks, where=where, reduction="sum"), whole

    (_, ours), slope = jax.jit(jax.value_and_grad(run, has_aux=True))(corrupted)
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-5)  # the last target cannot be spelled: ∞
    assert np.isinf(ours[2])
    np.testing.assert_allclose(slope[:2], q.grad[:2], rtol=1e-4, atol=1e-6)
    assert not slope[2].any()


# Invalid targets


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("loss", "predictions", "targets"),
    [
        (losses.msle, np.ones(3), [0, -1, -2]),
        (losses.mape, np.ones(3), [1, 0, 0]),
        (losses.poisson_nll, np.ones(3), [1, -1, -2]),
        (losses.focal, np.ones((3, 2)), [0, 2, -1]),
        (losses.binary_focal, np.ones(3), [1, 2, -1]),
        (losses.sparsemax, np.ones((3, 2)), [0, 2, -1]),
        (losses.multi_margin, np.ones((3, 2)), [0, 2, -1]),
        (losses.soft_margin, np.ones(3), [1, 0, 2]),
        (losses.contrastive, np.ones(3), [1, 2, -1]),
        (losses.ctc, np.ones((3, 2, 3)), [[1], [0], [3]]),
    ],
)
def test_bad_targets_are_errors_and_nan_under_jit(loss, predictions, targets):
    predictions, targets = jnp.asarray(predictions, jnp.float32), jnp.asarray(targets)
    with pytest.raises(ValueError, match=loss.__name__):
        loss(predictions, targets)
    pull = jax.jit(lambda p, t: jax.value_and_grad(lambda p: (v := loss(p, t, reduction="none")).sum() + 0 * v.sum())(p))
    unreduced = jax.jit(lambda p, t: loss(p, t, reduction="none"))(predictions, targets)
    np.testing.assert_array_equal(jnp.isnan(unreduced), [False, True, True])
    _, slope = pull(predictions, targets)
    np.testing.assert_array_equal(jnp.isnan(slope.reshape(3, -1)).any(-1)[1:], [True, True])


# Errors

F = np.ones((4, 3), np.float32)
PIXELS = np.ones((2, 3, 1), np.float32)
WORDS = np.ones((2, 1), int)
FRAMES = np.ones((2, 3, 4), np.float32)
ERRORS = [
    (losses.mse, (F, F), {"weights": np.ones(4)}, ValueError, ["float32[4]", "(4, 3)", "weights[..., None]"]),
    (losses.mse, (F, F), {"weights": F > 0}, TypeError, ["bool[4, 3]", "where="]),
    (losses.mse, (F, F), {"weights": -F}, ValueError, ["-1.0", "nonnegative numbers"]),
    (losses.cross_entropy, (F, np.zeros(4, int)), {"weights": F}, ValueError, ["float32[4, 3]", "(4,)"]),
    (losses.smooth_l1, (F, F), {"beta": 0.0}, ValueError, ["beta is 0.0", "mae"]),
    (losses.quantile, (F, F), {"quantile": 1.0}, ValueError, ["quantile is 1.0", "(0, 1)"]),
    (losses.mape, (F, 0 * F), {}, ValueError, ["target is 0", "where=targets != 0"]),
    (losses.gaussian_nll, (F, F, 0 * F), {}, ValueError, ["variance", "0.0", "positive"]),
    (losses.gaussian_nll, (F, F, F[0]), {}, ValueError, ["float32[3]", "[4, 3]", "full_like"]),
    (losses.kl_divergence, (F, np.ones((4, 3), int)), {}, TypeError, ["int32[4, 3]", "astype(float)"]),
    (losses.kl_divergence, (F, -F), {}, ValueError, ["-1.0", "log_targets=True"]),
    (losses.focal, (F, np.zeros(4, int)), {"gamma": -1.0}, ValueError, ["gamma is -1.0"]),
    (losses.focal, (F[:, :1], np.zeros(4, int)), {}, ValueError, ["one class", "binary_focal"]),
    (losses.binary_focal, (F, F), {"alpha": 2.0}, ValueError, ["alpha is 2.0", "[0, 1]"]),
    (losses.binary_cross_entropy, (F, F), {"label_smoothing": 1.0}, ValueError, ["label_smoothing is 1.0"]),
    (losses.generalized_cross_entropy, (F, np.zeros(4, int)), {"q": 0.0}, ValueError, ["q is 0.0", "cross_entropy"]),
    (losses.multilabel_margin, (F, F[:, :2]), {}, ValueError, ["[4, 3]", "[4, 2]"]),
    (losses.margin_ranking, (F, F[:2], F), {}, ValueError, ["first", "second", "differ in shape"]),
    (losses.margin_ranking, (F, F, 0 * F), {}, ValueError, ["-1 and 1"]),
    (losses.triplet_margin, (F, F, F[:, :2]), {}, ValueError, ["anchors", "negatives", "nothing is broadcast"]),
    (losses.triplet_margin, (F, F, F), {"margin": 0.0}, ValueError, ["margin is 0.0"]),
    (losses.triplet_margin, (F, F, np.ones((4, 3), int)), {}, TypeError, ["negatives", "int32[4, 3]"]),
    (losses.cosine_embedding, (F, F, F), {}, ValueError, ["float32[4, 3]", "(4,)"]),
    (losses.nt_xent, (F, F[:, 0]), {}, TypeError, ["float32[4]", "astype(int)"]),
    (losses.nt_xent, (F, np.zeros(3, int)), {}, ValueError, ["int32[3]", "(4,)"]),
    (losses.info_nce, (F[0], F[0]), {}, ValueError, ["(batch, features)"]),
    (losses.info_nce, (F, F), {"temperature": 0.0}, ValueError, ["temperature is 0.0"]),
    (losses.dice, (F, F), {}, ValueError, ["(batch, ..., channels)", "predictions[..., None]"]),
    (losses.dice, (PIXELS, 2 * PIXELS), {}, ValueError, ["2.0", "0 to 1"]),
    (losses.tversky, (PIXELS, PIXELS), {"alpha": -1.0}, ValueError, ["alpha is -1.0"]),
    (losses.ctc, (FRAMES, 0 * WORDS), {}, ValueError, ["without the blank"]),
    (losses.ctc, (FRAMES, WORDS[:1]), {}, ValueError, ["int32[1, 1]", "(2, length)"]),
    (losses.ctc, (FRAMES, WORDS * 1.0), {}, TypeError, ["astype(int)"]),
    (losses.ctc, (FRAMES, WORDS), {"targets_mask": WORDS}, TypeError, ["targets_mask", "booleans"]),
    (losses.ctc, (FRAMES, WORDS), {"predictions_mask": np.eye(3, dtype=bool)[1:]}, ValueError, ["padding at the end"]),
    (losses.ctc, (FRAMES, WORDS), {"blank": 4}, ValueError, ["blank is 4", "0 to 3"]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error[0].__name__)
def test_errors_state_the_input_and_the_remedy(error):
    loss, arguments, options, kind, words = error
    with pytest.raises(kind) as caught:
        loss(*arguments, **options)
    assert all(word in str(caught.value) for word in [*words, loss.__name__]), str(caught.value)
