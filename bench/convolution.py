"""Convolutions, forward and both gradients: depthwise, grouped, one-dimensional, transposed.

    python bench/convolution.py [--rounds 7]

jaxnn's and XLA's form run in a compiled loop, as in `grid.py`: a step convolves the input and computes the gradients of the
input and the kernel, and one element of each operand changes from step to step. PyTorch runs eagerly, with 1 and 2 threads,
in 2-D with channels first and channels last. XLA's form takes seconds per step, so it is timed once.
Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import torch
from common import interleave, table
from grid import Case, loop, seconds_per_step

import jaxnn as nn

SHORTEST = 0.2  # seconds of a round of jaxnn: in a loop the first step also allocates memory
CASES = {  # name: (operation, input, kernel, options)
    "Depthwise 3×3, 16×32×32×64": ("conv", (16, 32, 32, 64), (3, 3, 1, 64), {"groups": 64}),
    "Depthwise 7×7, 16×32×32×64": ("conv", (16, 32, 32, 64), (7, 7, 1, 64), {"groups": 64}),
    "32 groups of 4 channels, 3×3, 16×32×32×128": ("conv", (16, 32, 32, 128), (3, 3, 4, 128), {"groups": 32}),
    "4 groups of 32 channels, 3×3, 16×32×32×128": ("conv", (16, 32, 32, 128), (3, 3, 32, 128), {"groups": 4}),
    "1-D, 9 taps, 16×4096×64": ("conv", (16, 4096, 64), (9, 64, 64), {}),
    "Transposed 1-D, 4 taps, stride 2, 16×1024×64": ("conv_transpose", (16, 1024, 64), (4, 64, 64), {"strides": 2}),
    "Transposed 2-D, 4×4, stride 2, 16×16×16×64 to 32": ("conv_transpose", (16, 16, 16, 64), (4, 4, 64, 32), {"strides": 2}),
}


def theirs(operation, x, kernel, g, options, steps: int) -> dict:
    axes = x.ndim - 2
    convolve = getattr(torch.nn.functional, f"{operation}{axes}d")
    # as "SAME": padding k // 2 at stride 1; a transposed convolution with 4 taps and stride 2 crops 1 on each side
    settings = {"padding": 1, "stride": 2} if operation == "conv_transpose" else {"padding": kernel.shape[0] // 2}
    settings |= {"groups": options.get("groups", 1)}
    order = (axes, axes + 1) if operation == "conv_transpose" else (axes + 1, axes)

    def run(x, kernel, g, threads):
        torch.set_num_threads(threads)
        for _ in range(steps):
            x.grad = kernel.grad = None
            convolve(x, kernel, **settings).backward(g)

    runs = {}
    for layout in ("channels first", "channels last")[:axes]:
        form = torch.channels_last if layout == "channels last" else torch.contiguous_format
        x_there, g_there = (torch.tensor(np.array(v)).movedim(-1, 1).contiguous(memory_format=form) for v in (x, g))
        there = torch.tensor(np.array(kernel)).permute(*order, *range(axes)).contiguous(memory_format=form).requires_grad_()
        x_there.requires_grad_()
        for threads in (1, 2):
            name = f"PyTorch, {threads} thread(s), {layout}"
            runs[name] = lambda x=x_there, w=there, g=g_there, threads=threads: run(x, w, g, threads)
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    for title, (operation, x_shape, kernel_shape, options) in CASES.items():
        x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (x_shape, kernel_shape))
        y = jax.eval_shape(lambda x, w, op=operation, kw=options: getattr(nn.kernels, op)(x, w, **kw), x, kernel)
        g = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
        values = {name: np.array(v) for name, v in (("x", x), ("kernel", kernel), ("g", g))}
        case = Case(operation, x_shape, kernel_shape, options)
        ours, xlas = (loop(case, "all three", form, values) for form in (None, "xla"))
        steps = max(8, round(SHORTEST / seconds_per_step(ours)))
        runs = {"jaxnn": lambda run=ours, steps=steps: run(steps), **theirs(operation, x, kernel, g, options, steps)}
        times = interleave(runs, rounds, 1e3 / steps)
        xla = interleave({"XLA's form": lambda run=xlas: run(2)}, 1, 1e3 / 2)
        times["XLA's form"] = xla["XLA's form"] * rounds
        table(f"{title}, forward and backward", "ms", times, "jaxnn", ("jax", "torch"))
