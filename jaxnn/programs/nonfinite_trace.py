"""An evaluator of programs that traces non-finite values back to the equations that they come from.

Each non-finite value remembers the non-finite values that it was computed from. So from an output, such as a loss, the chain
leads back to the equation that made the first one from finite values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn._jax import bind, is_literal, scan_counts, scope_groups, subprograms, traceback_of, while_counts
from jaxnn.core.primitives import is_described
from jaxnn.programs.equations import CALLS

# Prefixes of the names of JAX's primitives whose outputs are not computed element by element, even where shapes are equal.
NON_ELEMENTWISE = ("dot", "conv_", "cum", "scatter", "reduce", "sort", "triangular", "cholesky", "fft")
# The number of equations that are computed as one program, and the number for the second try if something is not finite.
CHUNK_SIZES = 128, 16


class Location(NamedTuple):
    """Where an equation stands: in the model, in the program and in the user's code.

    Attributes:
        names: Scopes, and the iterations of loops.
        address: The equation's index, the index of one of its programs, the index of an equation in there, and so on.
        trail: Tracebacks from the outermost program inwards, each with the innermost jitted function around the equation.
        function: The innermost jitted function around the program.
    """

    names: tuple[str | int, ...] = ()
    address: tuple[int, ...] = ()
    trail: tuple[tuple[Any, str | None], ...] = ()
    function: str | None = None

    def at(self, index: int, eqn: Any) -> Location:
        """The location of an equation of the program at this location."""
        names = itertools.chain.from_iterable(scope_groups(eqn))
        trail = (*self.trail, (traceback_of(eqn), self.function))
        return Location((*self.names, *names), (*self.address, index), trail, self.function)

    def enter(self, body: int = 0, *, function: str | None = None, iteration: int | None = None) -> Location:
        """The location of one of the programs of the equation at this location."""
        names = self.names if iteration is None else (*self.names, iteration)
        return Location(names, (*self.address, body), self.trail, function or self.function)


class Extent(NamedTuple):
    """What is non-finite in an array.

    Attributes:
        kind: `"nan"`, or `"inf"` if there is no NaN.
        number: The number of non-finite values.
        size: The number of values.
        type: The dtype and shape, such as `"float32[128, 10]"`.
        indices: For each axis of the length of the batch, the indices along it at which a value is non-finite.
    """

    kind: str
    number: int
    size: int
    type: str
    indices: dict[int, tuple[int, ...]]


@dataclass(eq=False, slots=True)
class Origin:
    """A non-finite value and the non-finite values that it was computed from.

    Attributes:
        order: Its position in the order of evaluation.
        location: The equation that computed it.
        operation: The name of the primitive; empty for an input of the program.
        output: The index of the equation's output.
        extent: What is non-finite in it.
        is_new: Whether it was computed from finite values, or is a NaN computed from intended infinities.
        is_intended: Whether it comes from nothing but constants of the program, as the −∞ of a mask does, and the values
            that are masked with it.
        parents: The non-finite values that it was computed from.
        example: One of its values with the arguments that it was computed from, such as `"log(0) = -inf"`.
    """

    order: int
    location: Location
    operation: str
    output: int
    extent: Extent
    is_new: bool
    is_intended: bool
    parents: tuple[Origin, ...] = ()
    example: str = ""


class Value(NamedTuple):
    """An array and what is known of it.

    Attributes:
        array: The array.
        is_finite: Whether all of its values are finite.
        has_nan: Whether one of its values is NaN.
        is_constant: Whether it does not depend on the inputs of the program.
        origins: Where its non-finite values come from.
    """

    array: Any
    is_finite: bool
    has_nan: bool
    is_constant: bool
    origins: tuple[Origin, ...] = ()


class Evaluator:
    """Evaluates a program and the programs inside it.

    A chunk of the equations of a program is compiled and computed as one. If its inputs and outputs are finite, nothing in
    it matters. Otherwise it is computed again in smaller chunks, and in the end one equation at a time.

    Args:
        batch_size: The length of the axis of samples.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._order = itertools.count()
        self._programs: dict[int, _Program] = {}

    def input(self, array: Any, phase: str, path: str) -> Value:
        """An input of the program, whose location is `(phase, path)` if it is the origin of a non-finite value."""
        is_finite, has_nan = _finite_and_nan(array)
        if is_finite:
            return Value(array, True, False, False)
        location, extent = Location((phase, path)), self._extent(array, has_nan)
        origin = Origin(next(self._order), location, "", 0, extent, is_new=True, is_intended=False)
        return Value(array, False, has_nan, False, (origin,))

    def run(
        self, jaxpr: Any, consts: Sequence, inputs: Sequence[Value], location: Location, *, stop_at_first: bool = False
    ) -> list[Value]:
        """Evaluate a program.

        Args:
            jaxpr: The program.
            consts: Its constants.
            inputs: Its inputs.
            location: Where it stands.
            stop_at_first: Return the first output alone as soon as it is known, if it is not finite.

        Returns:
            Its outputs.
        """
        if id(jaxpr) not in self._programs:
            self._programs[id(jaxpr)] = _Program(jaxpr)
        program = self._programs[id(jaxpr)]
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*map(_constant, consts), *inputs), strict=True))
        for start, stop in itertools.pairwise(program.boundaries):
            self._advance(program, start, stop, env, location)
            if stop_at_first and stop == program.first_output_at:
                value = _lookup(env, jaxpr.outvars[0])
                if not value.is_finite:
                    return [value]
        return [_lookup(env, v) for v in jaxpr.outvars]

    def _advance(self, program: _Program, start: int, stop: int, env: dict[Any, Value], location: Location) -> None:
        """Evaluate the equations from `start` to `stop`."""
        chunk = program.chunk(start, stop)
        outputs = self._chunk_outputs(chunk, [env[v] for v in chunk.inputs]) if stop - start > 1 else None
        if outputs is not None:
            env |= zip(chunk.outputs, outputs, strict=True)
        elif stop - start > CHUNK_SIZES[1]:
            for begin in range(start, stop, CHUNK_SIZES[1]):
                self._advance(program, begin, min(begin + CHUNK_SIZES[1], stop), env, location)
        else:
            for index, eqn in enumerate(program.jaxpr.eqns[start:stop], start):
                values = [_lookup(env, v) for v in eqn.invars]
                env |= zip(eqn.outvars, self._equation(eqn, values, location.at(index, eqn)), strict=True)
        for v in chunk.unused:  # a large model's values do not all fit into memory
            env.pop(v, None)

    def _chunk_outputs(self, chunk: _Chunk, values: list[Value]) -> list[Value] | None:
        """The outputs of a chunk, or None if one of its inputs or outputs is not finite.

        Most values that are computed from a NaN are NaN. But where a NaN is masked, a new one may arise afterwards, and only
        the single operations show it.
        """
        if not all(v.is_finite for v in values):
            return None
        arrays = chunk.compute(*(v.array for v in values))
        outputs = [Value(array, *_finite_and_nan(array), False) for array in arrays]
        return outputs if all(v.is_finite for v in outputs) else None

    def _equation(self, eqn: Any, values: list[Value], location: Location) -> list[Value]:
        name, programs = eqn.primitive.name, subprograms(eqn)
        if name in CALLS and programs:
            return self.run(*programs[0], values, location.enter(function=eqn.params.get("name")))
        if name == "scan":
            return self._scan(eqn, *programs[0], values, location)
        if name == "while":
            return self._while(eqn, programs, values, location)
        if name == "cond":
            branch = int(values[0].array)
            return self.run(*programs[branch], values[1:], location.enter(branch))
        outputs = bind(eqn, [v.array for v in values])
        return [self._output(i, array, name, values, location) for i, array in enumerate(outputs)]

    def _scan(self, eqn: Any, body: Any, consts: Sequence, values: list[Value], location: Location) -> list[Value]:
        (n_consts, n_carry), length = scan_counts(eqn), eqn.params["length"]
        fixed, carry, stacks = values[:n_consts], values[n_consts:][:n_carry], values[n_consts + n_carry :]
        stacks = [v._replace(array=_on_host(v.array)) for v in stacks]
        results: list[list[Value]] = [[]] * length
        for i in reversed(range(length)) if eqn.params["reverse"] else range(length):
            inputs = [*fixed, *carry, *(_slice(v, i) for v in stacks)]
            outputs = self.run(body, consts, inputs, location.enter(iteration=i))
            carry, results[i] = outputs[:n_carry], outputs[n_carry:]
        types = [v.aval for v in body.outvars[n_carry:]]
        return [*carry, *(_stack([result[k] for result in results], type_) for k, type_ in enumerate(types))]

    def _while(self, eqn: Any, programs: list[tuple[Any, Sequence]], values: list[Value], location: Location) -> list[Value]:
        n_test, n_body = while_counts(eqn)
        for_test, for_body, carry = values[:n_test], values[n_test:][:n_body], values[n_test + n_body :]
        for i in itertools.count():
            if not self.run(*programs[0], [*for_test, *carry], location.enter(0, iteration=i))[0].array:
                break
            carry = self.run(*programs[1], [*for_body, *carry], location.enter(1, iteration=i))
        return carry

    def _output(self, output: int, array: Any, operation: str, values: list[Value], location: Location) -> Value:
        """An output of an operation, with its origin if it is not finite."""
        is_finite, has_nan = _finite_and_nan(array)
        is_constant = all(v.is_constant for v in values)
        if is_finite:
            return Value(array, True, False, is_constant)
        sources = _nonfinite_operands(operation, values)
        if has_nan:  # a NaN comes from a NaN rather than from an infinity
            sources = [v for v in sources if v.has_nan] or sources
        all_intended = all(origin.is_intended for v in sources for origin in v.origins)
        is_new = not sources or (all_intended and has_nan and not any(v.has_nan for v in sources))
        parents = () if is_new else _origins(v for v in sources if not (v.is_constant and all_intended))
        extent, is_intended = self._extent(array, has_nan), all_intended and not is_new
        origin = Origin(next(self._order), location, operation, output, extent, is_new, is_intended, parents)
        if is_new:
            origin.example = _example(operation, values, np.asarray(array))
        return Value(array, False, has_nan, is_constant, (origin,))

    def _extent(self, array: Any, has_nan: bool) -> Extent:
        bad = ~np.isfinite(np.asarray(array))
        axes = [i for i, n in enumerate(bad.shape) if n == self._batch_size]
        others = {i: tuple(k for k in range(bad.ndim) if k != i) for i in axes}
        indices = {i: tuple(np.flatnonzero(bad.any(axis=others[i])).tolist()) for i in axes}
        return Extent("nan" if has_nan else "inf", int(bad.sum()), bad.size, f"{array.dtype}{list(bad.shape)}", indices)


