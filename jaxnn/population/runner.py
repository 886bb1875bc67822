"""Blocks of members trained on all cores: what is traced, compiled, run and kept, by which thread, and when.

On a CPU a mapped program of small products keeps one core busy, so each core's thread trains a block of its own; on an
accelerator there is one thread, and the blocks are as large as memory allows. The calling thread traces, as JAX's
settings are a thread's own, and listens to Ctrl-C; the others compile and run, which lets go of Python's lock.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxnn.core.scope import abstract
from jaxnn.population.block import MOST_ROWS, Block, Program, columns_of, epochs_program, final_program, start_program
from jaxnn.population.groups import Group, check_traceable
from jaxnn.train.drivers import Plan
from jaxnn.train.epoch import inputs_of, pieces
from jaxnn.train.state import TrainState

CALL_SECONDS = 0.5  # what a call shall take, as in `fit`
CPU_MEMBERS = 16  # of a block: more gain nothing on a core, and fewer blocks can be spread over the cores


@dataclass(frozen=True)
class Strategy:
    """How members are trained.

    Attributes:
        threads: how many blocks are in training at a time.
        members: of a block at the most, None for as many as memory allows.
        memory: bytes that all blocks in training may take together.
        mesh: devices over which the settings of each block are spread, or None.
    """

    threads: int
    members: int | None
    memory: int
    mesh: Any = None

    def __str__(self) -> str:
        if self.mesh is not None:
            return f"sharded over {self.mesh.size} devices"
        return "vmap" if self.threads == 1 else f"vmap in {self.threads} threads"


def strategy_for(mesh: Any = None, memory: int | None = None) -> Strategy:
    """The strategy of the present backend, see `bench/population.py` for the measurements it stands on."""
    device = jax.devices()[0]
    if mesh is not None:
        return Strategy(1, None, memory or _free_memory(device), mesh)
    if device.platform == "cpu":
        return Strategy(len(os.sched_getaffinity(0)), CPU_MEMBERS, memory or _free_memory(device))
    return Strategy(1, None, memory or _free_memory(device))


def _free_memory(device: Any) -> int:
    """Half of what a computer has free, eight tenths of what an accelerator has."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(0.8 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


@dataclass
class Trained:
    """What a group leaves, on the host; every array has two leading axes, settings and seeds.

    Attributes:
        params: the parameters.
        state: the models' states.
        epoch: the epoch at whose end these were the parameters.
        history: (…, epochs) for each value of the logs, NaN after the member's end.
        epochs: how many epochs were finished.
        diverged: whether the loss was not finite.
        done: whether the member came to its end.
    """

    params: Any
    state: Any
    epoch: np.ndarray
    history: dict[str, np.ndarray]
    epochs: np.ndarray
    diverged: np.ndarray
    done: np.ndarray


