"""Populations: `sweep` against training the same networks one after another, and against `torch.func` on stacked networks.

    python bench/population.py [--rounds 5] [--only digits fashion-mnist cnn compile members cores page]

32 networks with one learning rate each, the same samples, Adam; steady state except for `compile` and `page`, where everything
from the first call in a new process counts. Each other library is used as in its own guide: a jitted or eager step in a Python
loop, one network after another; one network is trained and its time multiplied, since the networks are independent (`compile`:
it is compiled once). `torch.func` uses `stack_module_state`, `vmap(grad)` and a stacked Adam.

- `cnn`: 16 networks, 3×3×16 and 3×3×32 convolutions with pooling, dense 64 and 10; batch 64, 4 epochs of 512 images 28×28;
- `members`: 1,024 networks against 32, time per member;
- `cores`: the default strategy against one thread;
- `page`: 3 learning rates × 4 batch sizes × 2 dropout rates × 6 activations × 3 initializations × 3 seeds, 1,296 networks
  64-32-10 on digits, 20 epochs each. It runs once.

Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import training
from common import Measured, flax_steps, interleave, keras_on_jax, keras_steps, machine, table, torch_steps

import jaxnn as nn

MEMBERS, CNNS = 32, 16
RATES = np.logspace(-4, -2, MEMBERS)
PACKAGES = ("jax", "optax", "flax", "equinox", "keras", "torch")


def workload(name: str) -> tuple[np.ndarray, np.ndarray, tuple[int, ...], int, int]:
    """Return samples, labels, sizes of the layers, batch size and epochs."""
    data = nn.data.load(name)
    hidden, batch, epochs = ((32,), 32, 20) if name == "digits" else ((64,), 128, 2)
    whole = len(data.x) // batch * batch
    return data.x[:whole].reshape(whole, -1), data.y[:whole], (data.x[0].size, *hidden, 10), batch, epochs


def swept(x, y, sizes, batch, epochs, members: int = MEMBERS, threads: int | None = None) -> Callable[[], Any]:
    """Return `nn.sweep`, as users call it."""
    from jaxnn.population import scheduler, task

    rates = np.logspace(-4, -2, members).tolist()
    model, data, usual = training.network(sizes), jax.device_put((x, y)), scheduler.strategy_for

    def run():
        if threads is not None:
            task.strategy_for = lambda *arguments: scheduler.Strategy(threads, 16, usual(*arguments).memory)
        options = {"loss": nn.losses.cross_entropy, "optimizer": optax.adam, "epochs": epochs, "batch_size": batch}
        try:
            return nn.sweep(model, data, {"learning_rate": rates}, key=jax.random.key(0), progress=False, **options).params
        finally:
            if threads is not None:
                task.strategy_for = usual

    return run


def one_by_one(make: Callable[..., Callable[[], Any]], *data: Any, **options: Any) -> Callable[[], Any]:
    """Return another library's run for all networks: one is trained, and its time is multiplied."""
    return times(MEMBERS, make(*data, **options))


def times(members: int, one: Callable[[], Any]) -> Callable[[], Any]:
    """Return the time of one run multiplied by the number of networks."""

    def run():
        start = time.perf_counter()
        jax.block_until_ready(one())
        return Measured((time.perf_counter() - start) * members)

    return run


