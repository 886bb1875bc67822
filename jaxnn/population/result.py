"""What a sweep leaves: a table, one row a member, and everybody's parameters."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxnn.core.layer import Layer
from jaxnn.population.group_run import Trained, Work
from jaxnn.population.groups import OWN, Group
from jaxnn.population.space import Setting
from jaxnn.problem.hyperparameters import loss_of, model_of
from jaxnn.train.history import History
from jaxnn.train.step import Objective


@dataclass(frozen=True)
class Member:
    """One trained network of a sweep; `evaluate` and `predict` take it as they take what `fit` returns.

    Attributes:
        index: its number in the sweep.
        setting: its hyperparameters.
        seed: its seed.
        row: its line of the table.
        params: its parameters.
        state: its state.
        history: as that of `fit`: one row an epoch that it was trained, `history.plot()`.
        model: the model, made of its hyperparameters.
        loss: the loss, for `evaluate`.
        metrics: the metrics, for `evaluate`.

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
        structural: what they have in common, by name.
        members: their numbers in the sweep.
        params: every leaf with a leading axis of members.
        state: likewise.
        model: of the first of them. Where traced hyperparameters matter at inference, ask for members one by one.

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
    """What `sweep` returns.

    Attributes:
        rows: a dict for each member, by number: the hyperparameters, `seed`, the values of the history at the epoch whose
            weights these are (`loss`, `val_loss`, …), `epoch`, `epochs` trained (where the space names `epochs`, what it
            says), and `status`: `"finished"`, `"early"`, `"diverged"`, `"dropped"` by a search, or `"interrupted"`.
        names: of the hyperparameters.
        groups: the members by structure, stacked.
        note: how many programs there were and why, and how long it took.
        seconds: in all.
        compile_seconds: of them spent on tracing and compiling, all threads together.
        parts: of each group what its program was made of, and what came of it, with axes settings × seeds.

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
    _pooled: tuple[str, ...] = field(repr=False)  # hyperparameters over which by_setting takes means, as over seeds
    _place: dict[int, tuple[int, int]] = field(repr=False)  # of a setting: its part, and its number there

    @staticmethod
    def of(
        settings: Sequence[Setting],
        seeds: Sequence[int],
        works: Sequence[Work],
        seconds: float,
        strategy: str,
        pooled: tuple[str, ...] = (),
    ) -> Sweep:
        """The result of what was trained.

        Args:
            settings: the hyperparameters that were tried.
            seeds: the seeds that each was tried with.
            works: the groups of one structure, trained.
            seconds: how long it took in all.
            strategy: how it was searched, for the note.
            pooled: names of hyperparameters over which `by_setting` takes means, as over seeds.

        Returns:
            The `Sweep`.

        Raises:
            TypeError: the model is a function of hyperparameters and returns no layer.
        """
        place = {number: (i, j) for i, work in enumerate(works) for j, number in enumerate(work.group.numbers)}
        rows = []
        for number, setting in enumerate(settings):
            i, j = place[number]
            rows += [_row(setting, seed, works[i], j, k) for k, seed in enumerate(seeds)]
        groups = tuple(_stacked(work, len(seeds)) for work in works)
        compiling = sum(work.compile_seconds for work in works)
        note = _note(works, len(rows), strategy, seconds, compiling)
        names = tuple(settings[0])
        parts = [(work.group, work.result) for work in works]
        return Sweep(rows, names, groups, note, seconds, compiling, parts, list(settings), pooled, place)

    @property
    def params(self) -> Any:
        """All parameters, stacked along a leading axis of members, where all members have one structure."""
        return self._only().params

    @property
    def state(self) -> Any:
        """All states, stacked likewise."""
        return self._only().state

    def _only(self) -> Stacked:
        if len(self.groups) > 1:
            kinds = ", ".join(self.groups[0].structural)
            raise ValueError(f"members differ in structure, by {kinds}: take result.groups, or result.member(i)")
        return self.groups[0]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The table as a list of values by name, as the plots of `nn.inspect` take it."""
        return {name: [row[name] for row in self.rows] for name in self.rows[0]}

    def members(self, **values: Any) -> list[int]:
        """The numbers of the members with these values in the table, as `result.members(units=32, seed=0)`.

        Args:
            **values: by column.

        Returns:
            The numbers, ascending.

        Raises:
            ValueError: the table has no such column.
        """
        if unknown := set(values) - set(self.rows[0]):
            raise ValueError(f"there is no column {sorted(unknown)[0]!r}: the table has {', '.join(self.rows[0])}")
        return [i for i, row in enumerate(self.rows) if all(row[name] == value for name, value in values.items())]

    def member(self, index: int) -> Member:
        """A member by its number.

        Args:
            index: its number; from the end if it is negative.

        Returns:
            The `Member`.

        Raises:
            IndexError: there is none of that number.
        """
        if not -len(self.rows) <= index < len(self.rows):
            raise IndexError(f"there are {len(self.rows)} members, got {index}")
        index %= len(self.rows)
        seeds = len(self.rows) // len(self._settings)
        number, k = divmod(index, seeds)
        i, j = self._place[number]
        group, trained = self.parts[i]
        params, state = jax.tree.map(lambda a: a[j, k], (trained.params, trained.state))
        values, loss = group.values(j), group.plan["loss"]
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
            model_of(group.plan["model"], values),
            loss if isinstance(loss, Objective) else loss_of(loss, values),
            dict(group.plan["metrics"] or {}),
        )

    def best(self, monitor: str | None = None, mode: str | None = None) -> Member:
        """The member with the best value.

        Args:
            monitor: the value's name; `"val_loss"` by default, or `"loss"` without validation data.
            mode: `"min"` or `"max"`; by default `"min"` for what is called loss, `"max"` for everything else.

        Returns:
            The `Member`.

        Raises:
            ValueError: there is no such value, or no member has one.
        """
        monitor, sign = self.monitored(monitor, mode)
        values = [sign * row[monitor] for row in self.rows]
        if all(math.isnan(value) for value in values):
            raise ValueError(f"no member has a value of {monitor!r}: all diverged, or none finished an epoch")
        return self.member(int(np.nanargmin(values)))

    def by_setting(self, monitor: str | None = None, mode: str | None = None) -> list[dict[str, Any]]:
        """Mean and standard deviation over seeds (and folds), a row for each setting, the best first.

        Args:
            monitor: as in `best`; settings are sorted by it.
            mode: as in `best`.

        Returns:
            For each setting its hyperparameters, and of each value `name` and `name_std` (n − 1 in the denominator; 0 for
            one seed). Members that diverged make a setting's values NaN, and settings with NaN come last.
        """
        monitor, sign = self.monitored(monitor, mode)
        together: dict[tuple, list[dict]] = {}
        names = self._compared()
        for row in self.rows:
            together.setdefault(tuple(row[name] for name in names), []).append(row)
        rows = []
        for setting, members in together.items():
            diverged = any(row["status"] == "diverged" for row in members)
            row = dict(zip(names, setting, strict=True))
            for name in self._values():
                values = np.asarray([member[name] for member in members])
                row[name] = math.nan if diverged else float(values.mean())
                row[name + "_std"] = float(values.std(ddof=1)) if len(members) > 1 else 0.0
            rows.append(row)
        return sorted(rows, key=lambda row: (math.isnan(row[monitor]), sign * row[monitor]))

    def to_pandas(self) -> Any:
        """The table as a pandas `DataFrame`, one row a member.

        Returns:
            The data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return pd.DataFrame(self.rows)

    def _compared(self) -> list[str]:
        return [name for name in self.names if name not in self._pooled]

    def _values(self) -> list[str]:
        own = {*self.names, "seed", "epoch", "epochs", "status"}
        return [name for name in self.rows[0] if name not in own]

    def monitored(self, monitor: str | None, mode: str | None) -> tuple[str, float]:
        """The name of the value that counts, and the sign that makes small ones good.

        Args:
            monitor: as in `best`.
            mode: as in `best`.

        Returns:
            The name, and 1.0 or −1.0.

        Raises:
            ValueError: there is no such value, or the mode is another.
        """
        names = self._values()
        monitor = monitor or ("val_loss" if "val_loss" in names else "loss")
        if monitor not in names:
            raise ValueError(f"there is no value {monitor!r}: the table has {', '.join(names)}")
        mode = mode or ("min" if monitor.endswith("loss") else "max")
        if mode not in ("min", "max"):
            raise ValueError(f'mode is "min" or "max", got {mode!r}')
        return monitor, 1.0 if mode == "min" else -1.0

    def table(self, monitor: str | None = None, mode: str | None = None, most: int = 20) -> str:
        """The settings as text, the best first and marked, mean ± standard deviation over seeds.

        Args:
            monitor: as in `best`.
            mode: as in `best`.
            most: how many lines at the most.

        Returns:
            The lines as one text.
        """
        return "\n".join("  ".join(line).rstrip() for line in _aligned(self._cells(monitor, mode, most)))

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
        return f"{self.table()}\n{self.note}"

    def _repr_html_(self) -> str:
        head, *body = self._cells(None, None, 20)
        line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"  # noqa: E731
        lines = "".join([line(head, "th"), *(line(cells, "td") for cells in body)])
        return f"<table>{lines}</table><p>{html.escape(self.note)}</p>"


def _row(setting: Setting, seed: int, work: Work, j: int, k: int) -> dict[str, Any]:
    result = work.result
    epoch, epochs = int(result.epoch[j, k]), int(result.epochs[j, k])
    values = {name: float(column[j, k, epoch - 1]) if epoch else math.nan for name, column in result.history.items()}
    order = sorted(values, key=lambda name: (name in setting, name.startswith("val_"), not name.endswith("loss")))
    values = {name: values[name] for name in order if name not in setting and name != "learning_rate"}
    finished = "finished" if epochs == work.group.epochs else "early"
    unfinished = "interrupted" if work.selected[j] else "dropped"
    status = "diverged" if result.diverged[j, k] else finished if result.done[j, k] else unfinished
    return {**setting, "seed": seed, **values, "epoch": epoch, "epochs": setting.get("epochs", epochs), "status": status}


def _stacked(work: Work, seeds: int) -> Stacked:
    members = np.concatenate([np.arange(seeds) + number * seeds for number in work.group.numbers])
    params, state = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), work.weights())
    return Stacked(work.group.structural, members, params, state, model_of(work.group.plan["model"], work.group.values(0)))


def _note(works: Sequence[Work], members: int, strategy: str, seconds: float, compiling: float) -> str:
    names = sorted({name for work in works for name in work.group.structural}, key=lambda name: (name in OWN, name))
    varied = [name for name in names if len({repr(work.group.structural.get(name)) for work in works}) > 1]
    why = f", as {', '.join(varied)} decide{'s' * (len(varied) == 1)} on the program" if len(works) > 1 else ""
    made = sum(int(work.result.epochs.sum()) for work in works)
    full = sum(work.result.epochs.size * work.group.epochs for work in works)
    programs = {id(program.place) for work in works for program in work.programs.values()}
    sizes = {len(s) * len(c) for work in works for s, c in work.rectangles}
    blocks = f", blocks of {' or '.join(map(str, sorted(sizes)))}" if sizes else ""
    return (
        f"{members:,} members in {len(works)} group{'s' * (len(works) > 1)}{why}; {len(programs)} programs; "
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
