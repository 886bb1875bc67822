"""Laplace's approximation: against its formulas in NumPy's float64, and laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.special
from jax.flatten_util import ravel_pytree

import jaxnn as nn

ad = nn.autodiff
MODELS = {
    "batch_norm": nn.serial(nn.dense(3), nn.tanh, nn.batch_norm(), nn.dense(3)),
    "lstm": nn.serial(nn.lstm(2, return_sequences=False), nn.dense(3)),
}
LAST = {"batch_norm": "dense_2", "lstm": "dense"}
RNG = np.random.default_rng(0)
DATA = {"batch_norm": RNG.normal(size=(12, 2)), "lstm": RNG.normal(size=(12, 3, 2))}
Y = jnp.arange(12) % 3


@functools.cache
def set_up(name):
    """Parameters, state, inputs, and in NumPy the outputs, the Jacobians and the curvature of the whole loss."""
    with jax.enable_x64(True):
        model, x = MODELS[name], jnp.asarray(DATA[name])
        params, state = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), x))
        flat, unravel = ravel_pytree(params)
        of = lambda w: model.apply(unravel(w), state, x)[0]  # noqa: E731
        z, jacobian = (np.asarray(a) for a in jax.jit(lambda w: (of(w), jax.jacrev(of)(w)))(flat))
        p = scipy.special.softmax(z, -1)
        curvature = p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None]
        matrix = np.einsum("nap,nab,nbq->pq", jacobian, curvature, jacobian)
        layer = np.asarray(ravel_pytree(nn.trees.map_with_path(
            lambda path, a: jnp.full(a.shape, path.startswith(LAST[name] + "/")), params))[0])  # fmt: skip
        return params, state, x, z, jacobian, matrix, layer


def made(name, structure, **options):
    params, state, x, *_ = set_up(name)
    options = {"prior": 0.7, "key": jax.random.key(1), "rank": 4, "batch_size": 5, **options}
    return ad.laplace(nn.Problem(MODELS[name], nn.losses.cross_entropy), params, (x, Y), state, structure=structure, **options)


def precision(structure, matrix, layer, prior=0.7):
    """The precision and which parameters vary, from the definitions."""
    all_of_them = np.ones(len(matrix), bool)
    if structure == "diagonal":
        return np.diag(np.diag(matrix)) + prior * np.eye(len(matrix)), all_of_them
    if structure == "low_rank":
        values, vectors = np.linalg.eigh(matrix)
        return (vectors[:, -4:] * values[-4:]) @ vectors[:, -4:].T + prior * np.eye(len(matrix)), all_of_them
    chosen = layer if structure == "last_layer" else all_of_them
    return matrix[np.ix_(chosen, chosen)] + prior * np.eye(chosen.sum()), chosen


CASES = [(name, structure) for name in MODELS for structure in ("full", "diagonal", "last_layer", "low_rank")]


@pytest.mark.slow
@pytest.mark.parametrize("name, structure", CASES)
def test_predictions_and_evidence(x64, name, structure):
    params, _, x, z, jacobian, matrix, layer = set_up(name)
    wanted, chosen = precision(structure, matrix, layer)
    jacobian, w = jacobian[:, :, chosen], np.asarray(ravel_pytree(params)[0])[chosen]
    covariance = np.einsum("nap,pq,nbq->nab", jacobian, np.linalg.inv(wanted), jacobian)

    @jax.jit
    def values(key):
        posterior = made(name, structure)
        kinds = [posterior.predict(x, kind, key=key, samples=3) for kind in ("linearized", "probit", "sampled")]
        return *kinds, posterior.log_marginal_likelihood()

    (mean, found), probit, sampled, evidence = values(jax.random.key(0))
    np.testing.assert_allclose(mean, z, rtol=1e-9)
    np.testing.assert_allclose(found, covariance, rtol=1e-6, atol=1e-9)
    scaled = z / np.sqrt(1 + np.pi / 8 * np.diagonal(covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(probit, scipy.special.softmax(scaled, -1), rtol=1e-7)
    np.testing.assert_allclose(sampled.sum(-1), np.ones(12), rtol=1e-9)
    log_likelihood = np.log(scipy.special.softmax(z, -1))[np.arange(12), np.asarray(Y)].sum()
    formula = log_likelihood - 0.35 * w @ w + (len(w) * np.log(0.7) - np.linalg.slogdet(wanted)[1]) / 2
    np.testing.assert_allclose(evidence, formula, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["full", "low_rank", "last_layer"])
def test_samples_have_the_covariance(x64, structure):
    params, *_, matrix, layer = set_up("batch_norm")
    wanted, chosen = precision(structure, matrix, layer)
    draws = jax.jit(lambda: made("batch_norm", structure).sample(jax.random.key(3), 20000))()
    rows = np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(draws))
    flat = np.asarray(ravel_pytree(params)[0])
    np.testing.assert_array_equal(rows[:, ~chosen], np.broadcast_to(flat[~chosen], (20000, (~chosen).sum())))
    covariance = np.linalg.inv(wanted)
    spread = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.all(np.abs(np.cov(rows[:, chosen].T) - covariance) < 0.05 * spread)
    assert np.all(np.abs(rows[:, chosen].mean(0) - flat[chosen]) < 0.05 * np.sqrt(np.diag(covariance)))


@pytest.mark.slow
def test_sampled_probabilities_are_the_mean_over_the_distribution(x64):
    x = set_up("batch_norm")[2]

    @jax.jit
    def values(key):
        posterior = made("batch_norm", "full")
        return posterior.predict(x, "linearized"), posterior.predict(x, "sampled", key=key, samples=4000)

    (mean, covariance), sampled = values(jax.random.key(0))
    for z, variance, found in zip(mean, covariance, sampled, strict=True):
        draws = scipy.special.softmax(RNG.multivariate_normal(z, variance, 20000), -1)
        assert np.all(np.abs(found - draws.mean(0)) < 5 * draws.std(0) / 4000**0.5)


@pytest.mark.slow
def test_prior(x64):
    """Of the largest evidence, against SciPy's search; and of the smallest loss on validation data."""
    x = set_up("batch_norm")[2]
    posterior = jax.jit(lambda: made("batch_norm", "full", prior="marginal"))()
    evidence = jax.jit(lambda prior: posterior.log_marginal_likelihood(prior))
    best = scipy.optimize.minimize_scalar(lambda log: -float(evidence(10.0**log)), bounds=(-4, 8), method="bounded")
    np.testing.assert_allclose(np.log10(posterior.prior), best.x, atol=0.011)

    others = jnp.roll(Y, 4)
    chosen = jax.jit(lambda: made("batch_norm", "full", prior="validation", validation=(x, others)))()
    score = jax.jit(
        lambda prior: -jnp.mean(jnp.log(made("batch_norm", "full", prior=prior).predict(x))[jnp.arange(12), others])
    )
    assert all(score(chosen.prior) <= score(jnp.asarray(10.0**log)) + 1e-6 for log in np.linspace(-3, 7, 21))


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["diagonal", "last_layer"])
def test_digits(structure):
    """With the prior on validation data, neither loss nor calibration on test data is worse than the point estimate's."""
    digits, test = nn.data.split(nn.data.load("digits"))
    x, y, (x_test, y_test) = jnp.asarray(digits.x), jnp.asarray(digits.y), map(jnp.asarray, test.pair)
    model = nn.serial(nn.flatten(), nn.dense(16), nn.tanh, nn.dense(10))
    problem, n = nn.Problem(model, nn.losses.cross_entropy), 1000
    options = {"optimizer": optax.adam(5e-3), "epochs": 60, "batch_size": 64, "key": jax.random.key(0), "progress": False}
    params = nn.fit(model, (x[:n], y[:n]), loss=nn.losses.cross_entropy, **options).params

    @jax.jit
    def values(params):
        posterior = ad.laplace(
            problem, params, (x[:n], y[:n]), structure=structure, prior="validation", validation=(x[n:], y[n:]),
            key=jax.random.key(1), rank=30)  # fmt: skip
        return jax.nn.softmax(model(params, x_test)), posterior.predict(x_test)

    def measured(p):
        p, labels = np.asarray(p), np.asarray(y_test)
        sure, right = p.max(1), p.argmax(1) == labels
        bins = np.minimum((sure * 15).astype(int), 14)
        ece = sum(abs(np.sum((right - sure)[bins == b])) for b in range(15)) / len(p)
        return -np.log(p[np.arange(len(p)), labels]).mean(), ece

    (point_nll, point_ece), (nll, ece) = map(measured, values(params))
    assert nll <= point_nll + 1e-6 and ece <= point_ece + 1e-6, (point_nll, nll, point_ece, ece)


PROBLEM = nn.Problem(nn.dense(2), nn.losses.cross_entropy)
PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
PAIR = jnp.ones((3, 2)), jnp.arange(3) % 2


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ad.laplace(PROBLEM, PARAMS, PAIR, structure="kfac"), ValueError, "last_layer"),
        (lambda: ad.laplace(PROBLEM, PARAMS, PAIR, prior="best"), ValueError, "marginal"),
        (lambda: ad.laplace(PROBLEM, PARAMS, PAIR, prior=0.0), ValueError, "above 0"),
        (lambda: ad.laplace(PROBLEM, PARAMS, PAIR, prior="validation"), ValueError, "not trained on"),
        (lambda: ad.laplace(PROBLEM, PARAMS, PAIR, prior="validation", validation=(PAIR[0],) * 2), TypeError, "classes"),
        (lambda: ad.laplace(PROBLEM, PARAMS, PAIR, structure="low_rank"), ValueError, "pass a key"),
        (lambda: ad.laplace(nn.dense(2), PARAMS, PAIR), TypeError, "a Problem"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
