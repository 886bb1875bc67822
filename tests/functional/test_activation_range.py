"""Every activation over the whole range of every dtype: value and slope against mpmath, the second derivative finite."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jaxnn.functional import activations

# Bits of the references, whose slopes are differences over 2⁻⁸⁰ x.
PRECISION = 2400


def _sigmoid(x):
    return 1 / (1 + mp.exp(-x))


# name: formula; corners are avoided below
FORMULAS = {
    "celu": lambda x: x if x > 0 else mp.expm1(x),
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "gelu": lambda x: x * _sigmoid(2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)),
    "hard_shrink": lambda x: x if abs(x) > 0.5 else mp.mpf(0),
    "hard_sigmoid": lambda x: min(max(x + 3, 0), 6) / mp.mpf(6),
    "hard_silu": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "hard_tanh": lambda x: min(max(x, -1), 1),
    "identity": lambda x: x,
    "leaky_relu": lambda x: x if x > 0 else x / 100,
    "log_sigmoid": lambda x: -mp.log1p(mp.exp(-x)),
    "mish": lambda x: x * mp.tanh(mp.log1p(mp.exp(x))),
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: min(max(x, 0), 6),
    "selu": lambda x: mp.mpf("1.0507009873554805") * (x if x > 0 else mp.mpf("1.6732632423543772") * mp.expm1(x)),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "soft_shrink": lambda x: mp.sign(x) * max(abs(x) - 0.5, 0),
    "soft_sign": lambda x: x / (1 + abs(x)),
    "softplus": lambda x: mp.log1p(mp.exp(x)),
    "sparse_plus": lambda x: 0 if x <= -1 else x if x >= 1 else (x + 1) ** 2 / 4,
    "sparse_sigmoid": lambda x: min(max((x + 1) / 2, 0), 1),
    "squareplus": lambda x: (x + mp.sqrt(x * x + 4)) / 2,
    "tanh": mp.tanh,
    "tanh_shrink": lambda x: x - mp.tanh(x),
}
NOT_ELEMENTWISE = {"glu", "log_softmax", "logmeanexp", "logsumexp", "softmax", "softmin", "sparsemax", "standardize"}
OTHERS = {"exponential", "gelu_exact", "log1mexp", "threshold"}  # of other domains, tested below
SIZES = [1e-300, 1e-30, 1e-6, 1e-3, 0.03, 0.3, 0.7, 1.3, 2.7, 3.3, 5.0, 7.0, 12.0, 20.0, 24.0, 60.0, 88.0, 300.0, 700.0, 1e4]
SIZES += [6e4, 1e10, 1e19, 1e20, 1e30, 3e38, 1e100, 1e200, 1.7e308]
DTYPES = ["float16", "bfloat16", "float32", "float64"]


def test_every_activation_is_swept():
    aliases = {"linear", "swish", "hard_swish"}
    assert set(FORMULAS) | NOT_ELEMENTWISE | OTHERS - {"gelu_exact"} | aliases == set(activations.__all__)


def _points(dtype):
    info = jnp.finfo(dtype)
    sizes = np.array([size for size in SIZES if float(info.tiny) <= size <= float(info.max)])
    return np.concatenate([-sizes[::-1], sizes]).astype(info.dtype)


def _check(name, dtype, x, formula, results):
    eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).tiny)
    computed = max(2.0**-52, min(eps, 2.0**-23))  # narrow dtypes are computed in float32
    for i, value in enumerate(x):
        point = mp.mpf(float(value))
        f, slope = formula(point), mp.diff(formula, point, h=point * mp.mpf(2) ** -80)
        got, got_slope, curvature = (mp.mpf(float(result[i])) for result in results)
        size = min(abs(float(value)), 100.0)  # of products of x with a vanishing factor
        # An error of one rounding of x is inherent in x; numbers below the smallest normal one are flushed to 0.
        bound = 4 * eps * abs(f) + 8 * computed * (abs(f) + abs(point * slope)) + tiny * (1 + size)
        bound += 2 * computed * size * (name == "gelu")  # 1 + tanh has an absolute error
        assert abs(f) > float(jnp.finfo(dtype).max) or abs(got - f) <= bound, f"{name}({value}), {dtype}: {got}, expected {f}"
        bound = 4 * eps * abs(slope) + (8 + 24 * (name == "gelu")) * computed * (1 + size) + tiny * (1 + size)
        assert abs(got_slope - slope) <= bound, f"{name}'({value}), {dtype}: {got_slope}, expected {slope}"
        assert mp.isfinite(curvature), f"{name}''({value}), {dtype}: {curvature}"


@pytest.fixture(scope="module")
def derivatives():
    """Values and derivatives of all functions and dtypes, from one compiled program."""

    def both(function):
        return lambda x: (function(x), jax.vmap(jax.grad(function))(x), jax.vmap(jax.grad(jax.grad(function)))(x))

    with jax.enable_x64(True):
        run = jax.jit(
            lambda points: {
                (name, dtype): both(getattr(activations, name))(x) for dtype, x in points.items() for name in FORMULAS
            }
        )
        return jax.device_get(run({dtype: _points(dtype) for dtype in DTYPES}))


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_slope_over_the_whole_range(name, derivatives):
    with mp.workprec(PRECISION):
        for dtype in DTYPES:
            _check(name, dtype, _points(dtype), FORMULAS[name], derivatives[name, dtype])


@pytest.mark.sample(2)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kinks_have_finite_derivatives(dtype, x64):
    x = jnp.array([0.0, -1.0, 1.0, 0.5, -0.5, 3.0, -3.0, 6.0], dtype)

    def all_of(x):
        functions = [getattr(activations, name) for name in FORMULAS]
        return jnp.stack([jax.vmap(jax.grad(jax.grad(function)))(x) for function in functions])

    assert jnp.isfinite(jax.jit(all_of)(x)).all()


@pytest.mark.slow
def test_other_domains(x64):
    with mp.workprec(PRECISION):
        for dtype in DTYPES:
            x = _points(dtype)
            x = x[(np.abs(x.astype(float)) < 10)]
            for name, function, formula, points in (
                ("exponential", activations.exponential, lambda x: mp.exp(x), x),
                ("log1mexp", activations.log1mexp, lambda x: mp.log(-mp.expm1(-x)), x[(x > 1e-3)]),
                (
                    "gelu_exact",
                    lambda x: activations.gelu(x, approximate=False),
                    lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
                    x,
                ),
            ):
                run = jax.jit(lambda x, f=function: (f(x), jax.vmap(jax.grad(f))(x), jax.vmap(jax.grad(jax.grad(f)))(x)))
                _check(name, dtype, points, formula, run(points))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_of_exponentials_are_wide(dtype):
    many = jnp.zeros(70000, dtype)  # the sum of the exponentials overflows in float16
    assert activations.logsumexp(many) == jnp.asarray(np.log(70000.0), dtype)
    assert activations.logmeanexp(many) == 0
    assert jnp.asarray(activations.logsumexp(many, return_sign=True)[0]).dtype == dtype
    x = jnp.array([3.0, 2.7], dtype)
    a, b = x.astype(jnp.float32)
    np.testing.assert_allclose(activations.glu(x).astype(jnp.float32), a / (1 + np.exp(-b)), rtol=float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e5, 1e8])
def test_sparsemax_far_from_zero(shift):
    z = (shift + np.random.default_rng(0).normal(size=200)).astype(np.float32)
    ordered = np.sort(z.astype(float))[::-1]
    taus = (np.cumsum(ordered) - 1) / np.arange(1, 201)
    p = np.maximum(z - taus[np.nonzero(ordered > taus)[0][-1]], 0)
    np.testing.assert_allclose(activations.sparsemax(z), p, atol=1e-6)


def test_sparsemax_of_equal_scores():
    np.testing.assert_allclose(activations.sparsemax(jnp.array([5e9, 5e9, 1.0])), [0.5, 0.5, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_standardize_far_from_zero(dtype):
    far = {"float16": 2000.0, "bfloat16": 200.0, "float32": 1e6}[dtype]
    x = jnp.asarray(far + np.arange(8.0).reshape(2, 4) * (8 if dtype == "float16" else 1), dtype)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.asarray(activations.standardize(x), float), expected, rtol=2 * float(jnp.finfo(dtype).eps))
    np.testing.assert_array_equal(activations.standardize(jnp.full((2, 7), 1e8 / 3, dtype="float32")), 0)


HOLOMORPHIC = {"exponential", "glu", "identity", "linear", "logsumexp", "sigmoid", "silu", "swish", "tanh", "tanh_shrink"}


@pytest.mark.parametrize("name", activations.__all__)
def test_complex_numbers_are_supported_or_refused(name):
    function = getattr(activations, name)
    arguments = (0.5, 0.0) if name == "threshold" else ()
    z = np.array([0.3 + 0.4j, 2.0 - 1.0j], np.complex64)
    if name not in HOLOMORPHIC:
        with pytest.raises(TypeError, match=f"(?i){name.replace('_swish', '_silu')}: x is complex64.*expected real"):
            function(z, *arguments)
        return
    sigmoid = 1 / (1 + np.exp(-z))
    expected = {"exponential": np.exp(z), "sigmoid": sigmoid, "silu": z * sigmoid, "swish": z * sigmoid, "tanh": np.tanh(z)}
    expected |= {"tanh_shrink": z - np.tanh(z), "glu": z[:1] * sigmoid[1:], "logsumexp": np.log(np.exp(z).sum())}
    np.testing.assert_allclose(function(z), expected.get(name, z), rtol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin", "sparsemax", "glu", "standardize"])
def test_a_scalar_has_no_axis(name):
    with pytest.raises(ValueError, match=rf"{name}: x is float32\[\], a scalar, expected at least one axis; pass x\[None\]"):
        getattr(activations, name)(1.0)


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("celu", "alpha", (0.0, -1.0, np.nan, np.inf, 1e-50)),
        ("squareplus", "b", (-1.0, np.nan, np.inf)),
        ("hard_shrink", "threshold", (-1.0, np.nan)),
        ("soft_shrink", "threshold", (-1.0, np.nan)),
        ("standardize", "epsilon", (-1.0, np.nan)),
    ],
)
def test_options_out_of_range_are_refused(name, option, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{name}: {option} is"):
            getattr(activations, name)(jnp.ones(3), **{option: value})
