"""Common convolutions in the form that jaxnn chooses and in XLA's form: is any shape slower with jaxnn's choice?

    python bench/grid.py [--rounds 5] [--only "stride 2"] [--record grid.jsonl]

For each shape the forward pass, the input gradient, the kernel gradient, and all three together run in a compiled loop,
as in a training epoch, with the same compiler options for both forms. The operands are the loop's state and change by one
element per step, so that nothing can be moved out of the loop; the results are state, too, so that all of them are computed.
A ratio is XLA's time divided by jaxnn's, paired round by round; a part with a ratio below 1/1.1 is compiled and measured again,
in three times as many rounds. XLA's form is timed once if it takes more than five times as long.

With ``--record`` each shape is appended to a file as a line of JSON, and shapes in the file are not measured again, so an
interrupted run can be continued. After the whole grid has been measured, it is written to ``bench/grid.md``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from common import interleave, machine
from jax import lax

import jaxnn as nn

TARGET_FLOPS = 3e8  # of a forward pass; determines the batch size
SHORTEST = 5e-3  # seconds; a measurement repeats the step to last at least this long
SLOWER = 1 / 1.1  # a ratio below this counts as a loss
PARTS = ("forward", "input gradient", "kernel gradient", "all three")


class Case(NamedTuple):
    """A convolution; `options` are those of `nn.kernels.conv`."""

    operation: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    options: dict[str, Any]

    def __str__(self) -> str:
        axes = len(self.x) - 2
        kind = "transposed " * (self.operation == "conv_transpose") + f"{axes}-D"
        kind = f"depthwise {kind}" if self.options.get("groups") == self.x[-1] > 1 else kind
        shape, taps = ("×".join(map(str, sizes)) for sizes in (self.x, self.kernel[:-2]))
        options = "".join(f", {name} {value}" for name, value in self.options.items())
        return f"{kind} {shape} → {self.kernel[-1]}, {taps}{options}"


def case(
    size: int | tuple, c_in: int, c_out: int, taps: int | tuple, axes: int = 2, transposed: bool = False, **options
) -> Case:
    space, taps = ((v,) * axes if isinstance(v, int) else v for v in (size, taps))
    kernel = (*taps, c_in // options.get("groups", 1), c_out)
    positions = math.prod(space) if transposed else math.prod(-(-n // options.get("strides", 1)) for n in space)
    largest = 3 if options.get("groups", 1) >= 32 else 6  # XLA's depthwise kernel gradient takes 2 s for 8 examples
    batch = 2 ** round(np.clip(np.log2(TARGET_FLOPS / (2 * positions * math.prod(kernel))), 3, largest))
    return Case("conv_transpose" if transposed else "conv", (batch, *space, c_in), kernel, options)


def grid() -> Iterator[Case]:
    """Yield the shapes: one argument varies, the others have common values."""
    small = ((64, 3, 32), (32, 3, 64), (28, 1, 32), (32, 16, 16), (28, 32, 64), (16, 32, 32), (8, 64, 64), (14, 64, 128))
    large = (
        (56, 64, 64),
        (32, 64, 64),
        (28, 128, 128),
        (16, 128, 128),
        (14, 256, 256),
        (8, 256, 256),
        (7, 512, 512),
        (4, 512, 512),
    )
    # Kernels
    for taps in (1, 3, 5, 7):
        yield from (case(*layer, taps) for layer in small)
    for taps in (1, 3):
        yield from (case(*layer, taps) for layer in large)
    for taps in (2, 4, 6, (1, 3), (3, 1), (1, 7), (7, 1)):
        yield from (case(*layer, taps) for layer in ((28, 1, 32), (16, 32, 32), (14, 64, 128)))
    # Channels
    for channels in (1, 2, 3, 4, 5, 6, 8, 12, 16, 48, 100, 256, 512):
        yield case(16, channels, 32, 3)
        yield case(16, 32, channels, 3)
    for channels in (1, 2, 3, 4, 8):
        yield case(32, channels, channels, 5)
    # Sizes and padding
    yield from (case(size, 32, 32, 3) for size in (4, 5, 6, 7, 10, 12, 20, 27, 33, 48, 64, 96, (8, 64), (64, 8), (1, 128)))
    yield from (
        case(*layer, 3, padding="VALID") for layer in ((28, 1, 32), (26, 32, 64), (13, 64, 64), (64, 3, 32), (3, 128, 128))
    )
    yield from (
        case(*layer, 5, padding="VALID") for layer in ((32, 1, 6), (28, 1, 20), (14, 6, 16), (12, 20, 50), (5, 16, 120))
    )
    # Strides
    for taps in (1, 2, 3, 5):
        yield from (case(*layer, taps, strides=2) for layer in ((64, 3, 32), (32, 64, 128), (16, 128, 256), (8, 256, 512)))
    yield from (case(*layer, 3, strides=2) for layer in ((28, 1, 32), (56, 64, 64), (28, 128, 128), (15, 32, 64), (7, 64, 64)))
    yield from (case(*layer, 7, strides=2) for layer in ((224, 3, 64), (112, 3, 64), (64, 3, 64), (28, 1, 32)))
    yield from (case(*layer, 4, strides=2) for layer in ((64, 3, 64), (32, 64, 64), (16, 64, 128)))
    yield case(32, 32, 64, 3, strides=2, padding="VALID")
    yield case(27, 32, 64, 3, strides=3)
    yield from (case(32, 3, 96, taps, strides=taps) for taps in (2, 4, 8))
    yield from (case(*layer, strides=4) for layer in ((84, 4, 32, 8), (64, 3, 64, 7), (56, 64, 64, 4)))
    # Dilations
    for dilation in (2, 4):
        for layer in ((28, 1, 32), (32, 16, 16), (32, 32, 32), (32, 64, 64), (16, 128, 128), (14, 256, 256)):
            yield case(*layer, 3, dilation=dilation)
    yield from (case(32, 32, 32, taps, dilation=2) for taps in (2, 5, 7))
    yield case(32, 32, 32, 3, dilation=3)
    yield case(32, 32, 64, 3, strides=2, dilation=2)
    # Groups
    for groups in (2, 4, 8, 16, 32):
        yield from (case(*layer, 3, groups=groups) for layer in ((32, 64, 64), (16, 128, 128), (14, 256, 256)))
    yield from (case(14, 256, 256, 1, groups=groups) for groups in (2, 8, 64))
    yield from (case(*layer, 3, strides=2, groups=32) for layer in ((32, 128, 128), (16, 256, 256)))
    yield case(14, 96, 192, 5, groups=2)
    yield case(16, 64, 64, 3, groups=4, dilation=2)
    # Depthwise
    for taps in (3, 5, 7):
        yield from (case(size, c, c, taps, groups=c) for size, c in ((56, 32), (32, 64), (28, 144), (14, 256), (7, 512)))
    for taps in (3, 5):
        yield from (case(size, c, c, taps, groups=c, strides=2) for size, c in ((56, 64), (28, 144), (14, 256)))
    yield from (case(32, 32, 64, taps, groups=32) for taps in (3, 5))
    yield case(32, 64, 64, 3, groups=64, dilation=2)
    # One and three dimensions
    for taps in (1, 3, 5, 7, 9):
        yield from (case(*layer, taps, axes=1) for layer in ((1024, 1, 32), (1024, 32, 32), (256, 128, 128)))
    yield from (case(*layer, axes=1, strides=2) for layer in ((1024, 2, 32, 7), (1024, 64, 64, 3), (256, 128, 256, 4)))
    yield from (case(1024, 32, 32, taps, axes=1, dilation=d) for taps, d in ((2, 2), (2, 16), (3, 4), (3, 64)))
    yield from (case(512, 64, 64, taps, axes=1, groups=64) for taps in (3, 4, 7, 31))
    yield case(512, 128, 128, 3, axes=1, groups=4)
    yield from (
        case(*layer, axes=3) for layer in ((16, 1, 16, 3), (16, 16, 16, 3), (8, 32, 64, 3), (8, 64, 64, 1), (16, 8, 8, 5))
    )
    yield from (case(*layer, axes=3, strides=2) for layer in ((16, 3, 16, 3), (16, 16, 32, 3), (8, 32, 64, 2)))
    yield case(16, 32, 32, 3, axes=3, groups=32)
    # Transposed
    for taps in (2, 3, 4, 5):
        yield from (
            case(*layer, taps, transposed=True, strides=2) for layer in ((8, 128, 64), (16, 64, 32), (32, 32, 3), (14, 16, 1))
        )
    yield case(16, 32, 32, 3, transposed=True)
    yield case(8, 64, 64, 4, transposed=True, strides=4)
    yield case(16, 64, 64, 4, transposed=True, strides=2, groups=64)
    yield from (
        case(*layer, axes=1, transposed=True, strides=2) for layer in ((512, 64, 64, 4), (256, 128, 64, 2), (512, 16, 1, 4))
    )
    yield case(128, 64, 32, 16, axes=1, transposed=True, strides=8)
    yield case(8, 32, 16, 4, axes=3, transposed=True, strides=2)


def loop(case: Case, part: str, form: str | None, values: dict[str, np.ndarray]) -> Callable[[int], Any]:
    """Return a function that runs the given number of steps of one part of a convolution; 0 steps only compile."""

    def convolve(x, kernel):
        return getattr(nn.kernels, case.operation)(x, kernel, form=form, **case.options)

    def compute(x, kernel, g):
        if part == "forward":
            return (convolve(x, kernel),)
        if part == "input gradient":
            return jax.vjp(lambda x: convolve(x, kernel), x)[1](g)
        if part == "kernel gradient":
            return jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](g)
        y, pullback = jax.vjp(convolve, x, kernel)
        return y, *pullback(g)

    def step(_, state):
        operands, _ = state
        results = compute(*operands)
        change = 1e-6 * sum(lax.slice(v, (0,) * v.ndim, (1,) * v.ndim).reshape(()) for v in results)
        return [lax.dynamic_update_slice(v, change.reshape((1,) * v.ndim), (0,) * v.ndim) for v in operands], results

    operands = [jnp.array(values[name]) for name in ("x", "kernel", "g")]
    state = operands, jax.tree.map(lambda v: jnp.zeros(v.shape), jax.eval_shape(compute, *operands))
    compiled = nn.kernels.jit(lambda state, steps: lax.fori_loop(0, steps, step, state), donate_argnums=0)

    def run(steps: int) -> Any:
        nonlocal state
        state = compiled(state, steps)
        return state

    return run


def measure(case: Case, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return for each part jaxnn's time and XLA's, in ms, and their ratio."""
    rng = np.random.default_rng(0)
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (case.x, case.kernel))
    y = jax.eval_shape(lambda x, w: getattr(nn.kernels, case.operation)(x, w, **case.options), x, kernel)
    shapes = {"x": case.x, "kernel": case.kernel, "g": y.shape}
    values = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}

    def looped(part: str) -> list[Callable]:
        return [loop(case, part, form, values) for form in (None, "xla")]

    runs = {part: looped(part) for part in PARTS}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: run(0), itertools.chain(*runs.values())))
    results = {}
    for part in PARTS:
        results[part] = compare(*runs[part], rounds)
        if results[part][2] < SLOWER:  # in newly allocated memory: equal programs may differ by as much
            results[part] = compare(*looped(part), 3 * rounds)
    return results


