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
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnn.population.group_run import Work
from jaxnn.population.programs import MOST_ROWS, Block, Program, columns_of, program_for

CALL_SECONDS = 0.5  # what a call shall take, as in `fit`
CPU_MEMBERS = 16  # of a block: more gain nothing on a core, and fewer blocks can be spread over the cores
# Bytes that a member's step keeps for its backward pass, above which a block has one member: the others push its data out
# of a core's cache, and convolutions with a kernel for each member have no fast form. Measured, in CPU seconds of 16
# members at 1 and at 16 a block: a CNN 16-32 on 28×28 images, batch 64 (13 MiB): 0.85 and 1.95; on 8×8, batch 32
# (560 KiB): 0.52 and 0.87; MLPs 512-512, batch 128 (2.1 MiB): 1.26 and 1.60; 256-256, batch 64 (555 KiB): 0.29 and 0.34;
# six layers of 64, batch 128 (520 KiB): 0.21 and 0.19; a CNN 4-8 on 8×8 (145 KiB): 0.60 and 0.43; MLPs 784-64-10, batch
# 128 (75 KiB): 0.27 and 0.22; 64-32-10, batch 32 (10 KiB): 0.15 and 0.10.
CPU_KEPT = 2**19


@dataclass(frozen=True)
class Strategy:
    """How members are trained.

    Attributes:
        threads: how many blocks are in training at a time.
        members: of a block at the most, None for as many as memory allows.
        kept: bytes for the backward pass above which a member is a block of its own, None for no such number.
        memory: bytes that all blocks in training may take together.
        mesh: devices over which the settings of each block are spread, or None.
    """

    threads: int
    members: int | None
    memory: int
    mesh: Any = None
    kept: int | None = None

    def __str__(self) -> str:
        if self.mesh is not None:
            return f"sharded over {self.mesh.size} devices"
        return "vmap" if self.threads == 1 else f"vmap in {self.threads} threads"


def strategy_for(mesh: Any = None, memory: int | None = None) -> Strategy:
    """The strategy of the present backend, see `bench/population.py` for the measurements it stands on."""
    device = jax.devices()[0]
    if mesh is not None:
        if not isinstance(mesh, Mesh) or len(mesh.axis_names) != 1:
            raise ValueError(f"mesh is a jax.sharding.Mesh with one axis, over which members are spread; got {mesh!r}")
        return Strategy(1, None, memory or _free_memory(device), Mesh(mesh.devices, mesh.axis_names))
    if device.platform == "cpu":
        return Strategy(_cores(), CPU_MEMBERS, memory or _free_memory(device), kept=CPU_KEPT)
    return Strategy(1, None, memory or _free_memory(device))


def _cores() -> int:
    """Those that this process may use; only Linux says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_memory(device: Any) -> int:
    """Half of what a computer has free, eight tenths of what an accelerator has."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(0.8 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    names = getattr(os, "sysconf_names", ())  # macOS knows what there is but not what is free, Windows neither
    pages = next((name for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in names), None)
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") // 2 if pages else 2**31


