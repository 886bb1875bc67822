"""kernels.conv_transpose: it is the transpose of conv, equals PyTorch, and every form equals XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn.kernels import conv, conv_transpose
from jaxnn.kernels.convolution import cpu


def normal(shape, dtype="float64", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=10)
def test_is_the_transpose_of_conv_and_the_forms_agree(data):
    """For the same options, ⟨conv(y), x⟩ = ⟨y, conv_transpose(x)⟩, with the kernel's features exchanged in each group."""
    axes = data.draw(st.integers(1, 3))
    per_axis = lambda high: data.draw(st.tuples(*[st.integers(1, high)] * axes))  # noqa: E731
    sizes, taps, strides, dilation = per_axis(5), per_axis(4), per_axis(3), per_axis(2)
    strides = tuple(min(s, (k - 1) * d + 1) for s, k, d in zip(strides, taps, dilation, strict=True))
    groups, padding = data.draw(st.integers(1, 2)), data.draw(st.sampled_from(["SAME", "VALID"]))
    options = {"strides": strides, "dilation": dilation, "groups": groups, "padding": padding}
    with jax.enable_x64(True):
        x, kernel = normal((2, *sizes, 2 * groups)), normal((*taps, 2, 3 * groups), seed=1)

        def everything(form):
            f = lambda x, kernel: conv_transpose(x, kernel, form=form, **options)  # noqa: E731
            loss = lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel)))  # noqa: E731
            curvature = lambda *v: jax.jvp(jax.grad(loss, (0, 1)), v, v)  # noqa: E731
            return jax.jit(lambda *v: (f(*v), curvature(*v), jax.vmap(f)(*(jnp.stack([u, -u]) for u in v))))(x, kernel)

        ours, reference = everything("canonical"), everything("xla")
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-10)
        y = normal(ours[0].shape, seed=2)
        swapped = np.reshape(kernel, (*taps, 2, groups, 3)).swapaxes(-1, -3).reshape(*taps, 3, 2 * groups)
        forward = conv(y, swapped, **options)
        np.testing.assert_allclose(np.vdot(forward, x), np.vdot(y, ours[0]), atol=1e-10)


@pytest.mark.parametrize(
    "axes, taps, options",
    [
        (1, 4, {"stride": 2, "padding": 1}),
        (2, 3, {"stride": 2, "padding": 1, "output_padding": 1}),
        (2, 2, {"stride": 3, "dilation": 2, "groups": 2}),
        (3, 2, {"stride": 2}),
    ],
)
def test_equals_pytorch(axes, taps, options, x64):
    torch = pytest.importorskip("torch")
    groups = options.get("groups", 1)
    x, kernel = normal((2, *range(3, 3 + axes), 4)), normal((*[taps] * axes, 4 // groups, 6), seed=1)
    p = options.get("padding", 0)
    ours = conv_transpose(
        x,
        kernel,
        strides=options["stride"],
        dilation=options.get("dilation", 1),
        groups=groups,
        padding=((p, p - options.get("output_padding", 0)),) * axes,
    )
    # PyTorch's weight is (C_in, C_out / groups, *window), its groups along C_in
    weight = np.reshape(kernel, (*[taps] * axes, 4 // groups, groups, 6 // groups))
    weight = np.moveaxis(weight, (axes + 1, axes, axes + 2), (0, 1, 2)).reshape(4, 6 // groups, *[taps] * axes)
    transposed = getattr(torch.nn.functional, f"conv_transpose{axes}d")
    theirs = transposed(torch.tensor(np.asarray(x)).movedim(-1, 1), torch.tensor(np.asarray(weight)), **options)
    np.testing.assert_allclose(ours, theirs.movedim(1, -1).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("taps", "strides", "padding", "features"),
    [((2, 2), 2, "SAME", 5), ((2, 2), 2, "SAME", 1), ((4, 3), (4, 3), ((0, 1), (0, 2)), 5), ((16,), 8, "SAME", 5)]
    + [((2,), 3, "VALID", 5), ((4, 2, 2), (4, 2, 2), "SAME", 6)],
)
def test_the_subpixel_form_equals_xlas(taps, strides, padding, features, x64):
    x, kernel = normal((2, *(5, 4, 3)[: len(taps)], 4)), normal((*taps, 4, features), seed=1)
    canonical = lambda *v: conv_transpose(*v, strides=strides, padding=padding, form="canonical")  # noqa: E731
    eqn = jax.make_jaxpr(canonical)(x, kernel).eqns[-1]
    assert cpu.choose_form(x, kernel, eqn.params["geometry"]) == "subpixel"
    reference = conv_transpose(x, kernel, strides=strides, padding=padding, form="xla")
    np.testing.assert_allclose(canonical(x, kernel), reference, atol=1e-12)


@pytest.mark.parametrize(("taps", "strides"), [(3, 1), (3, 2), (4, 2)])
def test_examples_in_blocks(taps, strides, monkeypatch, x64):
    monkeypatch.setattr(cpu, "MAX_PRODUCTS", 2 * 6 * 5 * taps**2)  # blocks of two examples, so that the fifth remains
    x, kernel = normal((5, 6, 5, 7)), normal((taps, taps, 7, 1), seed=1)
    forms = ("canonical", "xla")
    ours, reference = (jax.jit(lambda *v, f=f: conv_transpose(*v, strides=strides, form=f))(x, kernel) for f in forms)
    np.testing.assert_allclose(ours, reference, atol=1e-12)


def test_compiles_without_the_zeros():
    x, kernel = normal((2, 6, 6, 8), "float32"), normal((4, 4, 8, 3), "float32")
    f = lambda x, kernel: jnp.sum(conv_transpose(x, kernel, strides=2, form="canonical") ** 2)  # noqa: E731
    assert "lhs_dilate" not in jax.jit(jax.grad(f, (0, 1))).lower(x, kernel).as_text("hlo")


def test_stride_larger_than_the_kernel():
    x = jnp.ones((1, 2, 1))
    np.testing.assert_array_equal(conv_transpose(x, jnp.ones((1, 1, 1)), strides=3).ravel(), [1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(conv_transpose(x, jnp.ones((1, 1, 1)), strides=3, padding="VALID").ravel(), [1, 0, 0, 1])


def test_bad_arguments():
    x, kernel = jnp.ones((1, 4, 2)), jnp.ones((3, 2, 5))
    with pytest.raises(ValueError, match="leaves no output; use less padding"):
        conv_transpose(x, kernel, padding=((3, 3),))
    with pytest.raises(ValueError, match="2 channels"):
        conv_transpose(x, kernel[:, :1])
    with pytest.raises(ValueError, match="form must be"):
        conv_transpose(x, kernel, form="polyphase")
