"""A run's progress, where it is watched: a bar in a terminal or notebook, now and then a line in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

LOG_SECONDS = 10.0  # between lines where nothing can be overwritten


class Progress:
    """`with Progress(epochs, shown) as progress: progress.update(epoch, logs)`.

    A bar needs tqdm (`pip install "jaxnn[demo]"`) and a terminal or notebook; without, and in a log file, there is a line
    for the first epoch, the last one, and one every ten seconds between.
    """

    def __init__(self, total: int, shown: bool):
        self._total, self._shown = total, shown
        self._bar: Any = None
        self._last = -LOG_SECONDS
        self._latest = ""

    def __enter__(self) -> Progress:
        if self._shown and _interactive():
            try:
                from tqdm import tqdm
            except ImportError:
                return self
            # In a notebook the error stream is shown in red, and widgets are lost when the page is exported.
            stream = sys.stderr if sys.stderr.isatty() else sys.stdout
            self._bar = tqdm(total=self._total, unit="epoch", file=stream)
        return self

    def update(self, epoch: int, logs: dict[str, float]) -> None:
        """Epoch number `epoch`, counted from 1, has ended with these logs."""
        if not self._shown:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, float))
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
            return
        self._latest = f"epoch {epoch}/{self._total}  {text}"
        if epoch in (1, self._total) or time.monotonic() - self._last >= LOG_SECONDS:
            self._print()

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
