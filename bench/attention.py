"""Causal self-attention, forward and backward, by itself and in a training step of a small GPT-like model.

    python bench/attention.py [--rounds 7]

jaxnn and the JAX peers run a scan of steps; PyTorch runs its scaled_dot_product_attention, at the best of one and two
threads. For length 2,048 the memory is what XLA reserves beside the arguments, and for PyTorch the growth of the process's
peak over one step.
"""

from __future__ import annotations

import argparse
import resource

import jax
import jax.numpy as jnp
import numpy as np
from common import interleave, table

import jaxnn as nn

STEPS = 4


def jaxnn_steps(attend, arrays):
    """A compiled scan of steps of gradient descent on query, key and value."""

    def step(arrays, _):
        gradient = jax.grad(lambda arrays: jnp.sum(attend(*arrays) ** 2))(arrays)
        return jax.tree.map(lambda x, g: x - 1e-3 * g, arrays, gradient), None

    return nn.kernels.jit(lambda arrays: jax.lax.scan(step, arrays, length=STEPS)[0]).lower(arrays).compile()


def torch_steps(arrays, threads: int):
    import torch

    def run():
        torch.set_num_threads(threads)
        tensors = [torch.tensor(np.asarray(x)).transpose(1, 2).contiguous().requires_grad_() for x in arrays]
        for _ in range(STEPS):
            y = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
            gradients = torch.autograd.grad((y**2).sum(), tensors)
            with torch.no_grad():
                tensors = [(x - 1e-3 * g).requires_grad_() for x, g in zip(tensors, gradients, strict=True)]

    return run


def main(rounds: int) -> None:
    for batch, length in ((16, 128), (8, 512), (2, 2048)):
        arrays = tuple(jnp.asarray(np.random.default_rng(i).normal(size=(batch, length, 4, 32)), "float32") for i in range(3))
        ours = jaxnn_steps(lambda q, k, v: nn.kernels.dot_product_attention(q, k, v, is_causal=True), arrays)
        peer = jaxnn_steps(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True), arrays)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        torch_steps(arrays, 2)()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        runs = {
            "jaxnn": lambda f=ours, a=arrays: f(a),
            "jax.nn": lambda f=peer, a=arrays: f(a),
            "PyTorch, 1 thread": torch_steps(arrays, 1),
            "PyTorch, 2 threads": torch_steps(arrays, 2),
        }
        title = f"causal attention, batch {batch}, length {length}, 4 heads of 32, forward + backward"
        table(title, "ms a step", interleave(runs, rounds, 1e3 / STEPS), "jaxnn", ("jax", "torch"))
        sizes = [f.memory_analysis().temp_size_in_bytes / 2**20 for f in (ours, peer)]
        print(f"  memory: jaxnn {sizes[0]:.0f} MiB, jax.nn {sizes[1]:.0f} MiB, PyTorch's growth {grown / 2**10:.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    main(parser.parse_args().rounds)
