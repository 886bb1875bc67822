"""A run's rows in files, written while it runs: comma-separated values, JSON lines, TensorBoard.

A log is an object with `write(row)` and `close()`; `fit` writes one row an epoch. All of them keep to one rule: **a row takes
the place of every row of its epoch or a later one.** So a run that was killed and resumed goes on in the same file without
an epoch twice, and a run from the start begins the file anew. A row is in the file once `write` returns; a line cut short
by a kill or a full disk is dropped when the file is next written to.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, TextIO

from jaxnn.train.rows import column_order, csv_lines, csv_text, json_line, json_rows, part_of, plain_row, replace_file

_SESSION_START = 1  # TensorBoard's SessionLog.START: events of this step and later ones, in earlier files, do not count


class Log(Protocol):
    """Something that takes a run's rows as they come."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take a row, in the place of every row of its epoch or a later one."""

    def close(self) -> None:
        """Let go of the files. A later `write` opens them again."""


def csv_log(path: str | os.PathLike) -> Log:
    """A log of comma-separated values with a header, floats with every digit, cells that a row does not have empty.

    A column that comes later, such as a validation loss computed every fifth epoch, is put into the header: the file is
    written anew, at once or not at all. On a file whose rows have the columns already, a row costs one write.

    Args:
        path: the file; its folder is made if there is none.

    Returns:
        The log.

    Raises:
        OSError: at once, not after the first epoch, if the file cannot be written.
        ValueError: if there is a file already that is no log of a run.

    Example:
        >>> log = csv_log("run/log.csv")  # doctest: +SKIP
        >>> log.write({"epoch": 1, "loss": 0.5})  # doctest: +SKIP
    """
    return _CsvLog("csv_log", path)


def jsonl_log(path: str | os.PathLike) -> Log:
    """A log of JSON lines, one object an epoch; `History.from_jsonl` reads it back, bit for bit.

    JSON has no numbers that are not finite: they are the texts `"NaN"`, `"Infinity"` and `"-Infinity"`, which every JSON
    reader takes and pandas turns into numbers.

    Args:
        path: the file; its folder is made if there is none.

    Returns:
        The log.

    Raises:
        OSError: at once, not after the first epoch, if the file cannot be written.
        ValueError: if there is a file already that is no log of a run.

    Example:
        >>> log = jsonl_log("run/log.jsonl")  # doctest: +SKIP
        >>> log.write({"epoch": 1, "loss": 0.5})  # doctest: +SKIP
    """
    return _JsonLog("jsonl_log", path)


def tensorboard_log(folder: str | os.PathLike) -> Log:
    """A log for TensorBoard: `tensorboard --logdir folder`, the epoch on the horizontal axis, numbers in float32.

    Columns with `val_` are written as the run `validation` under the name without it, the others as the run `train`, so
    that both curves stand in one chart. After a resume there is a new file, which begins with the mark at which
    TensorBoard forgets what it had of these epochs and later ones.

    Args:
        folder: the folder; it is made if there is none.

    Returns:
        The log.

    Raises:
        ImportError: tensorboardX is not installed.
        OSError: at once, not after the first epoch, if the folder cannot be written to.

    Example:
        >>> log = tensorboard_log("run/tensorboard")  # doctest: +SKIP
        >>> log.write({"epoch": 1, "loss": 0.5, "val_loss": 0.75})  # doctest: +SKIP
    """
    return _TensorBoardLog("tensorboard_log", folder)


class _FileLog:
    """What both kinds of text files have in common. The file is known, or `_file` is None: then it is read and rewritten."""

    def __init__(self, name: str, path: str | os.PathLike):
        self._path = Path(os.path.realpath(path))
        self._file: TextIO | None = None
        self._epoch = 0
        _check_writable(name, self._path)
        self._read()

    def write(self, row: Mapping[str, Any]) -> None:
        row = _epoch_row(row)
        try:
            if self._file is None or row["epoch"] <= self._epoch or not self._fits(row):
                self._rewrite(row)
            else:
                self._file.write(self._line(row))
                self._file.flush()
        except BaseException:  # the row may be there in part
            with suppress(OSError):
                self.close()
            self._file = None
            raise
        self._epoch = row["epoch"]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rewrite(self, row: dict[str, Any]) -> None:
        self.close()
        kept = [old for old in self._read() if float(old["epoch"]) < row["epoch"]]
        replace_file(self._path, self._text([*kept, row]))
        self._file = open(self._path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def _read(self) -> list[dict[str, Any]]:
        """The rows that the file has; without a last line cut short."""
        if not self._path.exists():
            return []
        try:
            with open(self._path, encoding="utf-8-sig", newline="") as file:
                rows = self._rows(file.read())
            for row in rows:
                float(row["epoch"])
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            reason = "a row has no epoch" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{self._path} is not the log of a run ({reason}); give another path, or remove it first"
            ) from error
        return rows

    def _fits(self, row: dict[str, Any]) -> bool:
        raise NotImplementedError

    def _line(self, row: dict[str, Any]) -> str:
        raise NotImplementedError

    def _text(self, rows: list[dict[str, Any]]) -> str:
        raise NotImplementedError

    def _rows(self, text: str) -> list[dict[str, Any]]:
        raise NotImplementedError


