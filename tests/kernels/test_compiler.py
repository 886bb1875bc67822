"""kernels.compiler_options and kernels.jit: options are determined once and never break a program."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnn import kernels
from jaxnn.kernels import compiler, forms


@pytest.fixture
def fresh_probe():
    compiler._known_cpu_options.cache_clear()
    yield
    compiler._known_cpu_options.cache_clear()


def test_the_options_compile_and_each_call_returns_a_copy():
    options = kernels.compiler_options()
    assert jax.jit(lambda x: x @ x, compiler_options=options)(jnp.eye(3)).shape == (3, 3)
    options["something"] = "else"
    assert "something" not in kernels.compiler_options()


def test_an_unknown_option_is_left_out(fresh_probe, monkeypatch):
    monkeypatch.setattr(compiler, "_CPU_OPTIONS", {"xla_cpu_unknown_option": "1"})
    assert kernels.compiler_options() == {}
    assert kernels.jit(lambda x: x + 1)(jnp.zeros(())) == 1


def test_many_padded_products_do_not_crash():
    """A sum of padded products, as in the gradient of causal attention: other options crash the process here."""
    parts = [jnp.ones((2, (i + 1) * 256, 256)) for i in range(8)]

    @kernels.jit
    def total(x, parts):
        products = (jnp.einsum("nkq,nqd->nkd", p, x[:, i * 256 : (i + 1) * 256]) for i, p in enumerate(parts))
        return sum(jnp.pad(p, ((0, 0), (0, 2048 - p.shape[1]), (0, 0))) for p in products)

    y = total(jnp.ones((2, 2048, 32)), parts)
    np.testing.assert_array_equal(y[0, ::256, 0], 256 * np.arange(8, 0, -1))


def test_other_backends_get_no_options(monkeypatch):
    monkeypatch.setattr(compiler, "platform", lambda: "tpu")
    assert kernels.compiler_options() == {}


def test_one_probe_serves_all_threads(fresh_probe, monkeypatch):
    probes = []
    plain = jax.jit
    monkeypatch.setattr(jax, "jit", lambda *args, **kwargs: probes.append(args) or plain(*args, **kwargs))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: kernels.compiler_options(), range(16)))
    assert len(probes) == 1 and all(r == results[0] for r in results)


def test_the_probe_runs_under_a_trace(fresh_probe):
    found = []
    jax.jit(lambda x: found.append(kernels.compiler_options()) or x)(jnp.zeros(()))
    assert found == [kernels.compiler_options()]


def test_decorating_a_function_does_not_determine_the_options(fresh_probe):
    kernels.jit(lambda x: x)
    assert compiler._known_cpu_options.cache_info().currsize == 0


@kernels.jit
def cube(x):
    """The third power."""
    return x**3


def test_a_compiled_function_works_under_every_transformation():
    x = jnp.arange(1.0, 4.0)
    expected = np.asarray(x) ** 3
    np.testing.assert_allclose(cube(x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(cube)(x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda: cube(x))(), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(cube)(x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: cube(x).sum())(x), 3 * np.asarray(x) ** 2, rtol=1e-6)
    np.testing.assert_allclose(kernels.jit(jax.hessian(lambda x: cube(x).sum()))(x), np.diag(6 * np.asarray(x)), rtol=1e-6)
    np.testing.assert_allclose(jax.lax.scan(lambda c, _: (cube(c), None), x, length=2)[0], expected**3, rtol=1e-5)
    np.testing.assert_allclose(jax.export.export(jax.jit(cube))(x).call(x), expected, rtol=1e-6)
    assert jax.eval_shape(cube, x).shape == (3,)


def test_a_closed_over_tracer_is_not_the_top_level():
    np.testing.assert_allclose(jax.grad(lambda x: kernels.jit(lambda: x**2)())(jnp.float32(3)), 6)


def test_jit_supports_the_options_and_methods_of_jax_jit():
    power = kernels.jit(lambda x, n: x**n, static_argnames="n")
    assert power(jnp.float32(2), n=3) == 8 and power(jnp.float32(2), n=2) == 4
    assert cube.__name__ == "cube" and cube.__doc__ == "The third power."
    assert cube.lower(jnp.float32(2)).compile()(jnp.float32(2)) == 8
    assert cube.eval_shape(jax.ShapeDtypeStruct((2,), "float32")).shape == (2,)
    cube.clear_cache()
    donated = jnp.arange(4.0)
    kernels.jit(lambda x: x + 1, donate_argnums=0)(donated)
    assert donated.is_deleted()
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        kernels.jit(lambda x: x, compiler_options={"xla_cpu_unknown_option": "1"})(jnp.zeros(()))


def test_explicit_sharding_uses_xlas_form():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones((2, 4, 4, 3)), P("batch"))
        loss = lambda kernel, x: kernels.max_pool(kernels.conv(x, kernel), 2).sum()  # noqa: E731
        gradient = jax.jit(jax.grad(loss))(jnp.ones((3, 3, 3, 2)), x)
    assert gradient.shape == (3, 3, 3, 2)


def test_the_form_follows_the_platform_unless_forced(monkeypatch):
    assert forms.choose_form(None, "ours") == ("ours" if forms.platform() == "cpu" else "xla")
    monkeypatch.setattr(forms, "platform", lambda: "gpu")
    assert forms.choose_form(None, "ours") == "xla"
    assert forms.choose_form("ours", "ours") == "ours"
    monkeypatch.undo()
    with jax.default_device(jax.devices("cpu")[0]):
        assert forms.platform() == "cpu"
