"""The history of a run: a table with one row per epoch that can be read, plotted, compared and written to files."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxnn.core.direction import direction
from jaxnn.core.text import listed, terminal_width
from jaxnn.train.rows import STEP_COLUMNS, TIMES, column_order, csv_text, json_line, json_rows, plain_row, replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_END_ROWS, _WIDTH = 3, 120  # rows shown at each end of a displayed table, and the width of its text in characters


class History(Mapping[str, list]):
    """The history of a run: a table with one row per epoch, read by column like a dict of lists.

    The order of the columns is fixed: `epoch`, `step`, `loss`, the metrics, the same with the prefix `val_`,
    `learning_rate`, `seconds`, `samples_per_second`, `compile_seconds`. A missing cell, such as a validation loss computed
    every fifth epoch, is NaN in its column and absent from its row. Reading returns copies: only `append` changes the
    table. As for any mapping, `len` counts the columns; `len(history.rows)` counts the rows.

    A displayed table has the first and the last rows, and those with the best value of a column, which is marked. The
    column's name, such as `loss` or `accuracy`, says which way is better; columns with other names have no mark.

    Args:
        rows: The initial rows, each in the form that `append` takes.

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
            row: A number or string for each column; a scalar array counts as a number, None as a missing cell.

        Raises:
            TypeError: If a value is anything else; the message names the column.
        """
        row = plain_row(row)
        if not row.keys() <= set(self._columns):
            self._columns = column_order([*self._columns, *row])
        self._rows.append(row)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, each a dict without the missing cells."""
        return [{name: row[name] for name in self._columns if name in row} for row in self._rows]

    @property
    def last(self) -> dict[str, Any]:
        """A copy of the last row; an empty dict if there is none."""
        return dict(self._rows[-1]) if self._rows else {}

    def __getitem__(self, name: str) -> list:
        if name not in self:
            raise KeyError(f"the history has no column {name!r}; its columns: {listed(self)}")
        return [row.get(name, math.nan) for row in self._rows]

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._columns))

    def __len__(self) -> int:
        return len(self._columns)

    def same_as(self, other: History) -> bool:
        """Return whether two histories agree bit for bit, except for the times.

        `seconds`, `samples_per_second` and `compile_seconds` are not compared. 0.0 differs from −0.0, and 1 from 1.0; NaN
        equals NaN.

        Args:
            other: The history of another run.

        Returns:
            Whether they are the same.

        Example:
            >>> a, b = History([{"loss": 0.5, "seconds": 2.0}]), History([{"loss": 0.5, "seconds": 3.0}])
            >>> a.same_as(b), a.same_as(History([{"loss": 0.5000000000000001}]))
            (True, False)
        """
        return [_bits(row) for row in self._rows] == [_bits(row) for row in other._rows]

    def to_pandas(self) -> DataFrame:
        """Convert the table to a pandas data frame; missing cells are NaN.

        Returns:
            The data frame, one row per epoch.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("history.to_pandas() needs pandas: pip install pandas") from error
        return pandas.DataFrame(dict(self))

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write the table as comma-separated values with a header, floats at full precision, missing cells empty.

        Args:
            path: The file. An existing one is replaced atomically.

        Raises:
            OSError: If the file cannot be written.
        """
        replace_file(path, csv_text(self._columns, self._rows))

    def to_jsonl(self, path: str | os.PathLike) -> None:
        """Write the table as JSON lines: one object per row, floats at full precision, without missing cells.

        JSON has no non-finite numbers: they are written as the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.

        Args:
            path: The file. An existing one is replaced atomically.

        Raises:
            OSError: If the file cannot be written.
        """
        replace_file(path, "".join(map(json_line, self.rows)))

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike) -> History:
        """Read a file written by `to_jsonl` or `jsonl_log`: the same numbers, bit for bit. A truncated last line is ignored.

        Args:
            path: The file.

        Returns:
            The history.

        Raises:
            ValueError: If any other line is not a JSON object.
        """
        try:
            return cls(json_rows(Path(path).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a history in JSON lines: {error}") from error

    def plot(self) -> Figure:
        """Plot the loss and the metrics over the epochs, training and validation in one panel each.

        `learning_rate`, `loss_scale` and `skipped` have a panel if they vary.

        Returns:
            The figure, which a notebook displays; `figure.savefig(path)` writes it to a file.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is nothing to plot yet.
        """
        from jaxnn.plots import figures as plots

        curves = [name for name in self if name not in ("epoch", "step", *STEP_COLUMNS, *TIMES) and self._finite(name)]
        varying = [name for name in reversed(STEP_COLUMNS) if len(set(self._finite(name).values())) > 1]
        if not curves:
            raise ValueError("there is nothing to plot: the history has no loss or metric with a finite value")
        return plots.history_figure(self, list(dict.fromkeys([*(name.removeprefix("val_") for name in curves), *varying])))

    def __repr__(self) -> str:
        if not self._rows:
            return "no epochs yet"
        columns = [_text_column(name, cells) for name, cells in zip(self, zip(*self._shown(), strict=True), strict=True)]
        widths, width = [2 + len(column[0]) for column in columns], min(terminal_width(_WIDTH), _WIDTH)
        fitting = max(1, sum(sum(widths[: i + 1]) - 2 <= width for i in range(len(widths))))
        table = ["  ".join(line).rstrip() for line in zip(*columns[:fitting], strict=True)]
        rest = wrap(f"and the columns {listed(self._columns[fitting:])}", width) if fitting < len(columns) else []
        return "\n".join([self._caption("* best"), *table, *rest])

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from treescope.repr_lib import render_object_constructor

        return render_object_constructor(History, {"rows": self.rows}, path, subtree_renderer)

    def _repr_html_(self) -> str:
        if not self._rows:
            return "<p>no epochs yet</p>"
        head = "".join(_html_cell("th", name, "font-weight:600;border-bottom:1px solid") for name in self)
        body = "".join(
            "<tr>" + "".join(_html_cell("td", text, _BEST_STYLE if best else "") for text, best in line) + "</tr>"
            for line in self._shown()
        )
        caption = self._caption(f'<span style="{_BEST_STYLE};padding:0 .4em">best</span>')
        return (
            '<div style="overflow-x:auto">'  # a wide table is scrolled, and its columns are as wide as their numbers
            '<table style="border-collapse:collapse;table-layout:auto;width:max-content;margin-left:0;white-space:nowrap;'
            'font-variant-numeric:tabular-nums;color:inherit">'
            f'<caption style="caption-side:top;text-align:left;color:inherit;opacity:.75">{caption}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def _caption(self, mark: str) -> str:
        count = len(self._rows)
        return f"{count} epoch{'s' * (count > 1)}" + (f", {mark}" if self._best_rows() else "")

    def _shown(self) -> list[list[_Cell]]:
        """The lines of a displayed table; a line of dots stands for omitted rows."""
        best, count = self._best_rows(), len(self._rows)
        indices = sorted({*range(min(_END_ROWS, count)), *range(max(count - _END_ROWS, 0), count), *best.values()})
        lines = []
        for before, index in pairwise([-1, *indices]):
            if index == before + 2:  # one row takes no more space than the dots
                lines.append(self._line(index - 1, best))
            elif index > before + 1:
                lines.append([_Cell("⋯", False) for _ in self])
            lines.append(self._line(index, best))
        return lines

    def _line(self, index: int, best: dict[str, int]) -> list[_Cell]:
        row = self._rows[index]
        return [_Cell(_cell_text(row[name]) if name in row else "", best.get(name) == index) for name in self]

    def _best_rows(self) -> dict[str, int]:
        """The index of the row with the best value, by column; a column that never changes has none."""
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


_BEST_STYLE = "background-color:rgba(46,160,67,.3)"  # visible on white and on black


def _html_cell(tag: str, text: str, style: str) -> str:
    return f'<{tag} style="text-align:right;padding:.15em .8em;color:inherit;{style}">{html.escape(text)}</{tag}>'


def _text_column(name: str, cells: Iterable[_Cell]) -> list[str]:
    """A column as text. The mark follows its number, so that the digits stay aligned."""
    cells = [_Cell(name, False), *cells]
    width = max(len(cell.text) for cell in cells)
    return [f"{cell.text:>{width}}{'*' if cell.best else ' '}" for cell in cells]


def _cell_text(value: Any) -> str:
    if isinstance(value, float) and 1e4 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bits(row: Mapping[str, Any]) -> dict[str, tuple]:
    return {
        name: (type(value), value.hex() if isinstance(value, float) else value)
        for name, value in row.items()
        if name not in TIMES
    }
