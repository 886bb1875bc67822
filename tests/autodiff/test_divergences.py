"""Divergences: against Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

ad = nn.autodiff
X = jax.random.normal(jax.random.key(0), (2, 3))


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
        (lambda: ad.divergence(None, X), TypeError, "f as a function"),
        (lambda: ad.divergence(jnp.sum, jnp.arange(3)), TypeError, "real numbers"),
        (lambda: ad.divergence(jnp.sum, X), ValueError, "of x's shape"),
        (lambda: ad.jacobian_trace(jnp.sum, X, jax.random.key(0)), ValueError, "of x's shape"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
