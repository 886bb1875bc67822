"""Rows of a run as Python's own numbers, in one order of columns, and as text in files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

TIMES = ("seconds", "samples_per_second", "compile_seconds")
SETTINGS = ("skipped", "loss_scale", "learning_rate")
_FIRST, _LAST = ("epoch", "step", "loss"), (*SETTINGS, *TIMES)
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of Python's own numbers and texts: a scalar array is taken as its number, None as a cell that is not there.

    Raises:
        TypeError: on anything else, with the column's name.
    """
    return {name: _plain(name, value) for name, value in row.items() if value is not None}


def _plain(name: Any, value: Any) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"a row's columns are named by text, got {name!r}")
    if getattr(value, "shape", None) == ():
        value = value.item()
    if not isinstance(value, (bool, int, float, str)):
        shape = f" of shape {value.shape}" if hasattr(value, "shape") else ""
        raise TypeError(f"a row has one number or text a column, got {type(value).__name__}{shape} for {name!r}")
    return value


def column_order(names: Iterable[str]) -> list[str]:
    """Names of columns, each once: epoch, step, loss, metrics, their `val_` twins, and at the end rates and times.

    Example:
        >>> column_order(["seconds", "val_f1", "accuracy", "val_loss", "f1", "loss", "epoch", "val_accuracy"])
        ['epoch', 'loss', 'accuracy', 'f1', 'val_loss', 'val_accuracy', 'val_f1', 'seconds']
    """
    seen = dict.fromkeys(names)
    validation = [name for name in seen if name.startswith("val_")]
    metrics = [name for name in seen if name not in (*_FIRST, *validation, *_LAST)]
    twins = [f"val_{name}" for name in ("loss", *metrics)]
    return [name for name in dict.fromkeys([*_FIRST, *metrics, *twins, *validation, *_LAST]) if name in seen]


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Comma-separated values with a header; what a row does not have is empty."""
    return csv_lines(columns, [dict(zip(columns, columns, strict=True)), *rows])


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The same without the header."""
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


def json_line(row: Mapping[str, Any]) -> str:
    """A row as one line of strict JSON, numbers that are not finite as texts."""
    return json.dumps({name: _json_value(value) for name, value in row.items()}, allow_nan=False) + "\n"


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def json_rows(text: str) -> list[dict[str, Any]]:
    """The rows of lines of JSON, numbers that are not finite as numbers; without a last line cut short.

    Raises:
        ValueError: if another line is no object of JSON, with its number.
    """
    rows = []
    for number, line in enumerate(io.StringIO(text), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number > 1 and not line.endswith("\n"):
                break
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        rows.append({name: _NOT_FINITE.get(value, value) if isinstance(value, str) else value for name, value in row.items()})
    return rows


def replace_file(path: str | os.PathLike, text: str) -> None:
    """Write a file as a whole: whoever reads it, and whenever this is killed, there is the old text or the new one."""
    path = Path(os.path.realpath(path))
    part = part_of(path)
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def part_of(path: Path) -> Path:
    """Where a file is written before it takes the place of `path`."""
    return path.with_name(f".{path.name}.part")
