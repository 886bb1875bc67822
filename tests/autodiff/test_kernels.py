"""The tangent kernel: against Jacobians, and the prediction against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

ad = nn.autodiff
MODEL = nn.serial(nn.conv(2, 3), nn.tanh, nn.flatten(), nn.dense(3))
X1, X2 = (jax.random.normal(jax.random.key(i), (n, 4, 2)) for i, n in ((0, 5), (1, 3)))
PARAMS, _ = MODEL.init(jax.random.key(2), X1)


def outputs(params, x):
    return MODEL(params, x[None])[0]


def jacobian(params, x):
    tree = jax.vmap(jax.jacrev(outputs), (None, 0))(params, x)
    return jnp.concatenate([a.reshape(*a.shape[:2], -1) for a in jax.tree.leaves(tree)], 2)  # (examples, outputs, parameters)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), pytest.param(jnp.float64, 1e-9, marks=pytest.mark.slow)])
def test_kernel(dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        params, x1, x2 = jax.tree.map(lambda a: a.astype(dtype), (PARAMS, X1, X2))

        @jax.jit
        def values(params):
            one, two = jacobian(params, x1), jacobian(params, x2)
            full = jnp.einsum("acp,bdp->abcd", one, two)
            wanted = [jnp.einsum("acp,bdp->abcd", one, one), full, jnp.einsum("abcc->ab", full)]
            kernel = lambda *x, **options: ad.tangent_kernel(outputs, params, *x, **options)  # noqa: E731
            return wanted, [kernel(x1), kernel(x1, x2, batch_size=2), kernel(x1, x2, outputs_as="trace")]

        for wanted, got in zip(*values(params), strict=True):
            np.testing.assert_allclose(got, wanted, atol=tolerance * float(jnp.abs(wanted).max()), rtol=0)


def test_prediction():
    kernel = np.cov(np.random.default_rng(0).normal(size=(6, 20)))
    cross, y = np.random.default_rng(1).normal(size=(4, 6)), np.random.default_rng(2).normal(size=(6, 2))
    wanted = cross @ np.linalg.solve(kernel + 0.1 * np.eye(6), y)
    arrays = [jnp.asarray(a, jnp.float32) for a in (kernel, cross, y)]
    np.testing.assert_allclose(ad.kernel_predict(*arrays, ridge=0.1), wanted, rtol=1e-3, atol=1e-4)
    full = [a[:, :, None, None] * jnp.eye(2)[None, None] for a in arrays[:2]]
    np.testing.assert_allclose(ad.kernel_predict(*full, arrays[2], ridge=0.1), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ad.tangent_kernel(outputs, PARAMS, X1, outputs_as="sum"), "full"),
        (lambda: ad.tangent_kernel(lambda p, x: {"z": x}, PARAMS, X1), "one array of real numbers"),
        (lambda: ad.kernel_predict(jnp.eye(3), jnp.ones((1, 2)), jnp.ones((3, 1))), "takes kernel"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
