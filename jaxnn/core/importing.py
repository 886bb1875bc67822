"""Hold Ctrl-C while the package and JAX are imported.

An exception that Ctrl-C raises while an extension module starts, such as those of JAX, aborts the process or leaves the module
broken. `jaxnn/__init__.py` imports this module first, and calls `release` last.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

_asked = False


def release() -> None:
    """Restore Ctrl-C; if it was pressed meanwhile, raise KeyboardInterrupt.

    Example:
        >>> release()
    """
    if _is_main_thread() and signal.getsignal(signal.SIGINT) is _remember:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if _asked:
            raise KeyboardInterrupt


def _remember(number: int, frame: Any) -> None:
    global _asked
    if "jaxnn" not in sys.modules:  # the import has failed
        signal.default_int_handler(number, frame)
    _asked = True


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


if _is_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _remember)
