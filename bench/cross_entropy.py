"""The loss of a language model's last layer, forward and backward: 4,096 tokens, 256 features, a vocabulary of 50,000.

    python bench/cross_entropy.py [--rounds 3]

`kernels.linear_cross_entropy` computes the logits chunk by chunk, and again for the gradient. It is compared with all logits at
once in jaxnn, and with PyTorch on all cores: all logits at once, and `linear_cross_entropy` in chunks. The megabytes are the
temporary memory of the compiled program, without its inputs and outputs. Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import torch
from common import interleave, table

import jaxnn as nn

TOKENS, D, VOCABULARY, STEPS = 4096, 256, 50_000, 2


def ours(hidden, kernel, labels) -> dict:
    losses = {
        "jaxnn, chunks": nn.kernels.linear_cross_entropy,
        "jaxnn, all logits at once": lambda h, w, y: nn.losses.cross_entropy(h @ w, y, reduction="none"),
    }
    runs = {}
    for name, loss in losses.items():

        def step(kernel, _, loss=loss):
            to_hidden, to_kernel = jax.grad(lambda h, w: loss(h, w, labels).mean(), (0, 1))(hidden, kernel)
            return kernel - 0.1 * to_kernel, to_hidden.sum()

        epoch = nn.kernels.jit(lambda kernel, step=step: jax.lax.scan(step, kernel, length=STEPS))
        megabytes = epoch.lower(kernel).compile().memory_analysis().temp_size_in_bytes / 1e6
        runs[f"{name}, {megabytes:.0f} MB"] = lambda epoch=epoch: epoch(kernel)
    return runs


def theirs(hidden, kernel, labels) -> dict:
    hidden, kernel = torch.tensor(hidden, requires_grad=True), torch.tensor(kernel.T.copy(), requires_grad=True)
    labels = torch.tensor(labels).long()
    f, options = torch.nn.functional, torch.nn.LinearCrossEntropyOptions()
    losses = {
        "PyTorch": lambda: f.cross_entropy(f.linear(hidden, kernel), labels),
        "PyTorch, chunks": lambda: f.linear_cross_entropy(hidden, kernel, labels, options=options),
    }

    def loop(loss):
        for _ in range(STEPS):
            hidden.grad = kernel.grad = None
            loss().backward()

    return {name: lambda loss=loss: loop(loss) for name, loss in losses.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(TOKENS, D)), random.normal(size=(D, VOCABULARY)) / 16]
    hidden, kernel = (a.astype(np.float32) for a in arrays)
    labels = random.integers(0, VOCABULARY, TOKENS).astype(np.int32)
    runs = ours(*map(jnp.asarray, (hidden, kernel, labels))) | theirs(hidden, kernel, labels)
    title = f"Linear layer and cross-entropy, {TOKENS} tokens, d {D}, vocabulary {VOCABULARY}, forward and backward"
    table(title, "seconds", interleave(runs, options.rounds, 1 / STEPS), next(iter(runs)), ("jax", "torch"))
