"""Whether a program treats each sample alone, so that samples may be added to a batch without changing what others get.

The axis of the samples is followed from the inputs through every equation. An equation that sums, sorts, multiplies or moves
along that axis, or that is not known here, ends the search: the answer errs on the side of no.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxnn._jax import is_literal, scan_counts, subprograms, while_counts
from jaxnn.programs.equations import CALLS

# fmt: off
_ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e", "bessel_i1e",
    "bitcast_convert_type", "cbrt", "ceil", "clamp", "conj", "convert_element_type", "copy", "copy_p", "cos", "cosh",
    "digamma", "div", "eq", "eq_to", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma",
    "igammac", "imag", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul",
    "name", "ne", "neg", "nextafter", "not", "optimization_barrier", "or", "population_count", "pow", "real",
    "reduce_precision", "regularized_incomplete_beta", "rem", "round", "rsqrt", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan",
    "tanh", "xor",
}
# fmt: on
_REDUCTIONS = {"argmax", "argmin", *(f"reduce_{name}" for name in ("and", "max", "min", "or", "prod", "sum", "xor"))}
_CUMULATIVE = {"cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"}
_RESHAPES = {"expand_dims", "reshape", "squeeze"}

Axes = list[int | None]  # for each value the axis of the samples; None if it does not depend on them


class _CoupledError(Exception):
    """Samples meet, or may meet, in an equation."""


def is_independent(function: Callable, batch: Any) -> bool:
    """Whether entry i of each output, along its leading axis, depends on entry i of each input only.

    Args:
        function: A function of one argument.
        batch: Its argument, arrays or their shapes, with a leading axis of at least two samples.

    Returns:
        True if it is so; False if it is not, or not known.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, w = jnp.ones((4, 3)), jnp.ones((3, 2))
        >>> is_independent(lambda x: jax.nn.softmax(x @ w), x), is_independent(lambda x: x - x[:1], x)
        (True, False)
    """
    n = jax.tree.leaves(batch)[0].shape[0]
    jaxpr = jax.make_jaxpr(function)(batch).jaxpr
    try:
        axes = _outputs(jaxpr, [0] * len(jaxpr.invars), n)
        return all(axis == 0 and _shape(v)[0] == n for axis, v in zip(axes, jaxpr.outvars, strict=True))
    except _CoupledError:
        return False


def _outputs(jaxpr: Any, inputs: Axes, n: int) -> Axes:
    """The axes of a program's outputs; an axis may hold n samples, or n times as many entries, sample by sample."""
    env: dict[Any, int] = {v: axis for v, axis in zip(jaxpr.invars, inputs, strict=True) if axis is not None}
    read = lambda v: None if is_literal(v) else env.get(v)  # noqa: E731
    for eqn in jaxpr.eqns:
        axes = [read(v) for v in eqn.invars]
        if any(axis is not None for axis in axes):
            env |= {v: axis for v, axis in zip(eqn.outvars, _axes(eqn, axes, n), strict=True) if axis is not None}
    return [read(v) for v in jaxpr.outvars]


def _axes(eqn: Any, axes: Axes, n: int) -> Axes:
    """The axes of an equation's outputs."""
    name = eqn.primitive.name
    if name in CALLS:
        [(body, _)] = subprograms(eqn)
        return _outputs(body, axes, n)
    if name in _LOOPS:
        return _LOOPS[name](eqn, axes, n)
    if name in _RESHAPES:
        axis = _reshaped(eqn, axes, n)
    elif name.startswith("reduce_window"):
        axis = _windows(eqn, axes)
    elif name in _RULES:
        axis = _RULES[name](eqn, axes)
    else:
        raise _CoupledError(name)
    return [axis] * len(eqn.outvars)


def _require(holds: bool) -> None:
    if not holds:
        raise _CoupledError


def _common(axes: Iterable[int | None]) -> int:
    """The axis that those operands share which depend on the samples."""
    found = {axis for axis in axes if axis is not None}
    _require(len(found) == 1)
    return found.pop()


def _alone(axes: Axes) -> int:
    """The axis of the first operand, which is the only one that depends on the samples."""
    _require(axes[0] is not None and all(axis is None for axis in axes[1:]))
    return axes[0]  # type: ignore[return-value]


def _shape(v: Any) -> tuple[int, ...]:
    return v.aval.shape


def _elementwise(eqn: Any, axes: Axes) -> int:
    out = len(_shape(eqn.outvars[0]))
    _require(all(axis is None or len(_shape(v)) == out for v, axis in zip(eqn.invars, axes, strict=True)))
    return _common(axes)


def _along_others(*names: str) -> Callable[[Any, Axes], int]:
    """The rule of an operation along one axis or several, which `names` of its parameters say."""

    def rule(eqn: Any, axes: Axes) -> int:
        axis = _common(axes)
        for name in names:
            along = eqn.params.get(name, ())
            _require(axis not in (along if isinstance(along, tuple | list) else (along,)))
        return axis

    return rule


def _reduction(eqn: Any, axes: Axes) -> int:
    axis = _along_others("axes")(eqn, axes)
    return axis - sum(other < axis for other in eqn.params["axes"])


def _reshaped(eqn: Any, axes: Axes, n: int) -> int:
    axis, new = _alone(axes), _shape(eqn.outvars[0])
    before = math.prod(_shape(eqn.invars[0])[:axis])
    same = [i for i, size in enumerate(new) if size % n == 0 and math.prod(new[:i]) == before]
    _require(len(same) == 1)
    return same[0]


def _padded(eqn: Any, axes: Axes) -> int:
    axis = _alone(axes)
    _require(eqn.params["padding_config"][axis] == (0, 0, 0))
    return axis


