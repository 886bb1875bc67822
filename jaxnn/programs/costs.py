"""Floating-point operations and kept values of a program, counted from its jaxpr, by scope.

A matrix product or convolution counts two operations, a multiplication and an addition, per product of an input element and
a kernel element; a sum of n numbers counts n − 1; any other arithmetic counts one operation per element of its result. What
only moves or selects values, or draws the bits of a mask, counts as in XLA's own cost analysis: nothing, or one operation per
element. XLA lists tanh, exp and similar functions apart as "transcendentals"; here they are operations like any other. The
body of a `scan` is counted once per iteration (XLA counts it once), that of a `while`, whose number of iterations is unknown,
once. The number of operations in a gradient can differ between versions of JAX, since its derivative rules do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple

from jaxnn._jax import is_literal, scope_names, subprograms
from jaxnn.core import primitives
from jaxnn.programs.equations import Scope, walk

# fmt: off
MOVES = {  # primitives that move or select values, or prepare keys
    "bitcast_convert_type", "broadcast_in_dim", "concatenate", "copy", "copy_p", "dynamic_slice",
    "dynamic_update_slice", "empty", "expand_dims", "gather", "iota", "name", "optimization_barrier", "pad",
    "pcast", "pvary", "random_fold_in", "random_seed", "random_split", "random_unwrap", "random_wrap", "reduce_precision",
    "reshape", "rev", "select_n", "sharding_constraint", "slice", "split", "squeeze", "stop_gradient", "transpose",
}
_OPERATIONS_PER_ELEMENT = {  # as XLA expands these primitives
    "clamp": 2, "erf_inv": 39, "erfc": 63, "logistic": 4, "one_minus_square": 3, "random_bits": 31, "threefry2x32": 31,
}
# fmt: on


class Operation(NamedTuple):
    """An equation that computes.

    Attributes:
        scope: The names around it.
        flops: Its number of operations.
        dtype: The dtype that it computes in.
    """

    scope: Scope
    flops: int
    dtype: Any


def operations(jaxpr: Any, scope: Scope = (), times: int = 1) -> Iterator[Operation]:
    """Iterate over the operations of a program and of the programs inside it, in order.

    Args:
        jaxpr: A jaxpr, such as `jax.make_jaxpr(f)(x).jaxpr`.
        scope: The names around it.
        times: The number of times that it runs.

    Yields:
        One `Operation` per equation. Of a `cond` only the branch with most operations counts.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> program = jax.make_jaxpr(lambda x, w: jnp.tanh(x @ w))(jnp.ones((8, 4)), jnp.ones((4, 3)))
        >>> [operation.flops for operation in operations(program.jaxpr)]
        [192, 24]
    """
    for eqn in jaxpr.eqns:
        inner, bodies = scope + scope_names(eqn), [body for body, _ in subprograms(eqn)]
        if eqn.primitive.name == "cond":
            branches = [list(operations(body, inner, times)) for body in bodies]
            yield from max(branches, key=lambda branch: sum(operation.flops for operation in branch))
        elif bodies:
            repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            for body in bodies:
                yield from operations(body, inner, times * repeats)
        elif flops := flops_of(eqn):
            yield Operation(inner, times * flops, eqn.invars[0].aval.dtype if eqn.invars else None)


def forms(jaxpr: Any, scope: Scope = ()) -> Iterator[tuple[Scope, str]]:
    """Iterate over the forms that `nn.kernels` chose in a program, in order.

    Args:
        jaxpr: A jaxpr, such as `jax.make_jaxpr(f)(x).jaxpr`.
        scope: The names around it.

    Yields:
        A scope and the form of an operation in it, such as `"max_pool taps"`. The form of a convolution depends on its
        shapes; each of its derivatives has its own.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> program = jax.make_jaxpr(lambda x: nn.kernels.max_pool(x, 2, form="taps"))(jnp.ones((1, 4, 4, 1)))
        >>> {form for _, form in forms(program.jaxpr)}
        {'max_pool taps'}
    """
    for inner, eqn in walk(jaxpr, scope):
        found = [primitives.form_in_scope(name) for name in scope_names(eqn)] + [primitives.form_of(eqn)]
        yield from ((inner, form) for form in found if form is not None)


def kept(jaxpr: Any, first: int) -> Iterator[tuple[Scope, int]]:
    """Iterate over the values that a program computes and returns from its output number `first` on.

    Inputs of the program, reshaped or not, and constants are left out: they take no memory of their own.

    Args:
        jaxpr: A jaxpr, such as `jax.make_jaxpr(f)(x).jaxpr`.
        first: The index of the first output to look at.

    Yields:
        The scope in which a value is computed, and its size in bytes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> program = jax.make_jaxpr(lambda x: (x, jnp.tanh(x)))(jnp.ones(3))
        >>> list(kept(program.jaxpr, 0))
        [((), 12)]
    """
    makers: dict[int, dict] = {}
    given = {*jaxpr.invars, *jaxpr.constvars}
    for v in dict.fromkeys(v for v in jaxpr.outvars[first:] if not is_literal(v)):
        scope = _scope_of_value(jaxpr, v, makers, given)
        if scope is not None:
            yield scope, v.aval.size * getattr(v.aval.dtype, "itemsize", 8)


def _scope_of_value(jaxpr: Any, v: Any, makers: dict[int, dict], given: Set = frozenset()) -> Scope | None:
    """The scope of the equation that computes a value, also in a program inside; None for inputs and constants."""
    if id(jaxpr) not in makers:
        makers[id(jaxpr)] = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    eqn = None if is_literal(v) else makers[id(jaxpr)].get(v)
    if eqn is None:
        return None if is_literal(v) or v in given else ()
    bodies = [body for body, _ in subprograms(eqn)]
    if len(bodies) == 1:
        index = next(i for i, out in enumerate(eqn.outvars) if out is v)
        inside = _scope_of_value(bodies[0], bodies[0].outvars[index], makers)
        return None if inside is None else scope_names(eqn) + inside
    inputs = [v for v in eqn.invars if not is_literal(v)]
    is_reshaped_input = eqn.primitive.name == "reshape" and inputs[0] in given
    return scope_names(eqn) if inputs and not is_reshaped_input else None


def flops_of(eqn: Any) -> int:
    """The number of operations of an equation without programs inside.

    A primitive that JAX does not define tells it in the table of `jaxnn.core.primitives`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> [eqn] = jax.make_jaxpr(lambda x, y: x @ y)(jnp.ones((2, 3)), jnp.ones((3, 4))).eqns
        >>> flops_of(eqn)
        48
    """
    name = eqn.primitive.name
    flops = primitives.flops_of(eqn)
    if flops is not None:
        return flops
    if name in MOVES:
        return 0
    if name in _COUNTS:
        return _COUNTS[name](eqn)
    if name.startswith(("reduce_window", "select_and_gather", "cum")):
        return eqn.outvars[0].aval.size * max(math.prod(eqn.params.get("window_dimensions", (2,))) - 1, 1)
    if name.startswith("reduce") or name in ("argmax", "argmin"):
        return max(eqn.invars[0].aval.size - eqn.outvars[0].aval.size, 0)
    return _OPERATIONS_PER_ELEMENT.get(name, 1) * max((getattr(v.aval, "size", 0) for v in eqn.outvars), default=0)


def _matrix_product(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)


def _convolution(eqn: Any) -> int:
    """Two operations per product; batch groups are those of the gradient of a kernel in groups."""
    p, (x, kernel) = eqn.params, (v.aval.shape for v in eqn.invars)
    x_axes, kernel_axes, y_axes = p["dimension_numbers"]
    y = eqn.outvars[0].aval.shape
    space = zip(x_axes[2:], kernel_axes[2:], y_axes[2:], strict=True)
    sizes = [(x[a], kernel[b], y[c]) for a, b, c in space]
    products = primitives.convolution_products(sizes, p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"])
    return 2 * products * (x[x_axes[0]] // p["batch_group_count"]) * kernel[kernel_axes[1]] * y[y_axes[1]]


def _integer_power(eqn: Any) -> int:
    """The multiplications of repeated squaring, and the division of a negative power."""
    power = eqn.params["y"]
    n = abs(power)
    per_element = n.bit_length() - 1 + n.bit_count() - 1 + (power < 0) if n else 0
    return eqn.outvars[0].aval.size * max(per_element, 1)


def _sort(eqn: Any) -> int:
    x = eqn.invars[0].aval
    return x.size * max(math.ceil(math.log2(max(x.shape[-1:] or (1,)))), 1)


_COUNTS: dict[str, Callable[[Any], int]] = {
    "dot_general": _matrix_product,
    "conv_general_dilated": _convolution,
    "select_and_scatter_add": lambda eqn: eqn.invars[0].aval.size * math.prod(eqn.params["window_dimensions"]),
    "scatter-add": lambda eqn: eqn.invars[2].aval.size,
    "scatter_add": lambda eqn: eqn.invars[2].aval.size,
    "scatter": lambda eqn: 0,
    "integer_pow": _integer_power,
    "polynomial": lambda eqn: 2 * max(len(eqn.invars) - 2, 0) * eqn.outvars[0].aval.size,  # Horner's rule
    "sort": _sort,
}
