"""Defer Ctrl-C to a safe point of a run; a second Ctrl-C interrupts at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_asked = False


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """A context in which the first Ctrl-C only makes the yielded function return True; the second raises KeyboardInterrupt.

    A context inside another one shares its Ctrl-C. Python handles signals in the main thread: in any other thread, or if
    SIGINT has a custom handler, nothing changes.
    """
    global _asked
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is _remember:
        yield lambda: _asked
        return
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    _asked = False
    signal.signal(signal.SIGINT, _remember)
    try:
        yield lambda: _asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _remember(number: int, frame: Any) -> None:
    global _asked
    if _asked:
        signal.default_int_handler(number, frame)
    _asked = True
