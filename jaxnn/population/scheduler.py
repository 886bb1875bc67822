"""The scheduler of a sweep: it trains blocks of members on all cores.

On a CPU, a mapped program of small products keeps one core busy, so one thread per core trains a block each; on an
accelerator there is one thread, and the blocks are as large as memory allows. The calling thread traces, since JAX's
settings are thread-local, and handles Ctrl-C; the others compile and run, which releases Python's lock.
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

from jaxnn import _jax
from jaxnn.compiled import Program
from jaxnn.population.group_run import GroupRun
from jaxnn.population.programs import MOST_EPOCHS, Block, program_for, select_settings
from jaxnn.problem.batches import abstract_batch, in_batches, padded
from jaxnn.train.epoch import epoch_parts
from jaxnn.train.filling import may_fill

CALL_SECONDS = 0.5  # per call, as in `fit`
CPU_MEMBERS = 16  # per block: more gain nothing on a core, and fewer blocks can be spread over the cores
# Above this many bytes that a member's step keeps for its backward pass, a block has one member: several push each other's
# data out of a core's cache, and convolutions with a kernel per member have no fast form. Measured, in CPU seconds of 16
# members with 1 and with 16 per block: a CNN 16-32 on 28×28 images, batch 64 (13 MiB): 0.85 and 1.95; on 8×8, batch 32
# (560 KiB): 0.52 and 0.87; MLPs 512-512, batch 128 (2.1 MiB): 1.26 and 1.60; 256-256, batch 64 (555 KiB): 0.29 and 0.34;
# six layers of 64, batch 128 (520 KiB): 0.21 and 0.19; a CNN 4-8 on 8×8 (145 KiB): 0.60 and 0.43; MLPs 784-64-10, batch
# 128 (75 KiB): 0.27 and 0.22; 64-32-10, batch 32 (10 KiB): 0.15 and 0.10.
CPU_RESIDUAL_BYTES = 2**19


@dataclass(frozen=True)
class Strategy:
    """How members are trained.

    Attributes:
        threads: The number of blocks in training at a time.
        members: The number of members per block, at most; None for as many as memory allows.
        memory: The bytes that all blocks in training may take together.
        mesh: The devices over which the settings of each block are spread, or None.
        residual_bytes: The bytes for the backward pass above which a member is a block of its own; None for no limit.
    """

    threads: int
    members: int | None
    memory: int
    mesh: Any = None
    residual_bytes: int | None = None

    def __str__(self) -> str:
        if self.mesh is not None:
            return f"sharded over {self.mesh.size} devices"
        return "vmap" if self.threads == 1 else f"vmap in {self.threads} threads"


def strategy_for(mesh: Any = None, memory: int | None = None) -> Strategy:
    """The strategy for the present backend; `bench/population.py` has the measurements that it rests on."""
    device = jax.devices()[0]
    if mesh is not None:
        if not isinstance(mesh, Mesh) or len(mesh.axis_names) != 1:
            raise ValueError(f"mesh is a jax.sharding.Mesh with one axis, over which members are spread; got {mesh!r}")
        return Strategy(1, None, memory or _free_memory(device), Mesh(mesh.devices, mesh.axis_names))
    if _jax.platform() == "cpu":
        return Strategy(_cores(), CPU_MEMBERS, memory or _free_memory(device), residual_bytes=CPU_RESIDUAL_BYTES)
    return Strategy(1, None, memory or _free_memory(device))


def _cores() -> int:
    """The number of cores that this process may use, as far as the operating system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_memory(device: Any) -> int:
    """Half of the free memory of a computer, eight tenths of that of an accelerator."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(0.8 * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    names = getattr(os, "sysconf_names", ())  # macOS does not tell the free memory, Windows neither
    pages = next((name for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in names), None)
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") // 2 if pages else 2**31


class Scheduler:
    """Runs jobs in threads; these ask the calling thread to trace for them."""

    def __init__(self, runs: Sequence[GroupRun], data: Any, validation: Any, strategy: Strategy):
        self._strategy = strategy
        self._padded: dict[tuple, Any] = {}  # shared by groups whose batches are alike
        self._data_of = {id(run): self._batches(run, data, validation) for run in runs}
        self._requests: queue.SimpleQueue = queue.SimpleQueue()  # functions for the calling thread, with futures
        self._lock = threading.Condition()
        self._jobs: list[Callable] = [partial(self._prepare, run) for run in runs]
        self._running = 0
        self._alive = strategy.threads
        self._stop = False

    def run(self, on_event: Callable[[], bool]) -> None:
        """Train all to the end, or until `on_event` returns True, which is called a few times per second."""
        threads = [threading.Thread(target=self._worker, daemon=True) for _ in range(self._strategy.threads)]
        for thread in threads:
            thread.start()
        failure = None
        try:
            while self._alive:
                try:
                    function, answer = self._requests.get(timeout=0.1)
                except queue.Empty:
                    function = None
                if function is not None:
                    try:
                        answer.set_result(function())
                    except BaseException as error:
                        answer.set_exception(error)
                        failure = failure or error
                if failure is not None or on_event():
                    self._request_stop()
        finally:
            self._request_stop()
            while any(thread.is_alive() for thread in threads):  # they may still send requests
                try:
                    self._requests.get(timeout=0.05)[1].cancel()
                except queue.Empty:
                    continue
        if failure is not None:
            raise failure

    def _worker_ended(self) -> None:
        self._alive -= 1

    def _request_stop(self) -> None:
        with self._lock:
            self._stop = True
            self._lock.notify_all()

    def _worker(self) -> None:
        while True:
            with self._lock:
                while not self._stop and not self._jobs and self._running:
                    self._lock.wait()
                if self._stop or not self._jobs:
                    self._requests.put((self._worker_ended, Future()))
                    return
                job = self._jobs.pop(0)
                self._running += 1
            try:
                with _jax.training_settings():  # which a thread does not share with the thread that started it
                    job()
            except BaseException as error:
                self._requests.put((partial(_raise, error), Future()))
                self._request_stop()
            with self._lock:
                self._running -= 1
                self._lock.notify_all()

    def _add_first(self, jobs: Sequence[Callable]) -> None:
        with self._lock:
            self._jobs[:0] = jobs
            self._lock.notify_all()

    def _program(self, run: GroupRun, name: str, shape: tuple, *arguments: Any) -> Program:
        """The program of that name for blocks of that shape; the calling thread traces it."""
        if (name, shape) not in run.programs:
            answer: Future = Future()
            self._requests.put((partial(program_for, run.group.config, name, self._strategy.mesh, arguments), answer))
            run.programs[name, shape] = answer.result()
        return run.programs[name, shape]

    def _compiled(self, run: GroupRun, name: str, shape: tuple, *arguments: Any) -> Callable:
        with run.compiling:
            start = time.perf_counter()
            program = self._program(run, name, shape, *arguments).compile()
            run.compile_seconds += time.perf_counter() - start
        return program

    # A group: its programs are compiled, the second by another thread if one is free; then its blocks are trained.

    def _prepare(self, run: GroupRun) -> None:
        alone = self._strategy.residual_bytes is not None and run.residual_bytes > self._strategy.residual_bytes
        members = 1 if alone else self._strategy.members
        while True:
            run.cut(members, self._strategy.threads)
            if not run.rectangles:
                return
            seeds, settings = run.rectangles[0]
            size = len(seeds) * len(settings)
            start_program = None
            if run.at == 0:
                start_program = self._program(run, "start", (len(seeds), len(settings)), run.x, *run.arguments(seeds, settings))
                self._add_first([start_program.compile])
            block = start_program.output if start_program else run.block(seeds, settings)
            self._epochs(run, block)
            needed = run.programs["epochs", block.epochs.shape].bytes * min(self._strategy.threads, len(run.rectangles))
            if needed <= self._strategy.memory or size <= run.multiple:
                break
            members = max(run.multiple, min(size // 2, int(size * self._strategy.memory / needed)))
        if start_program:
            start_program.compile()
        self._add_first([partial(self._block, run, seeds, settings) for seeds, settings in run.rectangles])

    def _epochs(self, run: GroupRun, block: Block) -> Callable:
        until = jax.ShapeDtypeStruct((), np.int32)
        return self._compiled(run, "epochs", block.epochs.shape, block, *self._data_of[id(run)], until)

    def _batches(self, run: GroupRun, data: Any, validation: Any) -> tuple[Any, Any]:
        """The data and the validation data of a group's runs, in batches."""
        config, start = run.group.config, run.start
        size, example = config.batch_size, abstract_batch(data, config.batch_size)
        fill = epoch_parts(config).fills(start, example)
        if ("data", size, fill) not in self._padded:
            self._padded["data", size, fill] = padded(data, size, fill=fill)
        if validation is None:
            return self._padded["data", size, fill], None
        given = config.problem, config.metrics, start.params, start.state
        evenly = may_fill(*given, abstract_batch(validation, size))
        if ("validation", size, evenly) not in self._padded:
            self._padded["validation", size, evenly] = in_batches(validation, size, fill=evenly)
        return self._padded["data", size, fill], self._padded["validation", size, evenly]

    # A block of a group.

    def _block(self, run: GroupRun, seeds: np.ndarray, settings: np.ndarray) -> None:
        if run.at == 0:
            block = run.programs["start", (len(seeds), len(settings))].compile()(*run.arguments(seeds, settings))
        else:
            block = run.block(seeds, settings)
        epoch, budget = run.at, 1
        while True:
            program = self._epochs(run, block)
            start = time.perf_counter()
            block, logs, ended = program(block, *self._data_of[id(run)], np.int32(min(epoch + budget, run.until)))
            logs, ended = jax.device_get((logs, ended))
            seconds_per_epoch = (time.perf_counter() - start) / max(ended, 1)
            run.keep_logs(seeds, settings, epoch, {name: values[:ended] for name, values in logs.items()})
            epoch += int(ended)
            active = np.any(~np.asarray(block.train_state.stopped), axis=0)
            if self._stop or epoch >= run.until or not active.any():
                break
            budget = max(1, min(int(CALL_SECONDS / max(seconds_per_epoch, 1e-9)), 8 * budget, MOST_EPOCHS))
            narrow = self._narrower_settings(run, active, seconds_per_epoch * (run.until - epoch))
            if narrow is not None:
                self._keep(run, block, seeds, settings, np.flatnonzero(~active), ended=True)
                block, settings = select_settings(block, narrow), settings[narrow]
        self._keep(run, block, seeds, settings, np.arange(len(settings)), ended=epoch >= run.group.epochs)

    def _narrower_settings(self, run: GroupRun, active: Any, left: float) -> np.ndarray | None:
        """The settings to continue with, if leaving out the others saves more time than compiling a narrower program takes."""
        kept = np.flatnonzero(active)
        width = 1 << (len(kept) - 1).bit_length()
        if run.multiple > 1 or width > len(active) // 2:
            return None
        saved = left * (1 - width / len(active))
        made = {shape[1]: program.seconds for (name, shape), program in run.programs.items() if name == "epochs"}
        cost = 0.0 if width in made else max(made.values())
        return None if saved < 1.5 * cost else np.concatenate([kept, np.repeat(kept[-1:], width - len(kept))])

    def _keep(self, run: GroupRun, block: Block, seeds, settings, which: np.ndarray, *, ended: bool) -> None:
        final = block.epochs, (block.train_state.params, block.train_state.state)
        if any(callback.weights or callback.finish for callback in run.group.config.callbacks):
            final = self._compiled(run, "final", block.epochs.shape, block)(block)
        run.keep(seeds, settings, which, block, jax.device_get(final), ended)


def _raise(error: BaseException) -> None:
    raise error
