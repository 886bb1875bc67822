"""The options of `python -m jaxnn`: what they are called, what they allow, and how a mistake is answered."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from jaxnn.data import NAMES

MODELS = ("mlp", "cnn", "rnn")
SCHEDULES = ("constant", "linear", "exponential", "inverse", "cyclic", "cosine", "onecycle")
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid")
INITS = ("random", "xavier", "glorot", "he", "lecun", "orthogonal")


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
            self.error(f"unknown argument {unknown[0]!r}{hint}; known are train, sweep, {', '.join(known)}")
        if parsed.command not in ("train", "sweep"):  # looked at last: the value of a misspelt option lands here
            self.error(f"unknown command {parsed.command!r}; expected train or sweep")
        if parsed.command == "train" and (parsed.grid or parsed.seeds != 1):
            self.error("--grid and --seeds are of the command sweep: python -m jaxnn sweep ...")
        if parsed.command == "sweep" and not parsed.grid:
            self.error("sweep needs something to try: --grid learning_rate=0.01,0.001")
        return parsed


def parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line."""
    made = _Parser(
        prog="jaxnn",
        usage="python -m jaxnn [train | sweep] [options]",
        description="Train a neural network on real data. Without options: a small CNN on handwritten digits.",
        epilog="Options left out are chosen to suit the data and the model. The test part, 20% of the samples or the data "
        "set's own, is looked at once, at the end; of the rest, 10% are held out for validation, which is all that "
        "--patience looks at.",
        allow_abbrev=False,
    )
    made.add_argument("command", nargs="?", metavar="train | sweep", default="train", help="one network, or many at once")
    data = made.add_argument_group("data and model")
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
    training = made.add_argument_group("training")
    training.add_argument("--epochs", type=_whole(1), metavar="N", help="passes over the training part")
    training.add_argument("--batch-size", type=_whole(1), metavar="N", help="samples a step")
    training.add_argument(
        "--optimizer", metavar="NAME", default="adam", help="any of optax's: sgd, adamw, lion, lamb, ... (default adam)"
    )
    training.add_argument(
        "--learning-rate", type=_number(0, math.inf), metavar="RATE", help="at its highest; the default suits adam"
    )
    training.add_argument(
        "--weight-decay",
        type=_number(0, math.inf, or_low=True),
        metavar="RATE",
        help="of kernels, not of biases and norms (default: the optimizer's own, mostly none)",
    )
    training.add_argument(
        "--freeze",
        action="append",
        metavar="PATTERN",
        default=[],
        help="leave the parameters as drawn whose paths match, such as 'dense/*' or '*/bias'; may come again",
    )
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
    many = made.add_argument_group("sweep")
    many.add_argument(
        "--grid", type=_values, action="append", metavar="NAME=V,V", help=f"values to try, once a name: {', '.join(GRID)}"
    )
    many.add_argument("--seeds", type=_whole(1), metavar="N", default=1, help="networks of each combination (default 1)")
    output = made.add_argument_group("output")
    output.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("jaxnn-run"), help="folder of the picture (default jaxnn-run)"
    )
    output.add_argument("--csv", type=Path, metavar="FILE", help="write each epoch's numbers to a table")
    output.add_argument("--checkpoint", type=Path, metavar="DIR", help="save the run there, once a minute and at its end")
    output.add_argument("--resume", action="store_true", help="go on from what --checkpoint has, if anything")
    return made


def _values(text: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    name = name.replace("-", "_")
    if name not in GRID or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; expected NAME=V,V with a name of {', '.join(GRID)}")
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
"""What a sweep can try, and how a value of it is read."""
