"""The options of `python -m jaxnn`: their names, allowed values and help texts, and the messages about invalid ones."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from jaxnn import __version__
from jaxnn.core.text import did_you_mean, listed
from jaxnn.data import NAMES

MODELS = ("mlp", "cnn", "rnn")
SCHEDULES = ("constant", "linear", "exponential", "inverse", "cyclic", "cosine", "onecycle")
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid")
INITS = ("random", "fan-in", "glorot", "xavier", "he", "lecun", "orthogonal")


class _Parser(argparse.ArgumentParser):
    """Report an invalid argument in one line on stderr, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"jaxnn: error: {' '.join(message.split())}\n")

    def parse_args(self, *arguments: Any, **named: Any) -> Any:
        parsed, unknown = self.parse_known_args(*arguments, **named)
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            hint = did_you_mean(unknown[0].partition("=")[0], known)
            self.error(f"unknown argument {unknown[0]!r}; {hint}{' ' if hint else ''}known arguments: {listed(known)}")
        return parsed


class _TrainingParser(_Parser):
    def parse_args(self, *arguments: Any, **named: Any) -> Any:
        parsed = super().parse_args(*arguments, **named)
        if parsed.command not in ("train", "sweep"):  # checked last: the value of a misspelled option ends up here
            self.error(f"unknown command {parsed.command!r}; expected train, sweep, predict or export")
        if parsed.command == "train" and (parsed.grid or parsed.seeds != 1):
            self.error("--grid and --seeds apply only to the command sweep: python -m jaxnn sweep ...")
        if parsed.command == "sweep" and not parsed.grid:
            self.error("sweep requires values to try: --grid learning_rate=0.01,0.001")
        return parsed


def parser(sweep: bool = False) -> argparse.ArgumentParser:
    """Build the parser of the whole command line.

    Args:
        sweep: Whether the help is that of the command sweep.
    """
    parts = (
        "20% of the samples are the test part, unless the data set has its own; it is used once, at the end. Of the remaining "
        "samples, 10% are the validation part, the only one that --patience uses."
    )
    root = _TrainingParser(
        prog="jaxnn",
        usage="python -m jaxnn sweep --grid NAME=V,V [options]" if sweep else "python -m jaxnn [COMMAND] [options]",
        description="Train a network for each combination of the values to try, all in one program, and compare them."
        if sweep
        else "Train a neural network on real data. Without options: a small CNN on handwritten digits. "
        "Another command, such as sweep, has its own help: python -m jaxnn sweep --help.",
        epilog=f"The defaults of the options depend on the data and the model. {parts} Compiled programs are kept in the "
        "user's cache folder, or that of JAX_COMPILATION_CACHE_DIR; JAX_ENABLE_COMPILATION_CACHE=false switches this off.",
        allow_abbrev=False,
    )
    root.add_argument(
        "command",
        nargs="?",
        metavar="COMMAND",
        default="train",
        help=argparse.SUPPRESS
        if sweep
        else "train: train one network (default); sweep: many at once; predict, export: use one that was trained",
    )
    root.add_argument("--version", action="version", version=f"jaxnn {__version__}", help="print the version and exit")
    many = root.add_argument_group("sweep")
    many.add_argument(
        "--grid",
        type=_values,
        action="append",
        metavar="NAME=V,V",
        help=f"values to try for one hyperparameter; may be repeated. Hyperparameters: {', '.join(GRID)}"
        if sweep
        else argparse.SUPPRESS,
    )
    many.add_argument(
        "--seeds",
        type=_whole(1),
        metavar="N",
        default=1,
        help="number of networks per combination (default: 1)" if sweep else argparse.SUPPRESS,
    )
    data = root.add_argument_group("data and model")
    data.add_argument("--data", metavar="NAME", default="digits", help=f"{', '.join(NAMES)}, or FILE.npz (default: digits)")
    data.add_argument(
        "--model",
        choices=MODELS,
        metavar="NAME",
        help=f"{listed(MODELS)} (default: cnn for images, rnn for sequences, mlp for tables)",
    )
    data.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        metavar="NAME",
        help=f"activation of the hidden layers of mlp and cnn: {listed(ACTIVATIONS)} (default: tanh for tables, "
        "relu otherwise)",
    )
    data.add_argument(
        "--init",
        choices=INITS,
        metavar="NAME",
        help=f"initializer of the kernels: {listed(INITS)}. fan-in: the form in the teaching notes, U(-sqrt(1/n), sqrt(1/n)) "
        "with n inputs; "
        "glorot, also called xavier: the form of Glorot and Bengio, U(-a, a) with a = sqrt(6 / (n_in + n_out)) (default: "
        "fan-in with tanh and sigmoid and for rnn, he otherwise)",
    )
    training = root.add_argument_group("training")
    training.add_argument("--epochs", type=_whole(1), metavar="N", help="number of passes over the training part")
    training.add_argument("--batch-size", type=_whole(1), metavar="N", help="samples per step")
    training.add_argument(
        "--optimizer",
        metavar="NAME",
        default="adam",
        help="any optimizer of optax: sgd, adamw, lion, lamb, ... (default: adam)",
    )
    training.add_argument(
        "--learning-rate",
        type=_number(0, math.inf),
        metavar="RATE",
        help="highest learning rate of the schedule; the default suits adam",
    )
    training.add_argument(
        "--weight-decay",
        type=_number(0, math.inf, or_low=True),
        metavar="RATE",
        help="weight decay of the kernels, but not of biases and norms (default: that of the optimizer, mostly 0)",
    )
    training.add_argument(
        "--freeze",
        action="append",
        metavar="PATTERN",
        default=[],
        help="keep the initial values of the parameters whose paths match PATTERN, such as 'dense/*' or '*/bias'; may be "
        "repeated",
    )
    training.add_argument(
        "--schedule",
        choices=SCHEDULES,
        metavar="NAME",
        default="cosine",
        help=f"schedule of the learning rate: {listed(SCHEDULES)} (default: cosine)",
    )
    training.add_argument(
        "--dropout", type=_number(0, 1, or_low=True), metavar="RATE", help="fraction of units dropped in training"
    )
    training.add_argument(
        "--patience",
        type=_whole(1),
        metavar="N",
        help="stop after N epochs without a better validation loss, and keep the best parameters",
    )
    training.add_argument(
        "--seed", type=_whole(0, 2**32 - 1), metavar="N", default=0, help="seed of everything random (default: 0)"
    )
    output = root.add_argument_group("output")
    output.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("jaxnn-run"),
        help=f"folder of the picture and the {'table' if sweep else 'network'} (default: jaxnn-run)",
    )
    output.add_argument(
        "--csv", type=Path, metavar="FILE", help=f"write the values of each {'network' if sweep else 'epoch'} to FILE"
    )
    output.add_argument("--checkpoint", type=Path, metavar="DIR", help="save the run in DIR regularly and at its end")
    output.add_argument("--resume", action="store_true", help="continue the run in --checkpoint DIR, if there is one")
    output.add_argument("--quiet", action="store_true", help="print only the results, no settings and no progress")
    return root


