"""Traces, diagonals, eigenvalues and densities of matrices known as products: against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxnn as nn

ad = nn.autodiff
KEY = jax.random.key(0)

# A symmetric matrix with one eigenvalue twice, as the product of a quadratic loss in two parameters.
VALUES = np.array([9.0, 4.0, 4.0, 1.0, 0.5, 0.25, 0.1, 2.0])
BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
MATRIX = (BASIS * VALUES) @ BASIS.T


def quadratic(matrix):
    params = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
    matrix = jnp.asarray(matrix, jnp.float32)

    def loss(params, example):
        w = ravel_pytree(params)[0]
        return example * (w @ matrix @ w) / 2

    return ad.hessian(loss, params, jnp.ones(1))


@functools.partial(jax.jit, static_argnums=0)
def apply(function, matrix):
    return function(quadratic(matrix))


def test_eigenpairs():
    pairs = apply(lambda product: ad.eigenpairs(product, 4, KEY), MATRIX)
    np.testing.assert_allclose(pairs.values, [9, 4, 4, 2], rtol=1e-4)
    rows = np.concatenate([pairs.vectors["a"].reshape(4, -1), pairs.vectors["b"]], 1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-4)
    np.testing.assert_allclose(rows @ MATRIX, pairs.values[:, None] * rows, atol=2e-3)
    assert float(pairs.residuals.max()) < 1e-2


def test_trace_and_diagonal_are_within_their_errors():
    trace = apply(lambda product: ad.trace(product, KEY, samples=200), MATRIX)
    assert 0 < abs(trace.value - MATRIX.trace()) < 4 * trace.error
    diagonal = apply(lambda product: ad.diagonal(product, KEY, samples=200), MATRIX)
    value, error = (ravel_pytree(tree)[0] for tree in diagonal)
    assert np.all(np.abs(value - MATRIX.diagonal()) < 4.5 * error)


def test_log_determinant_of_a_full_space_is_exact_on_average():
    found = apply(lambda product: ad.log_determinant(product, KEY, damping=0.5, samples=64), MATRIX)
    assert abs(found.value - np.log(VALUES + 0.5).sum()) < 4 * found.error
    diagonal = apply(lambda product: ad.log_determinant(product, KEY, samples=2), np.diag(VALUES))
    np.testing.assert_allclose(diagonal.value, np.log(VALUES).sum(), rtol=1e-4)  # exact, whatever the signs


def test_spectrum_is_the_density():
    grid, density, error = apply(lambda product: ad.spectrum(product, KEY, samples=64, width=0.3), MATRIX)
    bells = np.exp(-((np.asarray(grid)[:, None] - VALUES) ** 2) / 0.18) / np.sqrt(2 * np.pi) / 0.3
    assert np.all(np.abs(density - bells.mean(1)) < 5 * np.asarray(error) + 1e-3)
    np.testing.assert_allclose(np.trapezoid(density, grid), 1, rtol=1e-3)


@pytest.mark.slow
def test_diagonal_of_gauss_newton_is_exact():
    model = nn.serial(nn.conv(2, 3), nn.tanh, nn.flatten(), nn.dense(3))
    x, y = jax.random.normal(KEY, (4, 3, 1)), jnp.array([0, 2, 1, 1])
    params, state = model.init(KEY, x)
    problem = nn.Problem(model, nn.losses.cross_entropy)
    flat, unravel = ravel_pytree(params)

    @functools.partial(jax.jit, static_argnums=1)
    def both(params, batch_size):
        product = ad.gauss_newton(problem, params, (x, y), state, batch_size=batch_size)
        columns = jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(jnp.eye(len(flat)))
        return jnp.diag(columns), ravel_pytree(ad.diagonal(product).value)[0]

    for batch_size in (None, 3):
        np.testing.assert_allclose(*both(params, batch_size), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_diagonal_of_gauss_newton_of_sure_predictions_is_finite():
    """Their curvature is the difference of numbers that round much more than it is large."""
    z = jnp.asarray(np.random.default_rng(0).normal(size=(40, 5)) * 12, jnp.float32)
    problem = nn.Problem(nn.dense(5, use_bias=False), nn.losses.cross_entropy)
    x, y = jnp.ones((40, 1)), jnp.argmax(z, 1)

    def one(x, y, row):
        product = ad.gauss_newton(problem, {"kernel": row[None]}, (x[None], y[None]))
        return ad.diagonal(product).value["kernel"][0]

    p = np.exp(np.asarray(z, np.float64))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(x, y, z), p * (1 - p), atol=1e-6)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda p: ad.trace(lambda v: v, KEY), TypeError, "takes a product"),
        (lambda p: ad.diagonal(p), ValueError, "pass a key"),
        (lambda p: ad.eigenpairs(p, 9, KEY), ValueError, "as eigenpairs"),
        (lambda p: ad.spectrum(p, KEY, width=0.0), ValueError, "width"),
        (lambda p: ad.log_determinant(p, KEY, damping=-1.0), ValueError, "damping"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call(quadratic(MATRIX))
