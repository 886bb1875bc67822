"""Text that error messages and tables share: dtypes and shapes, similar names, lists of names, the width of a terminal."""

from __future__ import annotations

import difflib
import shutil
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["array_text", "did_you_mean", "listed", "terminal_width"]


def array_text(tree: Any) -> str:
    """The dtype and shape of an array, or of every array in a pytree.

    Args:
        tree: An array, or tuples, lists and dicts of arrays. Any other value is shown with its type.

    Returns:
        A text such as `"float32[4, 9]"`.

    Example:
        >>> import numpy as np
        >>> array_text((np.zeros((4, 9), np.float32), {"mask": np.zeros(4, bool)}))
        '(float32[4, 9], {mask: bool[4]})'
        >>> array_text(0)
        'int 0'
    """
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}{list(tree.shape)}"
    if isinstance(tree, (tuple, list)):
        return f"({', '.join(map(array_text, tree))})"
    if isinstance(tree, dict):
        return f"{{{', '.join(f'{name}: {array_text(value)}' for name, value in tree.items())}}}"
    return f"{type(tree).__name__} {tree!r}"


def did_you_mean(name: Any, known: Iterable[str], n: int = 1) -> str:
    """A question that suggests the known names most similar to a misspelled one.

    Args:
        name: The name that was given.
        known: The names that exist.
        n: The number of suggestions, at most.

    Returns:
        A text such as `"did you mean 'adam'?"`; empty if no known name is similar.

    Example:
        >>> did_you_mean("Adan", ["sgd", "adam", "adamw"], n=2)
        "did you mean 'adam' or 'adamw'?"
        >>> did_you_mean("xyz", ["sgd"])
        ''
    """
    lower = {candidate.lower(): candidate for candidate in known}
    near = [lower[match] for match in difflib.get_close_matches(str(name).lower(), lower, n)]
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def listed(names: Iterable[Any], most: int | None = None) -> str:
    """Names separated by commas.

    Args:
        names: The names.
        most: The number of names to show, at most; all by default.

    Returns:
        A text such as `"a, b and 3 more"`; `"none"` if there are no names.

    Example:
        >>> listed(["a", "b", "c", "d", "e"], most=2)
        'a, b and 3 more'
        >>> listed([])
        'none'
    """
    shown = [str(name) for name in names]
    hidden = 0 if most is None else max(len(shown) - most, 0)
    text = ", ".join(shown[:most]) or "none"
    return f"{text} and {hidden} more" if hidden else text


def terminal_width(otherwise: int) -> int:
    """The number of characters per line of the terminal that stdout is, or another number where it is none."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else otherwise
