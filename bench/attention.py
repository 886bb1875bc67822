"""Causal self-attention, forward and backward, with memory.

    python bench/attention.py [--rounds 7]

jaxnn and `jax.nn` run a scan of steps; PyTorch runs its scaled_dot_product_attention with one and two threads. Memory is the
growth of a new process's peak in its first call, after a call of length 32 (on Linux), and the temporary memory that XLA
reserves.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from common import interleave, table

import jaxnn as nn

# batch, length, steps per round: in a scan the first step also allocates memory
SHAPES = ((16, 128, 64), (8, 512, 16), (2, 2048, 6))


def jaxnn_steps(attend, arrays, steps: int):
    """Return a compiled scan of gradient descent steps on query, key and value."""

    def step(arrays, _):
        gradient = jax.grad(lambda arrays: jnp.sum(attend(*arrays) ** 2))(arrays)
        return jax.tree.map(lambda x, g: x - 1e-3 * g, arrays, gradient), None

    return nn.kernels.jit(lambda arrays: jax.lax.scan(step, arrays, length=steps)[0]).lower(arrays).compile()


def torch_steps(arrays, steps: int, threads: int):
    import torch

    def run():
        torch.set_num_threads(threads)
        tensors = [torch.tensor(np.asarray(x)).transpose(1, 2).contiguous().requires_grad_() for x in arrays]
        for _ in range(steps):
            y = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
            gradients = torch.autograd.grad((y**2).sum(), tensors)
            with torch.no_grad():
                tensors = [(x - 1e-3 * g).requires_grad_() for x, g in zip(tensors, gradients, strict=True)]

    return run


OURS = {
    "jaxnn": functools.partial(nn.kernels.dot_product_attention, is_causal=True),
    "jax.nn": functools.partial(jax.nn.dot_product_attention, is_causal=True),
}


def operands(batch: int, length: int) -> tuple:
    return tuple(jnp.asarray(np.random.default_rng(i).normal(size=(batch, length, 4, 32)), "float32") for i in range(3))


def growth(name: str, batch: int, length: int) -> float:
    """Return the growth of this process's peak memory in the first call, in MiB, without compilation."""
    if name in OURS:
        program = lambda arrays: functools.partial(jaxnn_steps(OURS[name], arrays, 4), arrays)  # noqa: E731
    else:
        program = lambda arrays: torch_steps(arrays, 4, 2)  # noqa: E731
    jax.block_until_ready(program(operands(1, 32))())
    run = program(operands(batch, length))
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current use
    before = status("VmHWM")
    jax.block_until_ready(run())
    return status("VmHWM") - before


def status(field: str) -> float:
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**10


def main(rounds: int) -> None:
    for batch, length, steps in SHAPES:
        arrays = operands(batch, length)
        compiled = {name: jaxnn_steps(attend, arrays, steps) for name, attend in OURS.items()}
        runs = {name: functools.partial(run, arrays) for name, run in compiled.items()}
        runs |= {f"PyTorch, {n} thread{'s' * (n > 1)}": torch_steps(arrays, steps, n) for n in (1, 2)}
        title = f"causal attention, batch {batch}, length {length}, 4 heads of 32, forward + backward"
        table(title, "ms per step", interleave(runs, rounds, 1e3 / steps), "jaxnn", ("jax", "torch"))
        reserved = {name: f", {f.memory_analysis().temp_size_in_bytes / 2**20:.0f} reserved" for name, f in compiled.items()}
        for name in (*OURS, "PyTorch") if Path("/proc/self/clear_refs").exists() else ():
            with multiprocessing.get_context("spawn").Pool(1) as fresh:
                grown = fresh.apply(growth, (name, batch, length))
            print(f"  memory: {name} {grown:.0f} MiB{reserved.get(name, '')}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    main(parser.parse_args().rounds)
