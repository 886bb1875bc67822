"""Max-pooling, forward and backward: 64×28×28×32, window 2×2, and 3×3 with stride 2.

    python bench/pooling.py [--rounds 15]

jaxnn's and XLA's form run in a compiled scan, whose step pools a new input, computes the gradient, and writes the results.
PyTorch runs eagerly, with 1 and 2 threads, channels first and channels last. "copy" writes two arrays of the same sizes
without computing anything: no form can be much faster. Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import torch
from common import interleave, table

import jaxnn as nn

STEPS = 512  # in a loop the first step also allocates memory


def scanned(function, x, g):
    """Return a compiled loop; the scalar in the carry makes the input of each step new."""

    def epoch(x, g):
        def step(carry, _):
            y, dx = function(x * carry[0], g)
            return (1 + 1e-9 * (y[0, 0, 0, 0] + dx[0, 0, 0, 0]), y, dx), None

        return jax.lax.scan(step, (jnp.float32(1), jnp.zeros_like(g), jnp.zeros_like(x)), length=STEPS)[0]

    loop = nn.kernels.jit(epoch)
    return lambda: loop(x, g)


def ours(x, g, window, padding) -> dict:
    def both(x, g, form):
        pool = lambda x: nn.kernels.max_pool(x, window, strides=2, padding=padding, form=form)  # noqa: E731
        y, pullback = jax.vjp(pool, x)
        return y, pullback(g)[0]

    forms = {"jaxnn": None, "XLA's form": "xla"}
    runs = {name: scanned(lambda x, g, form=form: both(x, g, form), x, g) for name, form in forms.items()}
    return {**runs, "copy": scanned(lambda x, g: (g * 2, x * 2), x, g)}


def theirs(x, g, window, padding) -> dict:
    def run(x, g, threads):
        torch.set_num_threads(threads)
        for _ in range(STEPS):
            x.grad = None
            padded = torch.nn.functional.pad(x, (0, 1, 0, 1), value=-torch.inf) if padding == "SAME" else x
            torch.nn.functional.max_pool2d(padded, window, 2).backward(g)

    runs = {}
    for layout in ("channels first", "channels last"):
        tensors = [torch.tensor(np.array(v)).permute(0, 3, 1, 2) for v in (x, g)]
        x_there, g_there = [v.contiguous() if layout == "channels first" else v for v in tensors]
        x_there.requires_grad_()
        for threads in (1, 2):
            name = f"PyTorch, {threads} thread(s), {layout}"
            runs[name] = lambda x=x_there, g=g_there, threads=threads: run(x, g, threads)
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 28, 28, 32)).clip(0), jnp.float32)  # as after a ReLU: many ties
    g = jnp.asarray(rng.normal(size=(64, 14, 14, 32)), jnp.float32)
    for window, padding in ((2, "VALID"), (3, "SAME")):
        runs = {**ours(x, g, window, padding), **theirs(x, g, window, padding)}
        title = f"Max-pooling {window}×{window}, stride 2, 64×28×28×32, forward and backward"
        table(title, "ms", interleave(runs, rounds, 1e3 / STEPS), "jaxnn", ("jax", "torch"))
