"""Points: the equations of a program at which a parameter meets data, with their inputs and cotangents for one example.

A loss of one example is traced and evaluated again, equation by equation. A value that is made of parameters alone is a
weight. Each equation at which a weight meets data is a point: its other operands are recorded, and a zero, its tap, is added
to its output. The derivative of the loss in the tap is the cotangent of the point. What a parameter receives from an example
follows from both, by the derivative of that one equation. So no layer has to cooperate, custom ones included.

The program is evaluated in two parts. `PointProgram.weights` computes all weights, those inside loops stacked along an axis
for each loop in which they differ, as those of `repeat` do. `PointProgram.run` computes the rest for one example.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn._jax import bind, is_literal, program_file, scan_counts, scope_names, subprograms
from jaxnn.programs.equations import CALLS, Scope

# Rules of derivatives. One that a user has defined may differ from the derivative of the program beside it, so its equation is
# one point; those of jaxnn's kernels are faster forms of the same derivative.
RULES = {"custom_jvp_call", "custom_vjp_call"}
KERNELS = Path(__file__).parents[1] / "kernels"

# Equations that keep the entries of an array in their order.
KEEPS = {"convert_element_type", "copy", "expand_dims", "reshape", "squeeze"}

# Equations that move the entries of an array and change none.
MOVES = {"copy", "convert_element_type", "expand_dims", "reshape", "rev", "slice", "split", "squeeze", "transpose"}


class Value(NamedTuple):
    """A value of the program: a constant, a weight, or a value that depends on data.

    Attributes:
        array: The array; None if this part of the evaluation does not compute it.
        kind: Whether it is a constant, a weight, or depends on data or on the iteration of a loop.
        leaves: The numbers of the parameters that a weight has a derivative in.
        moves: Whether its entries are different entries of the parameters.
        owns: For each loop around, whether it has an entry per iteration.
        parts: The axis, and the end and the parameters of each part, of a concatenation of weights.
        source: The number of the point whose output it is, up to its shape.
    """

    array: Any
    kind: str = "constant"  # or "weight" or "data"
    leaves: frozenset[int] = frozenset()
    moves: bool = False
    owns: tuple[bool, ...] = ()
    parts: tuple[int, tuple[tuple[int, frozenset[int]], ...]] | None = None
    source: int | None = None


DATA = Value(None, "data")


class Point(NamedTuple):
    """An equation at which weights meet data.

    Attributes:
        eqn: The equation; None where a weight becomes the initial value of a loop, or the result.
        weights: For each operand, whether it is a weight.
        leaves: For each weight, the numbers of the parameters that it is made of.
        moves: For each weight, whether its entries are different entries of the parameters.
        owns: For each weight, for each loop around, whether it has an entry per iteration.
        loops: The lengths of the loops around, the outermost first.
        outputs: The type of each output; None for those that are not floating-point.
        scope: The names around the equation.
        source: The number of the point whose output is the only operand that is not a weight, up to its shape.
    """

    eqn: Any
    weights: tuple[bool, ...]
    leaves: tuple[frozenset[int], ...]
    moves: tuple[bool, ...]
    owns: tuple[tuple[bool, ...], ...]
    loops: tuple[int, ...]
    outputs: tuple[Any, ...]
    scope: Scope
    source: int | None

    @property
    def primitive(self) -> str:
        """The name of the equation's primitive."""
        return "copy" if self.eqn is None else self.eqn.primitive.name

    def all_outputs(self, weights: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """The outputs of the equation in one iteration of the loops around."""
        if self.eqn is None:
            return list(weights)
        of_weights, of_data = iter(weights), iter(inputs)
        return list(bind(self.eqn, [next(of_weights if is_weight else of_data) for is_weight in self.weights]))

    def floating(self, outputs: Sequence[Any]) -> tuple[Any, ...]:
        """The outputs that have a cotangent."""
        return tuple(y for y, kind in zip(outputs, self.outputs, strict=True) if kind is not None)


class PointProgram:
    """A function of parameters and an example, as a program that is evaluated by its points.

    Attributes:
        points: The points, in the order of the program.
        uses: For each point, the number of equations that take its output.
    """

    def __init__(self, f: Callable, params: Any, example: Any, selected: Sequence[bool]):
        """Trace the function.

        Args:
            f: `f(params, example) -> result`, a pytree of arrays.
            params: The parameters, or their shapes and dtypes.
            example: An example, or its shapes and dtypes.
            selected: For each leaf of the parameters, whether it counts as a parameter; the others are constants.
        """
        self._closed, result = jax.make_jaxpr(f, return_shape=True)(params, example)
        self._result = jax.tree.structure(result)
        leaves = jax.tree.leaves(params)
        self._selected = [s and _floating(leaf) for s, leaf in zip(selected, leaves, strict=True)]
        self._n_example = len(jax.tree.leaves(example))
        self.points: list[Point] = []
        self._counts: dict[tuple[int, int], int] = {}  # of points in a loop, by its equation and its first point
        self.uses: list[int] = []
        jax.eval_shape(lambda leaves: self._weights(leaves, first=True), leaves)

    def only_use(self, number: int) -> int | None:
        """The number of the point that takes the output of a point, up to its shape, if nothing else does."""
        users = [k for k, point in enumerate(self.points) if point.source == number]
        return users[0] if len(users) == 1 and self.uses[number] == 1 else None

    def weights(self, leaves: Sequence[Any]) -> list[tuple]:
        """The weights of each point, with a leading axis for each loop in which they differ."""
        return self._weights(leaves)

    def _weights(self, leaves: Sequence[Any], first: bool = False) -> list[tuple]:
        walk = _Weights(self if first else None)
        values = [*map(self._leaf, range(len(leaves)), leaves), *[DATA] * self._n_example]
        walk.finish(walk.run(self._closed.jaxpr, self._closed.consts, values, ()), ())
        return walk.weights

    def _leaf(self, number: int, leaf: Any) -> Value:
        return Value(leaf, "weight", frozenset([number]), True) if self._selected[number] else Value(leaf)

    def run(self, leaves: Sequence[Any], weights: list[tuple], taps: list[tuple], example: Any) -> tuple[Any, list[tuple]]:
        """Evaluate the function for one example.

        Args:
            leaves: The leaves of the parameters, of which only those that are not selected are used.
            weights: The weights of each point.
            taps: For each point, an array to add to each of its floating-point outputs, (*loops, *output).
            example: The example.

        Returns:
            The result, and for each point its operands that are not weights, (*loops, *operand).
        """
        walk = _Rest(self, dict(enumerate(weights)), dict(enumerate(taps)), 0)
        values = [*map(self._leaf, range(len(leaves)), leaves), *(Value(leaf, "data") for leaf in jax.tree.leaves(example))]
        outputs = walk.finish(walk.run(self._closed.jaxpr, self._closed.consts, values, ()), ())
        inputs = [walk.inputs[k] for k in range(len(self.points))]
        return jax.tree.unflatten(self._result, [value.array for value in outputs]), inputs


class _Walk:
    """An evaluation of one part of a program. `scope` and `loops` are the names and the lengths of loops around."""

    def run(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Value], loops: tuple, scope: Scope = ()) -> list[Value]:
        env: dict[Any, Value] = {}

        def constant(array: Any) -> Value:
            return Value(array, owns=(False,) * len(loops))

        env.update(zip((*jaxpr.constvars, *jaxpr.invars), (*map(constant, consts), *values), strict=True))
        for eqn in jaxpr.eqns:
            inputs = [constant(v.val) if is_literal(v) else env[v] for v in eqn.invars]
            names = scope + scope_names(eqn)
            programs = subprograms(eqn)
            if not {"weight", "data"} <= {v.kind for v in inputs}:
                outputs = self.apart(eqn, inputs)
            elif len(programs) == 1 and eqn.primitive.name in CALLS and _may_enter(eqn):
                outputs = self.run(*programs[0], inputs, loops, names)
            elif eqn.primitive.name == "scan":
                outputs = self.scan(eqn, *programs[0], inputs, loops, names)
            else:
                outputs = self.point(eqn, inputs, loops, names)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [constant(v.val) if is_literal(v) else env[v] for v in jaxpr.outvars]

    def finish(self, values: Sequence[Value], loops: tuple, scope: Scope = ()) -> list[Value]:
        """Values that leave a loop or the program, with weights among them made values that depend on data."""
        self.used(values)
        return [self.point(None, [value], loops, scope)[0] if value.kind == "weight" else value for value in values]

    def used(self, values: Sequence[Value]) -> None:
        """Count the uses of the outputs of points; on the first walk only."""

    def apart(self, eqn: Any, inputs: list[Value]) -> list[Value]:
        raise NotImplementedError

    def point(self, eqn: Any, inputs: list[Value], loops: tuple, scope: Scope) -> list[Value]:
        raise NotImplementedError

    def scan(self, eqn: Any, body: Any, consts: Any, inputs: list[Value], loops: tuple, scope: Scope) -> list[Value]:
        raise NotImplementedError


