"""Sums of second and first derivatives of a function in its input, as equations of physics have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn._jax import bind, is_literal, subprograms
from jaxnn.autodiff.estimates import Estimate, estimate_of
from jaxnn.core.checks import check_key, function, whole
from jaxnn.core.text import array_text
from jaxnn.programs.equations import CALLS
from jaxnn.programs.points import RULES

# Primitives that are linear in all operands together, so that their second derivative is 0.
LINEAR = {
    *("add", "sub", "neg", "convert_element_type", "copy", "reduce_sum", "cumsum", "concatenate", "add_any"),
    *("broadcast_in_dim", "expand_dims", "reshape", "rev", "slice", "split", "squeeze", "transpose", "real", "imag"),
}


class _Stream(NamedTuple):
    """A value with its derivatives in the n entries of the input, (n, *shape), and its Laplacian."""

    value: jax.Array
    gradient: jax.Array
    laplacian: jax.Array


def laplacian(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The Laplacian of a function at one point, Δf(x) = Σᵢ ∂²f/∂xᵢ².

    Value, gradient and Laplacian are carried forward through the program of f together: Δ(g ∘ h) = g′ Δh + Σᵢ g″[∂ᵢh, ∂ᵢh]
    (Li et al. 2024, "A computational framework for neural network-based variational Monte Carlo with Forward Laplacian"). The
    trace of `jax.hessian` carries n derivatives forward and back; here it is n forward, and the Laplacian is one array.

    Args:
        f: `f(x) -> y`, a function of one point; `jax.vmap` maps over points.
        x: The point, an array of any shape; all its entries count.

    Returns:
        An array of y's shape.

    Raises:
        TypeError: If `f` is not a function, or x and y are not arrays of real numbers.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.laplacian(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0])).item()  # 6 x₁ + 6 x₂
        18.0
    """
    x = _point("laplacian", f, x)
    closed = jax.make_jaxpr(f)(x)
    if len(closed.out_avals) != 1 or not jnp.issubdtype(closed.out_avals[0].dtype, jnp.floating):
        raise TypeError(f"laplacian takes f(x) -> one array of real numbers, and f returned {array_text(closed.out_avals)}")
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    [y] = _run(closed.jaxpr, closed.consts, [_Stream(x, basis, jnp.zeros_like(x))])
    return y.laplacian if isinstance(y, _Stream) else jnp.zeros(closed.out_avals[0].shape, closed.out_avals[0].dtype)


