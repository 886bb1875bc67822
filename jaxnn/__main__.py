"""The main job: `python -m jaxnn` trains a network on real data, says how good it is, and writes one picture.

Whatever can be a mistake of the caller is looked at first, before anything is trained: `_prepared`.
"""

from __future__ import annotations

import argparse
import difflib
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from jaxnn.data import NAMES, Dataset, load, moments, split, standardize

MODELS = ("mlp", "cnn", "rnn")
SCHEDULES = ("constant", "linear", "exponential", "inverse", "cyclic", "cosine")
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid")
INITS = ("random", "xavier", "glorot", "he", "lecun", "orthogonal")
SUITS = {2: ("table", ("mlp",)), 3: ("sequence", ("rnn", "mlp")), 4: ("image", ("cnn", "mlp", "rnn"))}
"""By the number of axes of the data: what a sample is, and the models that take it, the default first."""


class Recipe(NamedTuple):
    """What a run uses where the command line is silent; chosen on other splits than those its accuracy is tested on."""

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
OTHERWISE = {
    "cnn": Recipe(20, 64, 2e-3, 0.25),
    "mlp": Recipe(40, 32, 2e-3, 0.0, (32,)),
    "rnn": Recipe(30, 32, 4e-3, 0.0, (64,)),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; the process's own by default.

    Returns:
        The exit code: 0, 1 if the training diverged, 130 after Ctrl-C. A mistake in `argv` exits with 2, through
        `SystemExit` as argparse does.
    """
    started = time.perf_counter()
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        try:
            job = _prepared(arguments)
        except (ValueError, OSError, ImportError) as error:
            parser.error(str(error))
        return _run(job, started)
    except KeyboardInterrupt:
        print("\njaxnn: interrupted", file=sys.stderr)
        return 130


# --- the command line -------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Answer a mistake with one line on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"jaxnn: error: {' '.join(message.split())}\n")

    def parse_args(self, *arguments: Any, **named: Any) -> Any:
        parsed, unknown = self.parse_known_args(*arguments, **named)
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            self.error(f"unknown argument {unknown[0]!r}{hint}; known are train, {', '.join(known)}")
        if parsed.command != "train":  # looked at last: the value of a misspelt option lands here
            self.error(f"unknown command {parsed.command!r}; expected train")
        return parsed


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxnn",
        usage="python -m jaxnn [train] [options]",
        description="Train a neural network on real data. Without options: a small CNN on handwritten digits.",
        epilog="Options left out are chosen to suit the data and the model. The test part, 20% of the samples or the data "
        "set's own, is looked at once, at the end; of the rest, 10% are held out for validation, which is all that "
        "--patience looks at.",
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", metavar="train", default="train", help="the one command, and the default")
    data = parser.add_argument_group("data and model")
    data.add_argument("--data", metavar="NAME", default="digits", help=f"{', '.join(NAMES)}, or FILE.npz (default digits)")
    data.add_argument("--model", choices=MODELS, help="default: cnn for images, rnn for sequences, mlp for tables")
    data.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="of the hidden layers of mlp and cnn (default tanh for tables, else relu)",
    )
    data.add_argument(
        "--init",
        choices=INITS,
        help="of the kernels (default: he for the relu family, xavier for tanh, sigmoid and rnn)",
    )
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=_whole(1), metavar="N", help="passes over the training part")
    training.add_argument("--batch-size", type=_whole(1), metavar="N", help="samples a step")
    training.add_argument("--learning-rate", type=_number(0, math.inf), metavar="RATE", help="Adam's, at its highest")
    training.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="of the learning rate (default cosine)")
    training.add_argument(
        "--dropout", type=_number(0, 1, or_low=True), metavar="RATE", help="share of units dropped in training"
    )
    training.add_argument(
        "--patience",
        type=_whole(1),
        metavar="N",
        help="stop after N epochs without a better validation loss, keep the best",
    )
    training.add_argument("--seed", type=_whole(0, 2**32 - 1), metavar="N", default=0, help="of everything random (default 0)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("jaxnn-run"), help="folder of the picture (default jaxnn-run)"
    )
    return parser


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    allowed = f"at least {low}" if high is None else f"from {low} to {high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; expected a whole number, {allowed}")
        return value

    return parse


def _number(low: float, high: float, *, or_low: bool = False) -> Callable[[str], float]:
    allowed = f"{'at least' if or_low else 'above'} {low}" + (f" and below {high}" if high < math.inf else "")

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low < value < high or (or_low and value == low)):
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; expected a number {allowed}")
        return value

    return parse


# --- the job ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    arguments: argparse.Namespace
    data: Dataset
    parts: tuple[Dataset, Dataset, Dataset]  # to train on, to validate, to test
    model: Any
    table: Any

    def scaled(self, y: np.ndarray) -> np.ndarray:
        """Regression targets with mean 0 and variance 1 over the training part; labels as they are."""
        mean, std = self._target_moments()
        return ((y - mean) / std).astype(np.float32) if self.data.task == "regression" else y

    def unscaled(self, y: np.ndarray) -> np.ndarray:
        """Standardized targets in their own units again."""
        mean, std = self._target_moments()
        return y * std + mean

    def _target_moments(self) -> tuple[np.ndarray, np.ndarray]:
        return moments(self.parts[0].y)


def _prepared(arguments: argparse.Namespace) -> _Job:
    """Everything that can turn out to be a mistake, before anything costs time."""
    data = load(arguments.data)
    _fill_in(arguments, data)
    parts = _parts(data, arguments.seed)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {arguments.out} cannot be made: {error.strerror}; expected a folder to write to") from error

    import jaxnn as nn
    from jaxnn.inspect import plots

    plots.new_figure()  # says now, not after the training, if matplotlib is missing
    model = _model(arguments, data)
    try:
        table = nn.summary(model, parts[0].x[: arguments.batch_size])
    except ValueError as error:
        raise ValueError(f"--model {arguments.model} cannot take samples of shape {data.x.shape[1:]}: {error}") from error
    return _Job(arguments, data, parts, model, table)


def _fill_in(arguments: argparse.Namespace, data: Dataset) -> None:
    """Complete the arguments by what suits the data."""
    kind, suited = SUITS[data.x.ndim]
    model = arguments.model or suited[0]
    if model not in suited:
        raise ValueError(
            f"--model {model} cannot take the data {data.name!r}, whose samples are {kind}s of shape "
            f"{data.x.shape[1:]}; allowed: {', '.join(suited)}"
        )
    if model == "rnn" and arguments.activation:
        raise ValueError("--activation is not for rnn: an LSTM's gates are sigmoid and tanh; allowed with mlp and cnn")
    if len(data.classes) == 1:
        raise ValueError(f"the data {data.name!r} has one class only, so there is nothing to learn; expected two or more")
    recipe = RECIPES.get((data.name, model), OTHERWISE[model])
    arguments.model, arguments.hidden = model, recipe.hidden
    for name in ("epochs", "batch_size", "learning_rate", "dropout"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(recipe, name))
    if arguments.activation is None:
        arguments.activation = "tanh" if model == "rnn" or kind == "table" else "relu"
    if arguments.init is None:
        arguments.init = "xavier" if arguments.activation in ("tanh", "sigmoid") else "he"


def _parts(data: Dataset, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    train, test = split(data, seed=seed) if data.test is None else (data, data.test)
    return (*split(train, test_fraction=0.1, seed=seed), test)


def _model(arguments: argparse.Namespace, data: Dataset) -> Any:
    import jaxnn as nn

    inits = {
        "random": nn.initializers.normal(0.05),
        "xavier": nn.initializers.fan_in_uniform(),
        "glorot": nn.initializers.glorot_uniform(),
        "he": nn.initializers.he_normal(),
        "lecun": nn.initializers.lecun_normal(),
        "orthogonal": nn.initializers.orthogonal(),
    }
    outputs = len(data.classes) or 1
    options: dict[str, Any] = {"dropout": arguments.dropout, "kernel_init": inits[arguments.init]}
    if arguments.model == "rnn":
        return nn.models.rnn(arguments.hidden[0], outputs, **options)
    options["activation"] = getattr(nn, arguments.activation)
    return (
        nn.models.cnn(outputs, **options) if arguments.model == "cnn" else nn.models.mlp(arguments.hidden, outputs, **options)
    )


def _schedule(arguments: argparse.Namespace, samples: int) -> Any:
    """The learning rate by step. All but the constant one fall: to 0, or to a tenth or less of where they begin."""
    import jaxnn as nn

    rate, epochs = arguments.learning_rate, arguments.epochs
    per_epoch = math.ceil(samples / arguments.batch_size)
    steps = epochs * per_epoch
    match arguments.schedule:
        case "linear":
            return nn.schedules.linear_schedule(rate, 0.0, steps)
        case "exponential":
            return nn.schedules.epoch_exponential_decay(rate, 0.01 ** (1 / epochs), per_epoch)
        case "inverse":
            return nn.schedules.epoch_inverse_decay(rate, 10 / epochs, per_epoch)
        case "cyclic":
            return nn.schedules.cyclic(rate / 10, rate, max(steps // 8, 1), mode="triangular2")
        case "cosine":
            return nn.schedules.cosine_decay_schedule(rate, steps)
    return rate


def _run(job: _Job, started: float) -> int:
    """Train, report and draw."""
    import jaxnn as nn

    arguments, data = job.arguments, job.data
    train, validation, test = job.parts
    print(f"{data.name}: {len(train)} samples to train on, {len(validation)} to validate, {len(test)} to test\n")
    print(job.table)
    print(
        f"\n{arguments.model}, {arguments.init} initialization, Adam at {arguments.learning_rate:g} "
        f"({arguments.schedule}), {arguments.epochs} epochs, batches of {arguments.batch_size}, seed {arguments.seed}",
        flush=True,
    )
    train, validation, scaled_test = standardize(train, validation, test)
    result = _fit(job, train, validation)
    print(_ending(result, arguments))
    if result.epoch:
        figure = _report(job, result.history, np.asarray(nn.predict(job.model, result, scaled_test.x)))
        picture = arguments.out / "training.png"
        figure.savefig(picture)
        print(f"picture: {picture}")
    print(f"time: {time.perf_counter() - started:.1f} s, of which {result.compile_seconds:.1f} s compiling the training")
    return {"interrupted": 130, "nonfinite": 1}.get(result.stopped, 0)


def _fit(job: _Job, train: Dataset, validation: Dataset) -> Any:
    import jax
    import optax

    import jaxnn as nn

    arguments, regression = job.arguments, train.task == "regression"
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # `_ending` says it
        return nn.fit(
            job.model,
            (train.x, job.scaled(train.y)),
            loss=nn.losses.mse if regression else nn.losses.cross_entropy,
            optimizer=optax.adam(_schedule(arguments, len(train))),
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            key=jax.random.key(arguments.seed),
            validation=(validation.x, job.scaled(validation.y)),
            metrics={"r2": nn.metrics.r2} if regression else {"accuracy": nn.metrics.accuracy},
            callbacks=[nn.callbacks.early_stopping(arguments.patience)] if arguments.patience else [],
        )


def _ending(result: Any, arguments: argparse.Namespace) -> str:
    done = len(result.history.get("loss", ()))
    kept = "nothing was trained" if result.epoch == 0 else f"the parameters are those of epoch {result.epoch}"
    match result.stopped:
        case "early":
            return f"stopped early after epoch {done}: no better validation loss for {arguments.patience} epochs; {kept}"
        case "interrupted":
            return f"interrupted after epoch {done} of {arguments.epochs}; {kept}"
        case "nonfinite":
            return f"the loss became infinite in epoch {done + 1}, try a lower --learning-rate; {kept}"
    return f"trained for {done} epochs" + ("" if result.epoch == done else f"; {kept}")


def _report(job: _Job, history: dict[str, list[float]], output: np.ndarray) -> Any:
    """Say how good the model is on the test part, and return the picture."""
    import jaxnn as nn
    from jaxnn.inspect import plots

    test, title = job.parts[2], f"{job.arguments.model} on {job.data.name}"
    if test.task == "regression":
        predicted = job.unscaled(output)
        score = f"test R² {float(nn.metrics.r2(output, job.scaled(test.y))):.3f}"  # the same in every unit
        print(f"{score}, mean squared error {np.mean((test.y - predicted) ** 2):.4g} in the target's own units")
        return plots.regression_figure(history, test.y, predicted, title=f"{title}: {score}")
    predicted = output.argmax(axis=-1)
    wrong = int((predicted != test.y).sum())
    score = f"test accuracy {1 - wrong / len(test):.2%}"
    print(f"{score} ({wrong} of {len(test)} wrong)\n{_most_confused(test.y, predicted, test.classes)}")
    return plots.classification_figure(history, test.x, test.y, predicted, test.classes, title=f"{title}: {score}")


def _most_confused(labels: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> str:
    from jaxnn.inspect import plots

    counts = plots.confusion(labels, predicted, len(classes))
    mistakes = counts - np.diag(np.diag(counts))
    true, read = np.unravel_index(mistakes.argmax(), mistakes.shape)
    if not mistakes[true, read]:
        return "most confused: none"
    return f"most confused: {classes[true]} read as {classes[read]}, {mistakes[true, read]} of {counts[true].sum()}"


if __name__ == "__main__":
    sys.exit(main())