class _Weights(_Walk):
    """The part of a program that does not depend on data; on the first walk, the points are noted."""

    def __init__(self, program: PointProgram | None):
        self.program = program
        self.weights: list[tuple] = []

    def apart(self, eqn, inputs):
        if any(value.kind == "data" for value in inputs):
            if eqn.primitive.name in KEEPS and len(inputs) == 1:
                return inputs
            self.used(inputs)
            return [DATA] * len(eqn.outvars)
        owns = tuple(map(any, zip(*(value.owns for value in inputs), strict=True)))
        compute = lambda *arrays: list(bind(eqn, arrays))  # noqa: E731
        for depth in reversed(range(len(owns))):
            if owns[depth]:
                compute = jax.vmap(compute, tuple(0 if value.owns[depth] else None for value in inputs))
        arrays = compute(*(value.array for value in inputs))
        return [value._replace(array=y, owns=owns) for value, y in zip(_made(eqn, inputs), arrays, strict=True)]

    def point(self, eqn, inputs, loops, scope):
        weights, data = ([value for value in inputs if (value.kind == "weight") is kind] for kind in (True, False))
        self.used(data)
        number = len(self.weights)
        self.weights.append(tuple(value.array for value in weights))
        outputs = [v.aval for v in eqn.outvars] if eqn else [_without_axes(weights[0])]
        if self.program is not None:
            kinds = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) if _floating(a) else None for a in outputs)
            point = Point(
                eqn,
                tuple(value.kind == "weight" for value in inputs),
                leaves=tuple(value.leaves for value in weights),
                moves=tuple(value.moves for value in weights),
                owns=tuple(value.owns for value in weights),
                loops=loops,
                outputs=kinds,
                scope=scope,
                source=data[0].source if len(data) == 1 else None,
            )
            self.program.points.append(point)
            self.program.uses.append(0)
        return [DATA._replace(source=number)] * len(outputs) if len(outputs) == 1 else [DATA] * len(outputs)

    def used(self, values):
        for value in values:
            if self.program is not None and value.source is not None:
                self.program.uses[value.source] += 1

    def scan(self, eqn, body, consts, inputs, loops, scope):
        n_consts, n_carry = scan_counts(eqn)
        first = len(self.weights) + sum(value.kind == "weight" for value in inputs[n_consts:][:n_carry])
        self.used([*inputs[:n_consts], *inputs[n_consts + n_carry :]])
        fixed = [value._replace(owns=(*value.owns, False), source=None) for value in inputs[:n_consts]]
        carry = self.finish(inputs[n_consts:][:n_carry], loops, scope)
        stacked = [value._replace(owns=(*value.owns, True), parts=None, source=None) for value in inputs[n_consts + n_carry :]]
        inner = (*loops, eqn.params["length"])
        self.finish(self.run(body, consts, [*fixed, *[DATA] * len(carry), *stacked], inner, scope), inner, scope)
        if self.program is not None:
            self.program._counts[id(eqn), first] = len(self.weights) - first
        return [DATA] * len(eqn.outvars)


