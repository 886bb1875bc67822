"""The main job: `python -m jaxnn` trains a network on real data, says how good it is, and writes one picture.

Whatever can be a mistake of the caller is looked at first, before anything is trained: `_prepared`.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnn.cli.arguments import parser as make_parser
from jaxnn.data import Dataset, load, moments, split, standardize

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
    parser = make_parser()
    try:
        arguments = parser.parse_args(argv)
        try:
            job = _prepared(arguments)
        except (ValueError, OSError, ImportError) as error:
            parser.error(str(error))
        try:
            return (_sweep if arguments.command == "sweep" else _run)(job, started)
        except ValueError as error:
            if not arguments.resume:
                raise
            parser.error(f"--resume cannot go on from {arguments.checkpoint}: {error}")
    except KeyboardInterrupt:
        print("\njaxnn: interrupted", file=sys.stderr)
        return 130


# --- the job ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    arguments: argparse.Namespace
    data: Dataset
    parts: tuple[Dataset, Dataset, Dataset]  # to train on, to validate, to test
    model: Any
    table: Any
    callbacks: list[Any]

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
    from jaxnn.plots import figures as plots

    _optimizer(arguments)(learning_rate=1.0)
    _check_checkpoints(arguments)
    plots.new_figure()  # says now, not after the training, if matplotlib is missing
    model = _model(arguments, data)
    try:
        table = nn.summary(model, parts[0].x[: arguments.batch_size])
    except ValueError as error:
        raise ValueError(f"--model {arguments.model} cannot take samples of shape {data.x.shape[1:]}: {error}") from error
    _check_frozen(arguments, model, parts[0].x[:1])
    return _Job(arguments, data, parts, model, table, _callbacks(arguments))


def _check_frozen(arguments: argparse.Namespace, model: Any, x: np.ndarray) -> None:
    import jax

    from jaxnn.core import trees

    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    for pattern in arguments.freeze:
        try:
            trees.mask(params, pattern)
        except ValueError as error:
            raise ValueError(f"--freeze {pattern}: {error}") from error


def _check_checkpoints(arguments: argparse.Namespace) -> None:
    if arguments.checkpoint is None:
        if arguments.resume:
            raise ValueError("--resume needs to know where the run is: give --checkpoint DIR, too")
        return
    from jaxnn.io import Checkpoints

    try:
        steps = Checkpoints(arguments.checkpoint).steps()
    except OSError as error:
        raise ValueError(f"--checkpoint {arguments.checkpoint} cannot be made: {error.strerror}; expected a folder") from error
    if steps and not arguments.resume:
        raise ValueError(
            f"--checkpoint {arguments.checkpoint} has a run already, at step {steps[-1]}; expected --resume, to go on with it, "
            "or another folder"
        )


def _callbacks(arguments: argparse.Namespace) -> list[Any]:
    from jaxnn.train import callbacks

    stopping = [callbacks.early_stopping(arguments.patience)] if arguments.patience else []
    return [*stopping, *([callbacks.csv_log(arguments.csv)] if arguments.csv else [])]


def _optimizer(arguments: argparse.Namespace) -> Any:
    """The optimizer as a function of the learning rate, which `fit` schedules: not all of optax's take a schedule."""
    import jax

    from jaxnn.train.optimizers import by_path, named_optimizer

    options = {"key": jax.random.key(arguments.seed)} if arguments.optimizer == "noisy_sgd" else {}

    def optimizer(learning_rate):
        named = named_optimizer(arguments.optimizer, learning_rate, weight_decay=arguments.weight_decay, **options)
        return by_path(dict.fromkeys(arguments.freeze), otherwise=named) if arguments.freeze else named

    return optimizer


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


def _schedule(kind: str, rate: Any, epochs: int, per_epoch: int) -> Any:
    """The learning rate by step. All but the constant one fall: to 0, or to a tenth or less of where they begin."""
    import jaxnn as nn

    steps = epochs * per_epoch
    match kind:
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
        case "onecycle":
            return nn.schedules.cosine_onecycle_schedule(steps, rate)
    return nn.schedules.constant_schedule(rate)


