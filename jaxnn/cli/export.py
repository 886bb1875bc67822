"""The command `export`: a saved network as a StableHLO program, and its weights as safetensors or npz."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

import jax.numpy as jnp

import jaxnn as nn
from jaxnn.cli import report
from jaxnn.cli.saved import Saved, flat, read, write_npz
from jaxnn.io import stablehlo
from jaxnn.train.table_files import check_writable


def run(arguments: Namespace) -> int:
    """Run the command.

    Args:
        arguments: What the parser returns.

    Returns:
        The exit code.

    Raises:
        ValueError: The run or a file is not as expected.
        OSError: A file cannot be read or written.
        ImportError: A required package is not installed.
    """
    saved = read(arguments.run)
    files = arguments.file or [arguments.run / "model.stablehlo", arguments.run / "weights.npz"]
    for file in files:
        if file.suffix not in _WRITERS:
            raise ValueError(f"{file}: a network is exported to files {', '.join(_WRITERS)}")
        check_writable("export", file)
    for file in files:
        what, write = _WRITERS[file.suffix]
        report.saying_what_is_replaced(what, file, partial(write, saved, file))
    if any(file.suffix == ".stablehlo" for file in files):
        result = f"probabilities (n, {len(saved.classes)})" if saved.classes else "predictions (n,)"
        report.tell(f"from samples float32 (n, {', '.join(map(str, saved.shape))}), as loaded, to {result}")
    return 0


def _write_program(saved: Saved, file: Path) -> None:
    def function(x):
        return saved.outputs(x, lambda x: saved.model.apply(saved.params, saved.state, x)[0], jnp)

    stablehlo.write(file, function, saved.shape, jnp.float32)


def _write_safetensors(saved: Saved, file: Path) -> None:
    nn.io.save(file, {"params": saved.params, "state": saved.state})


def _write_npz(saved: Saved, file: Path) -> None:
    write_npz(file, flat(saved.params, saved.state))


_WRITERS = {
    ".stablehlo": ("program", _write_program),
    ".safetensors": ("weights", _write_safetensors),
    ".npz": ("weights", _write_npz),
}