class _Rest(_Walk):
    """The part of a program that weights are given to, from its point number `number` on."""

    def __init__(self, program: PointProgram, weights: dict[int, tuple], taps: dict[int, tuple], number: int):
        self.program, self.weights, self.taps, self.number = program, weights, taps, number
        self.inputs: dict[int, tuple] = {}

    def apart(self, eqn, inputs):
        if any(value.kind == "weight" for value in inputs):
            return _made(eqn, inputs)
        kind = "data" if any(value.kind == "data" for value in inputs) else "constant"
        return [Value(y, kind) for y in bind(eqn, [value.array for value in inputs])]

    def point(self, eqn, inputs, loops, scope):
        point = self.program.points[self.number]
        data = tuple(value.array for value in inputs if value.kind != "weight")
        taps = iter(self.taps[self.number])
        outputs = point.all_outputs(self.weights[self.number], data)
        self.inputs[self.number] = data
        self.number += 1
        return [
            Value(y if kind is None else lax.add(y, next(taps)), "data") for y, kind in zip(outputs, point.outputs, strict=True)
        ]

    def scan(self, eqn, body, consts, inputs, loops, scope):
        n_consts, n_carry = scan_counts(eqn)
        carry = [value.array for value in self.finish(inputs[n_consts:][:n_carry], loops, scope)]
        stacked = [value.array for value in inputs[n_consts + n_carry :]]
        first = self.number
        inside = range(first, first + self.program._counts[id(eqn), first])
        depth = len(loops)
        owned = {k: [owns[depth] for owns in self.program.points[k].owns] for k in inside}
        own = {k: tuple(w for w, o in zip(self.weights[k], owned[k], strict=True) if o) for k in inside}

        def step(carry, now):
            slices, own, taps = now
            weights = {}
            for k in inside:
                mine = iter(own[k])
                weights[k] = tuple(next(mine) if o else w for w, o in zip(self.weights[k], owned[k], strict=True))
            walk = _Rest(self.program, weights, taps, first)
            values = [*inputs[:n_consts], *(Value(c, "data") for c in carry)]
            values += [value._replace(array=a) for value, a in zip(inputs[n_consts + n_carry :], slices, strict=True)]
            inner = (*loops, eqn.params["length"])
            outputs = [value.array for value in walk.finish(walk.run(body, consts, values, inner, scope), inner, scope)]
            return outputs[:n_carry], (outputs[n_carry:], walk.inputs)

        options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
        carry, (results, recorded) = lax.scan(step, carry, (stacked, own, {k: self.taps[k] for k in inside}), **options)
        self.inputs |= recorded
        self.number = inside.stop
        return [Value(array, "data") for array in (*carry, *results)]


