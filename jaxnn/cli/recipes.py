"""Hyperparameters that suit the data: what a run uses where the command line gives no value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxnn.data import Dataset


class Samples(NamedTuple):
    """A kind of samples, and the models that accept them, the default first."""

    kind: str
    models: tuple[str, ...]


SUITABLE = {
    2: Samples("table", ("mlp",)),
    3: Samples("sequence", ("rnn", "mlp")),
    4: Samples("image", ("cnn", "mlp", "rnn")),
}
"""By the number of axes of the data."""


class Recipe(NamedTuple):
    """Default hyperparameters, chosen on other splits than those that the reported accuracies are measured on."""

    epochs: int
    batch_size: int
    learning_rate: float
    dropout: float = 0.0
    hidden: tuple[int, ...] = ()


RECIPES = {
    ("digits", "cnn"): Recipe(40, 32, 4e-3, 0.4),
    ("digits", "mlp"): Recipe(60, 32, 2e-3, 0.2, (128, 64)),
    ("digits", "rnn"): Recipe(60, 32, 8e-3, 0.0, (64,)),
    ("iris", "mlp"): Recipe(100, 16, 1e-2, 0.0, (32,)),
    ("wine", "mlp"): Recipe(100, 16, 1e-2, 0.0, (32,)),
    ("fashion-mnist", "cnn"): Recipe(8, 128, 2e-3, 0.25),
}
"""By data set and model."""

DEFAULT_RECIPES = {
    "cnn": Recipe(20, 64, 2e-3, 0.25),
    "mlp": Recipe(40, 32, 2e-3, 0.0, (32,)),
    "rnn": Recipe(30, 32, 4e-3, 0.0, (64,)),
}
"""By model, for all other data."""


@dataclass(frozen=True)
class Settings:
    """All hyperparameters of a run.

    Attributes:
        model: The name of the model, one of those in `SUITABLE`.
        hidden: The sizes of the hidden layers of an mlp, or the state size of an rnn.
        activation: The name of the activation of the hidden layers.
        init: The name of the initializer of the kernels.
        dropout: The dropout rate.
        epochs: The number of epochs.
        batch_size: Samples per step.
        optimizer: The name of the optimizer, as in optax.
        learning_rate: The highest learning rate of the schedule.
        weight_decay: The weight decay; `None` for the optimizer's own.
        freeze: Patterns of the paths of frozen parameters.
        schedule: The name of the learning-rate schedule.
        patience: Epochs without improvement before the run stops; `None` to train for all epochs.
        seed: The seed of the split, the weights, the order of the samples and dropout.
    """

    model: str
    hidden: tuple[int, ...]
    activation: str
    init: str
    dropout: float
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    weight_decay: float | None
    freeze: tuple[str, ...]
    schedule: str
    patience: int | None
    seed: int


def fill_in(given: Mapping[str, Any], data: Dataset) -> Settings:
    """Replace the values that were not given by those that suit the data.

    Args:
        given: The fields of `Settings` without `hidden`; those that are `None` are filled in, except `weight_decay` and
            `patience`.
        data: The data set.

    Returns:
        The complete settings.

    Raises:
        ValueError: The model does not accept the data, the activation does not apply to the model, or the data have a
            single class.
    """
    kind, models = SUITABLE[data.x.ndim]
    model = given["model"] or models[0]
    if model not in models:
        raise ValueError(
            f"--model {model} cannot take the data {data.name!r}, whose samples are {kind}s of shape {data.x.shape[1:]}; "
            f"allowed: {', '.join(models)}"
        )
    if model == "rnn" and given["activation"]:
        raise ValueError(
            "--activation does not apply to rnn, since the gates of an LSTM are sigmoid and tanh; allowed with mlp and cnn"
        )
    if len(data.classes) == 1:
        raise ValueError(f"the data {data.name!r} have only one class, so there is nothing to learn; expected two or more")
    recipe = RECIPES.get((data.name, model), DEFAULT_RECIPES[model])
    activation = given["activation"] or ("tanh" if model == "rnn" or kind == "table" else "relu")
    init = given["init"] or ("fan-in" if activation in ("tanh", "sigmoid") else "he")
    chosen = {name: getattr(recipe, name) for name in ("epochs", "batch_size", "learning_rate", "dropout")}
    chosen |= {name: value for name, value in given.items() if value is not None}
    optional = {"weight_decay": given["weight_decay"], "patience": given["patience"]}
    return Settings(**{**optional, **chosen, "model": model, "activation": activation, "init": init, "hidden": recipe.hidden})
