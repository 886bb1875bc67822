"""Training that is bound by dispatch: an MLP 64-32-10 on digits, batch 32, Adam, a step at a time or an epoch at a time.

    python bench/dispatch.py [--rounds 7]

Two loops call the same `train_step`, jitted, from Python. The plain one does what `fit` does: a new order of the samples
each epoch, and a batch cut out at each step. The other one is spared that work: its batches were cut once, lie on the
device and come in a new order, and its buffers are donated. `fit` keeps a history besides. Compile times are not counted.
Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import interleave, table
from sklearn.datasets import load_digits

import jaxnn as nn

BATCH, EPOCHS = 32, 100


def contenders():
    pixels, labels = load_digits(return_X_y=True)
    steps = len(pixels) // BATCH
    whole = steps * BATCH  # so that fit, too, has no smaller batch at the end
    x, y = jnp.asarray(pixels[:whole] / 16, jnp.float32), jnp.asarray(labels[:whole], jnp.int32)
    model, optimizer = nn.serial(nn.dense(32), nn.relu, nn.dense(10)), optax.adam(1e-3)
    options = {"loss": nn.losses.cross_entropy, "optimizer": optimizer}

    def fit():
        nn.fit(model, (x, y), **options, epochs=EPOCHS, batch_size=BATCH, key=jax.random.key(0), progress=False)

    def step(state, batch):
        return nn.train_step(model, **options)(state, batch)[:2]

    rows, labels, order = np.asarray(x), np.asarray(y), np.random.default_rng(0)
    plain = jax.jit(step)

    def plain_loop():
        state = nn.init_train_state(model, optimizer, jax.random.key(0), x)
        for _ in range(EPOCHS):
            indices = order.permutation(len(rows))
            for i in range(steps):
                index = indices[i * BATCH : (i + 1) * BATCH]
                state, loss = plain(state, (rows[index], labels[index]))
        loss.block_until_ready()

    donated = jax.jit(step, donate_argnums=0)
    batches = [(x[i * BATCH : (i + 1) * BATCH], y[i * BATCH : (i + 1) * BATCH]) for i in range(steps)]

    def spared_loop():
        state = nn.init_train_state(model, optimizer, jax.random.key(0), x)
        for _ in range(EPOCHS):
            for i in order.permutation(steps):
                state, loss = donated(state, batches[i])
        loss.block_until_ready()

    return {
        "jaxnn.fit": fit,
        "jitted loop, shuffling": plain_loop,
        "jitted loop, batches ready, donated": spared_loop,
    }, EPOCHS * steps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    runs, steps = contenders()
    rounds = interleave(runs, parser.parse_args().rounds, 1e6 / steps)
    table("MLP 64-32-10 on digits, batch 32, Adam", "µs a step", rounds, "jaxnn.fit", ("jax", "optax"))
