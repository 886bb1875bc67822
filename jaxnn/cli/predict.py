"""The command `predict`: predictions of a saved network for samples from a file, as a table and as a file."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path

import numpy as np

import jaxnn as nn
from jaxnn.cli import report
from jaxnn.cli.saved import Saved, read
from jaxnn.core.files import replacing
from jaxnn.data import from_arrays
from jaxnn.data.npz import read_npz
from jaxnn.train.rows import csv_text, replace_file
from jaxnn.train.table_files import check_writable

_SHOWN = 5  # samples in the printed table


def run(arguments: Namespace) -> int:
    """Run the command.

    Args:
        arguments: What the parser returns.

    Returns:
        The exit code.

    Raises:
        ValueError: The run or the samples are not as expected.
        OSError: A file cannot be read or written.
        ImportError: A required package is not installed.
    """
    saved, out = read(arguments.run), arguments.out or arguments.run / "predictions.csv"
    if out.suffix not in (".csv", ".npy"):
        raise ValueError(f"--out {out}: predictions are written to a file .csv or .npy")
    check_writable("--out", out)
    x, y = _samples(saved, arguments.file)
    outputs = np.asarray(saved.outputs(x, lambda x: np.asarray(nn.predict((saved.model, saved.params, saved.state), x))))
    report.tell("\n".join(_table(saved, outputs, y)), is_table=True)
    report.saying_what_is_replaced("predictions", out, lambda: _write(saved, outputs, out))
    return 0


def _samples(saved: Saved, file: Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples, and their targets where the file has them."""
    if file is None:
        part = saved.test_part()
        return _shaped(saved, part.x, "the test part"), part.y
    y = None
    match file.suffix:
        case ".npz":
            arrays, names = read_npz(file, ("x", "y"))
            if "x" not in arrays:
                raise ValueError(f"{file} has no array x; its arrays: {', '.join(names) or 'none'}")
            x, y = arrays["x"], arrays.get("y")
        case ".npy":
            try:
                x = np.load(file, allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise ValueError(f"{file} is not an array of numbers that np.save has written: {error}") from error
        case ".csv":
            x = _read_csv(file)
        case _:
            raise ValueError(f"{file}: samples are read from a file .npy, .npz or .csv")
    if not x.ndim or not len(x):
        raise ValueError(f"{file} has no samples: x has shape {list(x.shape)}")
    if y is not None and (len(y) != len(x) or y.size != len(x)):
        raise ValueError(f"{file}: y has shape {list(y.shape)}; expected one target for each of {len(x)} samples")
    if y is not None and saved.classes and (y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= len(saved.classes)):
        raise ValueError(f"{file}: y are not labels from 0 to {len(saved.classes) - 1}, the classes of the run")
    return _shaped(saved, from_arrays(_with_shape(saved, x, str(file)), np.zeros(len(x), int), name=str(file)).x, str(file)), y


def _with_shape(saved: Saved, x: np.ndarray, name: str) -> np.ndarray:
    """Samples that were flattened to rows, or lack a last axis of 1, in their shape."""
    if x.shape[1:] == saved.shape or x.dtype.kind not in "fiub":  # other dtypes are an error later
        return x
    if (x.ndim == 2 and x.shape[1] == np.prod(saved.shape)) or (x.shape[1:] == saved.shape[:-1] and saved.shape[-1] == 1):
        return x.reshape(len(x), *saved.shape)
    raise ValueError(f"{name} has samples of shape {list(x.shape[1:])}; the network takes {list(saved.shape)}")


def _shaped(saved: Saved, x: np.ndarray, name: str) -> np.ndarray:
    if x.shape[1:] != saved.shape:
        raise ValueError(f"{name} has samples of shape {list(x.shape[1:])}; the network takes {list(saved.shape)}")
    return x


def _read_csv(file: Path) -> np.ndarray:
    """Rows of numbers; the first line may be a header."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            lines = [(number, line) for number, line in enumerate(csv.reader(stream), 1) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a table of comma-separated values: {error}") from error
    rows: list[list[float]] = []
    for number, line in lines:
        try:
            rows.append([float(cell) for cell in line])
        except ValueError as error:
            if number != lines[0][0]:
                raise ValueError(f"{file}, line {number}: {error}; expected numbers separated by commas") from error
        if rows and len(rows[-1]) != len(rows[0]):
            raise ValueError(f"{file}, line {number}: {len(rows[-1])} values, but {len(rows[0])} in the lines before")
    return np.array(rows, np.float64)


def _table(saved: Saved, outputs: np.ndarray, y: np.ndarray | None) -> list[str]:
    """The lines about the first samples, and the score where targets are known."""
    count = len(outputs)
    columns = [["sample", *map(str, range(min(count, _SHOWN)))]]
    if saved.classes:
        chosen = outputs.argmax(-1)
        columns += [["prediction", *(saved.classes[i] for i in chosen[:_SHOWN])]]
        columns += [["probability", *(f"{outputs[i, chosen[i]]:.3f}" for i in range(min(count, _SHOWN)))]]
    else:
        columns += [["prediction", *(f"{value:.4g}" for value in outputs[:_SHOWN])]]
    if y is not None:
        names = [saved.classes[int(label)] if saved.classes else f"{float(label):.4g}" for label in np.ravel(y)[:_SHOWN]]
        columns += [["true", *names]]
    widths = [max(map(len, column)) for column in columns]
    padded = ([f"{cell:>{width}}" for cell in column] for column, width in zip(columns, widths, strict=True))
    lines = ["  ".join(row) for row in zip(*padded, strict=True)]
    if count > _SHOWN:
        lines.append(f"and {count - _SHOWN:,} more")
    if y is not None and saved.classes:
        wrong = int((outputs.argmax(-1) != np.ravel(y)).sum())
        lines.append(f"accuracy {1 - wrong / count:.2%} ({wrong} of {count} wrong)")
    elif y is not None and count > 1:
        lines.append(f"R² {float(nn.metrics.r2(outputs, np.ravel(y).astype(np.float32))):.3f}")
    return lines


def _write(saved: Saved, outputs: np.ndarray, out: Path) -> None:
    if out.suffix == ".npy":
        with replacing(out) as temporary, open(temporary, "wb") as file:
            np.save(file, outputs)
        return
    if not saved.classes:
        rows: list[dict[str, object]] = [{"sample": i, "prediction": float(value)} for i, value in enumerate(outputs)]
    else:
        rows = [
            {"sample": i, "prediction": saved.classes[int(row.argmax())]}
            | {f"probability of {name}": float(share) for name, share in zip(saved.classes, row, strict=True)}
            for i, row in enumerate(outputs)
        ]
    replace_file(out, csv_text(list(rows[0]), rows))