def _floating(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _may_enter(eqn: Any) -> bool:
    """Whether the program of a call may be differentiated in place of the call."""
    return eqn.primitive.name not in RULES or KERNELS in Path(program_file(eqn)).parents


def _without_axes(value: Value) -> Any:
    """The type of a weight in one iteration of the loops around."""
    return jax.ShapeDtypeStruct(value.array.shape[sum(value.owns) :], value.array.dtype)


def _made(eqn: Any, inputs: list[Value]) -> list[Value]:
    """The outputs of an equation without data, but for their arrays."""
    if all(value.kind == "constant" for value in inputs):
        return [Value(None)] * len(eqn.outvars)
    leaves = frozenset().union(*(value.leaves for value in inputs))
    moves, parts = eqn.primitive.name in MOVES and all(value.moves for value in inputs), None
    if eqn.primitive.name == "concatenate":
        axis = eqn.params["dimension"]
        ends = itertools.accumulate(v.aval.shape[axis] for v in eqn.invars)
        parts = axis, tuple(zip(ends, (value.leaves for value in inputs), strict=True))
        moves = sum(len(value.leaves) for value in inputs) == len(leaves) and all(value.moves for value in inputs)
    elif eqn.primitive.name == "slice" and inputs[0].parts:
        axis, parts_of_whole = inputs[0].parts
        low, high, begin, leaves = eqn.params["start_indices"][axis], eqn.params["limit_indices"][axis], 0, frozenset()
        for end, of_part in parts_of_whole:
            leaves |= of_part if begin < high and low < end else frozenset()
            begin = end
    return [Value(None, "weight", leaves if _floating(v.aval) else frozenset(), moves, (), parts) for v in eqn.outvars]