class _CsvLog(_FileLog):
    _columns: Sequence[str] = ()

    def _fits(self, row: dict[str, Any]) -> bool:
        return row.keys() <= set(self._columns)

    def _line(self, row: dict[str, Any]) -> str:
        return csv_lines(self._columns, [row])

    def _text(self, rows: list[dict[str, Any]]) -> str:
        self._columns = column_order(name for row in rows for name in row)
        return csv_text(self._columns, rows)

    def _rows(self, text: str) -> list[dict[str, Any]]:
        # Cells stay the texts that they are, so that what is rewritten is what was there.
        header, *lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))) or [[]]
        if text and "epoch" not in header:
            raise ValueError("its header has no column epoch")
        return [dict(zip(header, cells, strict=True)) for cells in lines if cells]


class _JsonLog(_FileLog):
    def _fits(self, row: dict[str, Any]) -> bool:
        return True

    def _line(self, row: dict[str, Any]) -> str:
        return json_line(row)

    def _text(self, rows: list[dict[str, Any]]) -> str:
        return "".join(map(json_line, rows))

    def _rows(self, text: str) -> list[dict[str, Any]]:
        return json_rows(text)


class _TensorBoardLog:
    def __init__(self, name: str, folder: str | os.PathLike):
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise ImportError(f'{name} needs tensorboardX: pip install "jaxnn[tensorboard]"') from error
        self._folder = Path(folder)
        self._files: dict[str, FileIO] = {}
        self._epoch = 0
        _check_writable(name, self._folder / "events")

    def write(self, row: Mapping[str, Any]) -> None:
        row = _epoch_row(row)
        epoch = row["epoch"]
        if epoch <= self._epoch:
            self.close()
        parts: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for name, value in row.items():
            if name not in ("epoch", "step") and not isinstance(value, str):
                parts["validation" if name.startswith("val_") else "train"][name.removeprefix("val_")] = value
        # What an earlier run wrote is to be forgotten also where this row has nothing new.
        known = {part for part in parts if not self._files and (self._folder / part).is_dir()}
        try:
            for part, values in parts.items():
                if part not in self._files and (values or part in known):
                    self._open(part, epoch)
                if values:
                    self._add(part, step=epoch, summary={"value": [{"tag": k, "simple_value": v} for k, v in values.items()]})
        except BaseException:  # after half a message nothing in a file can be read, so the next row begins another one
            self.close()
            raise
        self._epoch = epoch

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def _open(self, part: str, epoch: int) -> None:
        (self._folder / part).mkdir(exist_ok=True)
        now = time.time_ns()  # TensorBoard reads a folder's files in the order of their names
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
        self._files[part] = open(self._folder / part / name, "xb", buffering=0)  # noqa: SIM115
        self._add(part, file_version="brain.Event:2")
        self._add(part, step=epoch, session_log={"status": _SESSION_START})

    def _add(self, part: str, **event: Any) -> None:
        # tensorboardX's own writer hands events to a thread that writes them later, so that a kill loses some, and names
        # files by the second, so that a second run within it overwrites the first. Its messages and checksum are used.
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        message = Event(wall_time=time.time(), **event).SerializeToString()
        length = struct.pack("<Q", len(message))
        record = length + struct.pack("<I", masked_crc32c(length)) + message + struct.pack("<I", masked_crc32c(message))
        if self._files[part].write(record) != len(record):
            raise OSError(errno.ENOSPC, f"{self._folder / part} has no room for a row")


def _epoch_row(row: Mapping[str, Any]) -> dict[str, Any]:
    row = plain_row(row)
    if type(row.get("epoch")) is not int:
        raise ValueError(f"a log's row has the number of its epoch, such as 'epoch': 1; got {row}")
    return row


def _check_writable(name: str, path: Path) -> None:
    """Say now, not after an epoch, that a file could not be written or replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if not path.is_file() and not path.is_dir():
                raise OSError(errno.EINVAL, "Not a regular file")
            with open(path, "r+b"):
                pass
        part_of(path).touch()
        part_of(path).unlink()
    except OSError as error:
        raise OSError(
            error.errno, f"{name} cannot write {path}: {error.strerror}; expected a path where files can be made"
        ) from error
