"""One smoke test per kernel with the compiler's optimizations on: all other default tests run without them.

Each kernel and its gradient, compiled by `kernels.jit`, is compared with NumPy in float64. The reference gradients are
central differences.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import kernels
from jaxnn.kernels.convolution import winograd

OPTIMIZED = {"xla_backend_optimization_level": 3} | (
    {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else {}  # as tests/conftest.py turns them off
)
H = 1e-5  # of the central differences, whose error is about H² and 1e-16 / H


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


def check(ours, reference, arguments, tolerance=1e-4):
    """Compare a kernel with its reference, in value and in the gradient of a weighted sum of all outputs."""
    expected = reference(*arguments)
    weights = np.cos(np.arange(expected.size)).reshape(expected.shape)

    def loss(*arguments):
        y = ours(*arguments)
        return jnp.sum(y * jnp.asarray(weights, y.dtype)), y

    optimized = kernels.jit(jax.grad(loss, range(len(arguments)), has_aux=True), compiler_options=OPTIMIZED)
    gradients, y = optimized(*(jnp.asarray(a, jnp.float32) for a in arguments))
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    for i, gradient in enumerate(gradients):
        numeric = np.zeros(arguments[i].shape)
        for index in np.ndindex(numeric.shape):
            moved = [[a.copy() for a in arguments] for _ in range(2)]
            moved[0][i][index] += H
            moved[1][i][index] -= H
            above, below = (np.sum(weights * reference(*m)) for m in moved)
            numeric[index] = (above - below) / (2 * H)
        np.testing.assert_allclose(gradient, numeric, rtol=tolerance, atol=tolerance)


def sum_over_taps(x, kernel, strides=1, groups=1):
    """A convolution without padding."""
    (k1, k2), c_in, c_out = kernel.shape[:2], kernel.shape[2], kernel.shape[3] // groups
    n1, n2 = ((n - k) // strides + 1 for n, k in zip(x.shape[1:3], (k1, k2), strict=True))
    y = np.zeros((len(x), n1, n2, kernel.shape[3]))
    for i, j, g in itertools.product(range(k1), range(k2), range(groups)):
        part = x[:, i : i + (n1 - 1) * strides + 1 : strides, j : j + (n2 - 1) * strides + 1 : strides]
        features = slice(g * c_out, (g + 1) * c_out)
        y[..., features] += part[..., g * c_in : (g + 1) * c_in] @ kernel[i, j, :, features]
    return y


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("x", "kernel", "options"),
    [
        ((2, 5, 4, 5), (3, 2, 5, 6), {}),  # canonical, and products
        ((2, 6, 5, 3), (3, 3, 3, 5), {"strides": 2}),  # a sum over taps, and polyphase
        ((2, 4, 4, 10), (2, 2, 5, 10), {"groups": 2}),
        ((1, 5, 5, 16), (3, 3, 1, 16), {"groups": 16}),  # depthwise, and a sum over columns
    ],
)
def test_conv(x, kernel, options):
    ours = functools.partial(kernels.conv, padding="VALID", **options)
    check(ours, functools.partial(sum_over_taps, **options), normal(x, kernel))


def test_conv_by_winograd(monkeypatch):
    monkeypatch.setattr(winograd, "is_faster", lambda *_, **__: True)
    check(functools.partial(kernels.conv, padding="VALID"), sum_over_taps, normal((2, 5, 6, 5), (3, 3, 5, 5)))


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", [2, 3])
def test_conv_transpose(size):
    def reference(x, kernel):
        batch, n1, n2, _ = x.shape
        y = np.zeros((batch, (n1 - 1) * 2 + size, (n2 - 1) * 2 + size, kernel.shape[-1]))
        for i, j in np.ndindex(size, size):
            y[:, i : i + 2 * n1 - 1 : 2, j : j + 2 * n2 - 1 : 2] += x @ kernel[i, j]
        return y

    ours = functools.partial(kernels.conv_transpose, strides=2, padding="VALID")
    check(ours, reference, normal((2, 3, 4, 5), (size, size, 5, 6)))


def windows(x, size, stride):
    """The elements of all windows, (size², batch, *out_space, C)."""
    n1, n2 = ((n - size) // stride + 1 for n in x.shape[1:3])
    taps = np.ndindex(size, size)
    return np.stack([x[:, i : i + (n1 - 1) * stride + 1 : stride, j : j + (n2 - 1) * stride + 1 : stride] for i, j in taps])


def test_max_pool():
    check(lambda x: kernels.max_pool(x, 3, strides=2), lambda x: windows(x, 3, 2).max(0), normal((2, 7, 5, 3)))


def test_avg_pool():
    check(lambda x: kernels.avg_pool(x, 3, strides=2), lambda x: windows(x, 3, 2).mean(0), normal((2, 7, 5, 3)))


def test_dot_product_attention():
    def reference(q, k, v):
        scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        return np.einsum("bhqk,bkhd->bqhd", p / p.sum(-1, keepdims=True), v)

    shapes = [(1, 35, 2, 2)] * 3  # more than one block of queries
    check(functools.partial(kernels.dot_product_attention, is_causal=True), reference, normal(*shapes))


def test_recurrence():
    def ours(x, kernel, recurrent_kernel, bias, h, c):
        def cell(z, carry):
            i, f, g, o = jnp.split(z, 4, axis=-1)
            c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            return jax.nn.sigmoid(o) * jnp.tanh(c), c

        return kernels.recurrence(cell, x, kernel, recurrent_kernel, bias, (h, c))[1]

    def reference(x, kernel, recurrent_kernel, bias, h, c):
        outputs = []
        for t in range(x.shape[1]):
            i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent_kernel + bias, 4, axis=-1)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            outputs.append(h)
        return np.stack(outputs, 1)

    check(ours, reference, normal((2, 4, 3), (3, 8), (2, 8), (8,), (2, 2), (2, 2)))


def test_linear():
    check(kernels.linear, lambda x, kernel, bias: x @ kernel + bias, normal((2, 3, 4), (4, 5), (5,)))


def test_batch_norm():
    def reference(x, scale, bias):
        mean, var = x.mean((0, 1)), x.var((0, 1))
        return (x - mean) / np.sqrt(var + 1e-3) * scale + bias

    check(lambda *arguments: kernels.batch_norm(*arguments, 1e-3)[0], reference, normal((4, 3, 5), (5,), (5,)))


def test_dropout():
    key = jax.random.key(3)

    def threefry(key, counter):
        """Threefry-2x32 with 13 rounds in NumPy."""
        keys = [*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)]
        a, b = counter[0] + keys[0], counter[1] + keys[1]
        for i in range(13):
            bits = np.uint32((13, 15, 26, 6, 17, 29, 16, 24)[i % 8])
            a = a + b
            b = (b << bits | b >> np.uint32(32) - bits) ^ a
            if i % 4 == 3:
                n = i // 4 + 1
                a, b = a + keys[n % 3], b + keys[(n + 1) % 3] + np.uint32(n)
        return a

    def reference(x):
        counter = np.indices(x.shape, np.uint32)
        keep = round(0.7 * 2**24)
        return np.where(threefry(np.asarray(jax.random.key_data(key)), counter) >> np.uint32(8) < keep, x * 2**24 / keep, 0)

    with np.errstate(over="ignore"):
        check(lambda x: kernels.dropout(x, 0.3, key), reference, normal((4, 30)))


def test_linear_cross_entropy():
    labels = np.array([0, 4, 2, 2, 1])

    def reference(hidden, kernel, bias):
        logits = hidden @ kernel + bias
        return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]

    def ours(hidden, kernel, bias):
        return kernels.linear_cross_entropy(hidden, kernel, labels, bias=bias, chunk=2)

    check(ours, reference, normal((5, 3), (3, 6), (6,)))
