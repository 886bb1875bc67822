"""Products with the Hessian and the Gauss-Newton matrix: against explicit matrices, and laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import jaxnn as nn

ad = nn.autodiff

MODEL = nn.serial(nn.dense(3), nn.tanh, nn.batch_norm(), nn.dense(3))
X = jax.random.normal(jax.random.key(3), (5, 2))
Y = jnp.arange(5) % 3
PROBLEM = nn.Problem(MODEL, nn.losses.cross_entropy)


@functools.cache
def set_up(dtype=jnp.float32):
    params, state = MODEL.init(jax.random.key(4), X)
    cast = lambda tree: jax.tree.map(lambda a: a.astype(dtype), tree)  # noqa: E731
    return cast(params), cast(state), (X.astype(dtype), Y)


def matrix(product, params):
    """The matrix of a product, by its columns."""
    flat, unravel = ravel_pytree(params)
    return jax.jit(jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0]))(jnp.eye(len(flat), dtype=flat.dtype))


def explicit(params, state, data):
    """The Hessian and the Gauss-Newton matrix of the mean loss in float64's formulas: jax.hessian, and Jᵀ H J summed."""
    flat, unravel = ravel_pytree(params)
    x, y = data
    mean = lambda w: nn.losses.cross_entropy(MODEL.apply(unravel(w), state, x)[0], y)  # noqa: E731
    jacobian = jax.jacrev(lambda w: MODEL.apply(unravel(w), state, x)[0])(flat)  # (examples, outputs, parameters)
    p = jax.nn.softmax(MODEL.apply(params, state, x)[0])
    curvature = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None]
    return jax.hessian(mean)(flat), jnp.einsum("nap,nab,nbq->pq", jacobian, curvature, jacobian) / len(x)


