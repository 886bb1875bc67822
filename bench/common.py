"""What every script here shares: rounds that interleave the contenders, and an honest table."""

from __future__ import annotations

import functools
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np


def interleave(runs: dict[str, Callable[[], Any]], rounds: int, scale: float) -> dict[str, list[float]]:
    """Time each contender once a round, after a first call that compiles and warms up; seconds times `scale`."""
    import jax

    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        jax.block_until_ready(run())
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append((time.perf_counter() - start) * scale)
    return times


def table(title: str, unit: str, rounds: dict[str, list[float]], ours: str, packages: tuple[str, ...]) -> None:
    """Print each contender's median and spread, and the ratio to ours, paired round by round.

    Where the environment names a file in JAXNN_BENCH_RECORD, the table is added to it as a line of JSON, too.
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
    """The processor's name, how many of its cores are ours, the accelerator if any, and the measured matmul rate."""
    import jax

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    device = jax.devices()[0]
    accelerator = "" if device.platform == "cpu" else f", {device.device_kind}"
    return f"{name}, {len(os.sched_getaffinity(0))} cores{accelerator}, matmul {matmul_rate():,.0f} GFLOP/s"


def matmul_rate(size: int = 1024) -> float:
    """The best float32 rate of a chain of square products, in GFLOP/s."""
    import jax
    import jax.numpy as jnp

    steps = 8
    chain = jax.jit(lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=steps)[0])
    x = jnp.eye(size)
    chain(x).block_until_ready()
    best = min(_seconds(lambda: chain(x).block_until_ready()) for _ in range(5))
    return 2 * size**3 * steps / best / 1e9


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
