"""Winograd's convolution: equal to XLA's in value and all derivatives, as precise, and used only where it is faster."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnn.kernels import conv
from jaxnn.kernels.convolution import winograd
from jaxnn.programs.costs import forms, operations


def normal(shape, dtype="float64", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def gradients(x, kernel, **options):
    return jax.grad(lambda *v: jnp.sum(jnp.sin(conv(*v, **options))), (0, 1))(x, kernel)


@pytest.fixture
def everywhere(monkeypatch):
    """Use tiles for the smallest convolutions too, in blocks of a few examples."""
    monkeypatch.setattr(winograd, "is_faster", lambda batch, *sizes, **_: batch > 0)
    monkeypatch.setattr(winograd, "BLOCK", 128)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.slow
@given(st.data())
@settings(max_examples=12)
def test_equals_xlas_convolution_and_its_kernel_gradient(data):
    integers = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    padding = tuple((integers(-1, 3), integers(-1, 3)) for _ in range(2))
    sizes = [max(integers(1, 7), 3 - low - high) for low, high in padding]
    batch, channels, features = integers(1, 7), integers(1, 3), integers(1, 3)
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "BLOCK", data.draw(st.sampled_from([1, 50, 2**18])))
        x, kernel = normal((batch, *sizes, channels)), normal((3, 3, channels, features), seed=1)
        out_sizes = (n + low + high - 2 for n, (low, high) in zip(sizes, padding, strict=True))
        g = normal((batch, *out_sizes, features), seed=2)

        @jax.jit
        def both(x, kernel, g):
            y, back = jax.vjp(lambda kernel: conv(x, kernel, padding=padding, form="xla"), kernel)
            ours = winograd.convolve(x, kernel, padding), winograd.kernel_gradient(x, g, padding)
            return ours, (y, *back(g))

        for mine, expected in zip(*both(x, kernel, g), strict=True):
            np.testing.assert_allclose(mine, expected, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", ((0, 2), (3, -1))])
def test_every_transformation(padding, x64, everywhere):
    x, kernel = normal((5, 6, 5, 2)), normal((3, 3, 2, 3), seed=1)
    xs, kernels = jnp.stack([x, 2 * x, -x]), jnp.stack([kernel, -kernel, kernel / 2])
    vector = lambda f: lambda *args: sum(jnp.sum(jnp.cos(leaf)) for leaf in f(*args))  # noqa: E731

    def transformed(form, x, kernel, xs, kernels):
        f = lambda *v: jnp.sum(jnp.sin(conv(*v, padding=padding, form=form)))  # noqa: E731
        gradient = jax.grad(f, (0, 1))
        step = lambda kernel, x: (kernel - 0.1 * jax.grad(f, 1)(x, kernel), f(x, kernel))  # noqa: E731
        return {
            "value": f(x, kernel),
            "jvp": jax.jvp(f, (x, kernel), (x, kernel)),
            "reverse": gradient(x, kernel),
            "reverse over reverse": jax.grad(vector(gradient), (0, 1))(x, kernel),
            "forward over reverse": jax.jvp(gradient, (x, kernel), (x, kernel)),
            "reverse over forward": jax.grad(lambda *v: jax.jvp(f, v, (x, kernel))[1], (0, 1))(x, kernel),
            "third order": jax.grad(vector(jax.grad(vector(gradient), (0, 1))), (0, 1))(x, kernel),
            "vmap inputs": jax.vmap(gradient, (0, None))(xs, kernel),
            "vmap kernels": jax.vmap(gradient, (None, -1), -1)(x, jnp.moveaxis(kernels, 0, -1)),
            "vmap both": jax.vmap(gradient, (1, 0))(xs.swapaxes(0, 1), kernels),
            "scan": jax.lax.scan(step, kernel, jnp.stack([x, 2 * x])),
            "remat": jax.grad(jax.checkpoint(f), (0, 1))(x, kernel),
        }

    ours, theirs = (jax.jit(functools.partial(transformed, form))(x, kernel, xs, kernels) for form in ("canonical", "xla"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), ours, theirs)


@pytest.mark.slow
def test_shard_map_sums_the_kernels_gradient(everywhere):
    x, kernel = normal((4, 6, 5, 2), "float32"), normal((3, 3, 2, 3), "float32", 1)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(gradients, mesh=mesh, in_specs=(P("batch"), P()), out_specs=(P("batch"), P()), check_vma=True)
    for ours, expected in zip(
        jax.jit(sharded)(x, kernel), jax.jit(functools.partial(gradients, form="xla"))(x, kernel), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_is_as_precise_as_the_direct_sum():
    """The largest error over the largest number, against float64; Lavin and Gray measured less than that of the direct sum."""
    x, kernel, g = (
        normal((16, 14, 14, 64), "float32"),
        normal((3, 3, 64, 64), "float32", 1),
        normal((16, 14, 14, 64), "float32"),
    )
    padding = ((1, 1), (1, 1))

    @jax.jit
    def by_xla(x, kernel, g):
        y, back = jax.vjp(lambda *v: conv(*v, form="xla"), x, kernel)
        return y, back(g)[1]

    with jax.enable_x64(True):
        y, dkernel = by_xla(*(np.asarray(a, "float64") for a in (x, kernel, g)))
    direct, direct_dkernel = by_xla(x, kernel, g)
    ours, our_dkernel = jax.jit(lambda *v: (winograd.convolve(*v[:2], padding), winograd.kernel_gradient(v[0], v[2], padding)))(
        x, kernel, g
    )

    def error(a, b):
        a, b = np.asarray(a, "float64"), np.asarray(b)
        return np.abs(a - b).max() / np.abs(b).max()

    assert error(ours, y) < max(2 * error(direct, y), 1e-6)
    assert error(our_dkernel, dkernel) < max(2 * error(direct_dkernel, dkernel), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_sums_in_float32(dtype, everywhere):
    x, kernel = normal((3, 6, 6, 32), dtype), normal((3, 3, 32, 4), dtype, 1)

    @jax.jit
    def both(x, kernel):
        y, back = jax.vjp(conv, x, kernel)
        wide, wide_back = jax.vjp(functools.partial(conv, form="xla"), x.astype("float32"), kernel.astype("float32"))
        return (y, *back(y)), (wide, *wide_back(y.astype("float32")))

    for ours, expected in zip(*both(x, kernel), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(np.asarray(ours, "float32"), expected, rtol=float(jnp.finfo(dtype).eps), atol=1e-2)


def test_where_tiles_are_used():
    def chosen(batch, size, channels, features, dtype="float32", **options):
        shapes = (batch, size, size, channels), (3, 3, channels // options.get("groups", 1), features)
        structs = (jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
        program = jax.make_jaxpr(lambda *v: jax.vjp(functools.partial(conv, **options), *v)[1](conv(*v, **options)))(*structs)
        return [form.removeprefix("conv ") for _, form in forms(program.jaxpr) if form.startswith("conv ")]

    assert chosen(64, 8, 256, 256) == ["winograd"] * 4
    assert chosen(64, 32, 64, 64).count("winograd") == 3  # all but the kernel's gradient
    for sizes in ((1, 4, 256, 256), (64, 14, 16, 16), (16, 4, 64, 64), (64, 7, 64, 64), (1, 1024, 64, 64)):
        assert "winograd" not in chosen(*sizes)
    for other in ({"strides": 2}, {"dilation": 2}, {"groups": 2}):
        assert "winograd" not in chosen(64, 8, 256, 256, **other)
    with jax.default_matmul_precision("highest"):
        assert "winograd" not in chosen(64, 8, 256, 256)


def test_operations_are_those_of_the_direct_sum():
    x, kernel = jax.ShapeDtypeStruct((64, 8, 8, 256), "float32"), jax.ShapeDtypeStruct((3, 3, 256, 256), "float32")
    count = lambda form: sum(  # noqa: E731
        operation.flops for operation in operations(jax.make_jaxpr(functools.partial(gradients, form=form))(x, kernel).jaxpr)
    )
    assert count("canonical") == pytest.approx(count("xla"), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("position", [(2, 2), (3, 2), (0, 5)])
def test_nan_reaches_only_the_outputs_whose_window_contains_it(position, everywhere):
    x, kernel = jnp.zeros((3, 6, 7, 1)).at[1, *position].set(jnp.nan), jnp.ones((3, 3, 1, 1))
    reached = np.zeros((3, 6, 7, 1), bool)
    reached[1, max(position[0] - 1, 0) : position[0] + 2, max(position[1] - 1, 0) : position[1] + 2] = True
    np.testing.assert_array_equal(np.isnan(jax.jit(winograd.convolve, static_argnums=2)(x, kernel, ((1, 1), (1, 1)))), reached)


def test_a_program_for_another_platform_uses_xlas_convolutions():
    x, kernel = jax.ShapeDtypeStruct((64, 8, 8, 256), "float32"), jax.ShapeDtypeStruct((3, 3, 256, 256), "float32")
    program = jax.jit(functools.partial(gradients, form="canonical"))

    def loops_and_convolutions(*platforms):
        text = jax.export.export(program, platforms=platforms)(x, kernel).mlir_module()
        return text.count("stablehlo.while"), text.count("stablehlo.convolution")

    assert loops_and_convolutions("cuda") == loops_and_convolutions("tpu") == (0, 3)
    loops, convolutions = loops_and_convolutions("cpu")
    assert loops > 0 == convolutions
    assert loops_and_convolutions("cpu", "cuda") == (loops, 3)
