"""Files to which a run writes its history row by row: comma-separated values, JSON lines, TensorBoard.

A log is an object with `write(row)` and `close()`; `fit` writes one row per epoch. All logs follow one rule: **a row replaces
all rows of the same epoch or a later one.** So a run that was killed and resumed continues in the same file without writing
an epoch twice, and a run from the start begins a new table. A row is in the file once `write` returns. A line truncated by a
kill or a full disk is dropped at the next write.
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

from jaxnn.core.files import temporary_path
from jaxnn.train.rows import column_order, csv_lines, csv_text, json_line, json_rows, plain_row, replace_file

# TensorBoard's SessionLog.START: events of this step or a later one in earlier files do not count.
_SESSION_START = 1


class Log(Protocol):
    """An object that writes the rows of a run."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row, which replaces all rows of the same epoch or a later one."""

    def close(self) -> None:
        """Close the files. A later `write` opens them again."""


def csv_log(path: str | os.PathLike) -> Log:
    """A log of comma-separated values with a header, floats at full precision, missing cells empty.

    A row costs one write if the header has all of its columns. Otherwise, as for a validation loss computed every fifth
    epoch, the file is rewritten atomically with the new columns.

    Args:
        path: The file; its folder is created if necessary.

    Returns:
        The log.

    Raises:
        OSError: If the file cannot be written; before the run, not after its first epoch.
        ValueError: If the file exists and is not the log of a run.

    Example:
        >>> log = csv_log("run/log.csv")  # doctest: +SKIP
        >>> log.write({"epoch": 1, "loss": 0.5})  # doctest: +SKIP
    """
    return _CsvLog("csv_log", path)


def jsonl_log(path: str | os.PathLike) -> Log:
    """A log of JSON lines, one object per epoch; `History.from_jsonl` reads it back, bit for bit.

    JSON has no non-finite numbers: they are written as the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, which every
    JSON reader accepts and pandas converts to numbers.

    Args:
        path: The file; its folder is created if necessary.

    Returns:
        The log.

    Raises:
        OSError: If the file cannot be written; before the run, not after its first epoch.
        ValueError: If the file exists and is not the log of a run.

    Example:
        >>> log = jsonl_log("run/log.jsonl")  # doctest: +SKIP
        >>> log.write({"epoch": 1, "loss": 0.5})  # doctest: +SKIP
    """
    return _JsonLog("jsonl_log", path)


def tensorboard_log(folder: str | os.PathLike) -> Log:
    """A log for `tensorboard --logdir folder`, with the epoch on the horizontal axis and numbers in float32.

    Columns with the prefix `val_` belong to the run `validation`, without the prefix; all others belong to the run `train`.
    So both curves appear in one chart. A resumed run begins a new file with an event that makes TensorBoard discard what
    earlier files have of the same epoch and later ones.

    Args:
        folder: The folder; it is created if necessary.

    Returns:
        The log.

    Raises:
        ImportError: If tensorboardX is not installed.
        OSError: If the folder cannot be written; before the run, not after its first epoch.

    Example:
        >>> log = tensorboard_log("run/tensorboard")  # doctest: +SKIP
        >>> log.write({"epoch": 1, "loss": 0.5, "val_loss": 0.75})  # doctest: +SKIP
    """
    return _TensorBoardLog("tensorboard_log", folder)