def products(params, state, data, **options):
    hessian = ad.hessian(ad.example_loss(PROBLEM, state), params, data, **options)
    return hessian, ad.gauss_newton(PROBLEM, params, data, state, **options)


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.float64, 1e-9)])
def test_matrices(dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        params, state, data = set_up(dtype)
        wanted = jax.jit(explicit)(params, state, data)

        @jax.jit
        def got(params):
            return [
                matrix(product, params)
                for options in ({}, {"batch_size": 2})
                for product in products(params, state, data, **options)
            ]

        for found, exact in zip(got(params), (*wanted, *wanted), strict=True):
            np.testing.assert_allclose(found, exact, atol=tolerance, rtol=0)


@jax.jit
def bilinear_forms(u, v):
    """uᵀA v, vᵀA u and vᵀA v of both matrices."""
    dot = lambda a, b: jnp.vdot(ravel_pytree(a)[0], ravel_pytree(b)[0])  # noqa: E731
    return [(dot(u, a(v)), dot(v, a(u)), dot(v, a(v))) for a in products(*set_up())]


@settings(max_examples=5)
@given(seed=st.integers(0, 2**31 - 1))
def test_laws(seed):
    """Both matrices are symmetric, and Gauss-Newton's is positive semi-definite."""
    u, v = (ravel_pytree(set_up()[0])[1](a) for a in jax.random.normal(jax.random.key(seed), (2, nn.trees.count(set_up()[0]))))
    for left, right, _ in bilinear_forms(u, v):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    assert bilinear_forms(u, v)[1][2] >= -1e-6


def fisher_by_hand(params, state, data, kind):
    """Per-example gradients of −log p for each class, weighted by p; the diagonal too."""
    x, y = data
    flat, unravel = ravel_pytree(params)
    logs = lambda w, x: jax.nn.log_softmax(MODEL.apply(unravel(w), state, x[None])[0][0])  # noqa: E731
    gradients = jax.vmap(jax.jacrev(logs), (None, 0))(flat, x)  # (examples, classes, parameters)
    p = jnp.exp(jax.vmap(logs, (None, 0))(flat, x)) if kind == "exact" else jax.nn.one_hot(y, 3)
    return jnp.einsum("nc,ncp,ncq->pq", p, gradients, gradients) / len(x)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_fisher(kind):
    params, state, data = set_up()
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def values(params):
        product = ad.fisher(PROBLEM, params, data, state, kind=kind, batch_size=3)
        return fisher_by_hand(params, state, data, kind), matrix(product, params), ravel_pytree(ad.diagonal(product).value)[0]

    wanted, got, diagonal = values(params)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    np.testing.assert_allclose(diagonal, jnp.diag(wanted), atol=1e-6)


@pytest.mark.slow
def test_the_mean_of_sampled_fisher_matrices_is_the_exact_one():
    params, state, data = set_up()
    v = jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def values(keys):
        sampled = lambda key: ad.fisher(PROBLEM, params, data, state, kind="sampled", key=key)(v)  # noqa: E731
        return ad.fisher(PROBLEM, params, data, state)(v), jax.vmap(sampled)(keys)

    exact, sampled = values(jax.random.split(jax.random.key(1), 400))
    for wanted, each in zip(jax.tree.leaves(exact), jax.tree.leaves(sampled), strict=True):
        assert np.all(np.abs(each.mean(0) - wanted) < 5 * each.std(0) / 20 + 1e-6)


@pytest.mark.slow
def test_fisher_of_a_loss_that_is_no_log_probability_is_nan():
    params, state, data = set_up()
    scaled = nn.Problem(MODEL, lambda z, y: 2 * nn.losses.cross_entropy(z, y))
    product = ad.fisher(scaled, params, data, state)
    assert all(np.isnan(a).all() for a in jax.tree.leaves(product(jax.tree.map(jnp.ones_like, params))["dense_2"]))


def test_where_leaves_rows_and_columns_of_zeros():
    params, state, data = set_up()
    keep = ravel_pytree(jax.tree.map(jnp.full_like, params, nn.trees.mask(params, "*/kernel")))[0]

    @jax.jit
    def both(params):
        return [matrix(products(params, state, data, **options)[1], params) for options in ({}, {"where": "*/kernel"})]

    whole, part = both(params)
    np.testing.assert_allclose(part, whole * keep[:, None] * keep[None], atol=1e-6)


def test_solve_and_its_derivative():
    params, state, data = set_up()
    _, gauss_newton = jax.jit(explicit)(params, state, data)
    flat, unravel = ravel_pytree(params)
    b = jax.random.normal(jax.random.key(5), flat.shape)

    @jax.jit
    def solution(damping):
        product = ad.gauss_newton(PROBLEM, params, data, state)
        return ravel_pytree(ad.solve(product, unravel(b), damping=damping, tolerance=1e-7))[0]

    damped = np.asarray(gauss_newton, np.float64) + 0.1 * np.eye(len(flat))
    np.testing.assert_allclose(solution(0.1), np.linalg.solve(damped, b), rtol=1e-3, atol=1e-4)
    wanted = -np.linalg.solve(damped, np.linalg.solve(damped, b))  # ∂x/∂λ
    np.testing.assert_allclose(jax.jit(jax.jacfwd(solution))(0.1), wanted, rtol=1e-3, atol=1e-2)


def test_a_product_has_a_shape_and_checks_what_it_is_given():
    params, state, data = set_up()
    product = ad.gauss_newton(PROBLEM, params, data, state)
    n = nn.trees.count(params)
    assert product.shape == (n, n)
    with pytest.raises(ValueError, match="like the parameters"):
        product({"dense": jnp.ones(3)})


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ad.gauss_newton(MODEL, {}, (X, Y)), TypeError, "a Problem"),
        (lambda: ad.gauss_newton(nn.Problem(MODEL, nn.Objective(print)), {}, (X, Y)), TypeError, "outputs and loss apart"),
        (lambda: ad.gauss_newton(PROBLEM, {}, X), TypeError, "a pair"),
        (lambda: ad.hessian(lambda p, x: x, {"w": X}, X), ValueError, "one real number"),
        (lambda: ad.fisher(PROBLEM, *set_up()[::2], set_up()[1], kind="true"), ValueError, "exact"),
        (lambda: ad.fisher(PROBLEM, *set_up()[::2], set_up()[1], kind="sampled"), ValueError, "pass a key"),
        (lambda: ad.fisher(PROBLEM, set_up()[0], (X, X), set_up()[1]), TypeError, "gauss_newton is the Fisher matrix"),
        (lambda: ad.solve(lambda v: v, X, damping=-1.0), ValueError, "damping"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
