"""Two small layers in training: an embedding of 2,048 tokens, d 128, forward, backward and SGD; dropout of 2,048 × 512.

    python bench/embedding_dropout.py [--rounds 7]

jaxnn runs in a compiled loop, as in an epoch; dropout is followed by a sum over rows, so that its mask is needed both in the
forward and in the backward pass. PyTorch runs eagerly.
Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from common import interleave, table

import jaxnn as nn

TOKENS, D, STEPS = 2048, 128, 50


def embedding(vocabulary: int) -> dict:
    layer = nn.embedding(vocabulary, D)
    tokens = np.random.default_rng(0).integers(0, vocabulary, (STEPS, TOKENS))
    params, _ = layer.init(jax.random.key(0), tokens[0])

    def step(params, tokens):
        gradient = jax.grad(lambda p: (layer(p, tokens) ** 2).sum())(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), None

    epoch = nn.kernels.jit(lambda params, tokens: jax.lax.scan(step, params, tokens)[0])
    ids = jnp.asarray(tokens, jnp.int32)
    there = torch.nn.Embedding(vocabulary, D)
    optimizer, ids_there = torch.optim.SGD(there.parameters(), lr=0.01), torch.tensor(tokens)

    def loop():
        for batch in ids_there:
            optimizer.zero_grad(set_to_none=True)
            (there(batch) ** 2).sum().backward()
            optimizer.step()

    return {"jaxnn": lambda: epoch(params, ids)} | on_threads(loop)


def dropout() -> dict:
    x = jnp.ones((2048, 512))
    layer = nn.dropout(0.2)

    def bernoulli(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.8, x.shape), x / 0.8, 0)

    def ours(x, key):
        return layer.apply({}, {}, x, key=key, training=True)[0]

    def compiled(drop):
        def step(x, number):
            key = jax.random.fold_in(jax.random.key(0), number)
            return x - 0.01 * jax.grad(lambda x: jnp.tanh(drop(x, key).sum(1)).sum())(x), None

        epoch = nn.kernels.jit(lambda x: jax.lax.scan(step, x, jnp.arange(STEPS))[0])
        return lambda: epoch(x)

    there = torch.ones(2048, 512, requires_grad=True)

    def loop():
        for _ in range(STEPS):
            there.grad = None
            torch.nn.functional.dropout(there, 0.2).sum(1).tanh().sum().backward()

    forms = {"jaxnn": ours, "jax.random.bernoulli": bernoulli, "no dropout": lambda x, key: x}
    return {name: compiled(drop) for name, drop in forms.items()} | on_threads(loop)


def on_threads(loop: Callable) -> dict:
    def run(threads):
        torch.set_num_threads(threads)
        loop()

    return {"PyTorch, 1 thread": lambda: run(1), "PyTorch, 2 threads": lambda: run(2)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    workloads = {f"Embedding, vocabulary {v:,}": embedding(v) for v in (256, 10_000, 50_000)}
    workloads["Dropout, 2,048 × 512, rate 0.2"] = dropout()
    for title, runs in workloads.items():
        table(title, "ms per step", interleave(runs, options.rounds, 1e3 / STEPS), "jaxnn", ("jax", "torch"))
