"""Laplacians and divergences: against Hessians and Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

ad = nn.autodiff
X = jax.random.normal(jax.random.key(0), (2, 3))


@jax.custom_jvp
def doubled(x):
    return x**2


doubled.defjvp(lambda primals, tangents: (primals[0] ** 2, 2 * primals[0] * tangents[0]))


def several(x):
    """Products of values that both depend on x, a loop, a branch, a rule, indices."""
    y, z = jnp.sin(x @ x.T), jax.nn.relu(x).sum(1)
    y, _ = jax.lax.scan(lambda c, s: (c * s, None), y, jnp.stack([y, z[:, None] + y]))
    y = jax.lax.cond(x[0, 0] > 0, jnp.exp, jnp.cos, y) / (1 + x[:, :2] ** 2)
    return doubled(y) + x[jnp.argmax(x[:, 0])][:2][None] * jax.nn.logsumexp(x)


def network(model, x):
    params, state = model.init(jax.random.key(1), x[None])
    return lambda x: model.apply(params, state, x[None])[0][0]


CASES = {
    "several": several,
    "mlp": network(nn.serial(nn.flatten(), nn.dense(5), nn.tanh, nn.dense(5), nn.softplus, nn.layer_norm(), nn.dense(2)), X),
    "conv": network(nn.serial(nn.conv(2, 3), nn.gelu, nn.flatten(), nn.dense(1)), X),
    "lstm": network(nn.lstm(3), X),
    "constant": lambda x: jnp.ones(2),
    "linear": lambda x: 3 * x.sum(),
}


def by_hessian(f, x):
    hessian = jax.hessian(lambda v: f(v.reshape(x.shape)))(x.reshape(-1))
    return jnp.trace(hessian, axis1=-2, axis2=-1)


@pytest.mark.parametrize("name", [name if name != "lstm" else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_laplacian(name):
    f = CASES[name]
    got, wanted = jax.jit(lambda x: (ad.laplacian(f, x), by_hessian(f, x)))(X)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_laplacian_in_float64_mapped_and_differentiated(x64):
    weights = jax.random.normal(jax.random.key(0), (3, 4), jnp.float64)
    points = jax.random.normal(jax.random.key(1), (5, 3), jnp.float64)

    @jax.jit
    def values(weights):
        f = lambda x: jnp.tanh(x @ weights).prod()  # noqa: E731
        return jax.vmap(lambda x: ad.laplacian(f, x))(points), jax.vmap(lambda x: by_hessian(f, x))(points)

    np.testing.assert_allclose(*values(weights), rtol=1e-9, atol=1e-12)
    got, wanted = (jax.jit(jax.grad(lambda w, i=i: (values(w)[i] ** 2).sum()))(weights) for i in (0, 1))
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


def test_divergence_and_the_trace_of_the_jacobian():
    matrix = jax.random.normal(jax.random.key(2), (6, 6))
    field = lambda x: jnp.tanh(matrix @ x.reshape(-1)).reshape(x.shape)  # noqa: E731
    jacobian = jax.jacfwd(lambda v: field(v.reshape(2, 3)).reshape(-1))(X.reshape(-1))
    np.testing.assert_allclose(jax.jit(lambda x: ad.divergence(field, x))(X), jnp.trace(jacobian), rtol=1e-5)
    value, error = jax.jit(lambda x: ad.jacobian_trace(field, x, jax.random.key(3), samples=500))(X)
    assert 0 < abs(value - jnp.trace(jacobian)) < 4 * error


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ad.laplacian(None, X), TypeError, "f as a function"),
        (lambda: ad.laplacian(jnp.sum, jnp.arange(3)), TypeError, "real numbers"),
        (lambda: ad.laplacian(lambda x: (x, x), X), TypeError, "one array"),
        (lambda: ad.divergence(jnp.sum, X), ValueError, "of x's shape"),
        (lambda: ad.jacobian_trace(jnp.sum, X, jax.random.key(0)), ValueError, "of x's shape"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
