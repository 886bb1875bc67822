"""A program evaluated one equation at a time, with an account of where the values that are not finite come from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

# Calls whose program is evaluated in their place; what is not listed, and is no loop or branch, is one operation.
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
# How operations begin that make a value of many values, also where shapes are alike.
TOGETHER = ("dot", "canonical", "tiled", "conv_", "cum", "scatter", "reduce", "sort", "triangular", "cholesky", "fft")
PIECES = 128, 16  # so many equations are computed as one, and so many of those if something is not finite


class Place(NamedTuple):
    """Where an equation stands: in the model, in the program and in the user's code."""

    names: tuple[str | int, ...] = ()  # scopes, and the steps of loops
    address: tuple[int, ...] = ()  # the equation's index, which of its programs, the index in there, ...
    trail: tuple[tuple[Any, str | None], ...] = ()  # tracebacks from the outside in, and the jitted functions they end in
    function: str | None = None  # the innermost jitted function around it

    def of(self, index: int, eqn: Any) -> Place:
        """The place of an equation of the program that stands here."""
        scopes = tuple(part.name for part in eqn.source_info.name_stack.stack if type(part).__name__ == "Scope")
        trail = (*self.trail, (eqn.source_info.traceback, self.function))
        return Place(self.names + scopes, (*self.address, index), trail, self.function)

    def enter(self, body: int = 0, *, function: str | None = None, step: int | None = None) -> Place:
        """The place of one of the programs of the equation that stands here."""
        names = self.names if step is None else (*self.names, step)
        return Place(names, (*self.address, body), self.trail, function or self.function)


@dataclass(eq=False, slots=True)
class Origin:
    """A value that is not finite, and what it was made from.

    It is `new` if it was made from finite values, or if it is a NaN made from infinities that are meant. These are
    constants of the program, and what was made from nothing else that is not finite: a mask's −∞, and the masked values.
    """

    number: int  # in the order of evaluation
    place: Place
    operation: str
    output: int  # which of the equation's
    what: tuple[str, int, int, str]  # kind, count, size, dtype and shape
    rows: dict[int, tuple[int, ...]]  # for each axis as long as the batch: where along it the value is not finite
    new: bool
    meant: bool
    parents: tuple[Origin, ...] = ()
    example: str = ""


class Value(NamedTuple):
    """An array, and what is known of it."""

    array: Any
    finite: bool
    nan: bool
    constant: bool  # computed from nothing that the program was given
    origins: tuple[Origin, ...] = ()


def constant(array: Any) -> Value:
    """A value the program has in itself."""
    return Value(array, *_finite_nan(array), True)


