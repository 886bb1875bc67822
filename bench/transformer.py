"""A training step of a small GPT: width 128, 4 heads, 4 layers, length 128, batch 16, 256 tokens, Adam.

    python bench/transformer.py [--rounds 7]

jaxnn trains in a compiled scan, as `fit` does; Flax NNX in a jitted step; PyTorch eagerly with fused Adam, with one
and two threads. All have pre-norm blocks, GELU (tanh) MLPs four times as wide, learned positions and no dropout.
Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import interleave, table

import jaxnn as nn

WIDTH, HEADS, LAYERS, LENGTH, BATCH, VOCABULARY, STEPS = 128, 4, 4, 128, 16, 256, 16
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, LENGTH + 1)).astype(np.int32)


def gpt():
    def attend(qkv):
        q, k, v = jnp.split(qkv.reshape(*qkv.shape[:2], HEADS, -1), 3, axis=-1)
        return nn.kernels.dot_product_attention(q, k, v, is_causal=True).reshape(*qkv.shape[:2], -1)

    linear = lambda n: nn.dense(n, kernel_init=nn.initializers.normal(0.02))  # noqa: E731
    attention = nn.serial(nn.layer_norm(), linear(3 * WIDTH), attend, linear(WIDTH))
    mlp = nn.serial(nn.layer_norm(), linear(4 * WIDTH), nn.gelu, linear(WIDTH))
    block = nn.serial(attention=nn.residual(attention), mlp=nn.residual(mlp))
    blocks = {f"block_{i}": block for i in range(LAYERS)}

    def forward(run, tokens):
        x = run("embed", tokens) + run("positions", jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape))
        for name in blocks:
            x = run(name, x)
        return run("head", run("norm", x))

    ends = {"norm": nn.layer_norm(), "head": linear(VOCABULARY)}
    start = {"embed": nn.embedding(VOCABULARY, WIDTH), "positions": nn.embedding(LENGTH, WIDTH)}
    return nn.block(forward, **start, **blocks, **ends)


def jaxnn_steps():
    model, optimizer = gpt(), optax.adam(1e-3)
    x, y = jnp.asarray(TOKENS[:, :-1]), jnp.asarray(TOKENS[:, 1:])
    step = nn.train_step(model, loss=nn.losses.cross_entropy, optimizer=optimizer)
    run = nn.kernels.jit(lambda state: jax.lax.scan(lambda s, _: (step(s, (x, y))[0], None), state, length=STEPS)[0])
    state = nn.init_train_state(model, optimizer, jax.random.key(0), x)
    return lambda: run(state)


def flax_steps():
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
            self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
            self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x, mask):
            x = x + self.attention(self.norms[0](x), mask=mask)
            return x + self.down(nnx.gelu(self.up(self.norms[1](x))))

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed, self.positions = (nnx.Embed(n, WIDTH, rngs=rngs) for n in (VOCABULARY, LENGTH))
            self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
            self.norm, self.head = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

        def __call__(self, tokens):
            x = self.embed(tokens) + self.positions(jnp.arange(LENGTH))[None]
            mask = nnx.make_causal_mask(tokens)
            for block in self.blocks:
                x = block(x, mask)
            return self.head(self.norm(x))

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    x, y = jnp.asarray(TOKENS[:, :-1]), jnp.asarray(TOKENS[:, 1:])

    @nnx.jit
    def step(model, optimizer, x, y):
        loss = lambda model: optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()  # noqa: E731
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    cached = nnx.cached_partial(step, model, optimizer)
    return lambda: [cached(x, y) for _ in range(STEPS)]


def torch_steps(threads: int):
    import torch
    from torch import nn as tnn

    class Block(tnn.Module):
        def __init__(self):
            super().__init__()
            self.norms = tnn.ModuleList([tnn.LayerNorm(WIDTH) for _ in range(2)])
            self.qkv, self.out = tnn.Linear(WIDTH, 3 * WIDTH), tnn.Linear(WIDTH, WIDTH)
            self.up, self.down = tnn.Linear(WIDTH, 4 * WIDTH), tnn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x):
            q, k, v = self.qkv(self.norms[0](x)).view(BATCH, LENGTH, HEADS, -1).transpose(1, 2).chunk(3, -1)
            y = tnn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH))
            return x + self.down(tnn.functional.gelu(self.up(self.norms[1](x)), approximate="tanh"))

    class Model(tnn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.positions = tnn.Embedding(VOCABULARY, WIDTH), tnn.Embedding(LENGTH, WIDTH)
            self.blocks = tnn.Sequential(*[Block() for _ in range(LAYERS)])
            self.norm, self.head = tnn.LayerNorm(WIDTH), tnn.Linear(WIDTH, VOCABULARY)

        def forward(self, x):
            return self.head(self.norm(self.blocks(self.embed(x) + self.positions.weight)))

    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    tokens = torch.tensor(TOKENS, dtype=torch.long)
    x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def run():
        torch.set_num_threads(threads)
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            tnn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
            optimizer.step()

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    runs = {
        "jaxnn": jaxnn_steps(),
        "Flax NNX, cached": flax_steps(),
        "PyTorch, 1 thread": torch_steps(1),
        "PyTorch, 2 threads": torch_steps(2),
    }
    rounds = interleave(runs, parser.parse_args().rounds, 1e3 / STEPS)
    packages = ("jax", "optax", "flax", "torch")
    table("GPT: width 128, 4 heads, 4 layers, length 128, batch 16, Adam", "ms per step", rounds, "jaxnn", packages)
