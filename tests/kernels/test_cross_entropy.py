"""kernels.linear_cross_entropy equals the plain loss in value and in all derivatives, with less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnn.functional.losses import cross_entropy
from jaxnn.kernels import linear_cross_entropy
from jaxnn.kernels.cross_entropy import _chunk_count

TOKENS, D, VOCABULARY = 8, 3, 5


def operands(dtype="float64", copies=()):
    rng = np.random.default_rng(0)
    shapes = (TOKENS, D), (D, VOCABULARY), (VOCABULARY,)
    arrays = [jnp.asarray(rng.normal(size=(*copies, *shape)), dtype) for shape in shapes]
    return *arrays, jnp.asarray(rng.integers(0, VOCABULARY, TOKENS), "int32")


def chunked(hidden, kernel, bias, labels):
    return linear_cross_entropy(hidden, kernel, labels, bias=bias, chunk=3)  # the last chunk is not full


def plain(hidden, kernel, bias, labels):
    return cross_entropy(hidden @ kernel + bias[None], labels, reduction="none")


def by_hand(hidden, kernel, bias, labels):
    z = np.float64(hidden) @ np.float64(kernel) + np.float64(bias)
    return np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), labels]


@pytest.mark.parametrize("chunk", [None, 3])
def test_equals_the_formula(chunk):
    hidden, kernel, bias, labels = operands("float32")
    losses = linear_cross_entropy(hidden.reshape(2, 4, D), kernel, labels.reshape(2, 4), bias=bias, chunk=chunk)
    assert losses.shape == (2, 4) and losses.dtype == jnp.float32
    np.testing.assert_allclose(losses.ravel(), by_hand(hidden, kernel, bias, labels), rtol=1e-5)
    without = linear_cross_entropy(hidden, kernel, labels, chunk=chunk)
    np.testing.assert_allclose(without, by_hand(hidden, kernel, 0 * bias, labels), rtol=1e-5)
    assert linear_cross_entropy(hidden[:0], kernel, labels[:0], chunk=chunk).shape == (0,)
    assert linear_cross_entropy(hidden[0], kernel, labels[0], chunk=chunk).shape == ()


def test_the_chunk_follows_the_number_of_logits():
    assert [_chunk_count(n) for n in (0, 1, 2**24, 2**24 + 1, 3 * 2**24, 4096 * 50_000)] == [1, 1, 1, 2, 4, 16]


@pytest.mark.slow
def test_every_transformation(x64):
    *arrays, labels = operands()
    *many, _ = operands(copies=(2,))

    def everything(losses):
        weights = jnp.arange(1.0, TOKENS + 1)
        f = lambda *v: jnp.sum(weights * jnp.sin(losses(*v, labels)))  # noqa: E731
        gradient = jax.grad(f, (0, 1, 2))
        vector = lambda *v: sum(jnp.sum(jnp.cos(leaf)) for leaf in gradient(*v))  # noqa: E731

        def scanned(hidden, kernel, bias):
            step = lambda kernel, h: (kernel - 0.1 * gradient(h, kernel, bias)[1], f(h, kernel, bias))  # noqa: E731
            return jax.lax.scan(step, kernel, jnp.stack([hidden, -hidden]))

        def transformed(arrays, many):
            directions = tuple(a[0] for a in many)
            return {
                "jvp": jax.jvp(f, arrays, directions),
                "gradient": gradient(*arrays),
                "reverse over reverse": jax.grad(vector, (0, 1, 2))(*arrays),
                "forward over reverse": jax.jvp(gradient, arrays, directions),
                "reverse over forward": jax.grad(lambda *v: jax.jvp(f, v, directions)[1], (0, 1, 2))(*arrays),
                "vmap inputs": jax.vmap(gradient, (0, None, None))(many[0], *arrays[1:]),
                "vmap parameters": jax.vmap(gradient, (None, 0, 0))(arrays[0], *many[1:]),
                "vmap both": jax.vmap(gradient)(*many),
                "scan": scanned(*arrays),
                "remat": jax.grad(jax.checkpoint(f), (0, 1, 2))(*arrays),
            }

        return jax.jit(transformed)(tuple(arrays), tuple(many))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), everything(chunked), everything(plain))


@pytest.mark.filterwarnings("ignore")
def test_equals_pytorch(x64):
    torch = pytest.importorskip("torch")
    *arrays, labels = operands()
    hidden, kernel, bias = there = [torch.tensor(np.array(a), requires_grad=True) for a in arrays]
    losses = torch.nn.functional.cross_entropy(hidden @ kernel + bias, torch.tensor(np.array(labels)).long(), reduction="none")
    (losses**2).sum().backward()
    gradients = jax.jit(jax.grad(lambda *v: jnp.sum(chunked(*v, labels) ** 2), (0, 1, 2)))(*arrays)
    for ours, theirs in zip(gradients, there, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-10, atol=1e-10)


def test_shard_map():
    *arrays, labels = operands("float32")
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))
    axes = P("batch"), P(), P(), P("batch")
    whole = jax.shard_map(lambda *v: jax.lax.psum(jnp.sum(chunked(*v)), "batch"), mesh=mesh, in_specs=axes, out_specs=P())
    gradients = jax.jit(jax.grad(whole, (0, 1, 2)))(*arrays, labels)
    expected = jax.jit(jax.grad(lambda *v: jnp.sum(plain(*v, labels)), (0, 1, 2)))(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients, expected)


def test_half_precision_is_summed_in_float32():
    hidden, kernel, bias, labels = operands("bfloat16")
    losses, pullback = jax.vjp(lambda *v: chunked(*v, labels), hidden, kernel, bias)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, by_hand(hidden, kernel, bias, labels), rtol=1e-5)
    assert [g.dtype for g in pullback(losses)] == [jnp.bfloat16] * 3


def test_a_class_with_a_bias_of_minus_infinity_is_ignored():
    hidden, kernel, bias, labels = operands("float32")
    labels = jnp.minimum(labels, VOCABULARY - 2)
    out = bias.at[-1].set(-jnp.inf)
    losses, gradient = jax.vjp(lambda kernel: chunked(hidden, kernel, out, labels), kernel)
    np.testing.assert_allclose(losses, by_hand(hidden, kernel[:, :-1], bias[:-1], labels), rtol=1e-5)
    assert bool((gradient(losses)[0][:, -1] == 0).all())


@pytest.mark.parametrize("wrong", [-1, VOCABULARY])
def test_a_label_that_is_not_a_class(wrong):
    hidden, kernel, bias, labels = operands("float32")
    labels = labels.at[1].set(wrong)
    with pytest.raises(ValueError, match=r"labels run from .* 5 classes"):
        chunked(hidden, kernel, bias, labels)
    f = jax.jit(lambda hidden, kernel, labels: jax.vjp(lambda *v: chunked(*v, bias, labels), hidden, kernel))
    losses, pullback = f(hidden, kernel, labels)
    assert np.isnan(losses).tolist() == [i == 1 for i in range(TOKENS)]
    to_hidden, to_kernel = pullback(jnp.ones(TOKENS))
    assert np.isnan(to_hidden).all(axis=1).tolist() == [i == 1 for i in range(TOKENS)] and np.isnan(to_kernel).all()


def test_a_narrow_label_dtype_holds_a_large_vocabulary():
    hidden, kernel = jnp.ones((2, 1)), jnp.zeros((1, 1000))
    np.testing.assert_allclose(linear_cross_entropy(hidden, kernel, jnp.array([0, 127], "int8")), np.log(1000), rtol=1e-6)


def test_the_logits_are_never_in_memory_as_a_whole():
    def temporary(chunk):
        f = lambda h, w, y: linear_cross_entropy(h, w, y, chunk=chunk).mean()  # noqa: E731
        shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((1024, 8), "float32"), ((8, 4096), "float32"), ((1024,), "int32"))]
        return jax.jit(jax.grad(f, (0, 1))).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary(1024) > 4 * 1024 * 4096  # one array of logits
    assert temporary(64) < 4 * 1024 * 4096 / 4  # two or three chunks' logits, and the kernel's gradient


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"kernel": jnp.zeros((4, 5))}, ValueError, "hidden \\[8, 3\\], kernel \\[4, 5\\]"),
        ({"kernel": jnp.zeros((3, 1))}, ValueError, "at least 2 classes"),
        ({"bias": jnp.zeros(4)}, ValueError, "bias \\[4\\]"),
        ({"labels": jnp.zeros((8, 1), int)}, ValueError, "labels \\[8, 1\\]"),
        ({"labels": jnp.zeros(8)}, TypeError, "labels must be integers, got float32"),
        ({"hidden": jnp.zeros((8, 3), "bfloat16")}, TypeError, "bfloat16 and float32"),
        ({"hidden": jnp.zeros((8, 3), int), "kernel": jnp.zeros((3, 5), int)}, TypeError, "floating-point"),
        ({"chunk": 0}, ValueError, "at least one token, got 0"),
    ],
)
def test_errors(change, error, words):
    hidden, kernel, bias, labels = operands("float32")
    arguments = {"hidden": hidden, "kernel": kernel, "labels": labels, "bias": bias} | change
    with pytest.raises(error, match=words):
        linear_cross_entropy(**arguments)
