"""kernels.max_pool and avg_pool equal the definitions, PyTorch and XLA in value and in all derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnn.kernels import avg_pool, max_pool

# name: (shape, kernel_size, strides, padding)
CASES = {
    "cells": ((2, 6, 4, 3), (2, 2), None, "VALID"),
    "cells with a rest": ((2, 7, 5, 3), (3, 2), None, "VALID"),
    "overlapping": ((2, 7, 8, 3), (3, 3), (2, 2), ((1, 1), (1, 0))),
    "stride one": ((2, 5, 4, 2), (3, 2), (1, 1), "SAME"),
    "gaps": ((2, 8, 9, 2), (2, 1), (3, 2), "VALID"),
    "edges wider than the input": ((2, 1, 2, 3), (4, 3), (3, 1), ((3, 2), (2, 2))),
    "one dimension": ((2, 9, 3), (4,), (3,), "SAME"),
    "three dimensions": ((2, 4, 3, 3, 2), (2, 2, 1), (2, 1, 2), "SAME"),
}


def normal(shape, dtype="float64", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def windows(x, window, strides, padding, fill):
    """The elements of all windows, (batch, *out_space, C, taps): the definition."""
    axes = x.ndim - 2
    strides = strides or window
    if padding == "SAME":
        totals = [max((-(-n // s) - 1) * s + w - n, 0) for n, w, s in zip(x.shape[1:-1], window, strides, strict=True)]
        padding = [(t // 2, t - t // 2) for t in totals]
    elif padding == "VALID":
        padding = [(0, 0)] * axes
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)], constant_values=fill)
    out_sizes = [(n - w) // s + 1 for n, w, s in zip(x.shape[1:-1], window, strides, strict=True)]

    def elements(tap):
        return x[(slice(None), *(slice(t, t + (n - 1) * s + 1, s) for t, n, s in zip(tap, out_sizes, strides, strict=True)))]

    return jnp.stack([elements(tap) for tap in np.ndindex(*window)], -1)


def assert_close(ours, theirs, tolerance=1e-12):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@st.composite
def poolings(draw):
    axes = draw(st.integers(1, 3))
    per_axis = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * axes))  # noqa: E731
    window, strides = per_axis(1, 3 if axes < 3 else 2), per_axis(1, 3)
    sizes = tuple(w + extra for w, extra in zip(window, per_axis(0, 3), strict=True))
    pairs = tuple((draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window)
    padding = draw(st.sampled_from(["SAME", "VALID", pairs]))
    return (2, *sizes, 2), window, draw(st.sampled_from([None, strides])), padding


@pytest.mark.slow
@given(poolings(), st.integers(0, 1000))
@settings(max_examples=10)
def test_max_pool_forms_agree_with_ties(case, seed):
    shape, window, strides, padding = case
    x = jnp.asarray(np.random.default_rng(seed).integers(-1, 2, size=shape), jnp.float32)  # three values: many ties

    @jax.jit
    def everything(x):
        results = []
        for form in ("taps", "xla"):
            y, pullback = jax.vjp(lambda x: max_pool(x, window, strides=strides, padding=padding, form=form), x)
            weights = jnp.arange(y.size, dtype=x.dtype).reshape(y.shape)
            results.append((y, pullback(weights)))
        return results

    ours, theirs = everything(x)
    assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cells", "overlapping", "gaps", "edges wider than the input", "three dimensions"])
def test_max_pool_equals_the_definition_in_every_derivative(name, x64):
    shape, window, strides, padding = CASES[name]
    x, direction = normal(shape), normal(shape, seed=1)
    ours = lambda x: max_pool(x, window, strides=strides, padding=padding, form="taps")  # noqa: E731
    definition = lambda x: windows(x, window, strides, padding, -jnp.inf).max(-1)  # noqa: E731

    def everything(x, pool):
        gradient = jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))
        return {
            "value": pool(x),
            "jvp": jax.jvp(pool, (x,), (direction,)),
            "gradient": gradient(x),
            "forward over reverse": jax.jvp(gradient, (x,), (direction,)),
            "reverse over reverse": jax.grad(lambda x: jnp.sum(gradient(x) * direction))(x),
            "vmap": jax.vmap(gradient, 1, 2)(jnp.stack([x, direction], 1)),
            "scan": jax.lax.scan(lambda x, _: (x - 0.1 * gradient(x), None), x, length=2)[0],
            "remat": jax.grad(jax.checkpoint(lambda x: jnp.sum(pool(x) ** 2)))(x),
        }

    compute = jax.jit(everything, static_argnums=1)
    assert_close(compute(x, ours), compute(x, definition))


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CASES)
def test_avg_pool_equals_the_definition(name, x64):
    shape, window, strides, padding = CASES[name]
    x = normal(shape)
    ours = lambda x: avg_pool(x, window, strides=strides, padding=padding)  # noqa: E731
    definition = lambda x: jnp.nanmean(windows(x, window, strides, padding, jnp.nan), -1)  # noqa: E731
    compute = jax.jit(lambda x, pool: (pool(x), jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)), static_argnums=1)
    assert_close(compute(x, ours), compute(x, definition))


@pytest.mark.parametrize("form", ["taps", "xla"])
def test_the_first_of_equal_elements_wins(form):
    x = jnp.array([[0.0, 2.0, 2.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).reshape(1, 3, 3, 1)
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, 2, strides=1, form=form).sum()))(x)
    np.testing.assert_array_equal(np.reshape(gradient, (3, 3)), [[0, 2, 0], [1, 1, 0], [0, 0, 0]])


def test_nan_is_the_maximum_and_receives_the_gradient():
    x = jnp.array([1.0, jnp.nan, 2.0, 0.0, 1.0, 3.0]).reshape(1, 6, 1)
    y, pullback = jax.vjp(lambda x: max_pool(x, 3, form="taps"), x)
    np.testing.assert_array_equal(y.ravel(), [np.nan, 3.0])
    np.testing.assert_array_equal(pullback(jnp.ones_like(y))[0].ravel(), [0, 1, 0, 0, 0, 1])


def test_a_window_without_a_finite_number_gives_its_gradient_to_its_first_element():
    x = jnp.full((1, 3, 1), -jnp.inf).at[0, 2].set(jnp.nan)
    _, pullback = jax.vjp(lambda x: max_pool(x, 2, padding=((1, 0),), form="taps"), x)
    np.testing.assert_array_equal(pullback(jnp.ones((1, 2, 1)))[0].ravel(), [1, 0, 1])


@pytest.mark.slow
def test_the_winner_is_found_among_many_taps():
    x = jnp.zeros((1, 600, 1)).at[0, [290, 300]].set(1.0)
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, 300, form="taps").sum()))(x)
    np.testing.assert_array_equal(np.flatnonzero(gradient), [290, 300])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "uint8", "int32"])
def test_max_pool_keeps_the_dtype_and_padding_never_wins(dtype):
    low = 0 if dtype == "uint8" else -100
    x = jnp.asarray(np.random.default_rng(0).integers(low, low + 100, size=(2, 5, 5, 3)), dtype)
    wide = jax.jit(lambda x: windows(x.astype("float32"), (3, 3), (2, 2), "SAME", -np.inf).max(-1))(x)
    for form in ("taps", "xla"):
        y = jax.jit(functools.partial(max_pool, kernel_size=3, strides=2, padding="SAME", form=form))(x)
        assert y.dtype == dtype
        np.testing.assert_array_equal(np.asarray(y, "float32"), wide)


def test_avg_pool_sums_half_precision_in_float32():
    x = jnp.full((1, 4096, 1), 1.0, jnp.float16)  # a float16 sum would stop at 2048
    assert avg_pool(x, 4096).item() == 1.0
    assert jax.grad(lambda x: avg_pool(x, 2).astype("float32").sum())(x).dtype == jnp.float16


def test_equals_pytorch(x64):
    torch = pytest.importorskip("torch")
    x = jnp.asarray(np.random.default_rng(0).integers(-2, 3, size=(2, 9, 8, 3)), jnp.float64)  # ties
    pooled = {
        "max": (max_pool, torch.nn.functional.max_pool2d, {}),
        "avg": (avg_pool, torch.nn.functional.avg_pool2d, {"count_include_pad": False}),
    }
    for ours, theirs, options in pooled.values():
        pool = functools.partial(ours, kernel_size=3, strides=2, padding=((1, 1), (1, 1)))
        y = jax.jit(pool)(x)
        (gradient,) = jax.jit(lambda x, g, pool=pool: jax.vjp(pool, x)[1](g))(x, 2 * y)
        there = torch.tensor(np.array(x)).permute(0, 3, 1, 2).contiguous().requires_grad_()
        y_there = theirs(there, 3, 2, 1, **options)
        y_there.square().sum().backward()
        assert_close(y, y_there.detach().permute(0, 2, 3, 1).numpy())
        assert_close(gradient, there.grad.permute(0, 2, 3, 1).numpy())


def test_the_gradient_has_no_select_and_scatter():
    x = normal((2, 9, 9, 3), "float32")
    step = lambda x, _: (x - jax.grad(lambda x: max_pool(x, 3, strides=2, form="taps").sum())(x), None)  # noqa: E731
    loop = jax.jit(lambda x: jax.lax.scan(step, x, length=3)[0]).lower(x).compile().as_text()
    assert "select-and-scatter" not in loop and "scatter(" not in loop


def test_a_window_too_large_to_unroll_uses_xlas_form():
    x = normal((1, 40, 40, 2), "float32")
    program = str(jax.make_jaxpr(lambda x: max_pool(x, 40))(x))
    assert "reduce_window" in program and program.count("max") < 10
    np.testing.assert_array_equal(max_pool(x, 40)[:, 0, 0], x.max((1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "window", "strides", "padding", "dilation"),
    [
        ((2, 40, 2), (70,), (3,), ((69, 60),), (2,)),  # some windows contain padding only
        ((1, 25, 23, 2), (9, 8), (4, 1), ((5, 3), (0, 7)), (2, 3)),
        ((1, 3, 25, 6, 1), (3, 9, 3), (1, 4, 2), ((1, 1), (2, 6), (0, 1)), (1, 2, 1)),
    ],
)
def test_large_dilated_windows_are_pooled_one_axis_at_a_time(shape, window, strides, padding, dilation):
    x = jnp.asarray(np.random.default_rng(0).integers(-1, 2, size=shape), jnp.float32)  # many ties
    options = {"strides": strides, "padding": padding, "dilation": dilation}

    @jax.jit
    def everything(x):
        results = []
        for form in (None, "taps"):
            y, pullback = jax.vjp(lambda x: max_pool(x, window, form=form, **options), x)
            results.append((y, pullback(jnp.arange(y.size, dtype=x.dtype).reshape(y.shape))))
        return results

    ours, theirs = everything(x)
    assert_close(ours, theirs)
    assert str(jax.make_jaxpr(lambda x: max_pool(x, window, **options))(x)).count("max") < 10


def test_an_empty_batch_shard_map_and_export():
    pool = lambda x: max_pool(x, 3, strides=2, padding="SAME", form="taps")  # noqa: E731
    gradient = jax.jit(jax.grad(lambda x: (pool(x) ** 2).sum() + avg_pool(x, 2).sum()))
    x = normal((2, 5, 5, 2), "float32")
    assert gradient(x[:0]).shape == (0, 5, 5, 2)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(gradient, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"), check_vma=True)
    assert_close(jax.jit(sharded)(x), gradient(x), 1e-6)
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(gradient)(jax.ShapeDtypeStruct((batch, 5, 5, 2), x.dtype))
    assert_close(exported.call(x), gradient(x), 1e-6)


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize(
    ("shape", "window", "options", "message"),
    [
        ((6, 4), 2, {}, r"needs a batch axis, x\[None\]"),
        ((2, 6, 6, 4), 7, {}, "does not fit"),
        ((2, 0, 6, 4), 2, {"padding": "SAME"}, "does not fit"),
        ((2, 6, 6, 4), 0, {}, "kernel_size must be at least 1"),
        ((2, 6, 6, 4), (2, 2, 2), {}, "kernel_size has 3 values"),
        ((2, 6, 6, 4), 2, {"strides": 0}, "strides must be at least 1"),
        ((2, 6, 6, 4), 2, {"padding": ((2, 0), (0, 0))}, "smaller than the window"),
        ((2, 6, 6, 4), 2, {"padding": ((-1, 0), (0, 0))}, "must not be negative"),
        ((2, 6, 6, 4), 2, {"padding": "same"}, '"SAME", "VALID"'),
    ],
)
def test_errors(pool, shape, window, options, message):
    with pytest.raises(ValueError, match=message):
        pool(jnp.ones(shape), window, **options)


def test_dtypes_without_an_order_or_a_mean_are_errors():
    with pytest.raises(TypeError, match=r"got complex64; cast with \.astype"):
        max_pool(jnp.ones((1, 2, 1), "complex64"), 2)
    with pytest.raises(TypeError, match=r"got bool; cast with \.astype"):
        max_pool(jnp.ones((1, 2, 1), "bool"), 2)
    with pytest.raises(TypeError, match=r"got int32; cast with \.astype"):
        avg_pool(jnp.ones((1, 2, 1), "int32"), 2)
    with pytest.raises(ValueError, match='form must be None, "xla" or "taps"'):
        max_pool(jnp.ones((1, 2, 1)), 2, form="canonical")


def test_windows_with_dilation_have_one_form():
    x = normal((1, 7, 1), "float32")
    np.testing.assert_array_equal(max_pool(x, 2, dilation=3), max_pool(x, 2, dilation=3, form="taps"))
    with pytest.raises(ValueError, match="dilation"):
        max_pool(x, 2, dilation=3, form="xla")
