"""The result of a sweep: a table with one row per member, and the parameters of all."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxnn.core.direction import better
from jaxnn.core.layer import Layer
from jaxnn.core.text import terminal_width
from jaxnn.population.group_run import GroupRun, Trained
from jaxnn.population.groups import RUN_OPTIONS, Group
from jaxnn.population.space import Setting
from jaxnn.problem.hyperparameters import loss_of, model_of
from jaxnn.problem.objective import Objective
from jaxnn.train.history import History


@dataclass(frozen=True)
class Member:
    """One trained network of a sweep; `evaluate` and `predict` accept it like the result of `fit`.

    Attributes:
        index: Its number in the sweep.
        setting: Its hyperparameters.
        seed: Its seed.
        row: Its row of the table.
        params: Its parameters.
        state: Its state.
        history: Its history, as `fit` returns it: one row per epoch that it was trained.
        model: The model, made from its hyperparameters.
        loss: The loss, for `evaluate`.
        metrics: The metrics, for `evaluate`.

    Example:
        See `sweep`, whose result has them.
    """

    index: int
    setting: Setting
    seed: int
    row: dict[str, Any]
    params: Any = field(repr=False)
    state: Any = field(repr=False)
    history: History = field(repr=False)
    model: Layer = field(repr=False)
    loss: Any = field(repr=False)
    metrics: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Stacked:
    """Members of one structure, stacked.

    Attributes:
        structural: The hyperparameters that they have in common, by name.
        members: Their numbers in the sweep.
        params: Their parameters; every leaf has a leading axis of members.
        state: Their states, likewise.
        model: The model of the first of them. Where traced hyperparameters matter at inference, take single members.

    Example:
        See `sweep`, whose result has them.
    """

    structural: dict[str, Any]
    members: np.ndarray
    params: Any = field(repr=False)
    state: Any = field(repr=False)
    model: Layer = field(repr=False)


@dataclass(frozen=True)
class Sweep:
    """The result of `sweep`.

    Attributes:
        rows: A dict for each member, by number: the hyperparameters, `seed`, the values of the history at the epoch of the
            returned weights (`loss`, `val_loss`, …), `epoch`, `epochs` trained (or, where the space names `epochs`, that
            value), and `status`: `"finished"`, `"early"`, `"diverged"`, `"dropped"` by a search, or `"interrupted"`.
        names: The names of the hyperparameters.
        groups: The members by structure, stacked.
        note: The numbers of groups and programs, the reason for them, and the time taken.
        seconds: The time taken.
        compile_seconds: The time spent on tracing and compiling, added over all threads.
        parts: For each group its configuration and its results, with axes settings × seeds.

    Example:
        See `sweep`, which returns one.
    """

    rows: list[dict[str, Any]]
    names: tuple[str, ...]
    groups: tuple[Stacked, ...] = field(repr=False)
    note: str
    seconds: float
    compile_seconds: float
    parts: list[tuple[Group, Trained]] = field(repr=False)
    _settings: list[Setting] = field(repr=False)
    _averaged_over: tuple[str, ...] = field(repr=False)  # hyperparameters over which by_setting takes means, as over seeds
    _location: dict[int, tuple[int, int]] = field(repr=False)  # a setting's part, and its number there

    @staticmethod
    def of(
        settings: Sequence[Setting],
        seeds: Sequence[int],
        runs: Sequence[GroupRun],
        seconds: float,
        strategy: str,
        averaged_over: tuple[str, ...] = (),
    ) -> Sweep:
        """The result of what was trained.

        Args:
            settings: The settings, by number.
            seeds: The seeds with which each was trained.
            runs: The groups, trained.
            seconds: The time taken.
            strategy: How members were trained, for the note.
            averaged_over: Names of hyperparameters over which `by_setting` takes means, as over seeds.

        Returns:
            The `Sweep`.

        Raises:
            TypeError: If the model is a function of hyperparameters and does not return a `Layer`.
        """
        place = {number: (i, j) for i, run in enumerate(runs) for j, number in enumerate(run.group.numbers)}
        rows = []
        for number, setting in enumerate(settings):
            i, j = place[number]
            rows += [_row(setting, seed, runs[i], j, k) for k, seed in enumerate(seeds)]
        groups = tuple(_stacked(run, len(seeds)) for run in runs)
        compiling = sum(run.compile_seconds for run in runs)
        note = _note(runs, len(rows), strategy, seconds, compiling)
        names = tuple(settings[0])
        parts = [(run.group, run.result) for run in runs]
        return Sweep(rows, names, groups, note, seconds, compiling, parts, list(settings), averaged_over, place)

    @property
    def params(self) -> Any:
        """All parameters, stacked along a leading axis of members, where all members have one structure."""
        return self._single_structure().params

    @property
    def state(self) -> Any:
        """All states, stacked likewise."""
        return self._single_structure().state

    def _single_structure(self) -> Stacked:
        if len(self.groups) > 1:
            kinds = ", ".join(self.groups[0].structural)
            raise ValueError(f"members differ in structure, by {kinds}: take result.groups, or result.member(i)")
        return self.groups[0]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The table as a dict of lists of values, as the plots of `nn.inspect` take it."""
        return {name: [row[name] for row in self.rows] for name in self.rows[0]}

    def members(self, **values: Any) -> list[int]:
        """The numbers of the members with these values in the table, as `result.members(units=32, seed=0)`.

        Args:
            **values: Values by column.

        Returns:
            The numbers, ascending.

        Raises:
            ValueError: If the table has no such column.
        """
        if unknown := set(values) - set(self.rows[0]):
            raise ValueError(f"there is no column {sorted(unknown)[0]!r}: the table has {', '.join(self.rows[0])}")
        return [i for i, row in enumerate(self.rows) if all(row[name] == value for name, value in values.items())]

    def member(self, index: int) -> Member:
        """A member by its number.

        Args:
            index: Its number; negative numbers count from the end.

        Returns:
            The `Member`.

        Raises:
            IndexError: If there is no member of that number.
        """
        if not -len(self.rows) <= index < len(self.rows):
            raise IndexError(f"there are {len(self.rows)} members, got {index}")
        index %= len(self.rows)
        seeds = len(self.rows) // len(self._settings)
        number, k = divmod(index, seeds)
        i, j = self._location[number]
        group, trained = self.parts[i]
        params, state = jax.tree.map(lambda a: a[j, k], (trained.params, trained.state))
        values, loss = group.values(j), group.config.problem.loss
        columns = {name: column[j, k].tolist() for name, column in trained.history.items()}
        epochs = range(int(trained.epochs[j, k]))
        return Member(
            index,
            self._settings[number],
            self.rows[index]["seed"],
            self.rows[index],
            params,
            state,
            History({"epoch": i + 1} | {name: column[i] for name, column in columns.items()} for i in epochs),
            model_of(group.config.problem.model, values),
            loss if isinstance(loss, Objective) else loss_of(loss, values),
            dict(group.config.metrics or {}),
        )

    def best(self, monitor: str | None = None, mode: str | None = None) -> Member:
        """The member with the best value; of several, the one with the smallest loss. `best_setting` compares means.

        Args:
            monitor: The value's name; `"val_loss"` by default, or `"loss"` without validation data.
            mode: `"min"` if smaller is better, `"max"` if larger is; by default as the name says: `"min"` for losses and
                errors, `"max"` for accuracies and the like.

        Returns:
            The `Member`.

        Raises:
            ValueError: If there is no such value, no member has one, or the name does not say which way is better.
        """
        monitor, sign = self.monitored(monitor, mode)
        if all(math.isnan(row[monitor]) for row in self.rows):
            raise ValueError(f"no member has a value of {monitor!r}: all diverged, or none finished an epoch")
        return self.member(min(range(len(self.rows)), key=lambda i: self._rank(self.rows[i], monitor, sign)))

    def by_setting(self, monitor: str | None = None, mode: str | None = None) -> list[dict[str, Any]]:
        """Means and standard deviations over seeds (and folds), one row per setting, the best first.

        Args:
            monitor: As in `best`; settings are sorted by it.
            mode: As in `best`.

        Returns:
            For each setting its hyperparameters, and for each value `name` and `name_std` (n − 1 in the denominator; 0 for
            one seed). Members that diverged make a setting's values NaN, and settings with NaN come last.
        """
        monitor, sign = self.monitored(monitor, mode)
        together: dict[tuple, list[dict]] = {}
        names = self._compared()
        for row in self.rows:
            together.setdefault(tuple((type(row[name]), row[name]) for name in names), []).append(row)  # 1 is not True
        rows = []
        for members in together.values():
            diverged = any(row["status"] == "diverged" for row in members)
            row = {name: members[0][name] for name in names}
            for name in self._values():
                values = np.asarray([member[name] for member in members])
                row[name] = math.nan if diverged else float(values.mean())
                row[name + "_std"] = float(values.std(ddof=1)) if len(members) > 1 else 0.0
            rows.append(row)
        return sorted(rows, key=lambda row: self._rank(row, monitor, sign))

    def best_setting(self, monitor: str | None = None, mode: str | None = None) -> Setting:
        """The hyperparameters with the best mean over seeds (and folds), as `fit(hyperparameters=…)` takes them.

        Args:
            monitor: As in `best`.
            mode: As in `best`.

        Returns:
            The hyperparameters of the first row of `by_setting`.
        """
        row = self.by_setting(monitor, mode)[0]
        return {name: row[name] for name in self._compared()}

    def _rank(self, row: Mapping[str, Any], monitor: str, sign: float) -> tuple[bool, float, bool, float]:
        """The sort key of a row: its monitored value, NaN last, and of equal ones the smaller loss first."""
        loss = row["val_loss" if "val_loss" in row else "loss"]
        return math.isnan(row[monitor]), sign * row[monitor], math.isnan(loss), loss

    def to_pandas(self) -> Any:
        """The table as a pandas `DataFrame`, one row per member.

        Returns:
            The data frame.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return pd.DataFrame(self.rows)

    def _compared(self) -> list[str]:
        return [name for name in self.names if name not in self._averaged_over]

    def _values(self) -> list[str]:
        own = {*self.names, "seed", "epoch", "epochs", "status"}
        return [name for name in self.rows[0] if name not in own]

    def monitored(self, monitor: str | None, mode: str | None) -> tuple[str, float]:
        """The name of the monitored value, and 1.0, or −1.0 if larger is better.

        Args:
            monitor: As in `best`.
            mode: As in `best`.

        Returns:
            The name, and 1.0 or −1.0.

        Raises:
            ValueError: As `best`.
        """
        names = self._values()
        monitor = monitor or ("val_loss" if "val_loss" in names else "loss")
        if monitor not in names:
            raise ValueError(f"there is no value {monitor!r}: the table has {', '.join(names)}")
        return monitor, 1.0 if better(monitor, mode) == "min" else -1.0

    def table(self, monitor: str | None = None, mode: str | None = None, most: int = 20, width: int | None = None) -> str:
        """The settings as text, mean ± standard deviation over seeds, the best first and marked.

        Args:
            monitor: As in `best`.
            mode: As in `best`.
            most: The number of lines, at most.
            width: The number of characters per line. As far as needed, values of the training data and then all but the
                monitored one are left out; by default nothing is.

        Returns:
            The text.
        """
        chosen, _ = self.monitored(monitor, mode)
        columns = list(zip(*_aligned(self._cells(monitor, mode, most)), strict=True))
        for name in sorted(self._values(), key=lambda name: name.startswith("val_")):
            if width is not None and name != chosen and sum(len(column[0]) + 2 for column in columns) - 2 > width:
                columns = [column for column in columns if column[0].strip() != name]
        return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))

    def _cells(self, monitor: str | None, mode: str | None, most: int) -> list[list[str]]:
        rows = self.by_setting(monitor, mode)
        names, single = self._compared(), len(rows) == len(self.rows)
        cells = [["", *names, *self._values()]]
        for i, row in enumerate(rows[:most]):
            shown = [_text(row[name]) for name in names]
            spread = lambda name, row=row: "" if single else f" ± {row[name + '_std']:.2g}"  # noqa: E731
            values = [f"{row[name]:.4g}{spread(name)}" for name in self._values()]
            cells.append(["" if i else "*", *shown, *values])
        if len(rows) > most:
            cells.append(["…"] + [""] * (len(cells[0]) - 1))
        return cells

    def __repr__(self) -> str:
        return f"{self.table(width=terminal_width(0) or None)}\n{self.note}"

    def _repr_html_(self) -> str:
        head, *body = self._cells(None, None, 20)
        line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"  # noqa: E731
        lines = "".join([line(head, "th"), *(line(cells, "td") for cells in body)])
        return f"<table>{lines}</table><p>{html.escape(self.note)}</p>"


def _row(setting: Setting, seed: int, run: GroupRun, j: int, k: int) -> dict[str, Any]:
    result = run.result
    epoch, epochs = int(result.epoch[j, k]), int(result.epochs[j, k])
    values = {name: float(column[j, k, epoch - 1]) if epoch else math.nan for name, column in result.history.items()}
    order = sorted(values, key=lambda name: (name in setting, name.startswith("val_"), not name.endswith("loss")))
    values = {name: values[name] for name in order if name not in setting and name != "learning_rate"}
    finished = "finished" if epochs == run.group.epochs else "early"
    unfinished = "interrupted" if run.selected[j] else "dropped"
    status = "diverged" if result.diverged[j, k] else finished if result.done[j, k] else unfinished
    return {**setting, "seed": seed, **values, "epoch": epoch, "epochs": setting.get("epochs", epochs), "status": status}


def _stacked(run: GroupRun, seeds: int) -> Stacked:
    members = np.concatenate([np.arange(seeds) + number * seeds for number in run.group.numbers])
    params, state = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), run.weights())
    return Stacked(run.group.structural, members, params, state, model_of(run.group.config.problem.model, run.group.values(0)))


def _note(runs: Sequence[GroupRun], members: int, strategy: str, seconds: float, compiling: float) -> str:
    names = sorted({name for run in runs for name in run.group.structural}, key=lambda name: (name in RUN_OPTIONS, name))
    varied = [name for name in names if len({repr(run.group.structural.get(name)) for run in runs}) > 1]
    why = f", as {', '.join(varied)} decide{'s' * (len(varied) == 1)} on the program" if len(runs) > 1 else ""
    made = sum(int(run.result.epochs.sum()) for run in runs)
    full = sum(run.result.epochs.size * run.group.epochs for run in runs)
    programs = {id(program.compile()) for run in runs for program in run.programs.values()}
    sizes = {len(s) * len(c) for run in runs for s, c in run.rectangles}
    blocks = f", blocks of {' or '.join(map(str, sorted(sizes)))}" if sizes else ""
    return (
        f"{members:,} members in {len(runs)} group{'s' * (len(runs) > 1)}{why}; {len(programs)} programs; "
        f"{made:,} of {full:,} epochs; "
        f"{strategy}{blocks}; {seconds:.1f} s, compiling {compiling:.1f} s over all threads"
    )


def _text(value: Any) -> str:
    if callable(value):
        return getattr(value, "__name__", repr(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _aligned(cells: list[list[str]]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
