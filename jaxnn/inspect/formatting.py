"""Numbers, sizes and shapes as text."""

from __future__ import annotations

from typing import Any

import jax


def scaled(n: int, unit: str = "") -> str:
    """A number with a metric prefix and a unit.

    Example:
        >>> scaled(1234567, "FLOP"), scaled(12)
        ('1.23 MFLOP', '12')
    """
    power = min((len(str(n)) - 1) // 3, 5)
    number = n / 1000**power
    digits = 0 if power == 0 else max(3 - len(str(int(number))), 0)
    return f"{number:.{digits}f} {' kMGTP'[power].strip()}{unit}".rstrip()


def in_bytes(n: int) -> str:
    """A number of bytes as text.

    Example:
        >>> in_bytes(1234567), in_bytes(12)
        ('1.23 MB', '12 bytes')
    """
    return f"{n} bytes" if n < 1000 else scaled(n, "B")


def percentage(part: int, whole: int) -> str:
    """A share as text; empty for a share of 0.

    Example:
        >>> percentage(1, 8), percentage(0, 8)
        ('12.5%', '')
    """
    return f"{100 * part / whole:.1f}%" if part else ""


def shape_text(output: Any) -> str:
    """The shapes of a tree of arrays, with the size of the first axis as `B`.

    Example:
        >>> shape_text(jax.ShapeDtypeStruct((32, 10), "float32"))
        '(B, 10)'
    """
    if hasattr(output, "shape"):
        return f"(B{''.join(f', {n}' for n in output.shape[1:])})"
    return ", ".join(shape_text(leaf) for leaf in jax.tree.leaves(output))