def _run(job: _Job, started: float) -> int:
    """Train, report and draw."""
    import jaxnn as nn

    arguments, data = job.arguments, job.data
    train, validation, test = job.parts
    print(f"{data.name}: {len(train)} samples to train on, {len(validation)} to validate, {len(test)} to test\n")
    print(job.table)
    print(
        f"\n{arguments.model}, {arguments.init} initialization, {arguments.optimizer} at {arguments.learning_rate:g} "
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

    import jaxnn as nn

    arguments, regression = job.arguments, train.task == "regression"
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # `_ending` says it
        return nn.fit(
            job.model,
            (train.x, job.scaled(train.y)),
            loss=nn.losses.mse if regression else nn.losses.cross_entropy,
            optimizer=_optimizer(arguments),
            hyperparameters={
                "learning_rate": _schedule(
                    arguments.schedule,
                    arguments.learning_rate,
                    arguments.epochs,
                    math.ceil(len(train) / arguments.batch_size),
                )
            },
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            key=jax.random.key(arguments.seed),
            validation=(validation.x, job.scaled(validation.y)),
            metrics={"r2": nn.metrics.r2} if regression else {"accuracy": nn.metrics.accuracy},
            callbacks=job.callbacks,
            checkpoints=arguments.checkpoint,
        )


def _sweep(job: _Job, started: float) -> int:
    """Train all combinations, and show which is best."""
    import jax

    import jaxnn as nn
    from jaxnn.inspect import plot_parallel_coordinates, plot_sweep

    arguments, data = job.arguments, job.data
    train, validation, test = job.parts
    grid = dict(arguments.grid)
    regression = train.task == "regression"
    metric = {"r2": nn.metrics.r2} if regression else {"accuracy": nn.metrics.accuracy}
    train, validation, test = standardize(train, validation, test)

    def with_(**changed: Any) -> argparse.Namespace:
        return argparse.Namespace(**{**vars(arguments), **changed})

    def model(activation=arguments.activation, init=arguments.init, dropout=arguments.dropout):
        return _model(with_(activation=activation, init=init, dropout=dropout), data)

    def optimizer(rate, optimizer=arguments.optimizer, weight_decay=arguments.weight_decay):
        return _optimizer(with_(optimizer=optimizer, weight_decay=weight_decay))(rate)

    def rate(step, learning_rate, epochs, steps_per_epoch):
        return learning_rate * _schedule(arguments.schedule, 1.0, epochs, steps_per_epoch)(step)

    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # the table says it
        result = nn.sweep(
            model,
            (train.x, job.scaled(train.y)),
            grid,
            seeds=arguments.seeds,
            loss=nn.losses.mse if regression else nn.losses.cross_entropy,
            optimizer=optimizer,
            hyperparameters={"rate": rate} | ({} if "learning_rate" in grid else {"learning_rate": arguments.learning_rate}),
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            key=jax.random.key(arguments.seed),
            validation=(validation.x, job.scaled(validation.y)),
            metrics=metric,
            callbacks=[callback for callback in job.callbacks if callback.is_pure],
            checkpoints=arguments.checkpoint,
        )
    value = f"val_{next(iter(metric))}"
    print(result.table(value))
    if all(math.isnan(row[value]) for row in result.rows):
        print("no network was trained to the end of an epoch")
        return 1
    best = result.best(value)
    score = nn.evaluate(best.model, best, (test.x, job.scaled(test.y)))
    print(f"* best by the validation part; of its networks the best has {_shown(score)} on the test part")
    table = arguments.csv or arguments.out / "sweep.csv"
    _write_table(result.rows, table)
    varied = [name for name in result.names if len(grid[name]) > 1]
    if len(varied) == 2:
        ax = plot_sweep(result, varied[0], varied[1], value)
    else:
        ax = plot_parallel_coordinates(result, value, names=varied or list(grid))
    ax.set_title(f"{arguments.model} on {data.name}: {len(result)} networks")
    picture = arguments.out / "sweep.png"
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(picture)
    print(f"table: {table}\npicture: {picture}\ntime: {time.perf_counter() - started:.1f} s")
    return 130 if any(row["status"] == "interrupted" for row in result.rows) else 0


def _shown(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _write_table(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


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
    from jaxnn.plots import figures as plots

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
    from jaxnn.plots import figures as plots

    counts = plots.confusion(labels, predicted, len(classes))
    mistakes = counts - np.diag(np.diag(counts))
    true, read = np.unravel_index(mistakes.argmax(), mistakes.shape)
    if not mistakes[true, read]:
        return "most confused: none"
    return f"most confused: {classes[true]} read as {classes[read]}, {mistakes[true, read]} of {counts[true].sum()}"


if __name__ == "__main__":
    sys.exit(main())