def compare(ours: Callable, theirs: Callable, rounds: int) -> tuple[float, float, float]:
    """Return the median times per step in ms, and the median ratio."""
    guesses = [seconds_per_step(run) for run in (ours, theirs)]
    steps = [math.ceil(SHORTEST / guess) for guess in guesses]
    runs = {"ours": lambda: ours(steps[0]), "theirs": lambda: theirs(steps[1])}
    if guesses[1] > 5 * guesses[0]:
        del runs["theirs"]
    times = interleave(runs, rounds, 1e3)
    mine = np.divide(times["ours"], steps[0])
    xla = np.divide(times["theirs"], steps[1]) if "theirs" in times else np.full(rounds, guesses[1] * 1e3)
    return float(np.median(mine)), float(np.median(xla)), float(np.median(xla / mine))


def seconds_per_step(run: Callable) -> float:
    jax.block_until_ready(run(0))
    for steps in (1, 4):
        start = time.perf_counter()
        jax.block_until_ready(run(steps))
        taken = (time.perf_counter() - start) / steps
        if taken > 20 * SHORTEST:  # long enough to be accurate, even with the first use of its memory
            break
    return taken


def summary(results: dict[str, dict]) -> list[str]:
    """Return Markdown: the distribution of the ratios of each part."""
    lines = ["| | slower by more than 10% | worst ratio | median | geometric mean |", "|---|---:|---:|---:|---:|"]
    for part in PARTS:
        ratios = np.array([row[part][2] for row in results.values()])
        mean = np.exp(np.log(ratios).mean())
        lines += [f"| {part} | {np.sum(ratios < SLOWER)} | {ratios.min():.2f} | {np.median(ratios):.2f} | {mean:.2f} |"]
    return lines


