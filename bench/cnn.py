"""A training step of a CNN on 28×28 images: conv 3×3×32, pool, conv 3×3×64, pool, dense 128, dense 10; batch 64, Adam.

    python bench/cnn.py [--rounds 7]

jaxnn trains in a compiled epoch of prepared batches, and in `fit`, which also draws an order and gathers each batch; Flax
NNX, Equinox and Keras 3 (on JAX) train with a compiled step, called from Python; PyTorch eagerly with fused Adam, with one
and two threads and both memory formats. Below the table are the compile times of the epoch with jaxnn's and with XLA's forms.
Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import flax_steps, interleave, jaxnn_epoch, jaxnn_fit, keras_on_jax, keras_steps, table, torch_steps, xlas_forms

import jaxnn as nn

BATCH, STEPS, EPOCHS = 64, 32, 4  # in an epoch the first step also allocates memory
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(BATCH * STEPS, 28, 28, 1)).astype(np.float32), RANDOM.integers(0, 10, BATCH * STEPS)


WIDTHS = 32, 64, 128  # channels of the convolutions, and features of the dense layer


def jaxnn_model(widths=WIDTHS):
    a, b, c = widths
    conv, dense = (lambda n: nn.conv(n, 3)), nn.dense
    return nn.serial(
        conv(a), nn.relu, nn.max_pool(2), conv(b), nn.relu, nn.max_pool(2), nn.flatten(), dense(c), nn.relu, dense(10)
    )


def flax_model(widths=WIDTHS):
    from flax import nnx

    a, b, c = widths

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv1, self.conv2 = nnx.Conv(1, a, (3, 3), rngs=rngs), nnx.Conv(a, b, (3, 3), rngs=rngs)
            self.dense1, self.dense2 = nnx.Linear(49 * b, c, rngs=rngs), nnx.Linear(c, 10, rngs=rngs)

        def __call__(self, x):
            for conv in (self.conv1, self.conv2):
                x = nnx.max_pool(nnx.relu(conv(x)), (2, 2), (2, 2))
            return self.dense2(nnx.relu(self.dense1(x.reshape(len(x), -1))))

    return Model(nnx.Rngs(0))


def equinox_steps(widths=WIDTHS):
    import equinox as eqx

    a, b, c = widths
    keys = jax.random.split(jax.random.key(0), 4)
    relu = eqx.nn.Lambda(jax.nn.relu)
    pool = lambda: eqx.nn.MaxPool2d(2, 2)  # noqa: E731
    model = eqx.nn.Sequential(
        [
            *(eqx.nn.Conv2d(1, a, 3, padding=1, key=keys[0]), relu, pool()),
            *(eqx.nn.Conv2d(a, b, 3, padding=1, key=keys[1]), relu, pool()),
            *(eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(49 * b, c, key=keys[2]), relu, eqx.nn.Linear(c, 10, key=keys[3])),
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


def keras_model(widths=WIDTHS):
    keras = keras_on_jax()
    from keras import layers

    a, b, c = widths
    conv = lambda n: layers.Conv2D(n, 3, padding="same", activation="relu")  # noqa: E731
    pool, dense = layers.MaxPooling2D, layers.Dense
    body = (conv(a), pool(), conv(b), pool(), layers.Flatten(), dense(c, activation="relu"), dense(10))
    return keras.Sequential([keras.Input(X.shape[1:]), *body])


def torch_model(widths=WIDTHS):
    from torch import nn as tnn

    a, b, c = widths
    pool, conv = (lambda: tnn.MaxPool2d(2)), (lambda i, o: tnn.Conv2d(i, o, 3, padding=1))
    return tnn.Sequential(
        *(conv(1, a), tnn.ReLU(), pool(), conv(a, b), tnn.ReLU(), pool()),
        *(tnn.Flatten(), tnn.Linear(49 * b, c), tnn.ReLU(), tnn.Linear(c, 10)),
    )


def contenders() -> tuple[dict, float, float]:
    """Return all loops, and the seconds of compiling jaxnn's epoch, with its forms and with XLA's."""
    import torch

    data = X, Y, BATCH
    model, adam = jaxnn_model(), optax.adam(1e-3)
    ours, seconds = jaxnn_epoch(model, adam, *data)
    with xlas_forms():
        xla, xla_seconds = jaxnn_epoch(model, adam, *data)
    runs = {
        "jaxnn": ours,
        "jaxnn, fit": jaxnn_fit(model, adam, *data, EPOCHS),
        "jaxnn, XLA's forms": xla,
        "Flax NNX, cached": flax_steps(flax_model(), adam, *data),
        "Equinox": equinox_steps(),
        "Keras 3 on JAX": keras_steps(keras_model(), keras_on_jax().optimizers.Adam(1e-3), *data),
        **torch_steps(torch_model, lambda params: torch.optim.Adam(params, 1e-3, fused=True), *data),
    }
    return runs, seconds, xla_seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    count = parser.parse_args().rounds
    runs, seconds, xla_seconds = contenders()
    rounds = interleave(runs, count, 1e3 / STEPS)
    packages = ("jax", "optax", "flax", "equinox", "keras", "torch")
    table("CNN on 28×28 images, batch 64, Adam: a training step", "ms", rounds, "jaxnn", packages)
    print(f"  compiling the epoch: {seconds:.2f} s, with XLA's forms {xla_seconds:.2f} s, × {seconds / xla_seconds:.2f}")