class Evaluation:
    """The evaluation of a program, and of the programs in it.

    A piece of a program is compiled and computed as one. If what comes out is finite, nothing in it matters; otherwise it
    is computed again in smaller pieces, and in the end one operation after the other.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._numbers = itertools.count()
        self._programs: dict[int, _Program] = {}

    def given(self, array: Any, phase: str, path: str) -> Value:
        """A value the program is given, called `path` if it is where all begins."""
        finite, nan = _finite_nan(array)
        if finite:
            return Value(array, True, False, False)
        what, rows = self._described(array, nan)
        origin = Origin(next(self._numbers), Place((phase, path)), "", 0, what, rows, new=True, meant=False)
        return Value(array, False, nan, False, (origin,))

    def run(self, jaxpr: Any, consts: Sequence, inputs: Sequence[Value], place: Place, *, need_first: bool = False) -> list:
        """The outputs of a program.

        With `need_first`, the evaluation ends when the first output is there and not finite; it alone is returned.
        """
        if id(jaxpr) not in self._programs:
            self._programs[id(jaxpr)] = _Program(jaxpr)
        program = self._programs[id(jaxpr)]
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*map(constant, consts), *inputs), strict=True))
        for start, stop in itertools.pairwise(program.cuts):
            self._advance(program, start, stop, env, place)
            if need_first and stop == program.first and not (value := _read(env, jaxpr.outvars[0])).finite:
                return [value]
        return [_read(env, v) for v in jaxpr.outvars]

    def _advance(self, program: _Program, start: int, stop: int, env: dict[Any, Value], place: Place) -> None:
        piece = program.piece(start, stop)
        outputs = self._together(piece, [env[v] for v in piece.inputs]) if stop - start > 1 else None
        if outputs is not None:
            env |= zip(piece.outputs, outputs, strict=True)
        elif stop - start > PIECES[1]:
            for part in range(start, stop, PIECES[1]):
                self._advance(program, part, min(part + PIECES[1], stop), env, place)
        else:
            for index, eqn in enumerate(program.jaxpr.eqns[start:stop], start):
                values = [_read(env, v) for v in eqn.invars]
                env |= zip(eqn.outvars, self._equation(eqn, values, place.of(index, eqn)), strict=True)
        for v in piece.done:  # not all values of a large model are kept
            env.pop(v, None)

    def _together(self, piece: _Piece, values: list[Value]) -> list[Value] | None:
        """The outputs of a piece, or None if something that it takes or gives is not finite.

        What follows from a NaN is mostly NaN, but where one is masked, another may begin anew: only its operations tell.
        """
        if not all(v.finite for v in values):
            return None
        outputs = [Value(array, *_finite_nan(array), False) for array in piece.compute(*(v.array for v in values))]
        return outputs if all(v.finite for v in outputs) else None

    def _equation(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        name, programs = eqn.primitive.name, bodies(eqn)
        if name in CALLS and programs:
            return self.run(*programs[0], values, place.enter(function=eqn.params.get("name")))
        if name == "scan":
            return self._scan(eqn.params, *programs[0], values, place)
        if name == "while":
            return self._while(eqn.params, programs, values, place)
        if name == "cond":
            branch = int(values[0].array)
            return self.run(*programs[branch], values[1:], place.enter(branch))
        return self._operation(eqn, values, place)

    def _scan(self, params: dict, body: Any, consts: Sequence, values: list[Value], place: Place) -> list[Value]:
        n_consts, n_carry, length = params["num_consts"], params["num_carry"], params["length"]
        fixed, carry, stacks = values[:n_consts], values[n_consts:][:n_carry], values[n_consts + n_carry :]
        stacks = [v._replace(array=_on_host(v.array)) for v in stacks]
        rows: list[list[Value]] = [[]] * length
        for i in reversed(range(length)) if params["reverse"] else range(length):
            inputs = [*fixed, *carry, *(_entry(v, i) for v in stacks)]
            outputs = self.run(body, consts, inputs, place.enter(step=i))
            carry, rows[i] = outputs[:n_carry], outputs[n_carry:]
        empty = [v.aval for v in body.outvars[n_carry:]]
        return [*carry, *(_stacked([row[k] for row in rows], like) for k, like in enumerate(empty))]

    def _while(self, params: dict, programs: list[tuple[Any, Sequence]], values: list[Value], place: Place) -> list[Value]:
        n_test, n_body = params["cond_nconsts"], params["body_nconsts"]
        for_test, for_body, carry = values[:n_test], values[n_test:][:n_body], values[n_test + n_body :]
        for i in itertools.count():
            if not self.run(*programs[0], [*for_test, *carry], place.enter(0, step=i))[0].array:
                break
            carry = self.run(*programs[1], [*for_body, *carry], place.enter(1, step=i))
        return carry

    def _operation(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        outputs = bound(eqn, [v.array for v in values])
        return [self._seen(i, y, eqn.primitive.name, values, place) for i, y in enumerate(outputs)]

    def _seen(self, output: int, array: Any, operation: str, values: list[Value], place: Place) -> Value:
        finite, nan = _finite_nan(array)
        is_constant = all(v.constant for v in values)
        if finite:
            return Value(array, True, False, is_constant)
        bad = _passed_on(operation, values)
        if nan:  # a NaN is followed to a NaN first
            bad = [v for v in bad if v.nan] or bad
        all_meant = all(origin.meant for v in bad for origin in v.origins)
        new = not bad or (all_meant and nan and not any(v.nan for v in bad))
        parents = () if new else _origins(v for v in bad if not (v.constant and all_meant))
        what, rows = self._described(array, nan)
        origin = Origin(next(self._numbers), place, operation, output, what, rows, new, all_meant and not new, parents)
        if new:
            origin.example = _example(operation, values, np.asarray(array))
        return Value(array, False, nan, is_constant, (origin,))

    def _described(self, array: Any, nan: bool) -> tuple[tuple[str, int, int, str], dict[int, tuple[int, ...]]]:
        bad = ~np.isfinite(np.asarray(array))
        axes = [i for i, n in enumerate(bad.shape) if n == self._batch_size]
        others = {i: tuple(k for k in range(bad.ndim) if k != i) for i in axes}
        rows = {i: tuple(np.flatnonzero(bad.any(axis=others[i])).tolist()) for i in axes}
        return ("nan" if nan else "inf", int(bad.sum()), bad.size, f"{array.dtype}{list(bad.shape)}"), rows


def first(values: Sequence[Value]) -> Origin | None:
    """Where it began, among all that these values were made from."""
    waiting = [origin for v in values for origin in v.origins]
    found = {id(origin): origin for origin in waiting}
    while waiting:
        fresh = [origin for origin in waiting.pop().parents if id(origin) not in found]
        found |= {id(origin): origin for origin in fresh}
        waiting += fresh
    origins = [o for o in found.values() if o.new and not o.meant] or list(found.values())  # else a constant that was meant
    return min(origins, key=lambda origin: origin.number, default=None)


class _Piece(NamedTuple):
    inputs: list[Any]
    outputs: list[Any]  # what is needed after it
    done: list[Any]  # what is not
    compute: Callable[..., list]


class _Program:
    """A program, where to cut it, and its pieces, each compiled when it is needed."""

    def __init__(self, jaxpr: Any):
        self.jaxpr = jaxpr
        n = len(jaxpr.eqns)
        makes_first = [i for i, eqn in enumerate(jaxpr.eqns, 1) if any(v is w for v in eqn.outvars for w in jaxpr.outvars[:1])]
        self.first = sum(makes_first)  # the equations that the first output needs, or 0 where it is there before
        self.cuts = sorted({*range(0, n, PIECES[0]), self.first, n})
        uses = [(v, i) for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars] + [(v, n) for v in jaxpr.outvars]
        self._last = {v: i for v, i in uses if not isinstance(v, Literal)}
        self._pieces: dict[tuple[int, int], _Piece] = {}

    def piece(self, start: int, stop: int) -> _Piece:
        """The equations from `start` to `stop` as a program."""
        if (start, stop) not in self._pieces:
            self._pieces[start, stop] = self._cut(start, stop)
        return self._pieces[start, stop]

    def _cut(self, start: int, stop: int) -> _Piece:
        eqns = self.jaxpr.eqns[start:stop]
        made = dict.fromkeys(v for eqn in eqns for v in eqn.outvars)
        inputs = list(dict.fromkeys(v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal) and v not in made))
        needed = {v: self._last.get(v, -1) >= stop for v in (*inputs, *made)}
        outputs = [v for v in made if needed[v]]

        def compute(*arrays):
            env = dict(zip(inputs, arrays, strict=True))
            for eqn in eqns:
                env |= zip(
                    eqn.outvars, bound(eqn, [v.val if isinstance(v, Literal) else env[v] for v in eqn.invars]), strict=True
                )
            return [env[v] for v in outputs]

        quickly = jax.jit(compute, compiler_options={"xla_backend_optimization_level": 0})  # it runs once or in a short loop
        return _Piece(inputs, outputs, [v for v in needed if not needed[v]], quickly)


def bound(eqn: Any, arrays: Sequence[Any]) -> Sequence[Any]:
    """The outputs of one equation."""
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
    return outputs if eqn.primitive.multiple_results else [outputs]


def _read(env: dict, v: Any) -> Value:
    return constant(v.val) if isinstance(v, Literal) else env[v]


def _origins(values: Iterable[Value]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(origin for v in values for origin in v.origins))


def bodies(eqn: Any) -> list[tuple[Any, Sequence]]:
    """The programs of a call, loop or branch, with their constants."""
    keys = ("cond_jaxpr", "body_jaxpr") if eqn.primitive.name == "while" else ("jaxpr", "call_jaxpr")
    programs = eqn.params.get("branches") or [eqn.params[key] for key in keys if key in eqn.params]
    return [(getattr(program, "jaxpr", program), getattr(program, "consts", ())) for program in programs]


def finite(array: Any) -> bool:
    """Whether an array has neither NaN nor infinite values."""
    return _finite_nan(array)[0]


def _finite_nan(array: Any) -> tuple[bool, bool]:
    if not jnp.issubdtype(getattr(array, "dtype", type(array)), jnp.inexact):
        return True, False
    array = np.asarray(array)
    return (True, False) if np.isfinite(array).all() else (False, bool(np.isnan(array).any()))


def _passed_on(operation: str, values: list[Value]) -> list[Value]:
    """The inputs that are not finite; of a selection, those that are so where they are chosen."""
    if operation != "select_n":
        return [v for v in values if not v.finite]
    which = np.asarray(values[0].array)
    return [v for i, v in enumerate(values[1:]) if not v.finite and (~np.isfinite(np.asarray(v.array)) & (which == i)).any()]


def _example(operation: str, values: list[Value], result: np.ndarray) -> str:
    """The first value that is not finite with its arguments, or the size of the arguments."""
    arrays = [np.asarray(v.array) for v in values if jnp.issubdtype(getattr(v.array, "dtype", type(v.array)), jnp.inexact)]
    arrays = [a if np.iscomplexobj(a) else a.astype(np.float64) for a in arrays]
    if arrays and not operation.startswith(TOGETHER) and all(_stretches(a.shape, result.shape) for a in arrays):
        place = tuple(np.argwhere(~np.isfinite(result))[0])
        arguments = ", ".join(f"{np.broadcast_to(a, result.shape)[place]:.4g}" for a in arrays)
        return f"{operation}({arguments}) = {result.astype(arrays[0].dtype)[place]:.4g}"
    sizes = [np.abs(a).max() for a in arrays if a.size]
    return f"values up to {max(sizes):.4g}" if sizes else ""


def _stretches(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return not shape or (len(shape) == len(to) and all(n in (1, m) for n, m in zip(shape, to, strict=True)))


def _on_host(array: Any) -> Any:
    return array if jnp.issubdtype(array.dtype, jax.dtypes.extended) else np.asarray(array)  # keys stay where they are


def _entry(value: Value, i: int) -> Value:
    array = value.array[i]
    array = np.asarray(array) if isinstance(value.array, np.ndarray) else array
    finite, nan = (True, False) if value.finite else _finite_nan(array)
    return Value(array, finite, nan, value.constant, () if finite else value.origins)


def _stacked(values: list[Value], like: Any) -> Value:
    if not values:
        return constant(jnp.zeros((0, *like.shape), like.dtype))
    if jnp.issubdtype(like.dtype, jax.dtypes.extended):
        array = jnp.stack([v.array for v in values])
    else:
        array = jnp.asarray(np.stack([np.asarray(v.array) for v in values]))
    finite, nan = all(v.finite for v in values), any(v.nan for v in values)
    return Value(array, finite, nan, all(v.constant for v in values), _origins(values))