def _sliced(eqn: Any, axes: Axes) -> int:
    axis = _alone(axes)
    _require(_shape(eqn.invars[0])[axis] == _shape(eqn.outvars[0])[axis])
    _require(eqn.params.get("strides") is None or eqn.params["strides"][axis] == 1)
    return axis


def _updated(eqn: Any, axes: Axes) -> int:
    operand, update, *starts = axes
    axis = _common([operand, update])
    _require(all(start is None for start in starts) and _shape(eqn.invars[1])[axis] == _shape(eqn.invars[0])[axis])
    return axis


def _top_k(eqn: Any, axes: Axes) -> int:
    axis = _alone(axes)
    _require(axis != eqn.params.get("axis", len(_shape(eqn.invars[0])) - 1) % len(_shape(eqn.invars[0])))
    return axis


def _product(eqn: Any, axes: Axes) -> int:
    contracted, batched = eqn.params["dimension_numbers"]
    places = []
    for side, axis in enumerate(axes):
        if axis is None:
            continue
        _require(axis not in contracted[side])
        if axis in batched[side]:
            places.append(tuple(batched[side]).index(axis))
            continue
        _require(axes[1 - side] is None)
        free = [[i for i in range(len(_shape(v))) if i not in (*contracted[s], *batched[s])] for s, v in enumerate(eqn.invars)]
        places.append(len(batched[0]) + side * len(free[0]) + free[side].index(axis))
    return _common(places)


def _convolution(eqn: Any, axes: Axes) -> int:
    if eqn.primitive.name == "canonical_convolution":  # (batch, *space, features)
        _require(_alone(axes) == 0)
        return 0
    numbers = eqn.params["dimension_numbers"]
    _require(_alone(axes) == numbers.lhs_spec[0] and eqn.params["batch_group_count"] == 1)
    return numbers.out_spec[0]


def _windows(eqn: Any, axes: Axes) -> int:
    axis, p = _common(axes), eqn.params
    _require(p["window_dimensions"][axis] == p["window_strides"][axis] == 1 and tuple(p["padding"][axis]) == (0, 0))
    _require("jaxpr" not in p)  # of a function that may read anything
    return axis


def _gathered(eqn: Any, axes: Axes) -> int:
    """The operand's rows at indices of the samples, the samples' own rows, or both along a common axis."""
    (operand, index), numbers = axes, eqn.params["dimension_numbers"]
    out = _shape(eqn.outvars[0])
    places = []
    if index is not None:
        batch = [i for i in range(len(out)) if i not in numbers.offset_dims]
        places.append(batch[index])
    if operand is not None and operand in numbers.operand_batching_dims:
        paired = numbers.start_indices_batching_dims[tuple(numbers.operand_batching_dims).index(operand)]
        places.append([i for i in range(len(out)) if i not in numbers.offset_dims][paired])
        _require(index in (None, paired))
    elif operand is not None:
        gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        _require(index is None and operand not in gone)
        _require(eqn.params["slice_sizes"][operand] == _shape(eqn.invars[0])[operand])
        kept = [i for i in range(len(_shape(eqn.invars[0]))) if i not in gone]
        places.append(numbers.offset_dims[kept.index(operand)])
    return _common(places)


_RULES: dict[str, Callable[[Any, Axes], int]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_CUMULATIVE, _along_others("axis")),
    "broadcast_in_dim": lambda eqn, axes: eqn.params["broadcast_dimensions"][_alone(axes)],
    "canonical_convolution": _convolution,
    "concatenate": _along_others("dimension"),
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "dynamic_slice": _sliced,
    "dynamic_update_slice": _updated,
    "gather": _gathered,
    "pad": _padded,
    "rev": _along_others("dimensions"),
    "slice": _sliced,
    "sort": _along_others("dimension"),
    "split": _along_others("axis"),
    "top_k": _top_k,
    "transpose": lambda eqn, axes: tuple(eqn.params["permutation"]).index(_alone(axes)),
}


# Loops and branches


def _joined(one: Axes, other: Axes) -> Axes:
    """The axes of values that are those of one program or the other."""
    _require(all(None in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True)))
    return [a if b is None else b for a, b in zip(one, other, strict=True)]


def _settled(body: Callable[[Axes], Axes], carry: Axes) -> Axes:
    """The axes of a carry that the body of a loop returns as it was given."""
    while (after := _joined(carry, body(carry))) != carry:
        carry = after
    return carry


def _scan(eqn: Any, axes: Axes, n: int) -> Axes:
    [(body, _)] = subprograms(eqn)
    constants, carried = scan_counts(eqn)
    _require(all(axis != 0 for axis in axes[constants + carried :]))
    scanned = [None if axis is None else axis - 1 for axis in axes[constants + carried :]]
    run = lambda carry: _outputs(body, [*axes[:constants], *carry, *scanned], n)  # noqa: E731
    carry = _settled(lambda carry: run(carry)[:carried], axes[constants : constants + carried])
    return carry + [None if axis is None else axis + 1 for axis in run(carry)[carried:]]


def _while(eqn: Any, axes: Axes, n: int) -> Axes:
    (condition, _), (body, _) = subprograms(eqn)
    first, second = while_counts(eqn)
    own, shared, carry = axes[:first], axes[first : first + second], axes[first + second :]
    carry = _settled(lambda carry: _outputs(body, [*shared, *carry], n), carry)
    _require(_outputs(condition, [*own, *carry], n) == [None])
    return carry


def _cond(eqn: Any, axes: Axes, n: int) -> Axes:
    _require(axes[0] is None)
    first, *others = (_outputs(body, axes[1:], n) for body, _ in subprograms(eqn))
    for other in others:
        first = _joined(first, other)
    return first


_LOOPS: dict[str, Callable[[Any, Axes, int], Axes]] = {"cond": _cond, "scan": _scan, "while": _while}
