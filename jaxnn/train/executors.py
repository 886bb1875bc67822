"""What `fit` calls: the compiled programs, and how they get at the data."""

from __future__ import annotations

import abc
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import kernels
from jaxnn.core.naming import child_key
from jaxnn.core.trees import abstract
from jaxnn.problem.batches import leading_size
from jaxnn.problem.hyperparameters import by_kind, loss_of, model_of, split
from jaxnn.train.epoch import array_program, inputs_of, pieces
from jaxnn.train.evaluation import as_numbers
from jaxnn.train.state import TrainState
from jaxnn.train.step import objective_of


class Plan(dict):
    """What programs are made of, the arguments of `pieces`. Programs are kept by it: functions count by identity."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self._items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and list(self._items()) == list(other._items())

    def _items(self) -> Iterator[tuple]:
        for name, value in self.items():
            if name == "hyperparameters":  # of traced ones only the name counts
                fixed, numbers = by_kind(value)
                value = (fixed, tuple(numbers))
            yield name, tuple(value.items()) if isinstance(value, dict) else value


class Driver(abc.ABC):
    """One call of `fit`'s loop after the other, over arrays or over a stream."""

    steps_per_epoch: int | None

    def __init__(self, plan: dict[str, Any]):
        self.plan = Plan(plan)
        self.compile_seconds = 0.0  # so far

    def timed(self, compile: Callable[[], Callable]) -> Callable:
        """What `compile` returns, the time it takes counted."""
        start = time.perf_counter()
        program = compile()
        self.compile_seconds += time.perf_counter() - start
        return program

    @abc.abstractmethod
    def compile(self, train_state: TrainState) -> None:
        """Make the programs ready, as far as their shapes are known."""

    @abc.abstractmethod
    def call(self, train_state: TrainState, steps: int) -> tuple[TrainState, list[dict], int]:
        """So many steps or fewer; the logs of each epoch that ended, and the first step with a loss that is not finite."""

    @abc.abstractmethod
    def at(self, step: int) -> TrainState:
        """The train state as it was at a step of the last call, made again."""

    @abc.abstractmethod
    def batch(self, train_state: TrainState) -> tuple[Any, np.ndarray | None]:
        """The next step's batch, and the indices of its samples if they are known."""

    def close(self) -> None:  # noqa: B027
        """Let go of what runs beside."""

    def objective(self, train_state: TrainState, batch: Any) -> tuple:
        """What `inspect.nonfinite.locate` takes, for the step that comes next."""
        values = split(self.plan["hyperparameters"])[0].at(train_state.hyperparameters, train_state.step)
        layer = model_of(self.plan["model"], values)
        function = objective_of(self.plan["loss"], values).function
        key = jax.random.fold_in(child_key(train_state.key, "step"), train_state.step)
        if self.plan["augment"] is not None:
            augment = loss_of(self.plan["augment"], values)
            batch = (*augment(child_key(key, "augment"), tuple(batch[:2])), *batch[2:])
        spec = layer.setup(abstract(inputs_of(batch, self.plan["loss"])))
        return (lambda *arguments: function(*arguments)[0]), layer, train_state.params, train_state.state, batch, key, spec


class Arrays(Driver):
    """Data that lie on the device: one program for any number of steps."""

    def __init__(self, plan: dict[str, Any], data: Any, validation: Any, epochs: int, most_rows: int):
        super().__init__(plan)
        self.samples, self._batch_size = leading_size(data), plan["batch_size"]
        self.steps_per_epoch = -(-self.samples // self._batch_size)
        self._data, self._validation, self._epochs, self._most_rows = data, validation, epochs, most_rows

    def compile(self, train_state: TrainState) -> None:
        """Make the program ready."""
        arguments = (train_state, self._data, self._validation)
        self._program = self.timed(lambda: _array_program(self.plan, self._most_rows, *signature(arguments)))
        self._before = train_state  # as it was a call ago

    def call(self, train_state: TrainState, steps: int) -> tuple[TrainState, list[dict], int]:
        """So many steps or fewer; the logs of each epoch that ended, and the first step with a loss that is not finite."""
        after, rows, ended, bad = self._run(train_state, steps)
        rows, ended, bad = jax.device_get((rows, ended, bad))
        epoch = int(train_state.epoch)
        logs = []
        for i in range(ended):
            row = as_numbers({name: values[i] for name, values in rows.items()})
            row = {"epoch": epoch + i + 1, "step": int(row.pop("step")), **row, "samples": self.samples}
            logs.append(row)
        self._before = train_state
        return after, logs, int(bad)

    def at(self, step: int) -> TrainState:
        """The train state as it was at a step of the last call."""
        steps = step - int(self._before.step)
        return self._run(self._before, steps)[0] if steps > 0 else self._before

    def batch(self, train_state: TrainState) -> tuple[Any, np.ndarray]:
        """The next step's batch, and the indices of its samples."""
        order = np.asarray(pieces(**self.plan).order(train_state, self.samples))
        samples = order[int(train_state.position) * self._batch_size :][: self._batch_size]
        return jax.tree.map(lambda a: a[samples], self._data), samples

    def _run(self, train_state: TrainState, steps: int) -> tuple:
        out = self._program(train_state, self._data, self._validation, np.int32(steps), np.int32(self._epochs))
        return waited(out)


def waited(out: tuple) -> tuple:
    """What a program returned, when it has.

    A thread of its own waits for it, so that this one hears Ctrl-C; to ask again and again would cost the program a tenth.
    """
    done = threading.Event()

    def wait():
        with contextlib.suppress(Exception):  # raised below
            jax.block_until_ready(out)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    while not done.wait(0.1):
        pass
    return jax.block_until_ready(out)


def signature(arguments: Any) -> tuple:
    """What a program is compiled for: shapes, dtypes, and where the arrays were put, if that was said."""
    leaves, structure = jax.tree.flatten(arguments)
    return tuple((leaf.shape, leaf.dtype, leaf.sharding if leaf.committed else None) for leaf in leaves), structure


@lru_cache(maxsize=64)
def _array_program(plan: Plan, most_rows: int, leaves: tuple, structure: Any) -> Callable:
    """The compiled program for arguments of that signature; kept, so that a second run does not compile again."""
    program = array_program(pieces(**plan), plan["batch_size"], most_rows)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    return compiled(program, leaves, structure, number, number)


def compiled(program: Callable, leaves: tuple, structure: Any, *more: Any) -> Callable:
    """The program compiled for arguments of a signature, and more, which are `jax.ShapeDtypeStruct`s."""
    structs = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype, sharding=s) for shape, dtype, s in leaves])
    return jax.jit(program, compiler_options=kernels.compiler_options()).lower(*structs, *more).compile()
