"""Each kernel compiled with XLA's optimizations, as users run it, against the same program without them.

The other tests of the default run are compiled without, see tests/conftest.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import kernels

BARE = {"xla_backend_optimization_level": 0}
OPTIMIZED = {"xla_backend_optimization_level": 3} | (
    {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else {}
)


def draw(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def cell(z, h):
    return jnp.tanh(z + h)


QKV = (draw(2, 64, 2, 8), draw(2, 64, 2, 8) / 2, draw(2, 64, 2, 8) / 3)
KERNELS = {
    "avg_pool": (lambda x: kernels.avg_pool(x, (2, 2)), draw(2, 8, 8, 3)),
    "batch_norm": (lambda x, scale, bias: kernels.batch_norm(x, scale, bias, 1e-3)[0], draw(32, 6), draw(6), draw(6)),
    "column_sum": (kernels.column_sum, draw(64, 10)),
    "conv": (kernels.conv, draw(2, 9, 9, 3), draw(3, 3, 3, 8)),
    "conv, depthwise": (lambda x, w: kernels.conv(x, w, groups=8), draw(2, 16, 16, 8), draw(3, 3, 1, 8)),
    "conv, strided": (lambda x, w: kernels.conv(x, w, strides=2), draw(2, 16, 16, 4), draw(3, 3, 4, 8)),
    "conv, many channels": (kernels.conv, draw(2, 16, 16, 64), draw(3, 3, 64, 64)),
    "conv_transpose": (lambda x, w: kernels.conv_transpose(x, w, strides=2), draw(2, 8, 8, 4), draw(3, 3, 4, 6)),
    "dot_product_attention": (lambda q, k, v: kernels.dot_product_attention(q, k, v, is_causal=True), *QKV),
    "dropout": (lambda x: kernels.dropout(x, 0.3, jax.random.key(0)), draw(64, 10)),
    "linear": (kernels.linear, draw(32, 7), draw(7, 5), draw(5)),
    "linear_cross_entropy": (
        lambda h, w: kernels.linear_cross_entropy(h, w, np.arange(64, dtype=np.int32) % 11, chunk=16),
        draw(64, 7),
        draw(7, 11),
    ),
    "max_pool": (lambda x: kernels.max_pool(x, (3, 3), strides=2), draw(2, 9, 9, 3)),
    "recurrence": (lambda *a: kernels.recurrence(cell, *a), draw(3, 6, 2), draw(2, 5), draw(5, 5), draw(5), draw(3, 5)),
    "spread": (lambda v, x: kernels.spread(v, x) * x, draw(6), draw(32, 6)),
    "sum_pool": (lambda x: kernels.sum_pool(x, (2, 2)), draw(2, 8, 8, 3)),
}


def test_no_kernel_is_left_out():
    about_programs = {"compiler_options", "definitions", "jit"}
    assert {name.split(",")[0] for name in KERNELS} == set(kernels.__all__) - about_programs


@pytest.mark.parametrize("name", KERNELS)
def test_optimizations_change_rounding_alone(name):
    function, *operands = KERNELS[name]

    def value_and_gradients(*operands):
        y, back = jax.vjp(function, *operands)
        return y, back(jax.tree.map(jnp.cos, y))

    lowered = jax.jit(value_and_gradients).lower(*operands)
    bare, optimized = (lowered.compile(compiler_options=options)(*operands) for options in (BARE, OPTIMIZED))
    for a, b in zip(jax.tree.leaves(bare), jax.tree.leaves(optimized), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, float(np.abs(a).max())))
