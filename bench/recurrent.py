"""Training of an LSTM with a linear classifier on its last state, for short and long sequences.

    python bench/recurrent.py [--rounds 7]

jaxnn runs a scan of training steps, as an epoch of `fit` does; Flax NNX and Equinox a jitted step called from Python;
PyTorch `nn.LSTM`, with one and two threads. All use Adam, PyTorch's fused. Both forms of jaxnn's kernel are measured. A
library that is not installed is skipped.
"""

from __future__ import annotations

import argparse
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import interleave, table

import jaxnn as nn

CLASSES, RATE = 10, 1e-3
# batch, time, n_in, features, training steps per round: in a scan the first step also allocates memory
SHAPES = ((128, 28, 28, 128, 48), (32, 256, 64, 256, 12))


def ours(x, y, features: int, steps: int, form: str | None = None):
    def apply(params, x):
        weights = (params["lstm"][name] for name in ("kernel", "recurrent_kernel", "bias"))
        h = jnp.zeros((len(x), features))
        (h, _), _ = nn.kernels.recurrence(cell, x, *weights, (h, h), form=form)
        return h @ params["dense"]["kernel"] + params["dense"]["bias"]

    def cell(z, carry):
        i, f, g, o = jnp.split(z, 4, axis=-1)
        c = nn.sigmoid(f) * carry[1] + nn.sigmoid(i) * nn.tanh(g)
        return nn.sigmoid(o) * nn.tanh(c), c

    model = nn.serial(nn.lstm(features, return_sequences=False), nn.dense(CLASSES))
    params, _ = model.init(jax.random.key(0), x)
    predict = model if form is None else apply
    optimizer = optax.adam(RATE)

    def step(carry, _):
        params, state = carry
        loss, gradient = jax.value_and_grad(lambda p: nn.losses.cross_entropy(predict(p, x), y))(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    epoch = nn.kernels.jit(lambda carry: jax.lax.scan(step, carry, length=steps))
    carry = params, optimizer.init(params)
    return lambda: epoch(carry)


def flax_nnx(x, y, features: int, steps: int):
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(x.shape[-1], features, rngs=rngs))
            self.dense = nnx.Linear(features, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.dense(self.lstm(x)[:, -1])

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    def run():
        for _ in range(steps):
            value = step(model, optimizer)
        return value

    return run


def equinox(x, y, features: int, steps: int):
    import equinox as eqx

    class Model(eqx.Module):
        cell: eqx.nn.LSTMCell
        dense: eqx.nn.Linear

        def __call__(self, x):
            h = jnp.zeros(features)
            (h, _), _ = jax.lax.scan(lambda carry, x: (self.cell(x, carry), None), (h, h), x)
            return self.dense(h)

    keys = jax.random.split(jax.random.key(0))
    model = Model(eqx.nn.LSTMCell(x.shape[-1], features, key=keys[0]), eqx.nn.Linear(features, CLASSES, key=keys[1]))
    optimizer = optax.adam(RATE)

    @eqx.filter_jit
    def step(model, state):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()

        value, gradient = eqx.filter_value_and_grad(loss)(model)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    start = model, optimizer.init(eqx.filter(model, eqx.is_array))

    def run():
        model, state = start
        for _ in range(steps):
            model, state, value = step(model, state)
        return value

    return run


def pytorch(x, y, features: int, steps: int, threads: int):
    import torch

    lstm, dense = torch.nn.LSTM(x.shape[-1], features), torch.nn.Linear(features, CLASSES)
    optimizer = torch.optim.Adam([*lstm.parameters(), *dense.parameters()], lr=RATE, fused=True)
    xs, y = torch.tensor(np.asarray(x.swapaxes(0, 1))), torch.tensor(np.asarray(y), dtype=torch.long)

    def run():
        torch.set_num_threads(threads)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            _, (h, _) = lstm(xs)
            torch.nn.functional.cross_entropy(dense(h[0]), y).backward()
            optimizer.step()

    return run


def main(rounds: int) -> None:
    for batch, time, n_in, features, steps in SHAPES:
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(batch, time, n_in)), "float32")
        case = x, jnp.asarray(rng.integers(CLASSES, size=batch), "int32"), features, steps
        runs = {"jaxnn": ours(*case), "jaxnn, form xla": ours(*case, "xla")}
        if importlib.util.find_spec("flax"):
            runs["Flax NNX"] = flax_nnx(*case)
        if importlib.util.find_spec("equinox"):
            runs["Equinox"] = equinox(*case)
        if importlib.util.find_spec("torch"):
            runs |= {f"PyTorch, {n} thread{'s' * (n > 1)}": pytorch(*case, n) for n in (1, 2)}
        title = f"LSTM {features}, batch {batch}, {time} steps of {n_in} features: a training step"
        table(title, "ms per step", interleave(runs, rounds, 1e3 / steps), "jaxnn", ("jax", "flax", "equinox", "torch"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    main(parser.parse_args().rounds)
