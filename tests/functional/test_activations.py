"""Activations against float64 NumPy, PyTorch and their analytic derivatives."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn.functional import activations

# name: (function, formula, derivative, slope at 0)
SEED = {
    "identity": (activations.identity, lambda x: x, lambda x: np.ones_like(x), 1.0),
    "sigmoid": (
        activations.sigmoid,
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2,
        0.25,
    ),
    "relu": (activations.relu, lambda x: np.maximum(0, x), lambda x: (x > 0) * 1.0, 0.0),
    "leaky_relu": (
        activations.leaky_relu,
        lambda x: np.where(x > 0, x, 0.01 * x),
        lambda x: np.where(x > 0, 1, 0.01),
        0.01,
    ),
    "elu": (
        activations.elu,
        lambda x: np.where(x > 0, x, np.expm1(x)),
        lambda x: np.where(x > 0, 1, np.exp(x)),
        1.0,
    ),
    "tanh": (
        activations.tanh,
        lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)),
        lambda x: 4 / (np.exp(x) + np.exp(-x)) ** 2,
        1.0,
    ),
}
X = np.concatenate([np.linspace(-8, 8, 160), [-1e-3, 1e-3]])  # without 0, the kink


def slope(function):
    return jax.vmap(jax.grad(function))


@pytest.mark.parametrize("name", SEED)
def test_value_and_derivative_in_float64(name, x64):
    function, formula, derivative, _ = SEED[name]
    np.testing.assert_allclose(function(X), formula(X), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(slope(function)(jnp.asarray(X)), derivative(X), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", SEED)
def test_value_and_derivative_in_float32(name):
    function, formula, derivative, _ = SEED[name]
    x = X.astype(np.float32)
    assert function(x).dtype == jnp.float32
    np.testing.assert_allclose(function(x), formula(x.astype(float)), rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(slope(function)(x), derivative(x.astype(float)), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", SEED)
def test_slope_at_the_kink(name):
    function, _, _, at_zero = SEED[name]
    assert jax.grad(function)(0.0) == jnp.float32(at_zero)


@pytest.mark.parametrize("name", SEED)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_finite_far_out_and_dtype_kept(name, dtype):
    x = jnp.array([-1e4, 0.0, 1e4], dtype)
    value, gradient = SEED[name][0](x), slope(SEED[name][0])(x)
    assert value.dtype == gradient.dtype == x.dtype
    assert jnp.isfinite(value).all()
    assert jnp.isfinite(gradient).all()


def test_options():
    assert activations.leaky_relu(-2.0, 0.5) == -1
    assert activations.leaky_relu(-2.0, negative_slope=0.5) == -1
    np.testing.assert_allclose(activations.elu(-1.0, alpha=2.0), 2 * np.expm1(-1), rtol=1e-6)
    slopes = jnp.array([0.1, 0.2])
    np.testing.assert_allclose(jax.vmap(activations.leaky_relu, (None, 0))(jnp.bfloat16(-1), slopes), -slopes, rtol=1e-2)


def test_nan_is_not_hidden():
    assert all(jnp.isnan(function(jnp.nan)) for function, *_ in SEED.values())


@pytest.mark.parametrize("name", SEED)
def test_integers_and_any_shape(name):
    function = SEED[name][0]
    assert function(jnp.arange(-2, 3)).shape == (5,)
    assert function(jnp.zeros((0, 3))).shape == (0, 3)
    assert function(1.0).shape == ()


def test_all_of_jax_nn_is_here_jitted_and_named():
    not_activations = {
        "dot_product_attention",
        "get_scaled_dot_general_config",
        "one_hot",
        "scaled_dot_general",
        "scaled_matmul",
    }
    functions = {name for name in dir(jax.nn) if not name.startswith("_") and not inspect.ismodule(getattr(jax.nn, name))}
    assert functions - not_activations <= set(activations.__all__)
    for name in activations.__all__:
        function = getattr(activations, name)
        assert hasattr(function, "lower"), f"{name} is not jitted"
        expected = {"linear": "identity", "swish": "silu", "hard_swish": "hard_silu"}.get(name, name)
        assert function.__name__ == expected


def test_static_options_of_jax_nn_still_work():
    x = jnp.ones((2, 4))
    assert activations.softmax(x, axis=0).shape == (2, 4)
    assert activations.logsumexp(x, axis=-1, keepdims=True).shape == (2, 1)
    assert activations.gelu(x, approximate=False).shape == (2, 4)
    assert activations.glu(x).shape == (2, 2)


@pytest.mark.parametrize("name", ["elu", "gelu", "leaky_relu", "log_sigmoid", "mish", "relu", "relu6", "selu", "silu"])
def test_against_torch(name):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn.functional, name.replace("log_sigmoid", "logsigmoid"))
    ours = getattr(activations, name)
    if name == "gelu":
        ours = lambda x: activations.gelu(x, approximate=False)  # noqa: E731
    x = torch.tensor(np.append(X, 0), dtype=torch.float32, requires_grad=True)
    theirs(x).sum().backward()
    np.testing.assert_allclose(ours(x.detach().numpy()), theirs(x).detach(), rtol=1e-5, atol=1e-6)
    if name not in ("elu", "selu"):  # at 0 PyTorch takes their right slope
        np.testing.assert_allclose(slope(ours)(x.detach().numpy()), x.grad, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32))
def test_monotone_and_in_range(a, b):
    a, b = jnp.float32(min(a, b)), jnp.float32(max(a, b))
    for function, *_ in SEED.values():
        assert function(a) <= function(b)
    assert 0 <= activations.sigmoid(a) <= 1
    assert -1 <= activations.tanh(a) <= 1
    assert activations.elu(a) >= -1
    assert activations.relu(a) >= 0
