"""Tests of the activations against float64 NumPy, PyTorch and analytic derivatives."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn
from jaxnn.functional import activations

# name: (function, formula, derivative, slope at 0)
NOTES = {
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


@pytest.mark.parametrize("name", NOTES)
def test_value_and_derivative_in_float64(name, x64):
    function, formula, derivative, _ = NOTES[name]
    np.testing.assert_allclose(function(X), formula(X), rtol=1e-12, atol=1e-15)
    # The slope of tanh is 1 − tanh², which has the rounding errors of numbers near 1 (measured: 5 ε).
    atol = 8 * np.finfo(float).eps if name == "tanh" else 1e-15
    np.testing.assert_allclose(slope(function)(jnp.asarray(X)), derivative(X), rtol=1e-12, atol=atol)


@pytest.mark.parametrize("name", NOTES)
def test_value_and_derivative_in_float32(name):
    function, formula, derivative, _ = NOTES[name]
    x = X.astype(np.float32)
    assert function(x).dtype == jnp.float32
    np.testing.assert_allclose(function(x), formula(x.astype(float)), rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(slope(function)(x), derivative(x.astype(float)), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", NOTES)
def test_slope_at_the_kink(name):
    function, _, _, at_zero = NOTES[name]
    assert jax.grad(function)(0.0) == jnp.float32(at_zero)


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", NOTES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_large_inputs_are_finite_and_the_dtype_is_kept(name, dtype):
    x = jnp.array([-1e4, 0.0, 1e4], dtype)
    value, gradient = NOTES[name][0](x), slope(NOTES[name][0])(x)
    assert value.dtype == gradient.dtype == x.dtype
    assert jnp.isfinite(value).all()
    assert jnp.isfinite(gradient).all()


def test_options():
    assert activations.leaky_relu(-2.0, 0.5) == -1
    assert activations.leaky_relu(-2.0, negative_slope=0.5) == -1
    np.testing.assert_allclose(activations.elu(-1.0, alpha=2.0), 2 * np.expm1(-1), rtol=1e-6)
    slopes = jnp.array([0.1, 0.2])
    np.testing.assert_allclose(jax.vmap(activations.leaky_relu, (None, 0))(jnp.bfloat16(-1), slopes), -slopes, rtol=1e-2)


def test_nan_propagates():
    assert all(jnp.isnan(function(jnp.nan)) for function, *_ in NOTES.values())


@pytest.mark.parametrize("name", NOTES)
def test_integers_and_any_shape(name):
    function = NOTES[name][0]
    assert function(jnp.arange(-2, 3)).shape == (5,)
    assert function(jnp.zeros((0, 3))).shape == (0, 3)
    assert function(1.0).shape == ()


def test_all_activations_of_jax_nn_are_exported_jitted_and_named():
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
        # `linear` must see whether its argument is a Python int
        assert hasattr(function, "lower") or name == "linear", f"{name} is not jitted"
        expected = {"swish": "silu", "hard_swish": "hard_silu"}.get(name, name)
        assert function.__name__ == expected


def test_linear_is_the_identity():
    x = jnp.arange(-2, 3)
    np.testing.assert_array_equal(nn.linear(x), x)
    assert nn.linear(-1.5) == jax.jit(nn.linear)(-1.5) == -1.5
    assert jax.grad(nn.linear)(3.0) == 1
    assert jax.jit(nn.linear)(3) == 3  # traced: an array
    assert nn.linear(np.int32(3)) == 3
    model = nn.serial(nn.dense(2), nn.linear)
    assert nn.as_layer(nn.linear).name == "linear"
    params, _ = model.init(jax.random.key(0), jnp.ones((1, 3)))
    assert model(params, jnp.ones((1, 3))).shape == (1, 2)


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((10,), {}, "nn.dense(10)"),
        ((784, 10), {}, "nn.dense(10)"),
        ((784, 10, False), {}, "nn.dense(10)"),
        ((10,), {"use_bias": False}, "nn.dense(10)"),
        ((), {"in_features": 784, "out_features": 10}, "nn.dense(10)"),
        ((), {"features": 10}, "nn.dense(10)"),
        ((jnp.ones(2), 3.0), {}, "nn.dense(features)"),
    ],
)
def test_linear_called_as_a_layer_names_dense(args, kwargs, expected):
    with pytest.raises(TypeError, match=re.escape(f"the fully connected layer is {expected}")):
        nn.linear(*args, **kwargs)


def test_static_options_of_jax_nn_still_work():
    x = jnp.ones((2, 4))
    assert activations.softmax(x, axis=0).shape == (2, 4)
    assert activations.logsumexp(x, axis=-1, keepdims=True).shape == (2, 1)
    assert activations.gelu(x, approximate=False).shape == (2, 4)
    assert activations.glu(x).shape == (2, 2)


# name: name in `torch.nn.functional`
TORCH = {
    "celu": "celu",
    "elu": "elu",
    "gelu": "gelu",
    "hard_sigmoid": "hardsigmoid",
    "hard_silu": "hardswish",
    "hard_shrink": "hardshrink",
    "hard_tanh": "hardtanh",
    "leaky_relu": "leaky_relu",
    "log_sigmoid": "logsigmoid",
    "mish": "mish",
    "relu": "relu",
    "relu6": "relu6",
    "selu": "selu",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "soft_shrink": "softshrink",
    "soft_sign": "softsign",
    "softplus": "softplus",
    "tanh": "tanh",
    "tanh_shrink": "tanhshrink",
    "threshold": "threshold",
}
OPTIONS = {"threshold": (0.5, -1.0)}


@pytest.mark.parametrize("name", TORCH)
def test_against_torch(name):
    torch = pytest.importorskip("torch")
    theirs, options = getattr(torch.nn.functional, TORCH[name]), OPTIONS.get(name, ())
    ours = lambda x: getattr(activations, name)(x, *options, **({"approximate": False} if name == "gelu" else {}))  # noqa: E731
    points = np.append(X, [] if name in ("elu", "selu", "celu") else 0)  # at 0 PyTorch has the slope on the right
    x = torch.tensor(points, dtype=torch.float32, requires_grad=True)
    theirs(x, *options).sum().backward()
    value, pull = jax.vjp(ours, jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(value, theirs(x, *options).detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones_like(value))[0], x.grad, rtol=1e-5, atol=2e-6)


# name: (function, formula), for activations that PyTorch does not have
FORMULAS = {
    "exponential": (activations.exponential, np.exp),
    "gelu": (activations.gelu, lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    "squareplus": (activations.squareplus, lambda x: (x + np.sqrt(x**2 + 4)) / 2),
    "sparse_plus": (activations.sparse_plus, lambda x: np.where(x <= -1, 0, np.where(x >= 1, x, (x + 1) ** 2 / 4))),
    "sparse_sigmoid": (activations.sparse_sigmoid, lambda x: np.clip((x + 1) / 2, 0, 1)),
    "log1mexp": (lambda x: activations.log1mexp(jnp.abs(x) + 1e-3), lambda x: np.log(-np.expm1(-np.abs(x) - 1e-3))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_and_slope(name, x64):
    function, formula = FORMULAS[name]
    x = X[np.abs(np.abs(X) - 1) > 1e-3]  # away from corners
    value, pull = jax.vjp(function, jnp.asarray(x))
    np.testing.assert_allclose(value, formula(x), rtol=1e-12, atol=1e-14)
    slopes = (formula(x + 1e-6) - formula(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(pull(jnp.ones_like(value))[0], slopes, rtol=1e-6, atol=1e-7)


NEW = ["exponential", "hard_shrink", "soft_shrink", "softmin", "sparsemax", "tanh_shrink"]


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", NEW)
def test_dtypes_nan_and_integers(name):
    function = getattr(activations, name)
    for dtype in (jnp.bfloat16, jnp.float32):
        assert function(jnp.ones((2, 3), dtype)).dtype == dtype
    assert jnp.isnan(function(jnp.array([0.0, jnp.nan])))[1]
    assert function(jnp.arange(3)).dtype == jnp.float32
    assert jnp.isnan(activations.threshold(jnp.nan, 0.0, 1.0))


@pytest.mark.sample(1)
@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 20.0), (0.1, 20.0), (7.0, 3.0), (2.0, -1.0)])
def test_softplus_against_torch(beta, threshold, x64):
    torch = pytest.importorskip("torch")
    x = np.concatenate([X, [-1e300, -50, 2.9, 3.1, 30, 250, 1e300, 1e308]])
    t = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.softplus(t, beta, threshold)
    expected.sum().backward()
    value, pull = jax.vjp(lambda x: activations.softplus(x, beta, threshold), jnp.asarray(x))
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-13)
    np.testing.assert_allclose(pull(jnp.ones_like(value))[0], t.grad, rtol=1e-13)


@pytest.mark.sample(1)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_softplus_of_any_sharpness(dtype):
    """Against the formula in float64, over the whole range of the dtype; the second derivative is finite."""
    x = np.array([-np.inf, -6e4, -3.0, -1e-3, 0, 1e-3, 3.0, 50.0, 6e4, np.inf], dtype)
    wide = x.astype(np.float64)
    for beta in (1.0, 0.3, 10.0):
        f = lambda x, beta=beta: activations.softplus(x, beta)  # noqa: E731
        expected = np.logaddexp(0, beta * wide) / beta
        tiny = float(jnp.finfo(dtype).tiny)
        np.testing.assert_allclose(np.asarray(f(x), np.float64), expected, rtol=2 * float(jnp.finfo(dtype).eps), atol=tiny)
        slopes = np.asarray(jax.vmap(jax.grad(f))(x), np.float64)
        np.testing.assert_allclose(slopes, 1 / (1 + np.exp(-np.clip(beta * wide, -700, 700))), rtol=2e-3, atol=1e-7)
        assert jnp.isfinite(jax.vmap(jax.grad(jax.grad(f)))(x[1:-1])).all()
    with pytest.raises(ValueError, match="beta is 0"):
        activations.softplus(x, 0.0)


def test_softmax_and_related_functions_against_torch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32) * 3
    for axis in (-1, 0):
        for name, theirs in (("softmax", torch.softmax), ("log_softmax", torch.log_softmax), ("logsumexp", torch.logsumexp)):
            expected = theirs(torch.tensor(x), axis)
            np.testing.assert_allclose(getattr(activations, name)(x, axis=axis), expected, rtol=1e-5, atol=1e-6)
        expected = torch.nn.functional.softmin(torch.tensor(x), axis)
        np.testing.assert_allclose(activations.softmin(x, axis=axis), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(activations.glu(x, axis=1), torch.nn.functional.glu(torch.tensor(x), 1), rtol=1e-5)
    many = jnp.zeros(1000, jnp.bfloat16)
    assert activations.log_softmax(many)[0] == jnp.bfloat16(-np.log(1000))  # summed in float32


@pytest.mark.sample(1)
@pytest.mark.parametrize("axis", [0, -1])
def test_sparsemax_is_the_projection_onto_the_simplex(axis):
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(2, 20, 5)).astype(np.float32) * 2
    p, pull = jax.vjp(lambda x: activations.sparsemax(x, axis=axis), x)
    with jax.numpy_dtype_promotion("standard"):
        theirs = jax.vmap(optax.projections.projection_simplex, 1 + axis, 1 + axis)(x)
    np.testing.assert_allclose(p, theirs, atol=1e-6)
    on = np.asarray(p > 0)
    mean = (cotangent * on).sum(axis, keepdims=True) / on.sum(axis, keepdims=True)
    np.testing.assert_allclose(pull(jnp.asarray(cotangent))[0], np.where(on, cotangent - mean, 0), atol=1e-5)
    np.testing.assert_allclose(activations.sparsemax(jnp.array([0.0, -jnp.inf, 0.5])), [0.25, 0, 0.75])


@settings(max_examples=30)
@given(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32))
def test_monotone_and_in_range(a, b):
    a, b = jnp.float32(min(a, b)), jnp.float32(max(a, b))
    for function, *_ in NOTES.values():
        assert function(a) <= function(b)
    assert 0 <= activations.sigmoid(a) <= 1
    assert -1 <= activations.tanh(a) <= 1
    assert activations.elu(a) >= -1
    assert activations.relu(a) >= 0
