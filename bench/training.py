"""Training as users call it: `fit` against the training of each library, two networks, steady state without compilation.

    python bench/training.py [--rounds 5] [--only digits]

Every contender trains on the same samples in a new order each epoch, in full batches, with Adam:

- jaxnn.fit, as users call it: with orders, batches, history and everything before the first step;
- the same epoch written by hand: one jitted `scan` over the steps, called once an epoch, without a history;
- Equinox (`filter_jit`) and Flax NNX (`cached_partial`): a jitted step called from Python with batches cut by NumPy;
- Keras 3 on JAX: `model.fit`; scikit-learn: `MLPClassifier.fit`;
- PyTorch: eager, fused Adam, one and two threads.

Fashion-MNIST is read from Debian's `dataset-fashion-mnist`; if it is not installed, that network is skipped.
Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import interleave, keras_on_jax, table

import jaxnn as nn

RATE = 1e-3


def workload(name: str) -> tuple[np.ndarray, np.ndarray, tuple[int, ...], int, int]:
    """Return samples, labels, hidden layers, batch size and epochs."""
    data = nn.data.load(name)
    hidden, batch, epochs = ((32,), 32, 300) if name == "digits" else ((256, 128), 128, 6)
    whole = len(data.x) // batch * batch
    return data.x[:whole].reshape(whole, -1), data.y[:whole], hidden, batch, epochs


def contenders(x: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], batch: int, epochs: int) -> dict[str, Callable[[], Any]]:
    sizes = (x.shape[1], *hidden, 10)
    data = (x, y, sizes, batch, epochs)
    return {
        "jaxnn.fit": jaxnn_fit(*data),
        "a scan by hand": by_hand(*data),
        "Equinox": equinox_steps(*data),
        "Flax NNX": flax_steps(*data),
        "Keras 3 (JAX)": keras_fit(*data),
        "PyTorch, 1 thread": torch_steps(*data, threads=1),
        "PyTorch, 2 threads": torch_steps(*data, threads=2),
        "scikit-learn": sklearn_fit(*data),
    }


def network(sizes):
    return nn.serial(*(layer for n in sizes[1:-1] for layer in (nn.dense(n), nn.relu)), nn.dense(sizes[-1]))


def jaxnn_fit(x, y, sizes, batch, epochs):
    options = {"loss": nn.losses.cross_entropy, "optimizer": optax.adam(RATE), "batch_size": batch, "progress": False}
    model, data = network(sizes), (jnp.asarray(x), jnp.asarray(y))
    return lambda: nn.fit(model, data, key=jax.random.key(0), epochs=epochs, **options).params


def by_hand(x, y, sizes, batch, epochs):
    """Return a loop without `fit`, with the same model, step, order of samples and compiler options."""
    from jaxnn.problem.batches import shuffled

    model, optimizer, data = network(sizes), optax.adam(RATE), (jnp.asarray(x), jnp.asarray(y))
    step = nn.train_step(model, loss=nn.losses.cross_entropy, optimizer=optimizer)

    @nn.kernels.jit
    def epoch(state, key):
        def one(state, rows):
            return step(state, jax.tree.map(lambda a: a.at[rows].get(mode="promise_in_bounds"), data))[:2]

        return jax.lax.scan(one, state, shuffled(key, len(x)).reshape(-1, batch))

    def run():
        state = nn.init_train_state(model, optimizer, jax.random.key(0), x)
        for i in range(epochs):
            state, losses = epoch(state, jax.random.key(i))
            float(losses.mean())
        return state.params

    return run


def shuffling(step: Callable[[np.ndarray, np.ndarray], Any], x, y, batch, epochs) -> Callable[[], Any]:
    generator = np.random.default_rng(0)

    def run():
        for _ in range(epochs):
            order = generator.permutation(len(x))
            for low in range(0, len(x), batch):
                rows = order[low : low + batch]
                loss = step(x[rows], y[rows])
        return loss

    return run


def equinox_steps(x, y, sizes, batch, epochs):
    import equinox as eqx

    class Network(eqx.Module):
        layers: list

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = jax.nn.relu(layer(x))
            return self.layers[-1](x)

    keys = jax.random.split(jax.random.key(0), len(sizes))
    model = Network([eqx.nn.Linear(a, b, key=k) for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=False)])
    optimizer = optax.adam(RATE)
    held = [model, optimizer.init(eqx.filter(model, eqx.is_array))]

    @eqx.filter_jit(donate="all-except-first")
    def update(batch, model, state):
        x, y = batch
        loss = lambda model: optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()  # noqa: E731
        value, gradients = eqx.filter_value_and_grad(loss)(model)
        updates, state = optimizer.update(gradients, state, model)
        return eqx.apply_updates(model, updates), state, value

    def step(x, y):
        *held[:], value = update((x, y), *held)
        return value

    return shuffling(step, x, y, batch, epochs)


def flax_steps(x, y, sizes, batch, epochs):
    from flax import nnx

    rngs = nnx.Rngs(0)
    layers = [layer for a, b in pairwise(sizes[:-1]) for layer in (nnx.Linear(a, b, rngs=rngs), nnx.relu)]
    model = nnx.Sequential(*layers, nnx.Linear(*sizes[-2:], rngs=rngs))
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer, x, y):
        loss = lambda model: optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()  # noqa: E731
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    return shuffling(nnx.cached_partial(update, model, optimizer), x, y, batch, epochs)


def keras_fit(x, y, sizes, batch, epochs):
    keras = keras_on_jax()
    layers = [keras.layers.Dense(n, activation="relu") for n in sizes[1:-1]]
    model = keras.Sequential([keras.Input((sizes[0],)), *layers, keras.layers.Dense(sizes[-1])])
    model.compile(keras.optimizers.Adam(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return lambda: model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0).history["loss"][-1]


def torch_steps(x, y, sizes, batch, epochs, *, threads):
    import torch

    layers = [layer for a, b in pairwise(sizes[:-1]) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(*sizes[-2:]))
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)
    inputs, labels = torch.tensor(x), torch.tensor(y).long()

    def run():
        torch.set_num_threads(threads)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(batch):
                optimizer.zero_grad(set_to_none=True)
                loss = torch.nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
                loss.backward()
                optimizer.step()
        return loss.item()

    return run


def sklearn_fit(x, y, sizes, batch, epochs):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)
    options = {"batch_size": batch, "max_iter": epochs, "n_iter_no_change": epochs + 1, "learning_rate_init": RATE, "alpha": 0}
    return lambda: MLPClassifier(sizes[1:-1], **options).fit(x, y).loss_


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("digits", "fashion-mnist"))
    options = parser.parse_args()
    for name in ("digits", "fashion-mnist"):
        if options.only in (None, name):
            try:
                x, y, hidden, batch, epochs = workload(name)
            except (FileNotFoundError, ValueError) as error:
                print(f"\n{name} is left out: {error}")
                continue
            runs = contenders(x, y, hidden, batch, epochs)
            times = interleave(runs, options.rounds, 1e6 / (epochs * len(x) // batch))
            title = f"MLP {'-'.join(map(str, (x.shape[1], *hidden, 10)))} on {name}, batch {batch}"
            table(
                title, "µs per step", times, "jaxnn.fit", ("jax", "optax", "flax", "equinox", "keras", "torch", "scikit-learn")
            )
