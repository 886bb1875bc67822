"""kernels.conv: all forms equal each other, NumPy and PyTorch, in value and in all derivatives."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnn.kernels import conv
from jaxnn.kernels.convolution import column_sums, cpu

CANONICAL_LABELS = {"b0f_0io->b0f", "b01f_01io->b01f", "b012f_012io->b012f"}

# name: (input shape, kernel shape, options); together they reach every form of a convolution
CASES = {
    "plain": ((5, 6, 5, 5), (3, 3, 5, 6), {}),
    "strided": ((5, 7, 6, 5), (3, 2, 5, 6), {"strides": (2, 3)}),
    "dilated": ((5, 7, 8, 5), (3, 2, 5, 6), {"dilation": (2, 3), "padding": "VALID"}),
    "asymmetric": ((2, 6, 6, 5), (3, 3, 5, 3), {"padding": ((2, 0), (-1, 3)), "strides": 2}),
    "larger image": ((2, 13, 16, 20), (3, 2, 20, 5), {"strides": (2, 1)}),
    "one channel": ((2, 6, 6, 1), (3, 3, 1, 3), {"strides": (1, 2)}),
    "few outputs": ((2, 6, 5, 7), (3, 2, 7, 3), {"padding": ((2, 1), (-1, 1)), "dilation": (1, 2)}),
    "few channels": ((5, 6, 5, 3), (3, 2, 3, 6), {"strides": (2, 1)}),
    "one tap": ((2, 5, 4, 3), (1, 1, 3, 4), {"strides": 2}),
    "one tap, few outputs": ((2, 5, 4, 7), (1, 1, 7, 3), {}),
    "one padded tap": ((2, 4, 4, 5), (1, 1, 5, 3), {"padding": ((1, 1), (0, 2))}),
    "groups": ((5, 5, 5, 10), (3, 3, 5, 10), {"groups": 2}),
    "many groups": ((2, 3, 3, 45), (2, 2, 5, 9), {"groups": 9, "strides": 2}),
    "groups of few": ((5, 5, 5, 6), (3, 3, 3, 4), {"groups": 2}),
    "groups, one tap": ((3, 4, 5, 10), (1, 1, 5, 6), {"groups": 2}),
    "groups, one tap, strided": ((3, 4, 5, 10), (1, 1, 5, 6), {"groups": 2, "strides": (2, 3)}),
    "depthwise": ((5, 5, 5, 3), (3, 3, 1, 6), {"groups": 3, "strides": 2}),
    "depthwise, small window": ((2, 5, 6, 16), (3, 3, 1, 16), {"groups": 16, "strides": (2, 1), "padding": ((2, 1), (-1, 0))}),
    "depthwise, wide padding": ((2, 4, 5, 3), (2, 3, 1, 3), {"groups": 3, "padding": ((5, 4), (6, -1)), "dilation": (2, 1)}),
    "depthwise, long rows": ((5, 140, 2), (3, 1, 2), {"groups": 2, "dilation": 2}),
    "small input": ((5, 2, 3, 5), (4, 3, 5, 6), {"strides": (1, 2), "dilation": (1, 2)}),
    "one dimension": ((5, 9, 5), (4, 5, 6), {"strides": 3, "dilation": 2}),
    "three dimensions": ((2, 4, 3, 5, 2), (2, 3, 2, 2, 2), {"strides": (1, 2, 2)}),
}


def normal(shape, dtype="float64", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def operands(name, dtype="float64"):
    x_shape, kernel_shape, options = CASES[name]
    return normal(x_shape, dtype), normal(kernel_shape, dtype, 1), options


def loss(form, options):
    return lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel, form=form, **options)))


def assert_close(ours, theirs, tolerance=1e-10):
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@st.composite
def convolutions(draw):
    """Shapes and options of a convolution whose kernel fits."""
    axes = draw(st.integers(1, 3))
    per_axis = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * axes))  # noqa: E731
    taps, strides, dilation = per_axis(1, 3 if axes < 3 else 2), per_axis(1, 3), per_axis(1, 2)
    spans = [(k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)]
    sizes = tuple(span + extra for span, extra in zip(spans, per_axis(0, 3), strict=True))
    pairs = [(draw(st.integers(-min(n - w, 1), 2)), draw(st.integers(0, 2))) for n, w in zip(sizes, spans, strict=True)]
    padding = draw(st.sampled_from(["SAME", "VALID", tuple(pairs)]))
    groups, c_out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    batch, c_in = draw(st.sampled_from([1, 2, 5])), draw(st.sampled_from([1, 2, 5]))
    x_shape = (batch, *sizes, groups * c_in)
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return x_shape, (*taps, c_in, groups * c_out), options


@pytest.mark.slow
@given(convolutions())
@settings(max_examples=12)
def test_forms_agree_in_value_and_derivatives(case):
    x_shape, kernel_shape, options = case
    with jax.enable_x64(True):
        x, kernel = normal(x_shape), normal(kernel_shape, seed=1)
        directions = normal(x_shape, seed=2), normal(kernel_shape, seed=3)

        def everything(form):
            gradient = jax.grad(loss(form, options), (0, 1))
            curvature = lambda x, kernel: jax.jvp(gradient, (x, kernel), directions)  # noqa: E731
            return jax.jit(lambda x, kernel: (conv(x, kernel, form=form, **options), curvature(x, kernel)))(x, kernel)

        assert_close(everything("canonical"), everything("xla"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["strided", "small input", "groups", "groups, one tap", "larger image", "depthwise", "depthwise, small window"],
)
def test_every_transformation(name, x64):
    x, kernel, options = operands(name)
    xs = jnp.asarray(np.stack([factor * np.asarray(x) for factor in (1, 2, -1)]))
    kernels = jnp.asarray(np.stack([factor * np.asarray(kernel) for factor in (1, -1, 0.5)]))
    vector = lambda f: lambda *args: sum(jnp.sum(jnp.cos(leaf)) for leaf in f(*args))  # noqa: E731

    def everything(form):
        f = loss(form, options)
        gradient = jax.grad(f, (0, 1))

        def scanned(x, kernel):
            step = lambda kernel, x: (kernel - 0.1 * jax.grad(f, 1)(x, kernel), f(x, kernel))  # noqa: E731
            return jax.lax.scan(step, kernel, jnp.stack([x, 2 * x]))

        def transformed(x, kernel, xs, kernels):
            return {
                "jvp": jax.jvp(f, (x, kernel), (x, kernel)),
                "reverse over reverse": jax.grad(vector(gradient), (0, 1))(x, kernel),
                "forward over reverse": jax.jvp(gradient, (x, kernel), (x, kernel)),
                "reverse over forward": jax.grad(lambda *v: jax.jvp(f, v, (x, kernel))[1], (0, 1))(x, kernel),
                "linear transpose": jax.linear_transpose(lambda k: conv(x, k, form=form, **options), kernel)(
                    jnp.ones_like(conv(x, kernel, form=form, **options))
                ),
                "vmap inputs": jax.vmap(gradient, (0, None))(xs, kernel),
                "vmap kernels": jax.vmap(gradient, (None, -1), -1)(x, jnp.moveaxis(kernels, 0, -1)),
                "vmap both": jax.vmap(gradient, (1, 0))(xs.swapaxes(0, 1), kernels),
                "grad of vmap": jax.grad(lambda xs, ks: jnp.sum(jax.vmap(f)(xs, ks) ** 2), (0, 1))(xs, kernels),
                "scan": scanned(x, kernel),
                "remat": jax.grad(jax.checkpoint(f), (0, 1))(x, kernel),
            }

        return jax.jit(transformed)(x, kernel, xs, kernels)

    assert_close(everything("canonical"), everything("xla"))


@pytest.mark.sample(1)
@pytest.mark.parametrize("large", [0, 2**17])
def test_kernel_gradients_of_depthwise_convolutions(large, monkeypatch, x64):
    # Long rows are split into blocks, large images are processed one by one; both must give the same sum.
    monkeypatch.setattr(column_sums, "LARGE_IMAGE", large)
    for name in ("depthwise", "depthwise, wide padding", "depthwise, long rows"):
        x, kernel, options = operands(name)
        gradients = [jax.jit(jax.grad(loss(form, options), 1))(x, kernel) for form in ("canonical", "xla")]
        assert_close(*gradients)


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", CASES)
def test_float32_and_eager(name):
    # Each output sums at most 60 products of numbers near 1: rounding is near 60 · 2⁻²⁴ ≈ 4e-6.
    x, kernel, options = operands(name, "float32")
    with jax.enable_x64(True):
        expected = conv(np.asarray(x, "float64"), np.asarray(kernel, "float64"), form="xla", **options)
    for form in (None, "canonical", "xla"):
        np.testing.assert_allclose(conv(x, kernel, form=form, **options), expected, atol=2e-5, rtol=1e-5)


def convolve_by_loops(x, kernel, strides, padding, dilation, groups):
    """The definition, in float64."""
    axes = x.ndim - 2
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:axes], dilation, strict=True)]
    out_sizes = [(n - w) // s + 1 for n, w, s in zip(x.shape[1:-1], spans, strides, strict=True)]
    y = np.zeros((x.shape[0], *out_sizes, kernel.shape[-1]))
    c_in, c_out = kernel.shape[-2], kernel.shape[-1] // groups
    for index, tap in itertools.product(np.ndindex(*out_sizes), np.ndindex(*kernel.shape[:axes])):
        position = tuple(i * s + t * d for i, s, t, d in zip(index, strides, tap, dilation, strict=True))
        for group in range(groups):
            inputs = x[(slice(None), *position, slice(group * c_in, (group + 1) * c_in))]
            features = slice(group * c_out, (group + 1) * c_out)
            y[(slice(None), *index, features)] += inputs @ kernel[(*tap, slice(None), features)]
    return y


@pytest.mark.parametrize("form", ["canonical", "xla"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("axes", "strides", "dilation"), [(1, (2,), (3,)), (2, (2, 1), (1, 2)), (3, (1, 2, 1), (1, 1, 2))])
def test_equals_the_definition(form, groups, axes, strides, dilation, x64):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *(6, 5, 4)[:axes], 4)), rng.normal(size=(*(2, 3, 2)[:axes], 4 // groups, 8))
    padding = ((2, 1), (0, 2), (1, 1))[:axes]
    ours = conv(x, kernel, strides=strides, padding=padding, dilation=dilation, groups=groups, form=form)
    np.testing.assert_allclose(ours, convolve_by_loops(x, kernel, strides, padding, dilation, groups), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_equals_pytorch(groups, x64):
    torch = pytest.importorskip("torch")
    x, kernel = normal((2, 7, 8, 4)), normal((3, 3, 4 // groups, 8), seed=1)

    @jax.jit
    def value_and_gradients(x, kernel):
        y, back = jax.vjp(lambda *v: conv(*v, strides=2, padding=((1, 1), (1, 1)), groups=groups), x, kernel)
        return y, back(-jnp.sin(y))

    y, gradients = value_and_gradients(x, kernel)
    there = torch.tensor(np.array(x)).permute(0, 3, 1, 2).requires_grad_()
    kernel_there = torch.tensor(np.array(kernel)).permute(3, 2, 0, 1).requires_grad_()
    y_there = torch.nn.functional.conv2d(there, kernel_there, stride=2, padding=1, groups=groups)
    (y_there.cos().sum()).backward()
    assert_close(y, y_there.detach().permute(0, 2, 3, 1).numpy())
    expected = there.grad.permute(0, 2, 3, 1).numpy(), kernel_there.grad.permute(2, 3, 1, 0).numpy()
    assert_close(gradients, expected)


@pytest.mark.parametrize(
    ("case", "form"),
    [("plain", "canonical"), ("few outputs", "products"), ("few channels", "taps"), ("many groups", "groups")]
    + [("depthwise", "taps"), ("depthwise, small window", "depthwise")],
)
def test_which_form_is_chosen(case, form):
    x, kernel, options = operands(case, "float32")
    (eqn,) = jax.make_jaxpr(lambda x, kernel: conv(x, kernel, form="canonical", **options))(x, kernel).eqns
    assert cpu.choose_form(x, kernel, eqn.params["geometry"]) == form


@pytest.mark.parametrize("name", ["strided", "groups", "dilated", "small input", "one dimension"])
def test_loops_contain_canonical_labels_only(name):
    x, kernel, options = operands(name, "float32")
    gradient = jax.grad(loss("canonical", options), (0, 1))

    def step(carry, _):
        dx, dkernel = gradient(*carry)
        return (carry[0] - dx, carry[1] - dkernel), None

    loop = jax.jit(lambda x, kernel: jax.lax.scan(step, (x, kernel), length=3))
    labels = set(re.findall(r"dim_labels=([^,\s]*)", loop.lower(x, kernel).compile().as_text()))
    assert labels and labels <= CANONICAL_LABELS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("size", [1, 3])
def test_half_precision_sums_in_float32(dtype, size):
    # 512 · 9 products, each exact in float32: only the result is rounded, by at most half a unit in the last place.
    x, kernel = normal((1, 4, 4, 512), dtype), normal((size, size, 512, 2), dtype, 1)
    expected = conv(np.asarray(x, "float32"), np.asarray(kernel, "float32"), form="xla")
    ours = conv(x, kernel, form="canonical")
    gradients = jax.jit(jax.grad(lambda *v: conv(*v, form="canonical").astype("float32").sum(), (0, 1)))(x, kernel)
    assert ours.dtype == dtype and all(g.dtype == dtype for g in gradients)
    np.testing.assert_allclose(np.asarray(ours, "float32"), expected, rtol=float(jnp.finfo(dtype).eps), atol=1e-3)


def test_integers_are_exact():
    x, kernel = jnp.arange(18).reshape(1, 3, 3, 2), jnp.arange(16).reshape(2, 2, 2, 2)
    expected = convolve_by_loops(np.asarray(x), np.asarray(kernel), (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    np.testing.assert_array_equal(conv(x, kernel, padding="VALID"), expected)


@pytest.mark.parametrize("name", ["plain", "one channel", "one tap", "groups", "depthwise"])
def test_an_empty_batch_gives_no_outputs_and_zero_gradients(name):
    x, kernel, options = operands(name, "float32")
    dx, dkernel = jax.jit(jax.grad(loss("canonical", options), (0, 1)))(x[:0], kernel)
    assert dx.shape == x[:0].shape
    np.testing.assert_array_equal(dkernel, np.zeros(kernel.shape))


def test_nan_reaches_only_the_outputs_whose_window_contains_it():
    x = jnp.zeros((1, 6, 2)).at[0, 2, 1].set(jnp.nan)
    y = conv(x, jnp.ones((3, 2, 1)), form="canonical").ravel()
    np.testing.assert_array_equal(jnp.isnan(y), [False, True, True, True, False, False])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["plain", "larger image", "groups", "groups, one tap", "few outputs", "depthwise, small window"]
)
def test_abstract_evaluation_and_export_with_a_symbolic_batch(name):
    x, kernel, options = operands(name, "float32")
    gradient = jax.jit(jax.grad(loss("canonical", options), (0, 1)))
    curvature = jax.jit(jax.grad(lambda *v: sum(jnp.sum(jnp.cos(g)) for g in gradient(*v)), (0, 1)))
    assert jax.eval_shape(gradient, x, kernel)[0].shape == x.shape
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(gradient)(jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), kernel)
    assert_close(exported.call(x, kernel), gradient(x, kernel), 1e-5)
    jax.export.export(curvature)(jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), kernel)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["strided", "larger image", "one channel", "one tap", "groups", "depthwise"])
def test_shard_map_checks_varying_axes(name):
    # The input varies over the mesh and the kernel does not, so the kernel's gradient must be summed over it.
    x, kernel, options = operands(name, "float32")
    gradient = jax.jit(jax.grad(loss("canonical", options), (0, 1)))
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))
    specs = P("batch"), P()
    sharded = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=True))
    assert_close(sharded(x, kernel), gradient(x, kernel), 1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": (6, 6, 4)}, ValueError, r"needs a batch axis, x\[None\]"),
        ({"kernel": (3, 4, 8)}, ValueError, "same one to three spatial axes"),
        ({"x": (2, 6, 6, 5)}, ValueError, "5 channels .* takes 4 .* must be 5"),
        ({"groups": 3}, ValueError, "groups=3 must divide the 4 input and 8 output channels"),
        ({"groups": 2}, ValueError, "takes 4 in each of 2 group.* must be 2"),
        ({"groups": 0}, ValueError, "groups must be at least 1"),
        ({"kernel": (7, 3, 4, 8), "padding": "VALID"}, ValueError, "does not fit .* use a smaller kernel, or pad more"),
        ({"dilation": 4, "padding": "VALID"}, ValueError, r"span \(9, 9\)"),
        ({"padding": "same"}, ValueError, '"SAME", "VALID" or 2 .* pairs'),
        ({"padding": 1}, ValueError, '"SAME", "VALID" or 2 .* pairs'),
        ({"padding": ((1, 1),)}, ValueError, '"SAME", "VALID" or 2 .* pairs'),
        ({"strides": 0}, ValueError, "strides must be at least 1"),
        ({"strides": (1, 2, 3)}, ValueError, "strides has 3 values"),
        ({"strides": 1.5}, TypeError, "strides must be an integer"),
        ({"dtype": "float16"}, TypeError, "one dtype, got .* cast one"),
        ({"kernel": (0, 3, 4, 8)}, ValueError, "only the batch may be empty"),
        ({"x": (2, 0, 6, 4)}, ValueError, "only the batch may be empty"),
        ({"form": "fast"}, ValueError, 'form must be None, "xla" or "canonical"'),
    ],
)
def test_errors(change, error, message):
    x, kernel = jnp.ones(change.pop("x", (2, 6, 6, 4))), jnp.ones(change.pop("kernel", (3, 3, 4, 8)))
    with pytest.raises(error, match=message):
        conv(x, kernel.astype(change.pop("dtype", "float32")), **change)
