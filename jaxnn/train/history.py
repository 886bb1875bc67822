"""A run's history: one row an epoch, kept as a table that can be read, drawn, compared and written to files."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxnn.core.direction import direction
from jaxnn.train.rows import SETTINGS, TIMES, column_order, csv_text, json_line, json_rows, plain_row, replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_ENDS, _WIDTH = 3, 120  # a displayed table's first and last rows, and the width of its text


class History(Mapping[str, list]):
    """What happened in a run: a table with one row an epoch, read by column as a dict of lists is.

    Columns come in one order, whatever the order in which they were first seen: `epoch`, `step`, `loss`, metrics, the same
    with `val_`, `learning_rate`, `seconds`, `samples_per_second`, `compile_seconds`. A cell that a row does not have, such
    as a validation loss computed every fifth epoch, is NaN in its column and absent from its row. What is read is a copy:
    the table changes by `append` only. As in every mapping, `len` counts the columns; `len(history.rows)` counts rows.

    A displayed table has the first rows, the last ones, and those with a column's best value, which is marked. Which way is
    better follows from the column's name, such as `loss` or `accuracy`; other columns have no mark.

    Args:
        rows: the rows to begin with, each as `append` takes it.

    Example:
        >>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "val_loss": 0.375}])
        >>> history["loss"], history["val_loss"], list(history)
        ([0.5, 0.25], [nan, 0.375], ['epoch', 'loss', 'val_loss'])
        >>> history
        2 epochs, * best
        epoch   loss   val_loss
            1    0.5
            2   0.25*     0.375
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []
        for row in rows:
            self.append(row)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row.

        Args:
            row: one number or text a column; a scalar array is taken as its number, None as a cell that is not there.

        Raises:
            TypeError: on anything else, with the column's name.
        """
        row = plain_row(row)
        if not row.keys() <= set(self._columns):
            self._columns = column_order([*self._columns, *row])
        self._rows.append(row)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, each a dict of the cells that it has."""
        return [{name: row[name] for name in self._columns if name in row} for row in self._rows]

    def __getitem__(self, name: str) -> list:
        if name not in self:
            raise KeyError(f"the history has no column {name!r}; its columns are {', '.join(self) or 'none yet'}")
        return [row.get(name, math.nan) for row in self._rows]

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._columns))

    def __len__(self) -> int:
        return len(self._columns)

    def same_as(self, other: History) -> bool:
        """Whether both runs went the same way: the same rows with the same bits, times aside.

        Left out are `seconds`, `samples_per_second` and `compile_seconds`. 0.0 and −0.0 differ, as do 1 and 1.0; NaN is the
        same as NaN.

        Args:
            other: another run's.

        Returns:
            Whether they are the same.

        Example:
            >>> a, b = History([{"loss": 0.5, "seconds": 2.0}]), History([{"loss": 0.5, "seconds": 3.0}])
            >>> a.same_as(b), a.same_as(History([{"loss": 0.5000000000000001}]))
            (True, False)
        """
        return [_bits(row) for row in self._rows] == [_bits(row) for row in other._rows]

    def to_pandas(self) -> DataFrame:
        """The table as a pandas data frame; missing cells are NaN.

        Returns:
            The data frame, one row an epoch.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("history.to_pandas() needs pandas: pip install pandas") from error
        return pandas.DataFrame(dict(self))

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write the table as comma-separated values with a header, floats with every digit, missing cells empty.

        Args:
            path: of the file; one that exists is replaced, as a whole or not at all.

        Raises:
            OSError: the file could not be written.
        """
        replace_file(path, csv_text(self._columns, self._rows))

    def to_jsonl(self, path: str | os.PathLike) -> None:
        """Write the table as JSON lines: one object a row, floats with every digit, without the cells that are missing.

        JSON has no numbers that are not finite: they are the texts `"NaN"`, `"Infinity"` and `"-Infinity"`.

        Args:
            path: of the file; one that exists is replaced, as a whole or not at all.

        Raises:
            OSError: the file could not be written.
        """
        replace_file(path, "".join(map(json_line, self.rows)))

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike) -> History:
        """Read what `to_jsonl` or `jsonl_log` wrote: the same numbers, bit for bit. A last line cut short is left out.

        Args:
            path: of the file.

        Returns:
            The history.

        Raises:
            ValueError: if another line is no JSON object.
        """
        try:
            return cls(json_rows(Path(path).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a history in JSON lines: {error}") from error

    def plot(self) -> Figure:
        """Draw loss and metrics over the epochs, validation beside training; the learning rate and its like if they vary.

        Returns:
            The figure, which a notebook shows; `figure.savefig(path)` writes it.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: there is nothing to draw yet.
        """
        from jaxnn.plots import figures as plots

        curves = [name for name in self if name not in ("epoch", "step", *SETTINGS, *TIMES) and self._finite(name)]
        settings = [name for name in reversed(SETTINGS) if len(set(self._finite(name).values())) > 1]
        if not curves:
            raise ValueError("there is nothing to draw: the history has no loss or metric with a finite value")
        return plots.history_figure(self, list(dict.fromkeys([*(name.removeprefix("val_") for name in curves), *settings])))

    def __repr__(self) -> str:
        if not self._rows:
            return "no epochs yet"
        columns = [_lines(name, cells) for name, cells in zip(self, zip(*self._shown(), strict=True), strict=True)]
        widths = [3 + len(column[0]) for column in columns]
        fitting = max(1, sum(sum(widths[: i + 1]) <= _WIDTH for i in range(len(widths))))
        table = ["  ".join(line).rstrip() for line in zip(*columns[:fitting], strict=True)]
        rest = [f"and the columns {', '.join(self._columns[fitting:])}"] if fitting < len(columns) else []
        return "\n".join([self._caption("* best"), *table, *rest])

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from treescope.repr_lib import render_object_constructor

        return render_object_constructor(History, {"rows": self.rows}, path, subtree_renderer)

    def _repr_html_(self) -> str:
        if not self._rows:
            return "<p>no epochs yet</p>"
        head = "".join(_html_cell("th", name, "font-weight:600;border-bottom:1px solid") for name in self)
        body = "".join(
            "<tr>" + "".join(_html_cell("td", text, _BEST if best else "") for text, best in line) + "</tr>"
            for line in self._shown()
        )
        caption = self._caption(f'<span style="{_BEST};padding:0 .4em">best</span>')
        return (
            '<div style="overflow-x:auto">'
            '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums;color:inherit">'
            f'<caption style="caption-side:top;text-align:left;color:inherit;opacity:.75">{caption}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def _caption(self, mark: str) -> str:
        count = len(self._rows)
        return f"{count} epoch{'s' * (count > 1)}" + (f", {mark}" if self._best() else "")

    def _shown(self) -> list[list[_Cell]]:
        """The lines of a displayed table; where rows are left out there is one of dots."""
        best, count = self._best(), len(self._rows)
        indices = sorted({*range(min(_ENDS, count)), *range(max(count - _ENDS, 0), count), *best.values()})
        lines = []
        for before, index in pairwise([-1, *indices]):
            if index == before + 2:  # one row takes no more room than the dots
                lines.append(self._line(index - 1, best))
            elif index > before + 1:
                lines.append([_Cell("⋯", False) for _ in self])
            lines.append(self._line(index, best))
        return lines

    def _line(self, index: int, best: dict[str, int]) -> list[_Cell]:
        row = self._rows[index]
        return [_Cell(_text(row[name]) if name in row else "", best.get(name) == index) for name in self]

    def _best(self) -> dict[str, int]:
        """The index of the row with the best value, for columns that have one: not those that never change."""
        found = {}
        for name in self:
            pick = {"min": min, "max": max, None: None}[direction(name)]
            values = self._finite(name)
            if pick and len(set(values.values())) > 1:
                found[name] = pick(values, key=values.__getitem__)
        return found

    def _finite(self, name: str) -> dict[int, float]:
        cells = ((index, row.get(name)) for index, row in enumerate(self._rows))
        return {i: value for i, value in cells if isinstance(value, (int, float)) and math.isfinite(value)}


class _Cell(NamedTuple):
    text: str
    best: bool


_BEST = "background-color:rgba(46,160,67,.3)"  # seen on white and on black


def _html_cell(tag: str, text: str, style: str) -> str:
    return f'<{tag} style="text-align:right;padding:.15em .8em;color:inherit;{style}">{html.escape(text)}</{tag}>'


def _lines(name: str, cells: Iterable[_Cell]) -> list[str]:
    """A column of text. A mark stands right of its number, so that the digits stay in line."""
    cells = [_Cell(name, False), *cells]
    width = max(len(cell.text) for cell in cells)
    return [f"{cell.text:>{width}}{'*' if cell.best else ' '}" for cell in cells]


def _text(value: Any) -> str:
    if isinstance(value, float) and 1e4 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bits(row: Mapping[str, Any]) -> dict[str, tuple]:
    return {
        name: (type(value), value.hex() if isinstance(value, float) else value)
        for name, value in row.items()
        if name not in TIMES
    }
