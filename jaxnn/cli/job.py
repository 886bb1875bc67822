"""What a command works on: data, settings and model, with every check that is possible before training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxnn as nn
from jaxnn.cli.factories import make_model, make_optimizer
from jaxnn.cli.recipes import Settings, fill_in
from jaxnn.core import trees
from jaxnn.data import NAMES, Dataset, load, moments, split, standardize
from jaxnn.plots import figures
from jaxnn.train import callbacks
from jaxnn.train.table_files import check_writable


@dataclass(frozen=True)
class Job:
    """A checked command.

    Attributes:
        settings: The hyperparameters.
        source: The name or the file of the data.
        data: The whole data set, for its name, task and classes.
        train: The training part, as loaded.
        validation: The validation part, as loaded.
        test: The test part, as loaded.
        model: The model.
        summary: The summary of the model on a batch.
        callbacks: The callbacks of the run.
        grid: In a sweep, the values to try by hyperparameter.
        seeds: In a sweep, the number of networks per combination.
        out: The output folder.
        csv: The file of the table, or `None`.
        checkpoint: The folder of the checkpoints, or `None`.
        quiet: Whether only the results are printed.
    """

    settings: Settings
    source: str
    data: Dataset
    train: Dataset
    validation: Dataset
    test: Dataset
    model: nn.Layer
    summary: Any
    callbacks: Sequence[Any]
    grid: Mapping[str, list[Any]]
    seeds: int
    out: Path
    csv: Path | None
    checkpoint: Path | None
    quiet: bool

    @property
    def is_regression(self) -> bool:
        """Whether the targets are numbers and not classes."""
        return self.data.task == "regression"

    @property
    def picture(self) -> Path:
        """The file of the picture."""
        return self.out / ("sweep.png" if self.grid else "training.png")

    @property
    def network(self) -> Path:
        """The file of the trained network."""
        return self.out / "model.npz"

    @property
    def table(self) -> Path:
        """In a sweep, the file of the table."""
        return self.csv or self.out / "sweep.csv"

    @property
    def title(self) -> str:
        """The beginning of the title of a picture."""
        return f"{self.settings.model} on {self.data.name}"

    def options(self) -> dict[str, Any]:
        """Return the options that `fit` and `sweep` have in common: loss, metric and the length of the run."""
        return {
            "loss": nn.losses.mse if self.is_regression else nn.losses.cross_entropy,
            "metrics": {"r2": nn.metrics.r2} if self.is_regression else {"accuracy": nn.metrics.accuracy},
            "epochs": self.settings.epochs,
            "batch_size": self.settings.batch_size,
            "key": jax.random.key(self.settings.seed),
            "checkpoints": self.checkpoint,
            "progress": not self.quiet,
        }

    def standardized(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Return `(x, y)` of the three parts, with the inputs and regression targets standardized by the training part."""
        parts = standardize(self.train, self.validation, self.test)
        return tuple((part.x, self.standardize_targets(part.y)) for part in parts)

    def standardize_targets(self, y: np.ndarray) -> np.ndarray:
        """Scale regression targets to mean 0 and variance 1 over the training part; labels stay as they are."""
        if not self.is_regression:
            return y
        mean, std = moments(self.train.y.astype(np.float64))
        return ((y - mean) / std).astype(np.float32)

    def original_units(self, y: np.ndarray) -> np.ndarray:
        """Undo `standardize_targets`."""
        mean, std = moments(self.train.y.astype(np.float64))
        return y * std + mean


def prepare(arguments: argparse.Namespace) -> Job:
    """Load the data, build the model and check everything that can be checked before training.

    Args:
        arguments: What `jaxnn.cli.arguments.parser` returns.

    Returns:
        The job.

    Raises:
        ValueError: An argument does not suit the data, the model or another argument.
        OSError: A file cannot be read or written.
        ImportError: A required package is not installed.
    """
    data = load(arguments.data)
    given = {field.name: getattr(arguments, field.name) for field in fields(Settings) if field.name != "hidden"}
    settings = fill_in(given | {"freeze": tuple(arguments.freeze)}, data)
    grid = dict(arguments.grid or {})
    train, validation, test = parts(data, settings.seed)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {arguments.out} cannot be created: {error.strerror}; expected a folder to write to") from error
    for name in grid.get("optimizer", [settings.optimizer]):
        for weight_decay in grid.get("weight_decay", [settings.weight_decay]):
            make_optimizer(name, weight_decay=weight_decay, seed=settings.seed)(1.0)
    _check_checkpoints(arguments.checkpoint, resume=arguments.resume)
    figures.new_figure()  # fails here, and not after the training, if matplotlib is missing
    model = make_model(
        settings.model,
        len(data.classes) or 1,
        hidden=settings.hidden,
        activation=settings.activation,
        init=settings.init,
        dropout=settings.dropout,
    )
    try:
        summary = nn.summary(model, train.x[: settings.batch_size])
    except ValueError as error:
        raise ValueError(f"--model {settings.model} cannot take samples of shape {data.x.shape[1:]}: {error}") from error
    _check_frozen(settings.freeze, model, train.x[:1])
    job = Job(
        settings=settings,
        source=arguments.data if arguments.data in NAMES else str(Path(arguments.data).absolute()),
        data=data,
        train=train,
        validation=validation,
        test=test,
        model=model,
        summary=summary,
        callbacks=_callbacks(settings.patience, None if grid else arguments.csv),
        grid=grid,
        seeds=arguments.seeds,
        out=arguments.out,
        csv=arguments.csv,
        checkpoint=arguments.checkpoint,
        quiet=arguments.quiet,
    )
    for file in (job.picture, job.table if grid else job.network):
        check_writable("--out" if file.parent == job.out else "--csv", file)
    return job


def parts(data: Dataset, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """Split the data into the training, validation and test parts."""
    train, test = split(data, seed=seed) if data.test is None else (data, data.test)
    return (*split(train, test_fraction=0.1, seed=seed), test)


def _check_checkpoints(folder: Path | None, *, resume: bool) -> None:
    if folder is None:
        if resume:
            raise ValueError("--resume requires the folder of the run: give --checkpoint DIR as well")
        return
    try:
        steps = nn.io.Checkpoints(folder).steps()
    except OSError as error:
        raise ValueError(f"--checkpoint {folder} cannot be created: {error.strerror}; expected a folder") from error
    if steps and not resume:
        raise ValueError(
            f"--checkpoint {folder} already contains a run, at step {steps[-1]}; give --resume to continue it, or another "
            "folder"
        )


def _check_frozen(patterns: Sequence[str], model: nn.Layer, x: np.ndarray) -> None:
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    for pattern in patterns:
        try:
            trees.mask(params, pattern)
        except ValueError as error:
            raise ValueError(f"--freeze {pattern}: {error}") from error


def _callbacks(patience: int | None, csv: Path | None) -> list[Any]:
    stopping = [callbacks.early_stopping(patience)] if patience else []
    return [*stopping, *([callbacks.csv_log(csv)] if csv else [])]