def first_origin(values: Sequence[Value]) -> Origin | None:
    """The first non-finite value among all that these values were computed from; None if they are finite.

    It is new and not intended if there is such a value, and an intended constant otherwise.
    """
    waiting = [origin for v in values for origin in v.origins]
    found = {id(origin): origin for origin in waiting}
    while waiting:
        fresh = [origin for origin in waiting.pop().parents if id(origin) not in found]
        found |= {id(origin): origin for origin in fresh}
        waiting += fresh
    candidates = [origin for origin in found.values() if origin.is_new and not origin.is_intended] or list(found.values())
    return min(candidates, key=lambda origin: origin.order, default=None)


def is_finite(array: Any) -> bool:
    """Whether an array has neither NaN nor infinite values; arrays that are not of floating point have none.

    Example:
        >>> is_finite(np.array([1.0, np.inf])), is_finite(3)
        (False, True)
    """
    return _finite_and_nan(array)[0]


class _Chunk(NamedTuple):
    inputs: list[Any]
    outputs: list[Any]  # variables that are used after the chunk
    unused: list[Any]  # variables that are not
    compute: Callable[..., list]


class _Program:
    """A program, the boundaries of its chunks, and the chunks, each compiled when it is needed."""

    def __init__(self, jaxpr: Any):
        self.jaxpr = jaxpr
        n = len(jaxpr.eqns)
        makes_first = [i for i, eqn in enumerate(jaxpr.eqns, 1) if any(v is w for v in eqn.outvars for w in jaxpr.outvars[:1])]
        self.first_output_at = sum(makes_first)  # the number of equations up to the first output; 0 if that is an input
        self.boundaries = sorted({*range(0, n, CHUNK_SIZES[0]), self.first_output_at, n})
        uses = [(v, i) for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars] + [(v, n) for v in jaxpr.outvars]
        self._last_use = {v: i for v, i in uses if not is_literal(v)}
        self._chunks: dict[tuple[int, int], _Chunk] = {}

    def chunk(self, start: int, stop: int) -> _Chunk:
        """The equations from `start` to `stop` as a program."""
        if (start, stop) not in self._chunks:
            self._chunks[start, stop] = self._make_chunk(start, stop)
        return self._chunks[start, stop]

    def _make_chunk(self, start: int, stop: int) -> _Chunk:
        eqns = self.jaxpr.eqns[start:stop]
        made = dict.fromkeys(v for eqn in eqns for v in eqn.outvars)
        inputs = list(dict.fromkeys(v for eqn in eqns for v in eqn.invars if not is_literal(v) and v not in made))
        is_used = {v: self._last_use.get(v, -1) >= stop for v in (*inputs, *made)}
        outputs = [v for v in made if is_used[v]]

        def compute(*arrays):
            env = dict(zip(inputs, arrays, strict=True))
            for eqn in eqns:
                operands = [v.val if is_literal(v) else env[v] for v in eqn.invars]
                env |= zip(eqn.outvars, bind(eqn, operands), strict=True)
            return [env[v] for v in outputs]

        # Compile quickly: a chunk runs once, or a few times in a short loop.
        compiled = jax.jit(compute, compiler_options={"xla_backend_optimization_level": 0})
        return _Chunk(inputs, outputs, [v for v in is_used if not is_used[v]], compiled)