def write(results: dict[str, dict], path: Path) -> None:
    lines = [
        "# Convolutions: jaxnn's form and XLA's form",
        "",
        f"Written by `python bench/grid.py`: {len(results)} shapes, float32. {machine()}, jax {jax.__version__}.",
        "Milliseconds per step in a compiled loop with jaxnn's form, then XLA's time over jaxnn's: above 1 jaxnn is faster.",
        "Ratios of parts that are slower by more than 10% are bold.",
        "",
        *summary(results),
        "",
        f"| batch × sizes × channels | {' | '.join(f'{part} | ratio' for part in PARTS)} |",
        "|---|" + "---:|" * 2 * len(PARTS),
    ]
    for name, row in results.items():
        cells = (f"{ours:.3g} | {f'{ratio:.2f}' if ratio >= SLOWER else f'**{ratio:.2f}**'}" for ours, _, ratio in row.values())
        lines += [f"| {name} | {' | '.join(cells)} |"]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="measure only shapes whose name contains this")
    parser.add_argument("--record", type=Path, help="file of JSON lines, from which an interrupted run continues")
    options = parser.parse_args()
    known = options.record.read_text().splitlines() if options.record and options.record.exists() else []
    known = {line["shape"]: line["times"] for line in map(json.loads, known)}
    cases = {str(c): c for c in grid()}
    results = {}
    for name, shape in cases.items():
        if options.only not in name:
            continue
        results[name] = known.get(name) or measure(shape, options.rounds)
        if name in known:
            continue
        row = "  ".join(f"{part} {results[name][part][0]:.3g} × {results[name][part][2]:.2f}" for part in PARTS)
        print(f"{name}: {row}", flush=True)
        if options.record:
            with options.record.open("a") as file:
                print(json.dumps({"shape": name, "times": results[name]}, ensure_ascii=False), file=file)
    print("\n".join(summary(results)))
    if len(results) == len(cases):
        write(results, Path(__file__).with_suffix(".md"))