def saved_parser(command: str) -> argparse.ArgumentParser:
    """Build the parser of a command on a network that was trained.

    Args:
        command: `"predict"` or `"export"`.
    """
    is_export = command == "export"
    root = _Parser(
        prog="jaxnn",
        usage="python -m jaxnn export RUN [FILE ...]" if is_export else "python -m jaxnn predict RUN [FILE] [--out FILE]",
        description="Write a trained network to files for other programs."
        if is_export
        else "Predict with a trained network, print the first predictions, and write all to a file.",
        epilog="jax.export.deserialize reads the program, and its call(x) runs it without jaxnn, on CPU, GPU or TPU. x are "
        "samples as they were loaded; the results are probabilities of the classes, or numbers in the original units."
        if is_export
        else "Samples are given as they were loaded for the training, not standardized, one row each; rows of a table have the "
        "shape of the training's samples or are flat. The first line of a .csv may be a header.",
        allow_abbrev=False,
    )
    root.add_argument("command", choices=[command], help=argparse.SUPPRESS)
    root.add_argument("run", type=Path, metavar="RUN", help="folder of the run, as given to train --out, such as jaxnn-run")
    if is_export:
        root.add_argument(
            "file",
            type=Path,
            nargs="*",
            metavar="FILE",
            help="files to write: the program with its weights as FILE.stablehlo, the weights as FILE.safetensors or FILE.npz "
            "(default: model.stablehlo and weights.npz in RUN)",
        )
        return root
    root.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="samples: FILE.npy, FILE.npz with an array x and optionally targets y, or FILE.csv (default: the test part of the "
        "run's data)",
    )
    root.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write: FILE.csv, or FILE.npy with the probabilities of the classes or numbers in the original units "
        "(default: predictions.csv in RUN)",
    )
    return root


def _values(text: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    name = name.replace("-", "_")
    if name not in GRID or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; expected NAME=V,V with one of the names {', '.join(GRID)}")
    try:
        return name, [GRID[name](value) for value in values.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: {error}") from error


def _one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; expected one of {', '.join(names)}")
        return text

    return parse


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


GRID: dict[str, Callable[[str], Any]] = {
    "learning_rate": _number(0, math.inf),
    "weight_decay": _number(0, math.inf, or_low=True),
    "dropout": _number(0, 1, or_low=True),
    "batch_size": _whole(1),
    "epochs": _whole(1),
    "activation": _one_of(ACTIVATIONS),
    "init": _one_of(INITS),
    "optimizer": str,
}
"""The hyperparameters that a sweep can vary, and the parser of their values."""
