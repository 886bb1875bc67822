"""Tests of the initializers: distributions, fans, descriptions and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxnn as nn
from jaxnn.functional import initializers as init

KEY = jax.random.key(0)
DENSE, CONV = (40, 100), (3, 3, 8, 32)
FANS = {DENSE: (40, 100), CONV: (72, 288)}

TRUNCATED = stats.truncnorm(-2, 2)


def bound(limit):
    return stats.uniform(-limit, 2 * limit)


# name: (initializer, the exact distribution from the fans)
DRAWN = {
    "normal": (init.normal(), lambda i, o: stats.norm(0, 0.01)),
    "normal(2, mean=1)": (init.normal(2.0, mean=1.0), lambda i, o: stats.norm(1, 2)),
    "truncated_normal": (init.truncated_normal(0.5), lambda i, o: stats.truncnorm(-2, 2, 0, 0.5)),
    "uniform": (init.uniform(-0.5, 2.0), lambda i, o: stats.uniform(-0.5, 2.5)),
    "fan_in_uniform": (init.fan_in_uniform(), lambda i, o: bound(np.sqrt(1 / i))),
    "glorot_uniform": (init.glorot_uniform(), lambda i, o: bound(np.sqrt(6 / (i + o)))),
    "glorot_normal": (init.glorot_normal(), lambda i, o: stats.norm(0, np.sqrt(2 / (i + o)))),
    "he_normal": (init.he_normal(), lambda i, o: stats.norm(0, np.sqrt(2 / i))),
    "he_uniform": (init.he_uniform(), lambda i, o: bound(np.sqrt(6 / i))),
    "lecun_normal": (init.lecun_normal(), lambda i, o: stats.norm(0, np.sqrt(1 / i))),
    "lecun_uniform": (init.lecun_uniform(), lambda i, o: bound(np.sqrt(3 / i))),
    "fan_out": (init.variance_scaling(2.0, "fan_out", "normal"), lambda i, o: stats.norm(0, np.sqrt(2 / o))),
    "truncated": (
        init.variance_scaling(1.0, "fan_in", "truncated_normal"),
        lambda i, o: stats.truncnorm(-2, 2, 0, np.sqrt(1 / i) / TRUNCATED.std()),
    ),
}
each = pytest.mark.parametrize("name", DRAWN)


@each
@pytest.mark.parametrize("shape", [DENSE, CONV])
def test_distribution(name, shape):
    initializer, exact = DRAWN[name]
    exact, drawn = exact(*FANS[shape]), np.asarray(initializer(KEY, shape))
    assert drawn.shape == shape
    assert drawn.dtype == np.float32
    assert stats.kstest(drawn.ravel(), exact.cdf).pvalue > 1e-3
    lowest, highest = exact.support()
    assert drawn.min() >= lowest - 1e-6
    assert drawn.max() <= highest + 1e-6
    # the variance of the sample variance, from the exact fourth moment
    error = exact.std() ** 2 * np.sqrt((exact.stats(moments="k") + 2) / drawn.size)
    assert abs(drawn.var() - exact.var()) < 4.5 * error


@each
def test_description_matches_the_distribution(name):
    initializer, exact = DRAWN[name]
    distribution, scale, offset = initializer.describe(CONV)
    z = {"normal": stats.norm(), "truncated_normal": TRUNCATED, "uniform": stats.uniform(-1, 2)}[distribution]
    exact = exact(*FANS[CONV])
    quantiles = np.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(offset + scale * z.ppf(quantiles), exact.ppf(quantiles), rtol=1e-9, atol=1e-12)


@pytest.mark.sample(3)
@each
def test_transformations_and_dtypes(name):
    initializer, _ = DRAWN[name]
    drawn = initializer(KEY, (4, 3))
    np.testing.assert_allclose(jax.jit(lambda key: initializer(key, (4, 3)))(KEY), drawn, rtol=1e-5, atol=1e-6)
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(lambda key: initializer(key, (4, 3)))(keys)
    np.testing.assert_allclose(many[1], initializer(keys[1], (4, 3)), rtol=1e-5, atol=1e-6)
    for dtype in (jnp.bfloat16, jnp.float16):
        narrow = initializer(KEY, (4, 3), dtype)
        assert narrow.dtype == dtype
        np.testing.assert_array_equal(narrow, drawn.astype(dtype))
    assert initializer(KEY, (4, 0)).shape == (4, 0)
    assert initializer(KEY, (0, 4)).shape == (0, 4)
    assert jax.eval_shape(lambda: initializer(KEY, (4, 3))).shape == (4, 3)


@each
def test_float64(name, x64):
    drawn = DRAWN[name][0](KEY, (4, 3), jnp.float64)
    assert drawn.dtype == jnp.float64
    assert (drawn != drawn.astype(jnp.float32).astype(jnp.float64)).any()


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "make",
    [
        init.constant,
        init.normal,
        init.truncated_normal,
        lambda scale: init.uniform(-scale, scale),
        lambda scale: init.normal(0.1, mean=scale),
        lambda scale: init.variance_scaling(scale, "fan_avg", "uniform"),
        lambda scale: init.variance_scaling(scale, "fan_in", "truncated_normal"),
        init.orthogonal,
        init.delta_orthogonal,
        init.identity,
        lambda scale: init.sparse(0.5, stddev=scale),
    ],
)
def test_traced_scale(make):
    scales = jnp.array([0.5, 2.0])
    for dtype in (jnp.float32, jnp.bfloat16):
        swept = jax.jit(jax.vmap(lambda scale, dtype=dtype: make(scale)(KEY, (1, 2, 3), dtype)))(scales)
        np.testing.assert_allclose(swept[1].astype(float), make(2.0)(KEY, (1, 2, 3), dtype).astype(float), rtol=1e-2, atol=1e-3)


def test_constants():
    assert not init.zeros(KEY, (3,)).any()
    assert (init.ones(KEY, (3,), jnp.bfloat16) == 1).all()
    assert (init.constant(0.5)(KEY, ()) == 0.5).all()
    assert init.ones(KEY, (2,), jnp.int32).dtype == jnp.int32
    assert [i.describe((3,)) for i in (init.zeros, init.ones, init.constant(2.0))] == [
        ("constant", 0.0, 0.0),
        ("constant", 0.0, 1.0),
        ("constant", 0.0, 2.0),
    ]


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (3, 3, 2, 4), (4, 4)])
def test_orthogonal(shape):
    kernel = np.asarray(init.orthogonal(2.0)(KEY, shape), float).reshape(-1, shape[-1])
    product = kernel.T @ kernel if kernel.shape[0] >= kernel.shape[1] else kernel @ kernel.T
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)
    assert init.orthogonal()(KEY, shape, jnp.bfloat16).dtype == jnp.bfloat16
    assert not hasattr(init.orthogonal(), "describe")


def test_orthogonal_is_uniform():
    entries = jax.vmap(lambda key: init.orthogonal()(key, (2, 2))[0, 0])(jax.random.split(KEY, 1000))
    arcsine = stats.arcsine(-1, 2)  # the cosine of a uniform angle
    assert stats.kstest(np.asarray(entries), arcsine.cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 3, 2, 5), (1, 3, 3, 2, 2)])
def test_delta_orthogonal(shape):
    kernel = np.asarray(init.delta_orthogonal(2.0)(KEY, shape))
    center = kernel[tuple((n - 1) // 2 for n in shape[:-2])]
    np.testing.assert_allclose(center @ center.T, 4 * np.eye(shape[-2]), atol=1e-5)
    assert np.count_nonzero(kernel) == np.count_nonzero(center)
    theirs = jax.nn.initializers.delta_orthogonal(2.0)(KEY, shape)
    np.testing.assert_allclose(kernel, theirs, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_identity_returns_the_input(size):
    x = jax.random.normal(KEY, (1, 5, 4, 2))
    kernel = init.identity(3.0)(KEY, (size, size, 2, 2))
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(y, 3 * x, rtol=1e-6)
    np.testing.assert_array_equal(init.identity()(KEY, (2, 3), jnp.bfloat16).astype(float), np.eye(2, 3))


def test_identity_against_torch():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.init.dirac_(torch.empty(3, 2, 5, 3)).permute(2, 3, 1, 0)  # (out, in, …) in PyTorch
    np.testing.assert_array_equal(init.identity()(KEY, (5, 3, 2, 3)), theirs)


def test_sparse():
    kernel = np.asarray(init.sparse(0.7, stddev=2.0)(KEY, (5, 8, 50)))
    zeros = (kernel.reshape(40, 50) == 0).sum(0)
    assert (zeros == 28).all()  # ⌈0.7 · 40⌉
    drawn = kernel[kernel != 0]
    assert stats.kstest(drawn, stats.norm(0, 2).cdf).pvalue > 1e-3
    frequencies = (kernel.reshape(40, 50) != 0).mean(1)
    assert frequencies.std() < 3 * np.sqrt(0.3 * 0.7 / 50)  # positions are uniform
    assert init.sparse(0.5)(KEY, (4, 3), jnp.bfloat16).dtype == jnp.bfloat16
    assert (init.sparse(0.0)(KEY, (4, 3)) != 0).all()


def test_all_initializers_of_jax_are_exported():
    theirs = {name for name in dir(jax.nn.initializers) if not name.startswith("_")}
    assert theirs <= set(init.__all__)


def test_matrix_initializers_in_layers():
    model = nn.serial(nn.dense(4, kernel_init=init.identity()), nn.dense(4, kernel_init=init.sparse(0.5)))
    params, _ = jax.jit(model.init)(KEY, jnp.ones((2, 4)))
    np.testing.assert_array_equal(params["dense"]["kernel"], np.eye(4))
    assert ((params["dense_2"]["kernel"] == 0).sum(0) == 2).all()


def test_xavier_is_glorot_and_not_the_fan_in_form():
    assert init.xavier_uniform().describe((16, 8)) == ("uniform", 0.5, 0.0)  # √(6/24)
    assert init.fan_in_uniform().describe((16, 8)) == ("uniform", 0.25, 0.0)  # √(1/16)
    assert "Xavier" in init.fan_in_uniform.__doc__ and "Xavier" in init.xavier_uniform.__doc__


def test_names_and_repr():
    assert init.he_normal().__name__ == "he_normal"
    assert repr(init.normal(0.02)) == "normal(0.02, mean=0.0)"
    assert init.zeros.__name__ == repr(init.zeros) == "zeros"
    assert init.xavier_uniform is init.glorot_uniform
    assert init.xavier_normal is init.glorot_normal
    assert init.kaiming_normal is init.he_normal
    assert init.orthogonal().__name__ == "orthogonal"


@pytest.mark.parametrize("name", ["glorot_uniform", "he_uniform", "lecun_uniform"])
def test_against_jax(name):
    theirs = getattr(jax.nn.initializers, name)()(KEY, CONV)
    np.testing.assert_allclose(getattr(init, name)()(KEY, CONV), theirs, rtol=1e-5, atol=1e-7)


def test_fan_in_uniform_is_the_default_of_torch_linear():
    torch = pytest.importorskip("torch")
    limit = torch.nn.Linear(DENSE[0], 20000).weight.abs().max().item()
    np.testing.assert_allclose(init.fan_in_uniform().describe(DENSE)[1], limit, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: init.he_normal()(KEY, (3,)), ["he_normal()", "(3,)", "fewer than two axes", "zeros"]),
        (lambda: init.fan_in_uniform().describe(()), ["fan_in_uniform()", "()", "(..., in, out)"]),
        (lambda: init.orthogonal()(KEY, (3,)), ["orthogonal()", "fewer than two axes"]),
        (lambda: init.delta_orthogonal()(KEY, (3, 4, 2)), ["(3, 4, 2)", "no more inputs than outputs", "orthogonal"]),
        (lambda: init.delta_orthogonal()(KEY, (4, 4)), ["(4, 4)", "one to three"]),
        (lambda: init.identity()(KEY, (3,)), ["identity()", "fewer than two axes"]),
        (lambda: init.sparse(1.0), ["sparsity is 1.0", "[0, 1)"]),
        (lambda: init.normal(-1.0), ["stddev is -1.0", ">= 0"]),
        (lambda: init.truncated_normal(np.nan), ["stddev is nan"]),
        (lambda: init.normal(np.ones(3)), ["a single number >= 0"]),
        (lambda: init.constant(np.ones(3)), ["value", "a single number"]),
        (lambda: init.uniform(1.0, 1.0), ["high is 1.0", "above 1.0"]),
        (lambda: init.variance_scaling(0.0, "fan_in", "normal"), ["scale is 0.0", "> 0"]),
        (lambda: init.variance_scaling(1.0, "in", "normal"), ["'in'", "'fan_in'", "'fan_avg'"]),
        (lambda: init.variance_scaling(1.0, "fan_in", "gauss"), ["'gauss'", "'normal'", "'uniform'"]),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=r"expected|zeros") as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_no_random_integers():
    with pytest.raises(TypeError, match=r"normal\(0.01, mean=0.0\): dtype is int32"):
        init.normal()(KEY, (3,), jnp.int32)
