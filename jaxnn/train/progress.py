"""The progress of a run: a bar in a terminal or notebook, occasional lines in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from jaxnn.train.rows import TIMES

LOG_SECONDS = 10.0  # between two lines of a log file


class Progress:
    """Shows progress: `with Progress(epochs, steps_per_epoch, shown) as progress: progress.update(step, rows)`.

    The bar needs tqdm (`pip install tqdm`) and a terminal or notebook. Otherwise there is a line for the first epoch, for
    the last one, and every ten seconds in between.
    """

    def __init__(self, epochs: int, steps_per_epoch: int | None, shown: bool):
        self._epochs, self._steps, self._shown = epochs, steps_per_epoch, shown
        self._bar: Any = None
        self._last = -LOG_SECONDS
        self._latest = ""

    def __enter__(self) -> Progress:
        if self._shown and _interactive():
            try:
                from tqdm import tqdm
            except ImportError:
                return self
            # In a notebook, stderr is shown in red, and a bar of widgets is lost when the page is exported.
            stream = sys.stderr if sys.stderr.isatty() else sys.stdout
            total = self._epochs * self._steps if self._steps else None
            self._bar = tqdm(total=total, unit="step", unit_scale=True, file=stream)
        return self

    def update(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Show progress after `step` steps; `rows` are the history's rows for the epochs that ended since the last call."""
        if not self._shown:
            return
        if self._bar is not None:
            if rows:
                self._bar.set_postfix_str(self._text(rows[-1]), refresh=False)
            self._bar.update(step - self._bar.n)
            return
        for row in rows:
            self._latest = self._text(row)
            if row["epoch"] in (1, self._epochs) or time.monotonic() - self._last >= LOG_SECONDS:
                self._print()

    def _text(self, row: dict[str, Any]) -> str:
        values = {name: value for name, value in row.items() if isinstance(value, float) and name not in TIMES}
        return "  ".join([f"epoch {row['epoch']}/{self._epochs}", *(f"{name} {value:.4g}" for name, value in values.items())])

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._latest:
            self._print()

    def _print(self) -> None:
        print(self._latest, file=sys.stderr, flush=True)
        self._last, self._latest = time.monotonic(), ""


def _interactive() -> bool:
    kernel = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return sys.stderr.isatty() or "IPKernelApp" in getattr(kernel, "config", {})
