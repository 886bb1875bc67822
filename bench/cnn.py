"""A training step of a CNN on 28×28 images: conv 3×3×32, pool, conv 3×3×64, pool, dense 128, dense 10; batch 64, Adam.

    python bench/cnn.py [--rounds 7]

jaxnn trains in `train_epoch`, a compiled epoch as in `fit`; Flax NNX and Equinox in a jitted step, called from Python;
PyTorch eagerly with fused Adam, at the best of one and two threads and of both memory formats. Compile times stand below
the table: jaxnn's own forms beside the same epoch with XLA's. Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import interleave, table

import jaxnn as nn

BATCH, STEPS = 64, 8
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(BATCH * STEPS, 28, 28, 1)).astype(np.float32), RANDOM.integers(0, 10, BATCH * STEPS)


def jaxnn_epoch():
    """The compiled epoch, and the seconds that compiling took."""
    conv, dense = (lambda n: nn.conv(n, 3)), nn.dense
    model = nn.serial(
        conv(32), nn.relu, nn.max_pool(2), conv(64), nn.relu, nn.max_pool(2), nn.flatten(), dense(128), nn.relu, dense(10)
    )
    optimizer = optax.adam(1e-3)
    step = nn.train_step(model, loss=nn.losses.cross_entropy, optimizer=optimizer)
    batches = jnp.asarray(X).reshape(STEPS, BATCH, 28, 28, 1), jnp.asarray(Y, jnp.int32).reshape(STEPS, BATCH)
    state = nn.init_train_state(model, optimizer, jax.random.key(0), batches[0][0])
    epoch = nn.kernels.jit(lambda state, batches: jax.lax.scan(lambda s, b: step(s, b)[:2], state, batches))
    lowered = epoch.lower(state, batches)
    start = time.perf_counter()
    compiled = lowered.compile()
    return lambda: compiled(state, batches), time.perf_counter() - start


def with_xlas_forms():
    """The same epoch, every operation in XLA's own form and without compiler options."""
    with mock.patch("jaxnn.kernels.forms.platform", lambda: "other"), mock.patch("jaxnn.kernels.compiler._CPU_OPTIONS", {}):
        nn.kernels.compiler_options.__globals__["_known_cpu_options"].cache_clear()
        result = jaxnn_epoch()
    nn.kernels.compiler_options.__globals__["_known_cpu_options"].cache_clear()
    return result


def flax_steps():
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv1, self.conv2 = nnx.Conv(1, 32, (3, 3), rngs=rngs), nnx.Conv(32, 64, (3, 3), rngs=rngs)
            self.dense1, self.dense2 = nnx.Linear(3136, 128, rngs=rngs), nnx.Linear(128, 10, rngs=rngs)

        def __call__(self, x):
            for conv in (self.conv1, self.conv2):
                x = nnx.max_pool(nnx.relu(conv(x)), (2, 2), (2, 2))
            return self.dense2(nnx.relu(self.dense1(x.reshape(len(x), -1))))

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        loss = lambda model: optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()  # noqa: E731
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    cached = nnx.cached_partial(step, model, optimizer)
    return lambda: [cached(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, len(X), BATCH)]


def equinox_steps():
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 4)
    relu = eqx.nn.Lambda(jax.nn.relu)
    pool = lambda: eqx.nn.MaxPool2d(2, 2)  # noqa: E731
    model = eqx.nn.Sequential(
        [
            *(eqx.nn.Conv2d(1, 32, 3, padding=1, key=keys[0]), relu, pool()),
            *(eqx.nn.Conv2d(32, 64, 3, padding=1, key=keys[1]), relu, pool()),
            *(eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(3136, 128, key=keys[2]), relu, eqx.nn.Linear(128, 10, key=keys[3])),
        ]
    )
    optimizer = optax.adam(1e-3)
    first = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, x, y):
        loss = lambda model: optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()  # noqa: E731
        value, gradients = eqx.filter_value_and_grad(loss)(model)
        updates, state = optimizer.update(gradients, state)
        return eqx.apply_updates(model, updates), state, value

    def run():
        current, state = model, first
        for i in range(0, len(X), BATCH):
            current, state, loss = step(current, state, X[i : i + BATCH].transpose(0, 3, 1, 2), Y[i : i + BATCH])
        return loss

    return run


def torch_steps(threads: int, channels_last: bool):
    import torch
    from torch import nn as tnn

    torch.manual_seed(0)
    pool, conv = (lambda: tnn.MaxPool2d(2)), (lambda i, o: tnn.Conv2d(i, o, 3, padding=1))
    model = tnn.Sequential(
        *(conv(1, 32), tnn.ReLU(), pool(), conv(32, 64), tnn.ReLU(), pool()),
        *(tnn.Flatten(), tnn.Linear(3136, 128), tnn.ReLU(), tnn.Linear(128, 10)),
    )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    x, y = torch.tensor(X.transpose(0, 3, 1, 2)).contiguous(memory_format=layout), torch.tensor(Y)

    def run():
        torch.set_num_threads(threads)
        for i in range(0, len(X), BATCH):
            optimizer.zero_grad(set_to_none=True)
            tnn.functional.cross_entropy(model(x[i : i + BATCH]), y[i : i + BATCH]).backward()
            optimizer.step()

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    ours, seconds = jaxnn_epoch()
    xla, xla_seconds = with_xlas_forms()
    runs = {"jaxnn": ours, "jaxnn, XLA's forms": xla, "Flax NNX, cached": flax_steps(), "Equinox": equinox_steps()}
    for threads in (1, 2):
        for last in (False, True):
            runs[f"PyTorch, {threads} thread(s){', channels last' * last}"] = torch_steps(threads, last)
    rounds = interleave(runs, parser.parse_args().rounds, 1e3 / STEPS)
    packages = ("jax", "optax", "flax", "equinox", "torch")
    table("CNN on 28×28 images, batch 64, Adam: a training step", "ms", rounds, "jaxnn", packages)
    print(f"  compiling the epoch: {seconds:.2f} s, with XLA's forms {xla_seconds:.2f} s, × {seconds / xla_seconds:.2f}")
