"""Initializers whose distribution does not depend on the shape."""

from __future__ import annotations

from jax.typing import ArrayLike

from jaxnn.functional._checks import check_number, known
from jaxnn.functional._documented import documented
from jaxnn.functional.initializers._initializer import Initializer


def constant(value: ArrayLike) -> Initializer:
    """Fill with a constant: w = value, as `jax.nn.initializers.constant`.

    Args:
        value: A scalar; may be traced.

    Returns:
        The initializer.

    Raises:
        ValueError: If the value is not a scalar.

    Example:
        >>> import jax
        >>> constant(0.5)(jax.random.key(0), (2,)).tolist()
        [0.5, 0.5]
    """
    check_number("constant", "value", value, lambda value: True, "number")
    return Initializer(f"constant({value})", "constant", lambda shape: 0.0, value)


zeros = documented(
    Initializer("zeros", "constant", lambda shape: 0.0, 0.0),
    """Fill with zeros: w = 0, as `jax.nn.initializers.zeros`. It is itself an initializer: pass `zeros`, not `zeros()`.

    Example:
        >>> import jax, jaxnn as nn
        >>> nn.initializers.zeros(jax.random.key(0), (2,)).tolist()
        [0.0, 0.0]
    """,
)
ones = documented(
    Initializer("ones", "constant", lambda shape: 0.0, 1.0),
    """Fill with ones: w = 1, as `jax.nn.initializers.ones`. It is itself an initializer: pass `ones`, not `ones()`.

    Example:
        >>> import jax, jaxnn as nn
        >>> nn.initializers.ones(jax.random.key(0), (2,)).tolist()
        [1.0, 1.0]
    """,
)


def normal(stddev: ArrayLike = 0.01, *, mean: ArrayLike = 0.0) -> Initializer:
    """Draw from N(mean, stddev²); the first argument and its default are those of `jax.nn.initializers.normal`.

    Args:
        stddev: Standard deviation, ≥ 0; may be traced.
        mean: Mean; may be traced.

    Returns:
        The initializer.

    Raises:
        ValueError: If the standard deviation is negative, or either is not a scalar.

    Example:
        >>> normal(0.02).describe((8, 32))
        ('normal', 0.02, 0.0)
    """
    check_number("normal", "stddev", stddev, lambda stddev: stddev >= 0, "number >= 0")
    check_number("normal", "mean", mean, lambda mean: True, "number")
    return Initializer(f"normal({stddev}, mean={mean})", "normal", lambda shape: stddev, mean)


def truncated_normal(stddev: ArrayLike = 0.01, *, mean: ArrayLike = 0.0) -> Initializer:
    """Draw from N(mean, stddev²) truncated to two standard deviations, as `jax.nn.initializers.truncated_normal`.

    `stddev` is that of the normal before truncation; that of the drawn numbers is 0.8796 times as large.

    Args:
        stddev: Standard deviation before truncation, ≥ 0; may be traced.
        mean: Mean; may be traced.

    Returns:
        The initializer.

    Raises:
        ValueError: If the standard deviation is negative, or either is not a scalar.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> bool(jnp.abs(truncated_normal(0.5)(jax.random.key(0), (1000,))).max() <= 1)
        True
    """
    check_number("truncated_normal", "stddev", stddev, lambda stddev: stddev >= 0, "number >= 0")
    check_number("truncated_normal", "mean", mean, lambda mean: True, "number")
    return Initializer(f"truncated_normal({stddev}, mean={mean})", "truncated_normal", lambda shape: stddev, mean)


def uniform(low: ArrayLike, high: ArrayLike) -> Initializer:
    """Draw from U[low, high).

    Both bounds are required, since libraries interpret a single number differently: `jax.nn.initializers.uniform(a)` is
    `uniform(0, a)`, and the symmetric bound a of PyTorch and Keras is `uniform(-a, a)`.

    Args:
        low: Lower bound; may be traced.
        high: Upper bound, above `low`; may be traced.

    Returns:
        The initializer.

    Raises:
        ValueError: If `high` is not above `low`, or either is not a scalar.

    Example:
        >>> uniform(1.0, 2.0).describe((3,))
        ('uniform', 0.5, 1.5)
    """
    check_number("uniform", "low", low, lambda low: True, "number")
    check_number("uniform", "high", high, lambda high: known(low) is None or high > known(low), f"number above {low}")
    half, middle = (high - low) / 2, (high + low) / 2  # type: ignore[operator]  # numbers, traced or not
    return Initializer(f"uniform({low}, {high})", "uniform", lambda shape: half, middle)