def divergence(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The divergence of a vector field at one point, ∇·f(x) = Σᵢ ∂fᵢ/∂xᵢ, the trace of its Jacobian, by forward mode.

    Only one entry of each of the n derivatives is kept, so that no Jacobian is stored (Baydin et al. 2018, arXiv:1502.05767).

    Args:
        f: `f(x) -> y`, with y of x's shape; `jax.vmap` maps over points.
        x: The point, an array of any shape.

    Returns:
        A scalar.

    Raises:
        TypeError: If `f` is not a function, or x is not an array of real numbers.
        ValueError: If y has another shape than x.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.divergence(lambda x: x**2, jnp.array([1.0, 2.0])).item()
        6.0
    """
    slope, x = _slope("divergence", f, x)

    def one(i: jax.Array) -> jax.Array:
        unit = jnp.zeros(x.size, x.dtype).at[i].set(1).reshape(x.shape)
        return slope(unit).reshape(-1)[i]

    return jax.vmap(one)(jnp.arange(x.size)).sum()


def jacobian_trace(f: Callable[[jax.Array], jax.Array], x: jax.Array, key: jax.Array, *, samples: int = 1) -> Estimate:
    """An estimate of the trace of the Jacobian at one point, tr ∂f/∂x = E vᵀ (∂f/∂x) v over vectors of random signs.

    It takes one derivative per sample, whatever the size of x (Hutchinson 1990; for densities of continuous flows, Grathwohl
    et al. 2019, arXiv:1810.01367).

    Args:
        f: `f(x) -> y`, with y of x's shape; `jax.vmap` maps over points.
        x: The point, an array of any shape.
        key: A random key.
        samples: The number of random vectors.

    Returns:
        An `Estimate`: the trace, and its standard error, NaN for one sample.

    Raises:
        TypeError: If `f` is not a function, x is not an array of real numbers, or `samples` not a whole number.
        ValueError: If y has another shape than x, or `samples` is less than 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.jacobian_trace(lambda x: x**2, jnp.array([1.0, 2.0]), jax.random.key(0)).value.item()
        6.0
    """
    slope, x = _slope("jacobian_trace", f, x)

    def one(key: jax.Array) -> jax.Array:
        v = jax.random.rademacher(key, x.shape, x.dtype)
        return jnp.sum(v * slope(v))

    return estimate_of(jax.vmap(one)(jax.random.split(check_key(key), whole("jacobian_trace", "samples", samples))))


def _point(caller: str, f: Any, x: Any) -> jax.Array:
    function(caller, "f", f, "f(x) -> y")
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"{caller} takes x as an array of real numbers, got {array_text(x)}")
    return jnp.asarray(x)


def _slope(caller: str, f: Any, x: Any) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    x = _point(caller, f, x)
    y, slope = jax.linearize(f, x)
    if jnp.shape(y) != x.shape:
        raise ValueError(f"{caller} takes f(x) -> y of x's shape {list(x.shape)}, and f returned {array_text(y)}")
    return slope, x


def _run(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))
    for eqn in jaxpr.eqns:
        inputs = [v.val if is_literal(v) else env[v] for v in eqn.invars]
        programs = subprograms(eqn)
        if not any(isinstance(value, _Stream) for value in inputs):
            outputs = list(bind(eqn, inputs))
        elif len(programs) == 1 and eqn.primitive.name in CALLS - RULES:
            outputs = _run(*programs[0], inputs)
        else:
            outputs = _equation(eqn, inputs)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [v.val if is_literal(v) else env[v] for v in jaxpr.outvars]


def _equation(eqn: Any, inputs: list[Any]) -> list[Any]:
    """The chain rule for one equation, by nested forward mode where it is not linear."""
    streams = [value for value in inputs if isinstance(value, _Stream)]
    real = [jnp.issubdtype(v.aval.dtype, jnp.floating) for v in eqn.outvars]

    def outputs(*values: jax.Array) -> list[jax.Array]:
        given = iter(values)
        return list(bind(eqn, [next(given) if isinstance(value, _Stream) else value for value in inputs]))

    def floating(*values: jax.Array) -> list[jax.Array]:
        return [y for y, r in zip(outputs(*values), real, strict=True) if r]

    at = tuple(stream.value for stream in streams)
    every = outputs(*at)
    if not any(real):
        return every

    def first(*v: jax.Array) -> list[jax.Array]:
        return jax.jvp(floating, at, v)[1]

    def second(*v: jax.Array) -> list[jax.Array]:
        return jax.jvp(lambda *x: jax.jvp(floating, x, v)[1], at, v)[1]

    gradients = jax.vmap(first)(*(stream.gradient for stream in streams))
    laplacians = first(*(stream.laplacian for stream in streams))
    if not _is_linear(eqn, inputs):
        curved = jax.vmap(second)(*(stream.gradient for stream in streams))
        laplacians = [a + b.sum(0) for a, b in zip(laplacians, curved, strict=True)]
    made = iter(zip(gradients, laplacians, strict=True))
    return [_Stream(y, *next(made)) if r else y for y, r in zip(every, real, strict=True)]


def _is_linear(eqn: Any, inputs: list[Any]) -> bool:
    """Whether an equation is linear in the operands that depend on the input."""
    name, n = eqn.primitive.name, sum(isinstance(value, _Stream) for value in inputs)
    if name in ("dot_general", "mul", "conv_general_dilated", "canonical_convolution"):
        return n == 1
    return name in LINEAR or (name == "div" and not isinstance(inputs[1], _Stream))
