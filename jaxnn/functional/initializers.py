"""Initializers: functions `(key, shape, dtype=float32) -> array` that can also say what they would draw.

`describe(shape)` returns `(distribution, scale, offset)`, and the value drawn is `offset + scale · z`, where z is

- `"normal"`: N(0, 1),
- `"truncated_normal"`: N(0, 1) truncated to [−2, 2],
- `"uniform"`: U[−1, 1),
- `"constant"`: 0.

So whoever draws many arrays can draw all their z in one program. A plain function `(key, shape, dtype)`, such as those
of `jax.nn.initializers` or `orthogonal` here, is an initializer too; it is simply called.

A kernel's shape is (…receptive field, in, out): fan-in is the product of all axes but the last, fan-out that of all
but the one before the last. The `*_normal` initializers here are *not* truncated, as He et al. and Glorot and Bengio
wrote them; those of `jax.nn` and Keras are, with the same standard deviation:
`variance_scaling(…, "truncated_normal")`.

A scale may be a traced number, so it can be swept under `vmap` and `jit`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxnn.functional._checks import known

__all__ = [
    "Initializer",
    "constant",
    "fan_in_uniform",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Shape = Sequence[int]

_TRUNCATED_STDDEV = 0.87962566103423978  # the standard deviation of N(0, 1) truncated to [-2, 2]
_STDDEV = {"normal": 1.0, "truncated_normal": _TRUNCATED_STDDEV, "uniform": 1 / math.sqrt(3)}  # of z

_DRAW: dict[str, Callable[..., jax.Array]] = {
    "normal": jax.random.normal,
    "truncated_normal": lambda key, shape, dtype: jax.random.truncated_normal(key, -2, 2, shape, dtype),
    "uniform": lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -1, 1),
}


@dataclass(frozen=True, eq=False)
class Initializer:
    """An initializer that says what it would draw; made by the functions of this module.

    Args:
        text: how it was made, its `__name__` and `repr`.
        distribution: of z: "normal", "truncated_normal", "uniform" or "constant".
        scale: from the shape to the factor on z.
        offset: what is added.

    Example:
        >>> he_normal()
        he_normal()
        >>> he_normal().describe((8, 32))
        ('normal', 0.5, 0.0)
        >>> he_normal()(jax.random.key(0), (8, 32)).shape
        (8, 32)
    """

    text: str
    distribution: str
    scale: Callable[[Shape], ArrayLike]
    offset: ArrayLike = 0.0

    def describe(self, shape: Shape) -> tuple[str, ArrayLike, ArrayLike]:
        """Return `(distribution, scale, offset)`: what is drawn for `shape` is offset + scale · z."""
        return self.distribution, self.scale(shape), self.offset

    def __call__(self, key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Draw an array.

        Args:
            key: a JAX random key.
            shape: of the array.
            dtype: of the array; a narrow float is drawn in float32, then rounded. A constant may have any.

        Returns:
            The array.

        Raises:
            TypeError: random numbers are asked for in a dtype that is not floating-point.
        """
        distribution, scale, offset = self.describe(shape)
        if distribution == "constant":
            return jnp.full(tuple(shape), offset, dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{self}: dtype is {jnp.dtype(dtype).name}, expected a floating-point one")
        wide = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
        z = _DRAW[distribution](key, tuple(shape), wide)
        return (jnp.asarray(offset).astype(wide) + jnp.asarray(scale).astype(wide) * z).astype(dtype)

    @property
    def __name__(self) -> str:
        return self.text.partition("(")[0]

    def __repr__(self) -> str:
        return self.text


def constant(value: ArrayLike) -> Initializer:
    """Fill with one number.

    Args:
        value: the number; may be traced.

    Returns:
        The initializer.

    Raises:
        ValueError: the value is not one number.

    Example:
        >>> constant(0.5)(jax.random.key(0), (2,)).tolist()
        [0.5, 0.5]
    """
    _check_number("constant", "value", value, lambda value: True, "number")
    return Initializer(f"constant({value})", "constant", lambda shape: 0.0, value)


zeros = Initializer("zeros", "constant", lambda shape: 0.0, 0.0)
ones = Initializer("ones", "constant", lambda shape: 0.0, 1.0)


def normal(stddev: ArrayLike = 0.01, *, mean: ArrayLike = 0.0) -> Initializer:
    """Draw from N(mean, stddev²); the first argument and its default are `jax.nn.initializers.normal`'s.

    Args:
        stddev: standard deviation, ≥ 0; may be traced.
        mean: may be traced.

    Returns:
        The initializer.

    Raises:
        ValueError: the standard deviation is negative, or either is not one number.

    Example:
        >>> normal(0.02).describe((8, 32))
        ('normal', 0.02, 0.0)
    """
    _check_number("normal", "stddev", stddev, lambda stddev: stddev >= 0, "number >= 0")
    _check_number("normal", "mean", mean, lambda mean: True, "number")
    return Initializer(f"normal({stddev}, mean={mean})", "normal", lambda shape: stddev, mean)


def truncated_normal(stddev: ArrayLike = 0.01, *, mean: ArrayLike = 0.0) -> Initializer:
    """Draw from N(mean, stddev²) truncated to two standard deviations, as `jax.nn.initializers.truncated_normal` does.

    `stddev` is that of the normal before truncation; what is drawn has 0.8796 of it.

    Args:
        stddev: standard deviation before truncation, ≥ 0; may be traced.
        mean: may be traced.

    Returns:
        The initializer.

    Raises:
        ValueError: the standard deviation is negative, or either is not one number.

    Example:
        >>> bool(jnp.abs(truncated_normal(0.5)(jax.random.key(0), (1000,))).max() <= 1)
        True
    """
    _check_number("truncated_normal", "stddev", stddev, lambda stddev: stddev >= 0, "number >= 0")
    _check_number("truncated_normal", "mean", mean, lambda mean: True, "number")
    return Initializer(f"truncated_normal({stddev}, mean={mean})", "truncated_normal", lambda shape: stddev, mean)


def uniform(low: ArrayLike, high: ArrayLike) -> Initializer:
    """Draw from U[low, high).

    Both bounds are required, since libraries read one number differently: `jax.nn.initializers.uniform(a)` is
    `uniform(0, a)`, PyTorch's and Keras's symmetric bound is `uniform(-a, a)`.

    Args:
        low: lower bound; may be traced.
        high: upper bound, above `low`; may be traced.

    Returns:
        The initializer.

    Raises:
        ValueError: the bounds are not in order, or not numbers.

    Example:
        >>> uniform(1.0, 2.0).describe((3,))
        ('uniform', 0.5, 1.5)
    """
    _check_number("uniform", "low", low, lambda low: True, "number")
    _check_number("uniform", "high", high, lambda high: known(low) is None or high > known(low), f"number above {low}")
    half, middle = (high - low) / 2, (high + low) / 2  # type: ignore[operator]  # numbers, traced or not
    return Initializer(f"uniform({low}, {high})", "uniform", lambda shape: half, middle)


def variance_scaling(scale: ArrayLike, mode: str, distribution: str) -> Initializer:
    """Draw with mean 0 and variance scale/n, where n is a fan: `jax.nn.initializers.variance_scaling`.

    The truncated normal is widened so that what is drawn has this variance; the uniform's bounds are ±√(3 · scale/n).

    Args:
        scale: > 0; may be traced.
        mode: n: "fan_in", "fan_out" or "fan_avg", their mean.
        distribution: "normal", "truncated_normal" or "uniform".

    Returns:
        The initializer.

    Raises:
        ValueError: an argument is not one of these; or, when called, the shape has fewer than two axes, so it has no
            fans.

    Example:
        >>> variance_scaling(2.0, "fan_out", "normal").describe((3, 3, 8, 32))  # n = 3 · 3 · 32
        ('normal', 0.08333333333333333, 0.0)
    """
    text = f"variance_scaling({scale}, {mode!r}, {distribution!r})"
    return _variance_scaling(text, scale, mode, distribution)


def fan_in_uniform() -> Initializer:
    """Draw from U[−√(1/n), √(1/n)), n = fan-in: variance 1/(3n).

    The heuristic that Glorot and Bengio (2010) start from, their eq. 1, and the default of PyTorch's `Linear`. The
    teaching notes call it Xavier, for sigmoid and tanh; what libraries call Xavier is eq. 16, `glorot_uniform`.

    Returns:
        The initializer.

    Example:
        >>> fan_in_uniform().describe((16, 10))
        ('uniform', 0.25, 0.0)
    """
    return _variance_scaling("fan_in_uniform()", 1 / 3, "fan_in", "uniform")


def glorot_uniform() -> Initializer:
    """Draw from U[−√(6/(n_in + n_out)), √(6/(n_in + n_out))): Glorot and Bengio (2010), eq. 16. Also `xavier_uniform`.

    For sigmoid and tanh. What the teaching notes call Xavier is eq. 1, `fan_in_uniform`.

    Returns:
        The initializer.

    Example:
        >>> glorot_uniform().describe((16, 8))
        ('uniform', 0.5, 0.0)
    """
    return _variance_scaling("glorot_uniform()", 1.0, "fan_avg", "uniform")


def glorot_normal() -> Initializer:
    """Draw from N(0, 2/(n_in + n_out)), variance second and not truncated. Also `xavier_normal`.

    Returns:
        The initializer.

    Example:
        >>> glorot_normal().describe((24, 8))
        ('normal', 0.25, 0.0)
    """
    return _variance_scaling("glorot_normal()", 1.0, "fan_avg", "normal")


xavier_uniform, xavier_normal = glorot_uniform, glorot_normal


def he_normal() -> Initializer:
    """Draw from a normal with mean 0 and standard deviation √(2/n), n = fan-in: He et al. (2015). For ReLU.

    As the teaching notes have it, not truncated; `jax.nn`'s and Keras's `he_normal` are truncated to two standard
    deviations, and widened to the same variance: `variance_scaling(2.0, "fan_in", "truncated_normal")`.

    Returns:
        The initializer.

    Example:
        >>> he_normal().describe((3, 3, 2, 32))  # n = 3 · 3 · 2
        ('normal', 0.3333333333333333, 0.0)
    """
    return _variance_scaling("he_normal()", 2.0, "fan_in", "normal")


def he_uniform() -> Initializer:
    """Draw from U[−√(6/n), √(6/n)), n = fan-in: the variance 2/n of `he_normal`.

    Returns:
        The initializer.

    Example:
        >>> he_uniform().describe((24, 10))
        ('uniform', 0.5, 0.0)
    """
    return _variance_scaling("he_uniform()", 2.0, "fan_in", "uniform")


def lecun_normal() -> Initializer:
    """Draw from a normal with mean 0 and standard deviation √(1/n), n = fan-in: LeCun et al. (1998). Not truncated.

    Returns:
        The initializer.

    Example:
        >>> lecun_normal().describe((16, 10))
        ('normal', 0.25, 0.0)
    """
    return _variance_scaling("lecun_normal()", 1.0, "fan_in", "normal")


def lecun_uniform() -> Initializer:
    """Draw from U[−√(3/n), √(3/n)), n = fan-in: the variance 1/n of `lecun_normal`.

    Returns:
        The initializer.

    Example:
        >>> lecun_uniform().describe((12, 10))
        ('uniform', 0.5, 0.0)
    """
    return _variance_scaling("lecun_uniform()", 1.0, "fan_in", "uniform")


def orthogonal(scale: ArrayLike = 1.0) -> Callable[..., jax.Array]:
    """Draw a kernel whose flattening (…·in, out) has orthonormal columns, or rows if it is wide, times `scale`.

    Uniform over such matrices: Saxe et al. (2014). It has no `describe`: its entries are not independent.

    Args:
        scale: factor; may be traced.

    Returns:
        An initializer `(key, shape, dtype=float32) -> array`; it raises a ValueError for a shape with fewer than two
        axes.

    Example:
        >>> q = orthogonal()(jax.random.key(0), (5, 3))
        >>> bool(jnp.allclose(q.T @ q, jnp.eye(3), atol=1e-6))
        True
    """
    draw = jax.nn.initializers.orthogonal()

    def orthogonal(key: jax.Array, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
        _fans("orthogonal()", shape)  # for its error
        wide: Any = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32  # narrow types have no QR decomposition
        return (jnp.asarray(scale).astype(wide) * draw(key, tuple(shape), wide)).astype(dtype)

    return orthogonal


def _variance_scaling(text: str, scale: Any, mode: str, distribution: str) -> Initializer:
    _check_number(text, "scale", scale, lambda scale: scale > 0, "number > 0")
    if mode not in ("fan_in", "fan_out", "fan_avg"):
        raise ValueError(f"{text}: mode is {mode!r}, expected 'fan_in', 'fan_out' or 'fan_avg'")
    if distribution not in _STDDEV:
        raise ValueError(f"{text}: distribution is {distribution!r}, expected one of {', '.join(map(repr, _STDDEV))}")

    def factor(shape: Shape) -> ArrayLike:
        fan_in, fan_out = _fans(text, shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        variance = scale / max(n, 1)  # an array without elements has a fan of 0
        if distribution == "uniform":
            return (3 * variance) ** 0.5
        return variance**0.5 / _STDDEV[distribution]

    return Initializer(text, distribution, factor)


def _fans(text: str, shape: Shape) -> tuple[int, int]:
    """Return (fan-in, fan-out) of a kernel (…receptive field, in, out)."""
    if len(shape) < 2:
        raise ValueError(
            f"{text}: shape {tuple(shape)} has fewer than two axes, so it has no fan-in; expected a kernel "
            "(..., in, out); for a bias use zeros, constant, normal or uniform"
        )
    *field, n_in, n_out = shape
    return math.prod(field) * n_in, math.prod(field) * n_out


def _check_number(caller: str, name: str, value: Any, allowed: Callable[[Any], bool], expected: str) -> None:
    """Raise a ValueError unless `value` is one number that is allowed; a traced one is not looked at."""
    number = known(value)
    if jnp.ndim(value) or (number is not None and not allowed(number)):
        raise ValueError(f"{caller}: {name} is {value}, expected one {expected}")
