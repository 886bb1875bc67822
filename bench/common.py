"""What every script here shares: rounds that interleave the contenders, and an honest table."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np


def table(title: str, unit: str, rounds: dict[str, list[float]], ours: str, packages: tuple[str, ...]) -> None:
    """Print each contender's median and spread, and the ratio to ours, paired round by round."""
    print(f"\n{title}")
    print(f"{machine()}; {', '.join(f'{name} {_version(name)}' for name in packages)}")
    print(f"median [min, max] of {len(rounds[ours])} interleaved rounds, {unit}")
    width = max(map(len, rounds))
    for name, values in rounds.items():
        ratio = np.median(np.divide(values, rounds[ours]))
        print(f"  {name:<{width}}  {np.median(values):8.3f}  [{min(values):.3f}, {max(values):.3f}]  × {ratio:.2f}")


def machine() -> str:
    """The processor's name, and how many of its cores there are for us."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
