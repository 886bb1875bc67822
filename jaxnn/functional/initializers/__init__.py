"""Initializers: functions `(key, shape, dtype=float32) -> array` that can also describe what they draw.

`describe(shape)` returns `(distribution, scale, offset)`; the drawn value is `offset + scale · z`, where z is

- `"normal"`: N(0, 1),
- `"truncated_normal"`: N(0, 1) truncated to [−2, 2],
- `"uniform"`: U[−1, 1),
- `"constant"`: 0.

This allows drawing z for many arrays in one program. A plain function `(key, shape, dtype)`, such as those of
`jax.nn.initializers` and the matrix initializers here (`orthogonal`, `identity`, …), is an initializer too; it is called.

A kernel's shape is (…receptive field, in, out): fan-in is the product of all axes but the last, fan-out that of all but the
second to last. The `*_normal` initializers are *not* truncated, as in He et al. and Glorot and Bengio; those of `jax.nn` and
Keras are, with the same standard deviation: `variance_scaling(…, "truncated_normal")`.

Two different initializers are called Xavier: `xavier_uniform` is `glorot_uniform`, U(±√(6/(n_in + n_out))), as in all common
libraries; the form U(±√(1/n)) that the teaching notes call Xavier is `fan_in_uniform`.

A scale may be a traced number, so it can be varied under `vmap` and `jit`.
"""

from jaxnn.core.foreign_names import no_attribute
from jaxnn.functional.initializers._initializer import Initializer
from jaxnn.functional.initializers.matrices import delta_orthogonal, identity, orthogonal, sparse
from jaxnn.functional.initializers.plain import constant, normal, ones, truncated_normal, uniform, zeros
from jaxnn.functional.initializers.scaled import (
    fan_in_uniform,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)

__all__ = [
    "Initializer",
    "constant",
    "delta_orthogonal",
    "fan_in_uniform",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "sparse",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]


def __getattr__(name: str):
    raise no_attribute("nn.initializers", name, __all__)