def _constant(array: Any) -> Value:
    return Value(array, *_finite_and_nan(array), True)


def _lookup(env: dict, v: Any) -> Value:
    return _constant(v.val) if is_literal(v) else env[v]


def _origins(values: Iterable[Value]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(origin for v in values for origin in v.origins))


def _finite_and_nan(array: Any) -> tuple[bool, bool]:
    """Whether all values of an array are finite, and whether one is NaN."""
    if not jnp.issubdtype(getattr(array, "dtype", type(array)), jnp.inexact):
        return True, False
    array = np.asarray(array)
    return (True, False) if np.isfinite(array).all() else (False, bool(np.isnan(array).any()))


def _nonfinite_operands(operation: str, values: list[Value]) -> list[Value]:
    """The operands that are not finite; of a selection, those that are not finite where they are selected."""
    if operation != "select_n":
        return [v for v in values if not v.is_finite]
    which = np.asarray(values[0].array)
    cases = enumerate(values[1:])
    return [v for i, v in cases if not v.is_finite and (~np.isfinite(np.asarray(v.array)) & (which == i)).any()]


def _example(operation: str, values: list[Value], result: np.ndarray) -> str:
    """The first non-finite value with its arguments, or the largest absolute value of the arguments."""
    arrays = [np.asarray(v.array) for v in values if jnp.issubdtype(getattr(v.array, "dtype", type(v.array)), jnp.inexact)]
    arrays = [a if np.iscomplexobj(a) else a.astype(np.float64) for a in arrays]
    is_elementwise = not operation.startswith(NON_ELEMENTWISE) and not is_described(operation)
    if arrays and is_elementwise and all(_broadcasts(a.shape, result.shape) for a in arrays):
        index = tuple(np.argwhere(~np.isfinite(result))[0])
        arguments = ", ".join(f"{np.broadcast_to(a, result.shape)[index]:.4g}" for a in arrays)
        return f"{operation}({arguments}) = {result.astype(arrays[0].dtype)[index]:.4g}"
    sizes = [np.abs(a).max() for a in arrays if a.size]
    return f"values up to {max(sizes):.4g}" if sizes else ""


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return not shape or (len(shape) == len(to) and all(n in (1, m) for n, m in zip(shape, to, strict=True)))


def _on_host(array: Any) -> Any:
    return array if jnp.issubdtype(array.dtype, jax.dtypes.extended) else np.asarray(array)  # keys have no NumPy form


def _slice(value: Value, i: int) -> Value:
    array = value.array[i]
    array = np.asarray(array) if isinstance(value.array, np.ndarray) else array
    finite, has_nan = (True, False) if value.is_finite else _finite_and_nan(array)
    return Value(array, finite, has_nan, value.is_constant, () if finite else value.origins)


def _stack(values: list[Value], type_: Any) -> Value:
    if not values:
        return _constant(jnp.zeros((0, *type_.shape), type_.dtype))
    if jnp.issubdtype(type_.dtype, jax.dtypes.extended):
        array = jnp.stack([v.array for v in values])
    else:
        array = jnp.asarray(np.stack([np.asarray(v.array) for v in values]))
    finite, has_nan = all(v.is_finite for v in values), any(v.has_nan for v in values)
    return Value(array, finite, has_nan, all(v.is_constant for v in values), _origins(values))
