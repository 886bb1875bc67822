"""A training step of ResNet-18 on 32×32×3 images: 3×3 stem of stride 1, no max-pooling; batch 64, SGD with momentum.

    python bench/resnet.py [--rounds 5] [--check]

Four stages of two basic blocks (He et al. 2016), 64 to 512 features, batch norm, global average pooling, dense 10. jaxnn
trains in a compiled epoch of prepared batches; Flax NNX, Equinox and Keras 3 (on JAX) with a compiled step, called from
Python; PyTorch eagerly with fused SGD, with one and two threads and both memory formats. "XLA's forms" run as a jitted step,
too: in a compiled loop they take minutes. The parameters of each model are counted; `--check` copies jaxnn's weights to
PyTorch, and compares the losses and all gradients in float64. Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import flax_steps, interleave, jaxnn_epoch, keras_on_jax, keras_steps, table, torch_steps, xlas_forms

import jaxnn as nn

BATCH, STEPS, RATE, MOMENTUM = 64, 6, 0.01, 0.9  # in an epoch the first step also allocates memory
FEATURES = (64, 64, 64, 128, 128, 256, 256, 512, 512)  # of the stem and of the eight blocks
BLOCKS = [(i, o, o // i) for i, o in itertools.pairwise(FEATURES)]  # inputs, features, stride
SIZE = 11_173_962
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(BATCH * STEPS, 32, 32, 3)).astype(np.float32), RANDOM.integers(0, 10, BATCH * STEPS)


def jaxnn_model():
    def conv(n, k, stride=1):
        return nn.conv(n, k, strides=stride, padding=((k // 2,) * 2,) * 2, use_bias=False)

    def block(n, stride):
        shortcut = None if stride == 1 else nn.serial(conv(n, 1, stride), nn.batch_norm())
        body = conv(n, 3, stride), nn.batch_norm(), nn.relu, conv(n, 3), nn.batch_norm()
        return nn.serial(nn.residual(*body, shortcut=shortcut), nn.relu)

    blocks = {f"block_{i}": block(n, stride) for i, (_, n, stride) in enumerate(BLOCKS)}
    return nn.serial(conv(64, 3), nn.batch_norm(), nn.relu, **blocks, pool=nn.global_avg_pool(), head=nn.dense(10))


def xla_steps(model, optimizer):
    """Return training of jaxnn's model in XLA's forms, with a jitted step."""
    step = nn.train_step(model, loss=nn.losses.cross_entropy, optimizer=optimizer)
    x, y = jnp.asarray(X), jnp.asarray(Y, jnp.int32)
    first = nn.init_train_state(model, optimizer, jax.random.key(0), x[:BATCH])
    with xlas_forms():
        compiled = jax.jit(lambda state, batch: step(state, batch)[:2]).lower(first, (x[:BATCH], y[:BATCH])).compile()

    def run():
        state = first
        for i in range(0, len(X), BATCH):
            state, loss = compiled(state, (x[i : i + BATCH], y[i : i + BATCH]))
        return loss

    return run


def flax_model():
    from flax import nnx

    class Conv(nnx.Module):
        """A convolution and its batch norm."""

        def __init__(self, i, o, k, stride, rngs):
            self.conv = nnx.Conv(i, o, (k, k), stride, padding=k // 2, use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(o, momentum=0.9, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.conv(x))

    class Block(nnx.Module):
        def __init__(self, i, o, stride, rngs):
            self.first, self.second = Conv(i, o, 3, stride, rngs), Conv(o, o, 3, 1, rngs)
            self.shortcut = None if stride == 1 else Conv(i, o, 1, stride, rngs)

        def __call__(self, x):
            y = self.second(nnx.relu(self.first(x)))
            return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.stem = Conv(3, 64, 3, 1, rngs)
            self.blocks = nnx.List([Block(*sizes, rngs) for sizes in BLOCKS])
            self.head = nnx.Linear(512, 10, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.stem(x))
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean((1, 2)))

    model = Model(nnx.Rngs(0))
    check_size("Flax", jax.tree.leaves(nnx.state(model, nnx.Param)))
    return model


def equinox_steps():
    import equinox as eqx

    class Conv(eqx.Module):
        """A convolution and its batch norm."""

        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm

        def __init__(self, i, o, k, stride, key):
            self.conv = eqx.nn.Conv2d(i, o, k, stride, padding=k // 2, use_bias=False, key=key)
            self.norm = eqx.nn.BatchNorm(o, "batch", momentum=0.9, mode="batch")

        def __call__(self, x, state):
            return self.norm(self.conv(x), state)

    class Block(eqx.Module):
        first: Conv
        second: Conv
        shortcut: Conv | None

        def __init__(self, i, o, stride, key):
            keys = jax.random.split(key, 3)
            self.first, self.second = Conv(i, o, 3, stride, keys[0]), Conv(o, o, 3, 1, keys[1])
            self.shortcut = None if stride == 1 else Conv(i, o, 1, stride, keys[2])

        def __call__(self, x, state):
            y, state = self.first(x, state)
            y, state = self.second(jax.nn.relu(y), state)
            if self.shortcut is not None:
                x, state = self.shortcut(x, state)
            return jax.nn.relu(x + y), state

    class Model(eqx.Module):
        stem: Conv
        blocks: list[Block]
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, len(BLOCKS) + 2)
            self.stem, self.head = Conv(3, 64, 3, 1, keys[0]), eqx.nn.Linear(512, 10, key=keys[1])
            self.blocks = [Block(*sizes, k) for sizes, k in zip(BLOCKS, keys[2:], strict=True)]

        def __call__(self, x, state):
            x, state = self.stem(x, state)
            x = jax.nn.relu(x)
            for block in self.blocks:
                x, state = block(x, state)
            return self.head(x.mean((1, 2))), state

    first = eqx.nn.make_with_state(Model)(jax.random.key(0))
    weights = eqx.filter(first[0], eqx.is_inexact_array)
    check_size("Equinox", jax.tree.leaves(weights))
    optimizer = optax.sgd(RATE, MOMENTUM)

    @eqx.filter_jit
    def step(model, state, opt_state, x, y):
        def loss(model, state):
            logits, state = jax.vmap(model, (0, None), (0, None), axis_name="batch")(x, state)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

        (value, state), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(model, state)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return eqx.apply_updates(model, updates), state, opt_state, value

    x = X.transpose(0, 3, 1, 2)

    def run():
        current = *first, optimizer.init(weights)
        for i in range(0, len(X), BATCH):
            *current, loss = step(*current, x[i : i + BATCH], Y[i : i + BATCH])
        return loss

    return run


def keras_model():
    keras = keras_on_jax()
    from keras import layers

    def conv(x, n, k, stride):
        x = layers.Conv2D(n, k, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    x = images = keras.Input(X.shape[1:])
    x = layers.ReLU()(conv(x, 64, 3, 1))
    for _, n, stride in BLOCKS:
        y = conv(layers.ReLU()(conv(x, n, 3, stride)), n, 3, 1)
        x = layers.ReLU()(layers.Add()([y, x if stride == 1 else conv(x, n, 1, stride)]))
    model = keras.Model(images, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    check_size("Keras", model.trainable_variables)
    return model


def torch_model():
    from torch import nn as tnn

    def conv(i, o, k, stride):
        return tnn.Conv2d(i, o, k, stride, padding=k // 2, bias=False), tnn.BatchNorm2d(o)

    class Block(tnn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.body = tnn.Sequential(*conv(i, o, 3, stride), tnn.ReLU(inplace=True), *conv(o, o, 3, 1))
            self.shortcut = tnn.Identity() if stride == 1 else tnn.Sequential(*conv(i, o, 1, stride))

        def forward(self, x):
            return tnn.functional.relu_(self.body(x) + self.shortcut(x))

    blocks = [Block(*sizes) for sizes in BLOCKS]
    stem, head = (*conv(3, 64, 3, 1), tnn.ReLU(inplace=True)), (tnn.AdaptiveAvgPool2d(1), tnn.Flatten(), tnn.Linear(512, 10))
    model = tnn.Sequential(*stem, *blocks, *head)
    check_size("PyTorch", model.parameters())
    return model


def check_size(name: str, leaves) -> None:
    size = sum(math.prod(leaf.shape) for leaf in leaves)
    if size != SIZE:
        raise ValueError(f"{name}'s ResNet-18 has {size:,} parameters, not {SIZE:,}")


def check() -> None:
    """Copy jaxnn's weights to PyTorch, and compare the losses and the gradients.

    In float64, since float32 rounding grows to 1e-2 of a gradient in a deep network with batch norm and ReLU.
    """
    import torch

    jax.config.update("jax_enable_x64", True)
    model, x, y = jaxnn_model(), X[:16].astype(np.float64), Y[:16]
    params, state = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf.astype(x.dtype), params)
    check_size("jaxnn", jax.tree.leaves(params))

    def loss(params):
        return nn.losses.cross_entropy(model.apply(params, state, x, training=True)[0], y)

    value, gradient = nn.kernels.jit(jax.value_and_grad(loss))(params)
    there = torch_model().double()
    with torch.no_grad():
        for leaf, theirs in zip(as_in_torch(params), there.parameters(), strict=True):
            theirs.copy_(torch.tensor(leaf))
    other = torch.nn.functional.cross_entropy(there(torch.tensor(x).movedim(-1, 1)), torch.tensor(y))
    other.backward()
    value, other = float(value), other.item()
    pairs = zip(as_in_torch(gradient), (leaf.grad.numpy() for leaf in there.parameters()), strict=True)
    worst = max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)
    print(f"loss {value:.9f}, PyTorch {other:.9f}; gradients differ by at most {worst:.1e} of the largest value of a leaf")
    np.testing.assert_allclose([value, worst], [other, 0], rtol=1e-10, atol=1e-10)


def as_in_torch(params) -> list[np.ndarray]:
    """Return jaxnn's leaves in the order and with the axes of PyTorch."""

    def conv(p, name=""):
        return [np.transpose(p[f"conv{name}"]["kernel"], (3, 2, 0, 1)), *norm(p[f"batch_norm{name}"])]

    norm = lambda p: [np.asarray(p["scale"]), np.asarray(p["bias"])]  # noqa: E731
    leaves = conv(params)
    for i, (_, _, stride) in enumerate(BLOCKS):
        body = params[f"block_{i}"]["residual"]
        leaves += conv(body) + conv(body, "_2") + (conv(body["shortcut"]) if stride > 1 else [])
    return [*leaves, np.transpose(params["head"]["kernel"]), np.asarray(params["head"]["bias"])]


