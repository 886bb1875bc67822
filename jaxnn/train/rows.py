"""The rows of a run's history as Python numbers, with one order of columns, and as text in files."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnn.core.files import replacing

TIMES = ("seconds", "samples_per_second", "compile_seconds")
STEP_COLUMNS = ("skipped", "loss_scale", "learning_rate")  # about the optimizer's steps, not the model
_FIRST, _LAST = ("epoch", "step", "loss"), (*STEP_COLUMNS, *TIMES)
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row to Python numbers and strings; a scalar array counts as a number, None as a missing cell.

    Raises:
        TypeError: If a value is anything else; the message names the column.
    """
    return {name: _plain(name, value) for name, value in row.items() if value is not None}


def _plain(name: Any, value: Any) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"the columns of a row have strings as names, got {name!r}")
    if getattr(value, "shape", None) == ():
        value = value.item()
    if not isinstance(value, (bool, int, float, str)):
        shape = f" of shape {value.shape}" if hasattr(value, "shape") else ""
        raise TypeError(f"a row has one number or string per column, got {type(value).__name__}{shape} for {name!r}")
    return value


def column_order(names: Iterable[str]) -> list[str]:
    """Sort the names of columns: epoch, step, loss, metrics, the same with `val_`, then the learning rate and times.

    Duplicates are dropped.

    Example:
        >>> column_order(["seconds", "val_f1", "accuracy", "val_loss", "f1", "loss", "epoch", "val_accuracy"])
        ['epoch', 'loss', 'accuracy', 'f1', 'val_loss', 'val_accuracy', 'val_f1', 'seconds']
    """
    seen = dict.fromkeys(names)
    validation = [name for name in seen if name.startswith("val_")]
    metrics = [name for name in seen if name not in (*_FIRST, *validation, *_LAST)]
    matching = [f"val_{name}" for name in ("loss", *metrics)]
    return [name for name in dict.fromkeys([*_FIRST, *metrics, *matching, *validation, *_LAST]) if name in seen]


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Format rows as comma-separated values with a header; missing cells are empty."""
    return csv_lines(columns, [dict(zip(columns, columns, strict=True)), *rows])


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Format rows as comma-separated values without a header."""
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


def json_line(row: Mapping[str, Any]) -> str:
    """Format a row as one line of strict JSON, non-finite numbers as strings."""
    return json.dumps({name: _json_value(value) for name, value in row.items()}, allow_nan=False) + "\n"


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def json_rows(text: str) -> list[dict[str, Any]]:
    """Read JSON lines; strings that name non-finite numbers become numbers, and a truncated last line is ignored.

    Raises:
        ValueError: If any other line is not a JSON object; the message has the line's number.
    """
    rows = []
    for number, line in enumerate(io.StringIO(text), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number > 1 and not line.endswith("\n"):
                break
            raise ValueError(f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object")
        rows.append({name: _NON_FINITE.get(value, value) if isinstance(value, str) else value for name, value in row.items()})
    return rows


def packed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pack rows as one entry per column that JSON represents: the bytes of its numbers as text, or its cells.

    Compared with rows, this takes half the space and a small part of the time.
    """
    return {name: _packed([row.get(name) for row in rows]) for name in dict.fromkeys(name for row in rows for name in row)}


def unpacked(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Undo `packed`, bit for bit, except for the order of the columns."""
    lines = zip(*map(_unpacked, columns.values()), strict=True)
    return [{name: cell for name, cell in zip(columns, line, strict=True) if cell is not None} for line in lines]


def _packed(cells: list) -> str | list:
    kinds = {type(cell) for cell in cells}
    dtype = "<f8" if kinds == {float} else "<i8" if kinds == {int} and max(map(abs, cells)) < 2**63 else None
    return cells if dtype is None else dtype + base64.b64encode(np.array(cells, dtype).tobytes()).decode()


def _unpacked(cells: str | list) -> list:
    return cells if isinstance(cells, list) else np.frombuffer(base64.b64decode(cells[3:]), cells[:3]).tolist()


def replace_file(path: str | os.PathLike, text: str) -> None:
    """Write a file atomically: a reader, or an interruption at any moment, finds the old text or the new one."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
