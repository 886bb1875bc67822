"""What only watches a run, such as its progress and its logs: an error there is a warning, and the run continues."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Watching:
    """Guards the calls of what watches one run.

    Example:
        >>> watching = Watching()
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     for row in range(3):
        ...         with watching("the log"):
        ...             raise OSError("no space left on device")
        >>> [str(warning.message) for warning in caught]
        ['the log failed, and the run continues: OSError: no space left on device']
    """

    def __init__(self) -> None:
        self._failed: set[str] = set()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Turn an error into a warning, the first time for each `what`."""
        try:
            yield
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                warn(f"{what} failed, and the run continues: {type(error).__name__}: {error}")


def warn(message: str) -> None:
    """Warn, even if stderr, to which Python writes warnings, is closed."""
    with suppress(ValueError):
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def say(text: str, end: str = "\n") -> None:
    """Print to stderr. A process without one, such as a windowed program, prints nothing."""
    if sys.stderr is not None:
        print(text, end=end, file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Whether stderr is a terminal."""
    isatty = getattr(sys.stderr, "isatty", None)
    return isatty is not None and isatty()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    kernel = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return "IPKernelApp" in getattr(kernel, "config", {})


class NotebookLine:
    """A stream whose last text stays in the output of a notebook's cell, and no other.

    Carriage returns overwrite nothing in a saved notebook, stderr is red there, and widgets are lost when it is exported.
    """

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        """Show a text in place of the one before."""
        if text := text.strip():
            self._handle.update({"text/plain": text}, raw=True)

    def flush(self) -> None:
        """Do nothing, as a text is shown at once."""