@dataclass
class Work:
    """A group in training."""

    group: Group
    data: Any
    validation: Any
    keys: jax.Array  # one a seed
    strategy: Strategy
    result: Trained = field(init=False)
    programs: dict[tuple, Program] = field(default_factory=dict)
    compile_seconds: float = 0.0
    lock: Any = field(default_factory=threading.Lock, repr=False)  # of the result
    compiling: Any = field(default_factory=threading.Lock, repr=False)
    rectangles: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self):
        self.x = abstract(inputs_of(self.data, self.group.plan["loss"]))
        start = check_traceable(self.group, self.x)
        logs = jax.eval_shape(lambda s: pieces(**self.group.plan).finish(s, self.validation), start)[1]
        self.settings, self.seeds = shape = len(self.group.numbers), len(self.keys)
        zeros = lambda leaf: np.zeros((*shape, *leaf.shape), leaf.dtype)  # noqa: E731
        self.result = Trained(
            params=jax.tree.map(zeros, start.params),
            state=jax.tree.map(zeros, start.state),
            epoch=np.zeros(shape, np.int32),
            history={name: np.full((*shape, self.group.epochs), np.nan, np.float32) for name in logs},
            epochs=np.zeros(shape, np.int32),
            diverged=np.zeros(shape, bool),
            done=np.zeros(shape, bool),
        )

    def weights(self) -> tuple[Any, Any]:
        """The parameters and states of all, as far as they are there."""
        return self.result.params, self.result.state

    def epochs_made(self) -> int:
        """By members, in all; those that ended early count as if they had not."""
        made = np.isfinite(self.result.history["loss"]).sum(2)
        return int(np.where(self.result.done, self.group.epochs, made).sum())

    def snapshot(self) -> dict[str, Any]:
        """A copy of what is there, for a checkpoint."""
        with self.lock:
            return jax.tree.map(np.copy, vars(self.result))

    def take_up(self, tree: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.result = Trained(**jax.tree.map(np.array, tree))

    def cut(self, members: int | None, at_least: int) -> None:
        """Cut what is to be done into rectangles, seeds × settings, of one shape."""
        todo = np.flatnonzero(~self.result.done.all(1))
        if not len(todo):
            self.rectangles = []
            return
        total = len(todo) * self.seeds
        members = max(1, min(total if members is None else members, -(-total // at_least)))
        wide = _even(len(todo), members)
        tall = 1 if len(todo) > members else _even(self.seeds, max(1, members // len(todo)))
        over = 1 if self.strategy.mesh is None else self.strategy.mesh.size
        wide = -(-wide // over) * over
        columns, seeds = _cut(todo, wide), _cut(np.arange(self.seeds), tall)
        self.rectangles = [(s, c) for c in columns for s in seeds]

    def arguments(self, seeds: np.ndarray, columns: np.ndarray) -> tuple:
        """The keys and hyperparameters of a rectangle."""
        return self.keys[seeds], {name: jnp.asarray(values[columns]) for name, values in self.group.traced.items()}


def _even(n: int, most: int) -> int:
    return -(-n // -(-n // most))


def _cut(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    """Pieces of one size; the last is filled up with its own last entry."""
    pieces = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return [np.concatenate([piece, np.repeat(piece[-1:], size - len(piece))]) for piece in pieces]


class Runner:
    """The threads, and what they tell the calling one."""

    def __init__(self, works: Sequence[Work], data: Any, validation: Any, strategy: Strategy):
        self._works, self._data, self._validation, self._strategy = works, data, validation, strategy
        self._said: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Condition()
        self._jobs: list[Callable] = [partial(self._prepare, work) for work in works]
        self._running = 0
        self._stop = False

    def run(self, on_event: Callable[[], bool]) -> None:
        """Train all to the end, or until `on_event`, called a few times a second and after each block, returns True."""
        threads = [threading.Thread(target=self._worker, daemon=True) for _ in range(self._strategy.threads)]
        for thread in threads:
            thread.start()
        failure = None
        try:
            while any(thread.is_alive() for thread in threads):
                try:
                    function, answer = self._said.get(timeout=0.1)
                except queue.Empty:
                    function = None
                if function is not None:
                    try:
                        answer.set_result(function())
                    except BaseException as error:
                        answer.set_exception(error)
                        failure = failure or error
                if failure is not None or on_event():
                    self._end()
        finally:
            self._end()
            while any(thread.is_alive() for thread in threads):  # they may still ask
                try:
                    self._said.get(timeout=0.05)[1].cancel()
                except queue.Empty:
                    continue
        if failure is not None:
            raise failure

    def _end(self) -> None:
        with self._lock:
            self._stop = True
            self._lock.notify_all()

    def _worker(self) -> None:
        while True:
            with self._lock:
                while not self._stop and not self._jobs and self._running:
                    self._lock.wait()
                if self._stop or not self._jobs:
                    return
                job = self._jobs.pop(0)
                self._running += 1
            try:
                job()
            except BaseException as error:
                self._said.put((partial(_raise, error), Future()))
                self._end()
            with self._lock:
                self._running -= 1
                self._lock.notify_all()

    def _first(self, jobs: Sequence[Callable]) -> None:
        with self._lock:
            self._jobs[:0] = jobs
            self._lock.notify_all()

    def _program(self, work: Work, name: str, shape: tuple, *arguments: Any) -> Program:
        """The program of that name for blocks of that shape, traced by the calling thread."""
        if (name, shape) not in work.programs:
            answer: Future = Future()
            self._said.put((partial(_program, work.group, name, self._strategy.mesh, arguments), answer))
            work.programs[name, shape] = answer.result()
        return work.programs[name, shape]

    def _compiled(self, work: Work, name: str, shape: tuple, *arguments: Any) -> Callable:
        with work.compiling:
            start = time.perf_counter()
            program = self._program(work, name, shape, *arguments).compile()
            work.compile_seconds += time.perf_counter() - start
        return program

    # --- a group: its programs are made, the second by another thread if one is free, and then its blocks follow ---

    def _prepare(self, work: Work) -> None:
        members = self._strategy.members
        while True:
            work.cut(members, self._strategy.threads)
            if not work.rectangles:
                return
            seeds, columns = work.rectangles[0]
            arguments = work.arguments(seeds, columns)
            starter = self._program(work, "start", (len(seeds), len(columns)), work.x, *arguments)
            self._first([starter.compile])
            block = starter.output
            program = self._epochs(work, block)
            needed = _bytes(program) * min(self._strategy.threads, len(work.rectangles))
            size = len(seeds) * len(columns)
            least = 1 if self._strategy.mesh is None else self._strategy.mesh.size
            if needed <= self._strategy.memory or size <= least:
                break
            members = max(least, min(size // 2, int(size * self._strategy.memory / needed)))
        starter.compile()
        self._first([partial(self._block, work, seeds, columns) for seeds, columns in work.rectangles])

    def _epochs(self, work: Work, block: Block) -> Callable:
        until = jax.ShapeDtypeStruct((), np.int32)
        return self._compiled(work, "epochs", block.epochs.shape, block, self._data, self._validation, until)

    # --- a block ---

    def _block(self, work: Work, seeds: np.ndarray, columns: np.ndarray) -> None:
        block = work.programs["start", (len(seeds), len(columns))].compile()(*work.arguments(seeds, columns))
        until, calls = 1, 0
        seconds = 0.0
        while True:
            program = self._epochs(work, block)
            before = int(block.train_state.epoch)
            start = time.perf_counter()
            block, rows, ended = program(block, self._data, self._validation, np.int32(until))
            rows, ended = jax.device_get((rows, ended))
            seconds = time.perf_counter() - start
            self._keep_rows(work, seeds, columns, before, int(ended), rows)
            going = ~np.asarray(block.train_state.stopped)
            epoch = before + int(ended)
            if self._stop or epoch >= work.group.epochs or not going.any():
                break
            each = seconds / max(int(ended), 1)
            until = min(epoch + max(1, min(int(CALL_SECONDS / max(each, 1e-9)), 8 * (calls + 1), MOST_ROWS)), work.group.epochs)
            calls += 1
            narrow = self._narrowed(work, going.any(0), each * (work.group.epochs - epoch))
            if narrow is not None:
                self._keep(work, block, seeds, columns, np.flatnonzero(~going.any(0)))
                block, columns = columns_of(block, narrow), columns[narrow]
        finished = epoch >= work.group.epochs
        self._keep(work, block, seeds, columns, np.arange(len(columns)), finished)

    def _narrowed(self, work: Work, going: np.ndarray, left: float) -> np.ndarray | None:
        """The columns to go on with, if leaving the others out saves more than compiling a narrower program costs."""
        kept = np.flatnonzero(going)
        width = 1 << (len(kept) - 1).bit_length()
        if self._strategy.mesh is not None or width > len(going) // 2:
            return None
        saved = left * (1 - width / len(going))
        made = {shape[1]: program.seconds for (name, shape), program in work.programs.items() if name == "epochs"}
        cost = 0.0 if width in made else max(made.values())
        return None if saved < 1.5 * cost else np.concatenate([kept, np.repeat(kept[-1:], width - len(kept))])

    def _keep_rows(self, work: Work, seeds, columns, before: int, ended: int, rows: dict[str, np.ndarray]) -> None:
        with work.lock:
            for name, values in rows.items():
                history = work.result.history[name]
                history[columns[:, None], seeds[None, :], before : before + ended] = values[:ended].transpose(2, 1, 0)

    def _keep(self, work: Work, block: Block, seeds, columns, which: np.ndarray, finished: bool = False) -> None:
        """Take what members leave to the host."""
        epoch, (params, state) = self._compiled(work, "final", block.epochs.shape, block)(block)
        stopped = block.train_state.stopped
        taken = (params, state, epoch, block.epochs, block.diverged, stopped)
        params, state, epoch, epochs, diverged, stopped = jax.device_get(taken)
        result = work.result
        at = columns[which][:, None], seeds[None, :]
        take = lambda leaf: np.swapaxes(leaf[:, which], 0, 1)  # noqa: E731

        def put(kept, leaf):
            kept[at] = take(leaf)

        with work.lock:
            jax.tree.map(put, (result.params, result.state), (params, state))
            for kept, leaf in ((result.epoch, epoch), (result.epochs, epochs), (result.diverged, diverged)):
                put(kept, leaf)
            put(result.done, stopped | finished)


def _program(group: Group, name: str, mesh: Any, arguments: tuple) -> Program:
    leaves, structure = jax.tree.flatten(arguments)
    forms = tuple((leaf.shape, leaf.dtype, leaf.sharding if getattr(leaf, "committed", False) else None) for leaf in leaves)
    return _kept_program(group.plan, group.loss_scaling, name, mesh, forms, structure)


@lru_cache(maxsize=512)
def _kept_program(plan: Plan, loss_scaling: bool, name: str, mesh: Any, forms: tuple, structure: Any) -> Program:
    """Kept, so that a second sweep neither traces nor compiles again."""
    arguments = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(s, d, sharding=sharding) for s, d, sharding in forms])
    axis = None if mesh is None else mesh.axis_names[0]
    if name == "start":
        x, *arguments = arguments
        function = start_program(plan, loss_scaling, x)
    else:
        function = epochs_program(plan, MOST_ROWS, axis) if name == "epochs" else final_program(plan)
    if mesh is not None:
        each, none = P(None, axis), P()
        state = TrainState(*[each] * len(TrainState._fields))._replace(key=none, step=none, epoch=none, position=none)  # type: ignore[arg-type]
        block = Block(state, each, each)  # type: ignore[arg-type]
        inputs, outputs = {
            "start": ((none, P(axis)), block),
            "epochs": ((block, none, none, none), (block, P(None, None, axis), none)),
            "final": ((block,), each),
        }[name]
        function = jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
    return Program(function, tuple(arguments), donate=name == "epochs")


def _bytes(program: Any) -> int:
    """What a compiled program takes: arguments that are not used up, results, and in between."""
    memory = program.memory_analysis()
    if memory is None:
        return 0
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return own + memory.temp_size_in_bytes


def _raise(error: BaseException) -> None:
    raise error
