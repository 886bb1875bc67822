"""Shared by the benchmarks: interleaved timing, result tables, and the training loop of each library."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from unittest import mock

import numpy as np


class Measured(float):
    """Seconds measured by a contender itself, if a part of its call should not be counted."""


def interleave(runs: dict[str, Callable[[], Any]], rounds: int, scale: float) -> dict[str, list[float]]:
    """Time each contender once per round, after a first call that compiles and warms up; in seconds times `scale`."""
    import jax

    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        jax.block_until_ready(run())
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            result = jax.block_until_ready(run())
            seconds = result if isinstance(result, Measured) else time.perf_counter() - start
            times[name].append(float(seconds) * scale)
    return times


def table(title: str, unit: str, rounds: dict[str, list[float]], ours: str, packages: tuple[str, ...]) -> None:
    """Print the median and spread of each contender, and the ratio to `ours`, paired round by round.

    If the environment variable JAXNN_BENCH_RECORD names a file, append the table to it as a line of JSON, too.
    """
    print(f"\n{title}")
    where = f"{machine()}; {', '.join(f'{name} {_version(name)}' for name in packages)}"
    print(where)
    print(f"median [min, max] of {len(rounds[ours])} interleaved rounds, {unit}")
    width = max(map(len, rounds))
    rows = {}
    for name, values in rounds.items():
        ratio = float(np.median(np.divide(values, rounds[ours])))
        rows[name] = [float(np.median(values)), min(values), max(values), ratio]
        print(f"  {name:<{width}}  {rows[name][0]:8.3f}  [{min(values):.3f}, {max(values):.3f}]  × {ratio:.2f}", flush=True)
    if record := os.environ.get("JAXNN_BENCH_RECORD"):
        line = {"title": title, "machine": where, "unit": unit, "rounds": len(rounds[ours]), "ours": ours, "rows": rows}
        with open(record, "a") as file:
            print(json.dumps(line, ensure_ascii=False), file=file)


@functools.cache
def machine() -> str:
    """Describe the machine: processor, number of available cores, accelerator if any, and measured rates."""
    import jax

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    accelerator = "" if on_cpu else f", {device.device_kind}"
    matmul, copy = (matmul_rate(2**10), copy_rate(2**26)) if on_cpu else (matmul_rate(2**13), copy_rate(2**30))
    rates = f"matmul {matmul:,.0f} GFLOP/s, copy {copy:,.0f} GB/s"
    return f"{name}, {len(os.sched_getaffinity(0))} cores{accelerator}, {rates}"


def matmul_rate(size: int) -> float:
    """Return the best float32 rate of a chain of square matrix products, in GFLOP/s."""
    import jax
    import jax.numpy as jnp

    x = jnp.eye(size)
    steps = 8
    chain = jax.jit(lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=steps)[0])
    return 2 * size**3 * steps / _best(lambda: chain(x).block_until_ready()) / 1e9


def copy_rate(size: int) -> float:
    """Return the best rate of reading and writing `size` bytes, more than the caches hold, in GB/s of both together."""
    import jax
    import jax.numpy as jnp

    x = jnp.zeros(size // 4)
    steps = 8
    copies = jax.jit(lambda x: jax.lax.fori_loop(0, steps, lambda _, y: y + 1, x))
    return 2 * size * steps / _best(lambda: copies(x).block_until_ready()) / 1e9


def _best(run: Callable[[], Any]) -> float:
    """Return the seconds of the best of five runs after a first one."""
    run()
    return min(_seconds(run) for _ in range(5))


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


# Training. Each loop is one epoch over x, (samples, height, width, channels), and labels y, and returns the last loss.


def jaxnn_epoch(model, optimizer, x, y, batch: int) -> tuple[Callable[[], Any], float]:
    """Return one compiled epoch over prepared batches, as in `fit`, and the seconds of compilation."""
    import jax
    import jax.numpy as jnp

    import jaxnn as nn

    step = nn.train_step(model, loss=nn.losses.cross_entropy, optimizer=optimizer)
    batches = jnp.asarray(x).reshape(-1, batch, *x.shape[1:]), jnp.asarray(y, jnp.int32).reshape(-1, batch)
    state = nn.init_train_state(model, optimizer, jax.random.key(0), batches[0][0])
    epoch = nn.kernels.jit(lambda state, batches: jax.lax.scan(lambda s, b: step(s, b)[:2], state, batches))
    lowered = epoch.lower(state, batches)
    start = time.perf_counter()
    compiled = lowered.compile()
    return lambda: compiled(state, batches)[1][-1], time.perf_counter() - start


def jaxnn_fit(model, optimizer, x, y, batch: int, epochs: int) -> Callable[[], Measured]:
    """Return `fit` as users call it, with shuffling and history; it measures the seconds per epoch."""
    import jax

    import jaxnn as nn

    settings = {"loss": nn.losses.cross_entropy, "optimizer": optimizer, "batch_size": batch, "progress": False}
    fit = lambda: nn.fit(model, (x, y.astype(np.int32)), key=jax.random.key(0), epochs=epochs, **settings)  # noqa: E731
    return lambda: Measured(np.mean(fit().history["seconds"]))


@contextlib.contextmanager
def xlas_forms():
    """Trace every operation in XLA's form, and compile without jaxnn's compiler options."""
    from jaxnn.kernels import compiler

    with mock.patch("jaxnn.kernels.forms.platform", lambda: "other"), mock.patch.object(compiler, "_CPU_OPTIONS", {}):
        compiler._known_cpu_options.cache_clear()
        yield
    compiler._known_cpu_options.cache_clear()


def flax_steps(model, optimizer, x, y, batch: int) -> Callable[[], Any]:
    """Return a jitted step with a cached graph, called from Python."""
    import optax
    from flax import nnx

    optimizer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        loss = lambda model: optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()  # noqa: E731
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    cached = nnx.cached_partial(step, model, optimizer)
    return lambda: [cached(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)][-1]


def keras_steps(model, optimizer, x, y, batch: int) -> Callable[[], Any]:
    """Return `train_on_batch`, whose step Keras compiles."""
    import keras

    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return lambda: [model.train_on_batch(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)][-1]


def keras_on_jax():
    """Import Keras 3 with JAX as its backend, which it reads on its first import."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    return keras


def torch_steps(build: Callable, optimizer: Callable, x, y, batch: int) -> dict[str, Callable[[], Any]]:
    """Return eager steps of the model from `build`, with one and two threads, in both memory formats."""
    import torch

    def steps(threads: int, layout) -> Callable[[], Any]:
        torch.manual_seed(0)
        model = build().to(memory_format=layout)
        update = optimizer(model.parameters())
        inputs, labels = torch.tensor(x).movedim(-1, 1).contiguous(memory_format=layout), torch.tensor(y)

        def run():
            torch.set_num_threads(threads)
            for i in range(0, len(inputs), batch):
                update.zero_grad(set_to_none=True)
                loss = torch.nn.functional.cross_entropy(model(inputs[i : i + batch]), labels[i : i + batch])
                loss.backward()
                update.step()
            return loss.detach()

        return run

    layouts = {"": torch.contiguous_format, ", channels last": torch.channels_last}
    return {f"PyTorch, {n} thread(s){name}": steps(n, layout) for n in (1, 2) for name, layout in layouts.items()}
