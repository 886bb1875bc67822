"""Populations: `sweep` against training the same networks one after the other, and against `torch.func` on stacked ones.

    python bench/population.py [--rounds 5] [--only digits fashion-mnist cnn compile members cores]

32 networks, one learning rate each, the same samples; Adam; steady state but for `compile`, where everything is counted
from the first call in a fresh process. Each peer goes as its own guide shows: a jitted or eager step in a Python loop, one
network after the other, of which 4 are trained and the time is multiplied by 8, as networks do not know of each other
(`compile`: the first of the 4 compiles once); `torch.func` with `stack_module_state`, `vmap(grad)` and a stacked Adam.

- `members`: 1,024 networks against 32, time a member;
- `cores`: the default strategy against one thread.

Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
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
from common import Measured, interleave, table

import jaxnn as nn

MEMBERS, TRAINED = 32, 4
RATES = np.logspace(-4, -2, MEMBERS)
PACKAGES = ("jax", "optax", "flax", "equinox", "keras", "torch")


def workload(name: str) -> tuple[np.ndarray, np.ndarray, tuple[int, ...], int, int]:
    """Samples, labels, sizes of the layers, batch size and epochs."""
    data = nn.data.load(name)
    hidden, batch, epochs = ((32,), 32, 20) if name == "digits" else ((64,), 128, 2)
    whole = len(data.x) // batch * batch
    return data.x[:whole].reshape(whole, -1), data.y[:whole], (data.x[0].size, *hidden, 10), batch, epochs


def swept(x, y, sizes, batch, epochs, members: int = MEMBERS, threads: int | None = None) -> Callable[[], Any]:
    """Ours, as it is called."""
    from jaxnn.population import runner

    rates = np.logspace(-4, -2, members).tolist()
    model, data, usual = training.network(sizes), (jnp.asarray(x), jnp.asarray(y)), runner.strategy_for

    def run():
        if threads is not None:
            import jaxnn.population.sweep  # noqa: F401

            module = sys.modules["jaxnn.population.sweep"]
            module.strategy_for = lambda *arguments: runner.Strategy(threads, 16, usual(*arguments).memory)
        options = {"loss": nn.losses.cross_entropy, "optimizer": optax.adam, "epochs": epochs, "batch_size": batch}
        try:
            return nn.sweep(model, data, {"learning_rate": rates}, key=jax.random.key(0), progress=False, **options).params
        finally:
            if threads is not None:
                module.strategy_for = usual

    return run


def one_by_one(make: Callable[..., Callable[[], Any]], *data: Any, **options: Any) -> Callable[[], Any]:
    """A peer's runs, one network after the other; some of them, and the rest by multiplication."""
    runs = [make(*data, **options) for _ in range(TRAINED)]

    def run():
        start = time.perf_counter()
        jax.block_until_ready([run() for run in runs])
        return Measured((time.perf_counter() - start) * MEMBERS / TRAINED)

    return run


def stacked_torch(x, y, sizes, batch, epochs, *, threads: int) -> Callable[[], Any]:
    """`torch.func`: stacked parameters, `vmap` of `grad`, and Adam over the stack with a rate for each network."""
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
    """Seconds of a contender's first call in a fresh process, imports not counted."""
    program = f"import population as p; p.time_first({name!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=sys.path[0])
    return json.loads(done.stdout.splitlines()[-1])


def time_first(name: str) -> None:
    """Print the seconds that a contender's first call takes."""
    data = workload("digits")
    make = {
        "jaxnn.sweep": lambda: swept(*data)(),
        "torch.func, 1 thread": lambda: stacked_torch(*data, threads=1)(),
        "Flax NNX": lambda: _compiled_once(training.flax_steps, data),
        "PyTorch, 1 thread": lambda: one_by_one(training.torch_steps, *data, threads=1)(),
    }[name]
    start = time.perf_counter()
    result = make()
    jax.block_until_ready(result)
    print(json.dumps(float(result) if isinstance(result, Measured) else time.perf_counter() - start))


def _compiled_once(make: Callable[..., Callable[[], Any]], data: tuple) -> Measured:
    run = make(*data)
    start = time.perf_counter()
    jax.block_until_ready(run())
    middle = time.perf_counter()
    jax.block_until_ready(run())
    again = time.perf_counter() - middle
    return Measured(middle - start + (MEMBERS - 1) * again)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    kinds = ("digits", "fashion-mnist", "compile", "members", "cores")
    parser.add_argument("--only", nargs="*", choices=kinds, default=kinds)
    options = parser.parse_args()
    for name in ("digits", "fashion-mnist"):
        if name in options.only:
            try:
                data = workload(name)
            except (FileNotFoundError, ValueError) as error:
                print(f"\n{name} is left out: {error}")
                continue
            times = interleave(contenders(data), options.rounds, 1.0)
            title = f"{MEMBERS} MLPs {'-'.join(map(str, data[2]))} on {name}, {data[4]} epochs, batch {data[3]}"
            table(title, "seconds for all", times, "jaxnn.sweep", PACKAGES)
    if "compile" in options.only:
        names = ("jaxnn.sweep", "torch.func, 1 thread", "Flax NNX", "PyTorch, 1 thread")
        times = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                times[name].append(first_call(name))
        table(f"{MEMBERS} MLPs on digits, compiling included", "seconds for all", times, "jaxnn.sweep", PACKAGES)
    if "members" in options.only:
        data = workload("digits")
        runs = {f"{n:,} members": swept(*data, members=n) for n in (32, 1024)}
        times = interleave(runs, options.rounds, 1e3)
        times = {name: [t / n for t in values] for (name, values), n in zip(times.items(), (32, 1024), strict=True)}
        table("MLPs on digits, 20 epochs", "ms a member", times, "32 members", PACKAGES[:2])
    if "cores" in options.only:
        data = workload("digits")
        runs = {"all threads": swept(*data, members=128), "1 thread": swept(*data, members=128, threads=1)}
        table("128 MLPs on digits, 20 epochs", "seconds", interleave(runs, options.rounds, 1.0), "all threads", PACKAGES[:2])


if __name__ == "__main__":
    main()