class _FileLog:
    """The base of logs in text files.

    While `_file` is open, its content is known and rows are appended; while `_file` is None, the next write reads the file
    and replaces it.
    """

    def __init__(self, name: str, path: str | os.PathLike):
        self._path = Path(os.path.realpath(path))
        self._file: TextIO | None = None
        self._epoch = 0
        self._taken = False  # by another run
        check_writable(name, self._path)
        self._read()

    def write(self, row: Mapping[str, Any]) -> None:
        row = _epoch_row(row)
        again = row["epoch"] <= self._epoch  # a run from the start, or resumed
        self._taken = not again and (self._taken or self._replaced())
        if self._taken:
            self.close()
            raise OSError(f"another run has replaced {self._path}: give each run a file of its own")
        try:
            if self._file is None or again or not self._fits(row) or not self._path.exists():
                self._rewrite(row)
            else:
                self._file.write(self._line(row))
                self._file.flush()
        except BaseException:  # a part of the row may be in the file
            with suppress(OSError):
                self.close()
            self._file = None
            raise
        self._epoch = row["epoch"]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _replaced(self) -> bool:
        """Whether the open file is no longer the one at the path."""
        return (
            self._file is not None
            and self._path.exists()
            and not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        )

    def _rewrite(self, row: dict[str, Any]) -> None:
        self.close()
        kept = [old for old in self._read() if float(old["epoch"]) < row["epoch"]]
        replace_file(self._path, self._text([*kept, row]))
        self._file = open(self._path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def _read(self) -> list[dict[str, Any]]:
        """The rows in the file, without a truncated last line."""
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
                f"{self._path} is not the log of a run ({reason}); choose another path or remove the file first"
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
        # Cells stay strings, so that rewriting does not change them.
        header, *lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))) or [[]]
        if text and "epoch" not in header:
            raise ValueError("its header has no column 'epoch'")
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
            raise ImportError(f"{name} needs tensorboardX: pip install tensorboardX") from error
        self._folder = Path(folder)
        self._files: dict[str, FileIO] = {}
        self._epoch = 0
        check_writable(name, self._folder / "events")

    def write(self, row: Mapping[str, Any]) -> None:
        row = _epoch_row(row)
        epoch = row["epoch"]
        if epoch <= self._epoch:
            self.close()
        parts: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for name, value in row.items():
            if name not in ("epoch", "step") and not isinstance(value, str):
                parts["validation" if name.startswith("val_") else "train"][name.removeprefix("val_")] = value
        # Events of an earlier run must be discarded even where this row has no values.
        known = {part for part in parts if not self._files and (self._folder / part).is_dir()}
        try:
            for part, values in parts.items():
                if part not in self._files and (values or part in known):
                    self._open(part, epoch)
                if values:
                    self._add(part, step=epoch, summary={"value": [{"tag": k, "simple_value": v} for k, v in values.items()]})
        except BaseException:  # nothing after a truncated record can be read, so the next row begins a new file
            self.close()
            raise
        self._epoch = epoch

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def _open(self, part: str, epoch: int) -> None:
        (self._folder / part).mkdir(exist_ok=True)
        now = time.time_ns()  # TensorBoard reads the files of a folder in the order of their names
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}.{now}"
        self._files[part] = open(self._folder / part / name, "xb", buffering=0)  # noqa: SIM115
        self._add(part, file_version="brain.Event:2")
        self._add(part, step=epoch, session_log={"status": _SESSION_START})

    def _add(self, part: str, **event: Any) -> None:
        # Only the messages and the checksum are tensorboardX's. Its writer passes events to a thread that writes them later,
        # so a kill loses some, and it names files by the second, so a run overwrites another one of the same second.
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        message = Event(wall_time=time.time(), **event).SerializeToString()
        length = struct.pack("<Q", len(message))
        record = length + struct.pack("<I", masked_crc32c(length)) + message + struct.pack("<I", masked_crc32c(message))
        if self._files[part].write(record) != len(record):
            raise OSError(errno.ENOSPC, f"no space left in {self._folder / part} for a row")


def _epoch_row(row: Mapping[str, Any]) -> dict[str, Any]:
    row = plain_row(row)
    if type(row.get("epoch")) is not int:
        raise ValueError(f"a row of a log needs the number of its epoch, such as 'epoch': 1; got {row}")
    return row


def check_writable(name: str, path: Path) -> None:
    """Raise an error before the run, not after an epoch, if a file cannot be written or replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if not path.is_file() and not path.is_dir():
                raise OSError(errno.EINVAL, "Not a regular file")
            with open(path, "r+b"):
                pass
        temporary_path(path).touch()
        temporary_path(path).unlink()
    except OSError as error:
        raise OSError(
            error.errno, f"{name} cannot write {path}: {error.strerror}; choose a path where files can be created"
        ) from error
