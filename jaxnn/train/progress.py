"""The progress of a run: a bar in a terminal or notebook, lines in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxnn.train.rows import TIMES
from jaxnn.train.watching import NotebookLine, Watching, in_notebook, is_terminal, say

MOST_EPOCHS, MOST_LINES = 100, 20  # epochs with a line each in a log file, and about the number of lines for more epochs
_RATE = "learning_rate"
_WITH_LENGTH = "{desc} {bar} {percentage:3.0f}%  {elapsed}<{remaining}{postfix}"
_ROOM = 21  # for "█ 100%  00:00<00:00"
_WITHOUT = "{desc}  {n} steps  {elapsed}{postfix}"


class Progress:
    """Shows progress: `with Progress(epochs, steps_per_epoch, shown) as progress: progress.update(step, rows)`.

    The bar needs tqdm (`pip install tqdm`) and a terminal or notebook, where one line is left of it. Otherwise there is a line
    for each epoch, or, of more than a hundred epochs, for the first, the last, and every 10th, 20th, 50th, ..., about twenty
    in all. If it cannot be written, a warning says so once, and nothing more is shown.
    """

    def __init__(self, epochs: int, steps_per_epoch: int | None, shown: bool):
        self._epochs, self._steps, self._shown = epochs, steps_per_epoch, shown
        self._bar: Any = None
        self._latest = ""
        self._watching = Watching()

    def __enter__(self) -> Progress:
        with self._guarded():
            if self._shown and (is_terminal() or in_notebook()):
                self._open()
        return self

    def compiled(self, step: int) -> None:
        """Start the bar's clock: the program is compiled, and the run begins after `step` steps."""
        with self._guarded():
            if self._bar is not None:
                self._bar.initial = step
                self._bar.set_description_str("", refresh=False)
                self._bar.reset()

    def update(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Show progress after `step` steps; `rows` are the history's rows for the epochs that ended since the last call."""
        if self._shown:
            with self._guarded():
                self._show(step, rows)

    def __exit__(self, *_: Any) -> None:
        with self._guarded():
            if self._bar is not None:
                self._bar.close()
            elif self._latest:
                self._print()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._watching("the display of progress"):
            try:
                yield
            except Exception:
                self._shown, self._bar, self._latest = False, None, ""
                raise

    def _open(self) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            return
        stream: Any = sys.stderr if is_terminal() else NotebookLine()
        total = self._epochs * self._steps if self._steps else None
        shape = _WITH_LENGTH if total else _WITHOUT
        self._bar = tqdm(total=total, file=stream, desc="compiling", bar_format=shape, dynamic_ncols=True)

    def _show(self, step: int, rows: list[dict[str, Any]]) -> None:
        if self._bar is not None:
            if rows:
                self._bar.set_description_str(self._text(rows[-1]), refresh=False)
            rate = self._bar.format_dict["rate"]
            self._bar.set_postfix_str(f"{rate:,.0f} steps/s" if rate else "", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        every = _interval(self._epochs)
        for row in rows:
            self._latest = self._text(row)
            if row["epoch"] in (1, self._epochs) or row["epoch"] % every == 0:
                self._print()

    def _text(self, row: dict[str, Any]) -> str:
        values = {name: value for name, value in row.items() if isinstance(value, float) and name not in (*TIMES, _RATE)}
        values |= {_RATE: row[_RATE]} if _RATE in row and self._bar is None else {}  # last, and a bar has no room for it
        parts = {"": f"epoch {row['epoch']}/{self._epochs}"} | {name: f"{name} {value:.4g}" for name, value in values.items()}
        width = getattr(self._bar, "ncols", None)
        if width is not None:  # of a terminal: values of the training data give way first, then losses before metrics
            for name in sorted(values, key=lambda name: (f"val_{name}" not in values, name == list(values)[-1])):
                if len("  ".join(parts.values())) + _ROOM > width:
                    del parts[name]
        return "  ".join(parts.values())

    def _print(self) -> None:
        say(self._latest)
        self._latest = ""


def _interval(epochs: int) -> int:
    """The epochs between two lines of a log file: 1, or a round number with about `MOST_LINES` lines in all.

    Example:
        >>> [_interval(epochs) for epochs in (100, 101, 300, 1000, 1001)]
        [1, 10, 20, 50, 100]
    """
    if epochs <= MOST_EPOCHS:
        return 1
    least = -(-epochs // MOST_LINES)
    power = 10 ** (len(str(least)) - 1)
    return next(round * power for round in (1, 2, 5, 10) if round * power >= least)
