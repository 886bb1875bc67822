"""Derivatives of a network beyond its gradient, in units of one gradient of the mean loss.

    python bench/autodiff.py [--rounds 5] [--only norms clipped products kernel hypergradient landscape] [--models …]

Norms and clipped sums of the gradients of single examples against `vmap(grad)`; products with the Hessian and the
Gauss-Newton matrix, alone and twenty in a loop; the tangent kernel against the contraction of Jacobians; the derivative of the
loss after a training run in its learning rate, in units of the run; a loss landscape, with its compilation. The megabytes are
the temporary memory of the compiled program. Needs scikit-learn for the digits of the landscape.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from common import interleave, table

import jaxnn as nn

ad = nn.autodiff
KEY = jax.random.key(0)


def models() -> dict[str, tuple]:
    """Model, inputs and labels by name."""
    images, labels = jax.random.normal(KEY, (128, 28, 28, 1)), jax.random.randint(KEY, (128,), 0, 10)
    cnn = nn.serial(
        *(nn.conv(16, 5), nn.relu, nn.max_pool(2), nn.conv(32, 5), nn.relu, nn.max_pool(2)),
        *(nn.flatten(), nn.dense(64), nn.relu, nn.dense(10)),
    )
    tokens = jax.random.randint(KEY, (16, 32), 0, 100)
    block = lambda: nn.transformer_block(nn.attention(64, 4, is_causal=True), nn.feed_forward(64, 256))  # noqa: E731
    gpt = nn.serial(nn.embedding(100, 64), nn.learned_positions(64), block(), block(), nn.layer_norm(), nn.dense(100))
    lstm = nn.serial(nn.lstm(64, return_sequences=False), nn.dense(10))
    return {
        "mlp": ("MLP 784-256-128-10, batch 128", nn.models.mlp([256, 128], 10), images, labels),
        "cnn": ("CNN on 28×28 images, batch 128", cnn, images, labels),
        "lstm": ("LSTM of 64 over 28 steps, batch 128", lstm, images[..., 0], labels),
        "gpt": ("GPT of 2 blocks of 64, 16 × 32 tokens", gpt, tokens, tokens),
    }


def by_vmap(f: Callable, data: Any) -> tuple[Callable, Callable]:
    """Norms and clipped sum from all gradients of single examples."""

    def norms_of(params: Any) -> tuple:
        each = jax.vmap(jax.grad(f), (None, 0))(params, data)
        return each, jnp.sqrt(sum((a.reshape(a.shape[0], -1) ** 2).sum(1) for a in jax.tree.leaves(each)))

    def clipped(params: Any) -> Any:
        each, norms = norms_of(params)
        return jax.tree.map(lambda a: jnp.tensordot(jnp.minimum(1, 1 / norms), a, 1), each)

    return lambda params: norms_of(params)[1], clipped


def contenders(name: str, model: Any, x: Any, y: Any) -> dict[str, dict[str, Callable]]:
    """The functions of the parameters to measure, by title."""
    params, state = model.init(KEY, x)
    problem = nn.Problem(model, nn.losses.cross_entropy)
    f, data = ad.example_loss(problem, state), (x, y)
    mean = lambda params: problem.objective(params, state, data)[0]  # noqa: E731
    v = jax.tree.map(lambda a: jax.random.normal(KEY, a.shape), params)
    norms, clipped = by_vmap(f, data)

    def many(make: Callable, n: int = 20) -> Callable:
        def run(params: Any) -> Any:
            product = make(params)
            return jax.lax.scan(lambda v, _: (jax.tree.map(lambda a: a / 1e3, product(v)), None), v, None, n)[0]

        return run

    hessian = lambda params: ad.hessian(f, params, data)  # noqa: E731
    gauss_newton = lambda params: ad.gauss_newton(problem, params, data, state)  # noqa: E731
    gradient = {"gradient": jax.grad(mean)}
    outputs = lambda params, x: model.apply(params, state, x[None])[0][0]  # noqa: E731
    few = x[:16]

    def jacobians(params: Any) -> Any:
        each = jax.vmap(jax.jacrev(outputs), (None, 0))(params, few)
        rows = jnp.concatenate([a.reshape(len(few), a.shape[1], -1) for a in jax.tree.leaves(each)], 2)
        return jnp.einsum("acp,bdp->abcd", rows, rows)

    found = {
        "norms": {
            "gradient_norms": lambda params: ad.gradient_norms(f, params, data),
            **gradient,
            "vmap(grad)": norms,
        },
        "clipped": {
            "clipped_gradient": lambda params: ad.clipped_gradient(f, params, data, 1.0).gradient,
            **gradient,
            "vmap(grad)": clipped,
        },
        "products": {
            "gauss_newton": lambda params: gauss_newton(params)(v),
            "hessian": lambda params: hessian(params)(v),
            **gradient,
            "20 of gauss_newton": many(gauss_newton),
            "20 of hessian": many(hessian),
        },
        "kernel": {
            "tangent_kernel": lambda params: ad.tangent_kernel(outputs, params, few),
            "contraction of Jacobians": jacobians,
        },
    }
    if name == "gpt":  # an output per token and vocabulary entry: a kernel of another kind
        del found["kernel"]
    return {what: {k: _compiled(k, g, params) for k, g in functions.items()} for what, functions in found.items()}


def _compiled(name: str, function: Callable, params: Any) -> Callable:
    def prepare() -> tuple[str, Callable]:
        program = jax.jit(function).lower(params).compile()
        return f"{name}, {program.memory_analysis().temp_size_in_bytes / 1e6:.1f} MB", lambda: program(params)

    return prepare


def hypergradient(steps: int) -> dict[str, Callable]:
    """Functions of the learning rate: a run of an MLP, and its derivative in the learning rate by three modes."""
    model = nn.models.mlp([32], 10)
    x, y = jax.random.normal(KEY, (32, 32, 64)), jax.random.randint(KEY, (32, 32), 0, 10)
    options = {"optimizer": optax.sgd, "hyperparameters": {"learning_rate": 0.1}}
    start = nn.init_train_state(model, key=KEY, x=x[0], **options)
    step = nn.train_step(model, loss=nn.losses.cross_entropy, **options)
    one = lambda state, i: step(state, (x[i % 32], y[i % 32]))[0]  # noqa: E731

    def final(run: Callable, rate: jax.Array) -> jax.Array:
        state = run(start._replace(hyperparameters={"learning_rate": rate}))
        return nn.losses.cross_entropy(model(state.params, x[0]), y[0])

    run = functools.partial(final, ad.unrolled(one, steps))
    plain = lambda state: jax.lax.scan(lambda state, i: (one(state, i), None), state, jnp.arange(steps))[0]  # noqa: E731
    functions = {
        "run": run,
        "forward mode": lambda rate: jax.jvp(run, (rate,), (jnp.ones_like(rate),)),
        "reverse mode of unrolled": jax.value_and_grad(run),
        "reverse mode of a scan": jax.value_and_grad(functools.partial(final, plain)),
    }
    return {name: _compiled(name, function, jnp.asarray(0.1)) for name, function in functions.items()}


def landscape(points: int) -> Callable:
    """The loss of a LeNet on all digits, 8 × 8 pixels each, on a plane."""
    same = functools.partial(nn.conv, kernel_size=5, padding="SAME")
    body = same(6), nn.tanh, nn.avg_pool(2), same(16), nn.tanh, nn.avg_pool(2), nn.flatten()
    model = nn.serial(*body, nn.dense(120), nn.tanh, nn.dense(84), nn.tanh, nn.dense(10))
    digits = nn.data.load("digits")
    x, y = jnp.asarray(digits.x), jnp.asarray(digits.y)
    params, _ = model.init(KEY, x)
    loss = lambda params: nn.losses.cross_entropy(model(params, x), y)  # noqa: E731
    return lambda: ad.loss_landscape(loss, params, ad.random_directions(KEY, params), points=points).losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["norms", "clipped", "products", "kernel", "hypergradient", "landscape"])
    parser.add_argument("--models", nargs="*", default=["mlp", "cnn", "lstm", "gpt"])
    arguments = parser.parse_args()
    for name in arguments.models:
        title, *parts = models()[name]
        found = {what: them for what, them in contenders(name, *parts).items() if what in arguments.only}
        for what, functions in found.items():
            runs = dict(prepare() for prepare in functions.values())
            table(f"{title}: {what}", "ms", interleave(runs, arguments.rounds, 1e3), next(iter(runs)), ("jax",))
    for steps in (160, 640, 2560) if "hypergradient" in arguments.only else ():
        runs = dict(prepare() for prepare in hypergradient(steps).values())
        title = f"hypergradient of a learning rate, MLP 64-32-10, {steps} steps of 32"
        table(title, "ms", interleave(runs, arguments.rounds, 1e3), next(iter(runs)), ("jax",))
    if "landscape" in arguments.only:
        runs = {"loss_landscape": landscape(51)}
        table("landscape of 51 × 51 points, LeNet on 1,797 digits", "s", interleave(runs, 1, 1), "loss_landscape", ("jax",))
