"""Tests of all losses against formulas in float64 NumPy: value, gradient (by differences), mask, weights, vmap, bfloat16.

The formulas are checked against PyTorch and optax if these have the loss.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.functional import losses

RNG = np.random.default_rng(0)
N, C = 6, 4
REAL, OTHER, THIRD = RNG.normal(size=(3, N, 3)) * 1.5
POSITIVE = RNG.uniform(0.2, 3, (N, 3))
COUNTS = RNG.integers(0, 4, (N, 3))
SIGNS = np.where(RNG.random((N, 3)) < 0.5, -1, 1)
BITS = (SIGNS + 1) // 2
LOGITS = RNG.normal(size=(N, C)) * 2
LABELS = np.array([0, 3, 1, 2, 2, 0])
SOFT = RNG.dirichlet(np.ones(C), N)
MULTI = RNG.integers(0, 2, (N, C))
CHANCES = RNG.uniform(0.05, 0.95, (N, 3))
PAIRED = np.array([0, 1, 0, 1, 0, 5])
PIXELS, MASKS = RNG.normal(size=(N, 3, 2, 2)), RNG.integers(0, 2, (N, 3, 2, 2))
FRAMES, WORDS = RNG.normal(size=(N, 4, 3)), np.array([[1, 2], [1, 1], [2, 1], [2, 2], [1, 2], [2, 1]])
ROWS = slice(1, 5)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def own(x, labels):
    return np.take_along_axis(x, labels[..., None], -1)[..., 0]


def wrong(x, labels):
    return np.where(np.eye(x.shape[-1])[labels] == 1, -np.inf, x)


def length(x):
    return np.sqrt((x**2).sum(-1))


def cosine(a, b):
    return (a * b).sum(-1) / (length(a) * length(b))


def bce(x, y):
    return -y * np.log(sigmoid(x)) - (1 - y) * np.log(sigmoid(-x))


def huber(a, d):
    return np.where(np.abs(a) <= d, a**2 / 2, d * (np.abs(a) - d / 2))


def focal(x, y, gamma=2.0, alpha=None):
    p = y * sigmoid(x) + (1 - y) * sigmoid(-x)
    share = 1 if alpha is None else y * alpha + (1 - y) * (1 - alpha)
    return share * (1 - p) ** gamma * bce(x, y)


def sparsemax(z):
    tops = np.sort(z, -1)[:, ::-1]
    size = (1 + np.arange(1, z.shape[-1] + 1) * tops > tops.cumsum(-1)).sum(-1)
    tau = (np.take_along_axis(tops.cumsum(-1), size[:, None] - 1, -1) - 1) / size[:, None]
    return np.maximum(z - tau, 0)


def sparsemax_loss(z, y):
    p = sparsemax(z)
    return 0.5 - (p**2).sum(-1) / 2 + (p * z).sum(-1) - own(z, y)


def sparse_plus(z):
    return np.where(z >= 1, z, np.where(z <= -1, 0, (z + 1) ** 2 / 4))


def multilabel_margin(x, y):
    return np.array(
        [
            sum(max(0, 1 - a[i] + a[j]) for i in range(C) for j in range(C) if b[i] and not b[j]) / C
            for a, b in zip(x, y, strict=True)
        ]
    )


def info_nce(q, k):
    s = cosine(q[:, None], k[None]) / 0.5
    return -np.diagonal(np.log(softmax(s)))


def positives(z, y, of_anchor):
    s = cosine(z[:, None], z[None])
    same, other = (y[:, None] == y) & ~np.eye(len(y), dtype=bool), y[:, None] != y
    return np.array([of_anchor(s[i], same[i], other[i]) if same[i].any() else 0.0 for i in range(len(y))])


def nt_xent(z, y):
    def of_anchor(s, same, other):
        e = np.exp(s / 0.5)
        return np.mean([-np.log(e[j] / (e[j] + e[other].sum())) for j in np.flatnonzero(same)])

    return positives(z, y, of_anchor)


def overlap(x, y, alpha, beta, s, half=1.0):
    p, axes = sigmoid(x), (1, 2)
    tp, fp, fn = (p * y).sum(axes), (p * (1 - y)).sum(axes), ((1 - p) * y).sum(axes)
    return 1 - (tp + s * half) / (tp + alpha * fp + beta * fn + s * half)


def ctc(x, y):
    def spelt(path):
        return [c for c, _ in itertools.groupby(path) if c]

    p = softmax(x)
    paths = list(itertools.product(range(3), repeat=x.shape[1]))
    chance = lambda i: sum(  # noqa: E731
        np.prod([p[i, t, c] for t, c in enumerate(path)]) for path in paths if spelt(path) == list(y[i])
    )
    return np.array([-np.log(chance(i)) for i in range(len(x))])


# case: (options, arrays, formula of the unreduced loss); the name of the loss is the first word
CASES = {
    "mse": ({}, (REAL, OTHER), lambda p, t: (p - t) ** 2),
    "mae": ({}, (REAL, OTHER), lambda p, t: np.abs(p - t)),
    "huber": ({"delta": 0.7}, (REAL, OTHER), lambda p, t: huber(p - t, 0.7)),
    "smooth_l1": ({"beta": 0.7}, (REAL, OTHER), lambda p, t: huber(p - t, 0.7) / 0.7),
    "log_cosh": ({}, (REAL, OTHER), lambda p, t: np.log(np.cosh(p - t))),
    "msle": ({}, (POSITIVE, COUNTS), lambda p, t: (np.log1p(p) - np.log1p(t)) ** 2),
    "mape": ({}, (REAL, OTHER), lambda p, t: np.abs(p - t) / np.abs(t)),
    "quantile": ({"quantile": 0.8}, (REAL, OTHER), lambda p, t: np.maximum(0.8 * (t - p), -0.2 * (t - p))),
    "poisson_nll": ({}, (REAL, COUNTS), lambda p, t: np.exp(p) - t * p),
    "poisson_nll of rates": ({"from_logs": False}, (POSITIVE, COUNTS), lambda p, t: p - t * np.log(p)),
    "poisson_nll, full": ({"full": True}, (REAL, 2 * COUNTS), lambda p, t: np.exp(p) - t * p + stirling(t)),
    "gaussian_nll": ({}, (REAL, OTHER, POSITIVE), lambda p, t, v: (np.log(v) + (p - t) ** 2 / v) / 2),
    "gaussian_nll, full": (
        {"full": True},
        (REAL, OTHER, POSITIVE),
        lambda p, t, v: (np.log(2 * np.pi * v) + (p - t) ** 2 / v) / 2,
    ),
    "kl_divergence, of logarithms": (
        {"log_targets": True},
        (LOGITS, np.log(SOFT)),
        lambda p, t: (np.exp(t) * (t - np.log(softmax(p)))).sum(-1),
    ),
    "kl_divergence": ({}, (LOGITS, SOFT), lambda p, t: (t * (np.log(t) - np.log(softmax(p)))).sum(-1)),
    "cross_entropy": ({}, (LOGITS, LABELS), lambda p, t: -np.log(own(softmax(p), t))),
    "cross_entropy, smoothed": (
        {"label_smoothing": 0.2},
        (LOGITS, SOFT),
        lambda p, t: -((0.8 * t + 0.05) * np.log(softmax(p))).sum(-1),
    ),
    "binary_cross_entropy": ({}, (REAL, BITS), bce),
    "binary_cross_entropy, smoothed": ({"label_smoothing": 0.2}, (REAL, BITS), lambda p, t: bce(p, 0.8 * t + 0.1)),
    "binary_cross_entropy, smoothed, of probabilities": (
        {"label_smoothing": 0.2, "from_logits": False},
        (CHANCES, BITS),
        lambda p, t: bce(np.log(p / (1 - p)), 0.8 * t + 0.1),
    ),
    "multilabel_soft_margin": ({}, (LOGITS, MULTI), lambda p, t: bce(p, t).mean(-1)),
    "focal": ({}, (LOGITS, LABELS), lambda p, t: -((1 - own(softmax(p), t)) ** 2) * np.log(own(softmax(p), t))),
    "focal, soft": (
        {"gamma": 0.5},
        (LOGITS, SOFT),
        lambda p, t: -(t * (1 - softmax(p)) ** 0.5 * np.log(softmax(p))).sum(-1),
    ),
    "binary_focal": ({"gamma": 1.5, "alpha": 0.3}, (REAL, BITS), lambda p, t: focal(p, t, 1.5, 0.3)),
    "binary_focal, soft": ({}, (REAL, CHANCES), focal),
    "poly_cross_entropy": (
        {"epsilon": 1.5},
        (LOGITS, LABELS),
        lambda p, t: -np.log(own(softmax(p), t)) + 1.5 * (1 - own(softmax(p), t)),
    ),
    "generalized_cross_entropy": ({"q": 0.7}, (LOGITS, LABELS), lambda p, t: (1 - own(softmax(p), t) ** 0.7) / 0.7),
    "sparsemax": ({}, (LOGITS, LABELS), sparsemax_loss),
    "binary_sparsemax": ({}, (REAL, BITS), lambda p, t: sparse_plus((1 - 2 * t) * p)),
    "hinge": ({}, (REAL, SIGNS), lambda p, t: np.maximum(0, 1 - t * p)),
    "squared_hinge": ({}, (REAL, SIGNS), lambda p, t: np.maximum(0, 1 - t * p) ** 2),
    "perceptron": ({}, (REAL, SIGNS), lambda p, t: np.maximum(0, -t * p)),
    "soft_margin": ({}, (REAL, SIGNS), lambda p, t: np.log1p(np.exp(-t * p))),
    "hinge_embedding": (
        {"margin": 1.5},
        (POSITIVE, SIGNS),
        lambda p, t: np.where(t == 1, p, np.maximum(0, 1.5 - p)),
    ),
    "multiclass_hinge": ({}, (LOGITS, LABELS), lambda p, t: np.maximum(0, 1 + wrong(p, t).max(-1) - own(p, t))),
    "categorical_hinge": (
        {},
        (LOGITS, LABELS),
        lambda p, t: np.maximum(0, 1 + np.maximum(0, wrong(p, t).max(-1)) - own(p, t)),
    ),
    "multi_margin": (
        {"margin": 0.8},
        (LOGITS, LABELS),
        lambda p, t: np.maximum(0, 0.8 - own(p, t)[:, None] + wrong(p, t)).sum(-1) / C,
    ),
    "multi_margin, squared": (
        {"margin": 0.8, "p": 2},
        (LOGITS, LABELS),
        lambda p, t: (np.maximum(0, 0.8 - own(p, t)[:, None] + wrong(p, t)) ** 2).sum(-1) / C,
    ),
    "multiclass_perceptron": ({}, (LOGITS, LABELS), lambda p, t: p.max(-1) - own(p, t)),
    "multilabel_margin": ({}, (LOGITS, MULTI), multilabel_margin),
    "margin_ranking": ({"margin": 0.3}, (REAL, OTHER, SIGNS), lambda a, b, t: np.maximum(0, 0.3 - t * (a - b))),
    "contrastive": (
        {"margin": 1.5},
        (POSITIVE, BITS),
        lambda p, t: t * p**2 / 2 + (1 - t) * np.maximum(0, 1.5 - p) ** 2 / 2,
    ),
    "triplet_margin": (
        {},
        (REAL, OTHER, THIRD),
        lambda a, p, n: np.maximum(0, length(a - p) - length(a - n) + 1),
    ),
    "triplet_margin, swapped": (
        {"swap": True, "margin": 2.0},
        (REAL, OTHER, THIRD),
        lambda a, p, n: np.maximum(0, length(a - p) - np.minimum(length(a - n), length(p - n)) + 2),
    ),
    "triplet_margin, of order 3": (
        {"p": 3},
        (REAL, OTHER, THIRD),
        lambda a, p, n: np.maximum(0, (np.abs(a - p) ** 3).sum(-1) ** (1 / 3) - (np.abs(a - n) ** 3).sum(-1) ** (1 / 3) + 1),
    ),
    "cosine_distance": ({}, (REAL, OTHER), lambda p, t: 1 - cosine(p, t)),
    "cosine_embedding": (
        {"margin": 0.1},
        (REAL, OTHER, SIGNS[:, 0]),
        lambda a, b, t: np.where(t == 1, 1 - cosine(a, b), np.maximum(0, cosine(a, b) - 0.1)),
    ),
    "info_nce": ({"temperature": 0.5}, (REAL, OTHER), info_nce),
    "nt_xent": ({"temperature": 0.5}, (REAL, PAIRED), nt_xent),
    "circle": ({"gamma": 8.0, "margin": 0.3}, (REAL, PAIRED), None),
    "dice": ({"smooth": 0.5}, (PIXELS, MASKS), lambda p, t: overlap(p, t, 0.5, 0.5, 0.5, 0.5)),
    "jaccard": ({}, (PIXELS, MASKS), lambda p, t: overlap(p, t, 1, 1, 1)),
    "tversky": ({"alpha": 0.3, "beta": 0.7}, (PIXELS, MASKS), lambda p, t: overlap(p, t, 0.3, 0.7, 1)),
    "ctc": ({}, (FRAMES, WORDS), ctc),
}


def circle(z, y, fixed=None):
    """The factors are evaluated at `fixed`, since they have no gradient."""
    s0 = cosine(*(lambda f: (f[:, None], f[None]))(z if fixed is None else fixed))
    a, b = np.maximum(0, s0 + 0.3), np.maximum(0, 1.3 - s0)
    index = iter(range(len(y)))

    def of_anchor(s, same, other):
        i = rows[next(index)]
        apart, together = np.exp(8 * a[i] * (s - 0.3))[other], np.exp(-8 * b[i] * (s - 0.7))[same]
        return np.log1p(apart.sum() * together.sum())

    rows = [i for i in range(len(y)) if (y == y[i]).sum() > 1]
    return positives(z, y, of_anchor)


def formula_of(case):
    return CASES[case][2] or circle


def stirling(y):
    return np.where(y > 1, y * np.log(np.maximum(y, 1)) - y + np.log(2 * np.pi * np.maximum(y, 1)) / 2, 0)


def slopes(case, arrays, cotangent):
    """Gradient of Σ cotangent · loss by central differences, for every array of floats."""
    formula = formula_of(case)
    extra = {"fixed": arrays[0]} if case == "circle" else {}
    gradients = []
    for k, array in enumerate(arrays):
        if array.dtype.kind == "f":
            gradient = np.zeros_like(array)
            for index in np.ndindex(array.shape):
                ends = []
                for h in (1e-6, -1e-6):
                    moved = array.copy()
                    moved[index] += h
                    ends.append((cotangent * formula(*arrays[:k], moved, *arrays[k + 1 :], **extra)).sum())
                gradient[index] = (ends[0] - ends[1]) / 2e-6
            gradients.append(gradient)
    return gradients


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if len(CASES[c][1]) == 2 and c not in ("nt_xent", "circle")])
def test_the_loss_of_a_data_set_is_the_mean_over_its_samples(case):
    """Where batches are filled with samples of weight 0, and where they are not."""
    name, (options, arrays, _) = case.split()[0].rstrip(","), CASES[case]
    model = (nn.as_layer(nn.identity), {}, {})
    data = tuple(jnp.asarray(a, jnp.float32 if a.dtype.kind == "f" else jnp.int32) for a in arrays)
    loss = functools.partial(getattr(losses, name), **options)
    for batch_size in (8,) if name == "info_nce" else (4, 8):  # where samples meet, the batch is all of them
        value = nn.evaluate(model, data, loss=loss, batch_size=batch_size)["loss"]
        assert value == pytest.approx(formula_of(case)(*arrays).mean(), rel=1e-4)


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", CASES)
def test_value_gradient_mask_weights_and_vmap(case, x64):
    name, (options, arrays, _) = case.split()[0].rstrip(","), CASES[case]
    loss = lambda *a, **more: getattr(losses, name)(*a, **options, **more)  # noqa: E731
    single = formula_of(case)(*arrays)
    part = formula_of(case)(*(a[ROWS] for a in arrays))
    where = np.zeros(single.shape, bool)
    where[ROWS] = True
    weights = RNG.uniform(0.5, 2, single.shape)
    moving = [k for k, a in enumerate(arrays) if a.dtype.kind == "f"]
    corrupted = [a.copy() for a in arrays]
    for k in moving:
        corrupted[k][0] = corrupted[k][5] = np.nan
    narrow = [a if a.dtype.kind != "f" else jnp.asarray(a, jnp.bfloat16) for a in arrays]

    def everything(arrays, corrupted, narrow, where, weights):
        def total(floats):
            full = list(corrupted)
            for k, value in zip(moving, floats, strict=True):
                full[k] = value
            unreduced = loss(*full, where=where, reduction="none")
            return jnp.sum(weights * unreduced), unreduced

        return {
            "networks": jax.vmap(lambda *a: loss(*a, reduction="none"))(*(jnp.stack([a, a]) for a in arrays)),
            "masked": jax.grad(total, has_aux=True)([corrupted[k] for k in moving]),
            "weighted mean": loss(*corrupted, where=where, weights=jnp.where(where, weights, jnp.nan)),
            "narrow": loss(*narrow, reduction="none"),
        }

    found = jax.jit(everything)(*jax.tree.map(jnp.asarray, (list(arrays), corrupted, narrow, where, weights)))
    can_lack_positives = name in ("nt_xent", "circle")  # samples without a positive do not count
    count = lambda values: values != 0 if can_lack_positives else np.ones_like(values)  # noqa: E731
    close = lambda a, b, rtol=1e-9, atol=1e-11: np.testing.assert_allclose(a, b, rtol, atol)  # noqa: E731
    close(found["networks"], [single, single])
    gradients, unreduced = found["masked"]
    close(unreduced[ROWS], part)
    assert not unreduced[0].any() and not unreduced[5].any()
    for ours, theirs in zip(gradients, slopes(case, [a[ROWS] for a in arrays], weights[ROWS]), strict=True):
        close(ours[ROWS], theirs, 1e-6, 1e-7)
        assert not ours[0].any() and not ours[5].any()
    close(found["weighted mean"], (weights[ROWS] * part).sum() / (weights[ROWS] * count(part)).sum())
    assert found["narrow"].dtype == jnp.float32
    close(found["narrow"], formula_of(case)(*(np.asarray(a, float if a.dtype != int else int) for a in narrow)), 1e-4, 1e-5)


@pytest.mark.parametrize("log_targets", [False, True])
def test_the_terms_of_a_divergence(log_targets):
    y = np.array([[0.25, 0.75, 0.0], [np.nan] * 3], np.float32)
    with np.errstate(divide="ignore"):
        targets, logs = np.log(y) if log_targets else y, np.log(np.array([0.5, 0.125, 0.375]))
    options = {"log_targets": log_targets, "where": np.array([True, False]), "weights": np.array([2.0, 1.0])}
    function = functools.partial(losses.kl_divergence, per_class=True, reduction="none", **options)
    logits = jnp.asarray([logs, logs], jnp.float32)
    terms = 2 * np.array([0.25 * np.log(0.5), 0.75 * np.log(6), 0])
    np.testing.assert_allclose(function(logits, targets), [terms, [0, 0, 0]], rtol=1e-5)
    gradient = jax.grad(lambda logits: function(logits, targets).sum())(logits)
    np.testing.assert_allclose(gradient, [2 * (np.exp(logs) - y[0]), [0, 0, 0]], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="per_class"):
        losses.kl_divergence(logits, targets, per_class=True, log_targets=True)


def test_every_loss_is_in_the_table():
    assert {case.split()[0].rstrip(",") for case in CASES} == set(losses.__all__)


# case: name and options of the function in `torch.nn.functional` or of the tensor method
TORCH = {
    "mse": lambda F, p, t: F.mse_loss(p, t, reduction="none"),
    "mae": lambda F, p, t: F.l1_loss(p, t, reduction="none"),
    "huber": lambda F, p, t: F.huber_loss(p, t, delta=0.7, reduction="none"),
    "smooth_l1": lambda F, p, t: F.smooth_l1_loss(p, t, beta=0.7, reduction="none"),
    "poisson_nll": lambda F, p, t: F.poisson_nll_loss(p, t, reduction="none"),
    "poisson_nll of rates": lambda F, p, t: F.poisson_nll_loss(p, t, log_input=False, eps=0, reduction="none"),
    "poisson_nll, full": lambda F, p, t: F.poisson_nll_loss(p, t, full=True, reduction="none"),
    "gaussian_nll, full": lambda F, p, t, v: F.gaussian_nll_loss(p, t, v, full=True, reduction="none"),
    "kl_divergence, of logarithms": lambda F, p, t: F.kl_div(
        F.log_softmax(p, -1), t, log_target=True, reduction="none"
    ).sum(-1),
    "multi_margin, squared": lambda F, p, t: F.multi_margin_loss(p, t, p=2, margin=0.8, reduction="none"),
    "triplet_margin, of order 3": lambda F, a, p, n: F.triplet_margin_loss(a, p, n, p=3, eps=0, reduction="none"),
    "gaussian_nll": lambda F, p, t, v: F.gaussian_nll_loss(p, t, v, reduction="none"),
    "kl_divergence": lambda F, p, t: F.kl_div(F.log_softmax(p, -1), t, reduction="none").sum(-1),
    "cross_entropy": lambda F, p, t: F.cross_entropy(p, t, reduction="none"),
    "cross_entropy, smoothed": lambda F, p, t: F.cross_entropy(p, t, label_smoothing=0.2, reduction="none"),
    "binary_cross_entropy": lambda F, p, t: F.binary_cross_entropy_with_logits(p, t.double(), reduction="none"),
    "multilabel_soft_margin": lambda F, p, t: F.multilabel_soft_margin_loss(p, t, reduction="none"),
    "soft_margin": lambda F, p, t: F.soft_margin_loss(p, t, reduction="none"),
    "hinge_embedding": lambda F, p, t: F.hinge_embedding_loss(p, t, margin=1.5, reduction="none"),
    "multi_margin": lambda F, p, t: F.multi_margin_loss(p, t, margin=0.8, reduction="none"),
    # targets are lists of labels, terminated by -1
    "multilabel_margin": lambda F, p, t: F.multilabel_margin_loss(p, listed(t), reduction="none"),
    "margin_ranking": lambda F, a, b, t: F.margin_ranking_loss(a, b, t, margin=0.3, reduction="none"),
    # distances have 1e-6 added to each difference
    "triplet_margin": lambda F, a, p, n: F.triplet_margin_loss(a, p, n, eps=0, reduction="none"),
    "triplet_margin, swapped": lambda F, a, p, n: F.triplet_margin_loss(a, p, n, 2.0, eps=0, swap=True, reduction="none"),
    "cosine_distance": lambda F, p, t: 1 - F.cosine_similarity(p, t, dim=-1),
    "cosine_embedding": lambda F, a, b, t: F.cosine_embedding_loss(a, b, t, margin=0.1, reduction="none"),
    "ctc": lambda F, p, t: F.ctc_loss(
        F.log_softmax(p, -1).swapaxes(0, 1), t, [4] * len(p), [2] * len(p), reduction="none"
    ),
}  # fmt: skip


def listed(rows):
    labels = [[j for j in range(C) if row[j]] for row in rows]
    return rows.new_tensor([row + [-1] * (C - len(row)) for row in labels])


@pytest.mark.parametrize("case", TORCH)
def test_formula_against_torch(case):
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in CASES[case][1]]
    values = TORCH[case](torch.nn.functional, *tensors)
    np.testing.assert_allclose(values.detach(), formula_of(case)(*CASES[case][1]), rtol=1e-7, atol=1e-12)
    cotangent = RNG.uniform(0.5, 2, values.shape)
    (values * torch.tensor(cotangent)).sum().backward()
    theirs = [t.grad for t in tensors if t.requires_grad]
    for slope, tensor in zip(slopes(case, CASES[case][1], cotangent), theirs, strict=True):
        np.testing.assert_allclose(tensor, slope, rtol=1e-6, atol=1e-7)


OPTAX = {
    "log_cosh": optax.losses.log_cosh,
    "kl_divergence": lambda p, t: optax.losses.kl_divergence(jax.nn.log_softmax(p), t),
    "binary_focal": lambda p, t: optax.losses.sigmoid_focal_loss(p, t, alpha=0.3, gamma=1.5),
    "poly_cross_entropy": lambda p, t: optax.losses.poly_loss_cross_entropy(p, jax.nn.one_hot(t, C), epsilon=1.5),
    "sparsemax": optax.losses.multiclass_sparsemax_loss,
    "binary_sparsemax": lambda p, t: optax.losses.sparsemax_loss(p, t == 1),
    "perceptron": optax.losses.perceptron_loss,
    "multiclass_hinge": optax.losses.multiclass_hinge_loss,
    "multiclass_perceptron": optax.losses.multiclass_perceptron_loss,
    "triplet_margin": lambda a, p, n: optax.losses.triplet_margin_loss(a, p, n, eps=0.0),
    "cosine_distance": optax.losses.cosine_distance,
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("case", OPTAX)
def test_formula_against_optax(case, x64):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = OPTAX[case](*map(jnp.asarray, CASES[case][1]))
    np.testing.assert_allclose(theirs, formula_of(case)(*CASES[case][1]), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_nt_xent_against_optax_for_classes_of_one_size(x64):
    labels = np.array([0, 1, 2, 2, 1, 0])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = optax.losses.ntxent(jnp.asarray(REAL), jnp.asarray(labels), 0.5)
    np.testing.assert_allclose(nt_xent(REAL, labels).mean(), theirs, rtol=1e-9)