def stacked_torch(x, y, sizes, batch, epochs, *, threads: int) -> Callable[[], Any]:
    """Return a run with `torch.func`: stacked parameters, `vmap` of `grad`, and a stacked Adam with one rate per network."""
    import torch
    from torch.func import functional_call, grad, stack_module_state, vmap

    inputs, labels = torch.tensor(x), torch.tensor(y).long()
    layers = lambda: [m for a, b in pairwise(sizes[:-1]) for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]  # noqa: E731
    networks = [torch.nn.Sequential(*layers(), torch.nn.Linear(*sizes[-2:])) for _ in range(MEMBERS)]
    base = networks[0]
    rates = torch.tensor(RATES, dtype=torch.float32)

    def loss(params, x, y):
        return torch.nn.functional.cross_entropy(functional_call(base, params, (x,)), y)

    gradient = vmap(grad(loss), in_dims=(0, None, None))

    def run():
        torch.set_num_threads(threads)
        params, _ = stack_module_state(networks)
        params = {name: leaf.detach() for name, leaf in params.items()}
        first = {name: torch.zeros_like(leaf) for name, leaf in params.items()}
        second = {name: torch.zeros_like(leaf) for name, leaf in params.items()}
        step = 0
        with torch.no_grad():
            for _ in range(epochs):
                for rows in torch.randperm(len(inputs)).split(batch):
                    gradients = gradient(params, inputs[rows], labels[rows])
                    step += 1
                    for name, g in gradients.items():
                        first[name].mul_(0.9).add_(g, alpha=0.1)
                        second[name].mul_(0.999).addcmul_(g, g, value=0.001)
                        size = (second[name] / (1 - 0.999**step)).sqrt_().add_(1e-8)
                        rate = (rates / (1 - 0.9**step)).reshape(-1, *[1] * (g.ndim - 1))
                        params[name].sub_(rate * first[name] / size)
        return sum(float(leaf.sum()) for leaf in params.values())

    return run


def contenders(data: tuple) -> dict[str, Callable[[], Any]]:
    return {
        "jaxnn.sweep": swept(*data),
        "torch.func, 1 thread": stacked_torch(*data, threads=1),
        "torch.func, 2 threads": stacked_torch(*data, threads=2),
        "Equinox": one_by_one(training.equinox_steps, *data),
        "Flax NNX": one_by_one(training.flax_steps, *data),
        "Keras 3 (JAX)": one_by_one(training.keras_fit, *data),
        "PyTorch, 1 thread": one_by_one(training.torch_steps, *data, threads=1),
        "PyTorch, 2 threads": one_by_one(training.torch_steps, *data, threads=2),
    }


def first_call(name: str) -> float:
    """Return the seconds of a contender's first call in a new process, without imports."""
    program = f"import population as p; p.time_first({name!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=sys.path[0])
    return json.loads(done.stdout.splitlines()[-1])


def time_first(name: str) -> None:
    """Print the seconds of a contender's first call."""
    data = workload("digits")
    make = {
        "jaxnn.sweep": lambda: swept(*data)(),
        "torch.func, 1 thread": lambda: stacked_torch(*data, threads=1)(),
        "Flax NNX": lambda: compiled_once(training.flax_steps(*data)),
        "PyTorch, 1 thread": lambda: compiled_once(training.torch_steps(*data, threads=1)),
    }[name]
    start = time.perf_counter()
    result = make()
    jax.block_until_ready(result)
    print(json.dumps(float(result) if isinstance(result, Measured) else time.perf_counter() - start))


