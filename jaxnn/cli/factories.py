"""Models, optimizers and learning-rate schedules by the names that the command line uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

import jaxnn as nn
from jaxnn.train.optimizers import by_path, named_optimizer


def make_model(model: str, outputs: int, *, hidden: Sequence[int], activation: str, init: str, dropout: float) -> nn.Layer:
    """Build a model.

    Args:
        model: `"mlp"`, `"cnn"` or `"rnn"`.
        outputs: The number of outputs.
        hidden: The sizes of the hidden layers of an mlp, or the state size of an rnn.
        activation: The name of the activation; an rnn ignores it.
        init: The name of the initializer of the kernels, one of `jaxnn.cli.arguments.INITS`.
        dropout: The dropout rate.

    Returns:
        The model.
    """
    inits = {
        "random": nn.initializers.normal(0.05),
        "fan-in": nn.initializers.fan_in_uniform(),
        "glorot": nn.initializers.glorot_uniform(),
        "xavier": nn.initializers.xavier_uniform(),
        "he": nn.initializers.he_normal(),
        "lecun": nn.initializers.lecun_normal(),
        "orthogonal": nn.initializers.orthogonal(),
    }
    options: dict[str, Any] = {"dropout": dropout, "kernel_init": inits[init]}
    if model == "rnn":
        return nn.models.rnn(hidden[0], outputs, **options)
    options["activation"] = getattr(nn, activation)
    return nn.models.cnn(outputs, **options) if model == "cnn" else nn.models.mlp(hidden, outputs, **options)


def make_optimizer(
    name: str, *, weight_decay: float | None = None, freeze: Sequence[str] = (), seed: int = 0
) -> Callable[[Any], Any]:
    """Build an optimizer as a function of the learning rate.

    `fit` schedules the learning rate as a hyperparameter, since some optimizers of optax do not accept a schedule.

    Args:
        name: The name of the optimizer, as in optax.
        weight_decay: The weight decay; `None` for the optimizer's own.
        freeze: Patterns of the paths of frozen parameters.
        seed: The seed of an optimizer that draws noise.

    Returns:
        A function from the learning rate to an optax transformation. It raises `ValueError` for an unknown name, or a
        weight decay that the optimizer does not support.
    """
    options = {"key": jax.random.key(seed)} if name == "noisy_sgd" else {}

    def optimizer(learning_rate):
        named = named_optimizer(name, learning_rate, weight_decay=weight_decay, **options)
        return by_path(dict.fromkeys(freeze), otherwise=named) if freeze else named

    return optimizer


def make_schedule(kind: str, rate: Any, epochs: int, steps_per_epoch: int) -> Callable[[Any], Any]:
    """Build a learning-rate schedule.

    All schedules but `"constant"` end at most at a tenth of their highest rate, mostly at 0.

    Args:
        kind: The name of the schedule, one of `jaxnn.cli.arguments.SCHEDULES`.
        rate: The highest learning rate.
        epochs: The number of epochs of the run.
        steps_per_epoch: The number of steps per epoch.

    Returns:
        A function from the step to the learning rate.
    """
    steps = epochs * steps_per_epoch
    match kind:
        case "linear":
            return nn.schedules.linear_schedule(rate, 0.0, steps)
        case "exponential":
            return nn.schedules.epoch_exponential_decay(rate, 0.01 ** (1 / epochs), steps_per_epoch)
        case "inverse":
            return nn.schedules.epoch_inverse_decay(rate, 10 / epochs, steps_per_epoch)
        case "cyclic":
            return nn.schedules.cyclic(rate / 10, rate, max(steps // 8, 1), mode="triangular2")
        case "cosine":
            return nn.schedules.cosine_decay_schedule(rate, steps)
        case "onecycle":
            return nn.schedules.cosine_onecycle_schedule(steps, rate)
    return nn.schedules.constant_schedule(rate)