def contenders() -> tuple[dict, float]:
    """Return all loops, and the seconds of compiling jaxnn's epoch."""
    import torch

    data = X, Y, BATCH
    model, sgd = jaxnn_model(), optax.sgd(RATE, MOMENTUM)
    ours, seconds = jaxnn_epoch(model, sgd, *data)
    runs = {
        "jaxnn": ours,
        "jaxnn, XLA's forms, jitted step": xla_steps(model, sgd),
        "Flax NNX, cached": flax_steps(flax_model(), sgd, *data),
        "Equinox": equinox_steps(),
        "Keras 3 on JAX": keras_steps(keras_model(), keras_on_jax().optimizers.SGD(RATE, MOMENTUM), *data),
        **torch_steps(torch_model, lambda params: torch.optim.SGD(params, RATE, MOMENTUM, fused=True), *data),
    }
    return runs, seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="compare with PyTorch instead of measuring")
    options = parser.parse_args()
    if options.check:
        check()
    else:
        runs, seconds = contenders()
        rounds = interleave(runs, options.rounds, 1 / STEPS)
        packages = ("jax", "optax", "flax", "equinox", "keras", "torch")
        table("ResNet-18 on 32×32 images, batch 64, SGD: a training step", "seconds", rounds, "jaxnn", packages)
        print(f"  compiling jaxnn's epoch: {seconds:.1f} s")