def compiled_once(run: Callable[[], Any]) -> Measured:
    """Return the time of the first network plus that of a second one for each other network."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    middle = time.perf_counter()
    jax.block_until_ready(run())
    again = time.perf_counter() - middle
    return Measured(middle - start + (MEMBERS - 1) * again)


def cnns() -> dict[str, Callable[[], Any]]:
    """Return the contenders for small CNNs, which train on prepared batches."""
    import cnn
    import torch

    widths, epochs, adam = (16, 32, 64), 4, optax.adam(1e-3)
    data = cnn.X, cnn.Y, cnn.BATCH
    options = {"loss": nn.losses.cross_entropy, "optimizer": optax.adam, "epochs": epochs, "batch_size": cnn.BATCH}
    ours, space = (jnp.asarray(cnn.X), jnp.asarray(cnn.Y, jnp.int32)), {"learning_rate": np.logspace(-4, -2, CNNS).tolist()}
    model = cnn.jaxnn_model(widths)
    build = functools.partial(cnn.torch_model, widths)
    peers = {
        "Flax NNX": flax_steps(cnn.flax_model(widths), adam, *data),
        "Equinox": cnn.equinox_steps(widths),
        "Keras 3 (JAX)": keras_steps(cnn.keras_model(widths), keras_on_jax().optimizers.Adam(1e-3), *data),
        **torch_steps(build, lambda params: torch.optim.Adam(params, 1e-3, fused=True), *data),
    }
    return {
        "jaxnn.sweep": lambda: nn.sweep(model, ours, space, key=jax.random.key(0), progress=False, **options).params,
        **{name: times(CNNS * epochs, one) for name, one in peers.items()},
    }


def page() -> None:
    """Run the whole grid once."""
    activations = {f.__name__: f for f in (nn.identity, nn.sigmoid, nn.relu, nn.leaky_relu, nn.elu, nn.tanh)}
    kinds = {"random": nn.initializers.normal(0.05)}
    kinds |= {"fan_in": nn.initializers.fan_in_uniform(), "he": nn.initializers.he_normal()}

    def model(activation, initialization, dropout):
        hidden = nn.dense(32, kernel_init=kinds[initialization])
        last = nn.dense(10, kernel_init=kinds[initialization])
        return nn.serial(hidden, activations[activation], nn.dropout(dropout), last)

    space = {
        "learning_rate": [0.01, 0.001, 0.0001], "batch_size": [16, 32, 64, 128], "dropout": [0.2, 0.5],
        "activation": list(activations), "initialization": list(kinds),
    }  # fmt: skip
    data = nn.data.load("digits")
    x, y = data.x.reshape(len(data.x), -1), data.y
    result = nn.sweep(
        model, (x[300:], y[300:]), space, seeds=3, loss=nn.losses.cross_entropy, optimizer=optax.adam, epochs=20,
        validation=(x[:300], y[:300]), metrics={"accuracy": nn.metrics.accuracy}, key=jax.random.key(0), progress=False,
    )  # fmt: skip
    print(f"\nthe whole grid on digits, 20 epochs\n{machine()}\n{result.note}")
    print(result.table("val_accuracy", most=3))


def main() -> None:
    """Run the selected measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    kinds = ("digits", "fashion-mnist", "cnn", "compile", "members", "cores", "page")
    parser.add_argument("--only", nargs="*", choices=kinds, default=kinds)
    options = parser.parse_args()
    for name in ("digits", "fashion-mnist"):
        if name in options.only:
            try:
                data = workload(name)
            except (FileNotFoundError, ValueError) as error:
                print(f"\n{name} is left out: {error}")
                continue
            rounds = interleave(contenders(data), options.rounds, 1.0)
            title = f"{MEMBERS} MLPs {'-'.join(map(str, data[2]))} on {name}, {data[4]} epochs, batch {data[3]}"
            table(title, "seconds for all", rounds, "jaxnn.sweep", PACKAGES)
    if "cnn" in options.only:
        table(f"{CNNS} CNNs, 4 epochs", "seconds for all", interleave(cnns(), options.rounds, 1.0), "jaxnn.sweep", PACKAGES)
    if "compile" in options.only:
        names = ("jaxnn.sweep", "torch.func, 1 thread", "Flax NNX", "PyTorch, 1 thread")
        rounds = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                rounds[name].append(first_call(name))
        table(f"{MEMBERS} MLPs on digits, compiling included", "seconds for all", rounds, "jaxnn.sweep", PACKAGES)
    if "members" in options.only:
        data = workload("digits")
        runs = {f"{n:,} members": swept(*data, members=n) for n in (32, 1024)}
        rounds = interleave(runs, options.rounds, 1e3)
        rounds = {name: [t / n for t in values] for (name, values), n in zip(rounds.items(), (32, 1024), strict=True)}
        table("MLPs on digits, 20 epochs", "ms per member", rounds, "32 members", PACKAGES[:2])
    if "page" in options.only:
        subprocess.run([sys.executable, "-c", "import population; population.page()"], check=True, cwd=sys.path[0])
    if "cores" in options.only:
        data = workload("digits")
        runs = {"all threads": swept(*data, members=128), "1 thread": swept(*data, members=128, threads=1)}
        table("128 MLPs on digits, 20 epochs", "seconds", interleave(runs, options.rounds, 1.0), "all threads", PACKAGES[:2])


if __name__ == "__main__":
    main()
