"""What the commands print, and the pictures and tables that they write."""

from __future__ import annotations

import csv
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import jaxnn as nn
from jaxnn.cli.job import Job
from jaxnn.cli.recipes import Settings
from jaxnn.core.text import terminal_width
from jaxnn.plots import figures, sweeps


def tell(text: str, *, is_table: bool = False) -> None:
    """Print a text; lines are broken at the width of a terminal, unless they are those of a table.

    If nothing reads the output any more, as after `| head`, the text is lost, and nothing else.
    """
    if not is_table and (width := terminal_width(0)):
        text = "\n".join(line if len(line) <= width else textwrap.fill(line, width) for line in text.split("\n"))
    try:
        print(text, flush=True)
    except OSError:
        with suppress(OSError):  # so that Python does not write the rest at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def beginning(job: Job) -> str:
    """Return the lines about data, model and settings that come before the training."""
    settings = job.settings
    return (
        f"{job.data.name}: {len(job.train)} samples for training, {len(job.validation)} for validation, "
        f"{len(job.test)} for testing\n\n{job.summary}\n\n"
        f"{settings.model}, {settings.init} initialization, {settings.optimizer} at {settings.learning_rate:g} "
        f"({settings.schedule}),\n{settings.epochs} epochs, batches of {settings.batch_size}, seed {settings.seed}"
    )


def ending(result: nn.FitResult, settings: Settings) -> str:
    """Return the line that says how the training ended, and from which epoch the parameters are."""
    done = len(result.history.get("loss", ()))
    kept = f"the parameters are those of epoch {result.epoch}" if result.epoch else "no epoch was completed"
    match result.stopped:
        case "early":
            return f"stopped early after epoch {done}: no better validation loss for {settings.patience} epochs; {kept}"
        case "interrupted":
            return f"interrupted after epoch {done} of {settings.epochs}; {kept}"
        case "diverged":
            return f"the loss became non-finite in epoch {done + 1}, try a lower --learning-rate; {kept}"
    return f"trained for {done} epoch{'s' * (done != 1)}" + ("" if result.epoch == done else f"; {kept}")


def evaluation(job: Job, result: nn.FitResult, output: np.ndarray) -> tuple[str, Any]:
    """Compare the predictions with the targets of the test part.

    Args:
        job: The job.
        result: The result of the run.
        output: The output of the model for the test part.

    Returns:
        The lines to print, and the figure.
    """
    return (_regression if job.is_regression else _classification)(job, result.history, output, _kept(result))


def guess(job: Job, result: nn.FitResult, y: np.ndarray) -> str:
    """Return a line if the validation loss is no better than that of a constant guess, else an empty text.

    The guess is what is best on the training part: its mean, or the frequencies of its classes.

    Args:
        job: The job.
        result: The result of the run.
        y: The targets of the validation part, standardized.
    """
    loss = result.history["val_loss"][result.epoch - 1]
    if job.is_regression:
        constant = float(np.mean(y**2))  # the mean of the standardized training part is 0
    else:
        counts = np.bincount(job.train.y, minlength=len(job.data.classes))
        with np.errstate(divide="ignore"):
            constant = -float(np.mean(np.log(counts / counts.sum())[y]))
    if loss < constant:
        return ""
    return (
        f"the validation loss {loss:.4g} is no better than that of a constant guess, {constant:.4g}: the network has learned "
        "nothing; try another --learning-rate, or more --epochs"
    )


def saying_what_is_replaced(what: str, path: Path, write: Callable[[], Any]) -> None:
    """Write a file, and print where it is and whether it replaces another one."""
    replaced = ", in place of an earlier one" if path.exists() else ""
    write()
    tell(f"{what}: {path}{replaced}")


def _kept(result: nn.FitResult) -> int | None:
    """The epoch whose parameters were kept, if it is not the last."""
    return result.epoch if result.epoch < len(result.history.get("loss", ())) else None


def _regression(job: Job, history: Any, output: np.ndarray, kept: int | None) -> tuple[str, Any]:
    predicted = job.original_units(output)
    score = f"test R² {float(nn.metrics.r2(output, job.standardize_targets(job.test.y))):.3f}"  # the same in every unit
    error = np.mean((job.test.y - predicted) ** 2)
    figure = figures.regression_figure(history, predicted, job.test.y, title=f"{job.title}: {score}", kept=kept)
    return f"{score}, mean squared error {error:.4g} in the original units of the target", figure


def _classification(job: Job, history: Any, output: np.ndarray, kept: int | None) -> tuple[str, Any]:
    test, predicted = job.test, output.argmax(axis=-1)
    wrong = int((predicted != test.y).sum())
    score = f"test accuracy {1 - wrong / len(test):.2%}"
    title = f"{job.title}: {score}"
    figure = figures.classification_figure(history, test.x, predicted, test.y, test.classes, title=title, kept=kept)
    return f"{score} ({wrong} of {len(test)} wrong)\n{_most_confused(predicted, test.y, test.classes)}", figure


def _most_confused(predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> str:
    counts = figures.confusion(predicted, labels, len(classes))
    mistakes = counts - np.diag(np.diag(counts))
    true, read = np.unravel_index(mistakes.argmax(), mistakes.shape)
    if not mistakes[true, read]:
        return "most confused: none"
    return f"most confused: {classes[true]} read as {classes[read]}, {mistakes[true, read]} of {counts[true].sum()}"


def values(score: Mapping[str, float]) -> str:
    """Return named values as text, such as `loss 0.25, accuracy 0.9`."""
    return ", ".join(f"{name} {value:.4g}" for name, value in score.items())


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the members of a sweep to a CSV file, one row per member."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def sweep_figure(job: Job, result: nn.population.Sweep, monitor: str) -> Any:
    """Draw the hyperparameters of a sweep that vary."""
    varied = [name for name in result.names if len(job.grid[name]) > 1]
    return sweeps.sweep_figure(result, varied or list(job.grid)[:1], monitor, title=f"{job.title}: {len(result)} networks")