class Runner:
    """The threads, and what they tell the calling one."""

    def __init__(self, works: Sequence[Work], data: Any, validation: Any, strategy: Strategy):
        self._works, self._data, self._validation, self._strategy = works, data, validation, strategy
        self._said: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Condition()
        self._jobs: list[Callable] = [partial(self._prepare, work) for work in works]
        self._running = 0
        self._present = strategy.threads
        self._stop = False

    def run(self, on_event: Callable[[], bool]) -> None:
        """Train all to the end, or until `on_event`, called a few times a second and after each block, returns True."""
        threads = [threading.Thread(target=self._worker, daemon=True) for _ in range(self._strategy.threads)]
        for thread in threads:
            thread.start()
        failure = None
        try:
            while self._present:
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

    def _leave(self) -> None:
        self._present -= 1

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
                    self._said.put((self._leave, Future()))
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
            self._said.put(
                (partial(program_for, work.group.plan, work.group.loss_scaling, name, self._strategy.mesh, arguments), answer)
            )
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
        alone = self._strategy.kept is not None and work.kept > self._strategy.kept
        members = 1 if alone else self._strategy.members
        while True:
            work.cut(members, self._strategy.threads)
            if not work.rectangles:
                return
            seeds, columns = work.rectangles[0]
            size = len(seeds) * len(columns)
            starter = None
            if work.at == 0:
                starter = self._program(work, "start", (len(seeds), len(columns)), work.x, *work.arguments(seeds, columns))
                self._first([starter.compile])
            block = starter.output if starter else work.block(seeds, columns)
            self._epochs(work, block)
            needed = work.programs["epochs", block.epochs.shape].bytes * min(self._strategy.threads, len(work.rectangles))
            if needed <= self._strategy.memory or size <= work.multiple:
                break
            members = max(work.multiple, min(size // 2, int(size * self._strategy.memory / needed)))
        if starter:
            starter.compile()
        self._first([partial(self._block, work, seeds, columns) for seeds, columns in work.rectangles])

    def _epochs(self, work: Work, block: Block) -> Callable:
        until = jax.ShapeDtypeStruct((), np.int32)
        return self._compiled(work, "epochs", block.epochs.shape, block, self._data, self._validation, until)

    # --- a block ---

    def _block(self, work: Work, seeds: np.ndarray, columns: np.ndarray) -> None:
        if work.at == 0:
            block = work.programs["start", (len(seeds), len(columns))].compile()(*work.arguments(seeds, columns))
        else:
            block = work.block(seeds, columns)
        epoch, budget = work.at, 1
        while True:
            program = self._epochs(work, block)
            start = time.perf_counter()
            block, rows, ended = program(block, self._data, self._validation, np.int32(min(epoch + budget, work.until)))
            rows, ended = jax.device_get((rows, ended))
            each = (time.perf_counter() - start) / max(ended, 1)
            work.keep_rows(seeds, columns, epoch, {name: values[:ended] for name, values in rows.items()})
            epoch += int(ended)
            going = np.any(~np.asarray(block.train_state.stopped), axis=0)
            if self._stop or epoch >= work.until or not going.any():
                break
            budget = max(1, min(int(CALL_SECONDS / max(each, 1e-9)), 8 * budget, MOST_ROWS))
            narrow = self._narrowed(work, going, each * (work.until - epoch))
            if narrow is not None:
                self._keep(work, block, seeds, columns, np.flatnonzero(~going), ended=True)
                block, columns = columns_of(block, narrow), columns[narrow]
        self._keep(work, block, seeds, columns, np.arange(len(columns)), ended=epoch >= work.group.epochs)

    def _narrowed(self, work: Work, going: Any, left: float) -> np.ndarray | None:
        """The columns to go on with, if leaving the others out saves more than compiling a narrower program costs."""
        kept = np.flatnonzero(going)
        width = 1 << (len(kept) - 1).bit_length()
        if work.multiple > 1 or width > len(going) // 2:
            return None
        saved = left * (1 - width / len(going))
        made = {shape[1]: program.seconds for (name, shape), program in work.programs.items() if name == "epochs"}
        cost = 0.0 if width in made else max(made.values())
        return None if saved < 1.5 * cost else np.concatenate([kept, np.repeat(kept[-1:], width - len(kept))])

    def _keep(self, work: Work, block: Block, seeds, columns, which: np.ndarray, *, ended: bool) -> None:
        final = block.epochs, (block.train_state.params, block.train_state.state)
        if any(callback.weights or callback.finish for callback in work.group.plan["callbacks"]):
            final = self._compiled(work, "final", block.epochs.shape, block)(block)
        work.keep(seeds, columns, which, block, jax.device_get(final), ended)


def _raise(error: BaseException) -> None:
    raise error
