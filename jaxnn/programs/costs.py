"""Floating-point operations and kept values of a program, counted from its jaxpr by the scope they stand in.

A product of matrices and a convolution count two operations, a multiplication and an addition, for every pair of numbers
that meet; a sum over n numbers n − 1; any other arithmetic one for each element of its result. What only moves, selects or
draws a mask's bits counts as XLA's own cost analysis counts it: nothing, or one an element. XLA keeps tanh, exp and the
like apart as "transcendentals"; here they are operations like the others. The body of a `scan` counts as often as it runs
(XLA counts it once), that of a `while`, whose steps nobody knows, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Literal

from jaxnn.kernels.convolution.cpu import choose_form
from jaxnn.programs.evaluation import bodies

Scope = tuple[str, ...]

# fmt: off
MOVES = {  # what moves or selects values, or prepares keys
    "bitcast_convert_type", "broadcast_in_dim", "concatenate", "copy", "copy_p", "dynamic_slice",
    "dynamic_update_slice", "empty", "expand_dims", "gather", "iota", "name", "optimization_barrier", "pad",
    "pcast", "pvary", "random_fold_in", "random_seed", "random_split", "random_unwrap", "random_wrap", "reduce_precision",
    "reshape", "rev", "select_n", "sharding_constraint", "slice", "split", "squeeze", "stop_gradient", "transpose",
}
# fmt: on
_MANY = {"logistic": 4, "random_bits": 31, "threefry2x32": 31, "erf_inv": 39, "erfc": 63, "clamp": 2}  # operations an element


class Operation(NamedTuple):
    """An equation that computes: where it stands, how many operations it is, and the dtype it computes in."""

    scope: Scope
    flops: int
    dtype: Any


def operations(jaxpr: Any, scope: Scope = (), times: int = 1) -> Iterator[Operation]:
    """The operations of a program and of the programs in it, in order.

    Args:
        jaxpr: a jaxpr, as `jax.make_jaxpr(f)(x).jaxpr`.
        scope: the names around it.
        times: how often it runs.

    Yields:
        One `Operation` an equation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> program = jax.make_jaxpr(lambda x, w: jnp.tanh(x @ w))(jnp.ones((8, 4)), jnp.ones((4, 3)))
        >>> [operation.flops for operation in operations(program.jaxpr)]
        [192, 24]
    """
    for eqn in jaxpr.eqns:
        inner, programs = scope + names_of(eqn), [body for body, _ in bodies(eqn)]
        name = eqn.primitive.name
        if name == "cond":  # the dearest branch
            yield from max((list(operations(b, inner, times)) for b in programs), key=lambda ops: sum(o.flops for o in ops))
        elif programs:
            repeats = eqn.params["length"] if name == "scan" else 1
            for body in programs:
                yield from operations(body, inner, times * repeats)
        elif flops := flops_of(eqn):
            yield Operation(inner, times * flops, eqn.invars[0].aval.dtype if eqn.invars else None)


def forms(jaxpr: Any, scope: Scope = ()) -> Iterator[tuple[Scope, str]]:
    """The forms that `nn.kernels` chose in a program, and the scopes they stand in, in order.

    Args:
        jaxpr: a jaxpr, as `jax.make_jaxpr(f)(x).jaxpr`.
        scope: the names around it.

    Yields:
        A scope and a form, such as `"max_pool taps"`; that of a convolution is told by its shapes, for each of its
        derivatives apart.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> program = jax.make_jaxpr(lambda x: nn.kernels.max_pool(x, 2, form="taps"))(jnp.ones((1, 4, 4, 1)))
        >>> {form for _, form in forms(program.jaxpr)}
        {'max_pool taps'}
    """
    for eqn in jaxpr.eqns:
        inner = scope + names_of(eqn)
        for name in inner[len(scope) :]:
            if name.endswith("]"):
                yield inner, name[:-1].replace("[", " ")
        if eqn.primitive.name == "canonical_convolution":
            x, kernel = (v.aval for v in eqn.invars)
            yield inner, f"conv {choose_form(x, kernel, eqn.params['geometry'])}"
        elif eqn.primitive.name == "tiled_kernel_gradient":
            yield inner, "conv winograd"
        elif eqn.primitive.name == "conv_general_dilated":
            yield inner, "conv xla"
        for body, _ in bodies(eqn):
            yield from forms(body, inner)


def kept(jaxpr: Any, first: int) -> Iterator[tuple[Scope, int]]:
    """What a program computes and returns from its output number `first` on: the scopes and sizes in bytes.

    What it was given, reshaped or not, and constants are left out: they are there anyway.
    """
    makers: dict[int, dict] = {}
    there = {*jaxpr.invars, *jaxpr.constvars}
    for v in dict.fromkeys(v for v in jaxpr.outvars[first:] if not isinstance(v, Literal)):
        scope = _origin(jaxpr, v, makers, there)
        if scope is not None:
            yield scope, v.aval.size * getattr(v.aval.dtype, "itemsize", 8)


def _origin(jaxpr: Any, v: Any, makers: dict[int, dict], there: Set = frozenset()) -> Scope | None:
    """The scope of the equation that makes a value, in the program or in one inside; None for what is no work to make."""
    if id(jaxpr) not in makers:
        makers[id(jaxpr)] = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    eqn = None if isinstance(v, Literal) else makers[id(jaxpr)].get(v)
    if eqn is None:
        return None if isinstance(v, Literal) or v in there else ()
    programs = [body for body, _ in bodies(eqn)]
    if len(programs) == 1:
        at = next(i for i, out in enumerate(eqn.outvars) if out is v)
        inside = _origin(programs[0], programs[0].outvars[at], makers)
        return None if inside is None else names_of(eqn) + inside
    inputs = [v for v in eqn.invars if not isinstance(v, Literal)]
    reshaped = eqn.primitive.name == "reshape" and inputs[0] in there
    return names_of(eqn) if inputs and not reshaped else None


def names_of(eqn: Any) -> Scope:
    """The scopes an equation was written in, as far as its own program knows them.

    A derivative can carry them twice, once for each transformation; the last are whole.
    """
    parts: list[list[str]] = [[]]
    for part in eqn.source_info.name_stack.stack:
        if type(part).__name__ == "Scope":
            parts[-1].append(part.name)
        elif parts[-1]:
            parts.append([])
    return tuple(next((names for names in reversed(parts) if names), ()))


def flops_of(eqn: Any) -> int:
    """The operations of one equation without programs inside."""
    name = eqn.primitive.name
    if name in MOVES:
        return 0
    if name in _COUNTS:
        return _COUNTS[name](eqn)
    if name.startswith(("reduce_window", "select_and_gather", "cum")):
        return eqn.outvars[0].aval.size * max(math.prod(eqn.params.get("window_dimensions", (2,))) - 1, 1)
    if name.startswith("reduce") or name in ("argmax", "argmin"):
        return max(eqn.invars[0].aval.size - eqn.outvars[0].aval.size, 0)
    return _MANY.get(name, 1) * max((getattr(v.aval, "size", 0) for v in eqn.outvars), default=0)


def _product(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)


def _convolution(eqn: Any) -> int:
    """As `_canonical`, for any order of axes; batch groups are those of a kernel's gradient in groups."""
    p, (x, kernel) = eqn.params, (v.aval.shape for v in eqn.invars)
    x_axes, kernel_axes, y_axes = p["dimension_numbers"]
    y = eqn.outvars[0].aval.shape
    space = zip(x_axes[2:], kernel_axes[2:], y_axes[2:], strict=True)
    sizes = [(x[a], kernel[b], y[c]) for a, b, c in space]
    pairs = _pairs(sizes, p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"])
    return 2 * pairs * (x[x_axes[0]] // p["batch_group_count"]) * kernel[kernel_axes[1]] * y[y_axes[1]]


def _canonical(eqn: Any) -> int:
    """Two operations for each pair of an input and a tap that meet; padding and the holes of a dilation are no inputs."""
    (x, kernel), y, member = (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape, eqn.params["geometry"]
    pairs = _pairs(zip(x[1:-1], kernel[:-2], y[1:-1], strict=True), *member[:4])
    return 2 * pairs * x[0] * kernel[-2] * y[-1]


def _tiled_kernel_gradient(eqn: Any) -> int:
    """As the convolution that it is the gradient of."""
    g, x, member = *(v.aval.shape for v in eqn.invars), eqn.params["geometry"]
    return 2 * _pairs(zip(x[1:-1], (3, 3), g[1:-1], strict=True), *member[:4]) * x[0] * x[-1] * g[-1]


def _pairs(sizes: Any, strides: Any, padding: Any, input_dilation: Any, kernel_dilation: Any) -> int:
    total = 1
    for (n, k, places), s, (low, _), d, r in zip(sizes, strides, padding, input_dilation, kernel_dilation, strict=True):
        at = np.arange(places)[:, None] * s + np.arange(k) * r - low
        total *= int(((at >= 0) & (at <= (n - 1) * d) & (at % d == 0)).sum())
    return total


_COUNTS: dict[str, Callable[[Any], int]] = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "canonical_convolution": _canonical,
    "tiled_kernel_gradient": _tiled_kernel_gradient,
    "select_and_scatter_add": lambda eqn: eqn.invars[0].aval.size * math.prod(eqn.params["window_dimensions"]),
    "scatter-add": lambda eqn: eqn.invars[2].aval.size,
    "scatter_add": lambda eqn: eqn.invars[2].aval.size,
    "scatter": lambda eqn: 0,
    "integer_pow": lambda eqn: eqn.outvars[0].aval.size * max(_multiplications(eqn.params["y"]), 1),
    "sort": lambda eqn: eqn.invars[0].aval.size * max(math.ceil(math.log2(max(eqn.invars[0].aval.shape[-1:] or (1,)))), 1),
}


def _multiplications(power: int) -> int:
    n = abs(power)
    return n.bit_length() - 1 + n.bit_count() - 1 + (power < 0) if n else 0
