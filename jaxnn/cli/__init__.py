"""The command line: `python -m jaxnn` trains a network on real data, prints its test score, and saves it and a picture."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from jaxnn.cli.arguments import parser as make_parser
from jaxnn.cli.arguments import saved_parser

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code: 0, 1 if the training diverged, 130 after Ctrl-C. An invalid argument exits with code 2, through
        `SystemExit` as in argparse.
    """
    started = time.perf_counter()
    argv = sys.argv[1:] if argv is None else argv
    parser = saved_parser(argv[0]) if argv[:1] in (["predict"], ["export"]) else make_parser(sweep="sweep" in argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # of characters that an encoding lacks, such as ±
    try:
        arguments = parser.parse_args(argv)
        from jaxnn.train.interrupts import deferred_interrupt

        # Also while modules are imported: an exception in the start of an extension module would abort the process.
        with deferred_interrupt() as interrupted:
            return _run(parser, arguments, interrupted, started)
    except KeyboardInterrupt:
        print("\njaxnn: interrupted", file=sys.stderr)
        return 130


def _run(parser: ArgumentParser, arguments: Any, interrupted: Callable[[], bool], started: float) -> int:
    from jaxnn.cli import export, job, predict, sweep, train  # after parsing, so that --help and most errors come at once
    from jaxnn.disk_cache import compilation_cache
    from jaxnn.io.leaves import MismatchError
    from jaxnn.train.watching import say

    try:
        cache = compilation_cache()
        if arguments.command in ("predict", "export"):
            return (predict if arguments.command == "predict" else export).run(arguments)
        prepared = job.prepare(arguments)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    if interrupted():
        raise KeyboardInterrupt
    if cache is not None and not arguments.quiet:
        say(f"compiled programs: {cache}")
    try:
        return (sweep if arguments.command == "sweep" else train).run(prepared, started)
    except (MismatchError, BlockingIOError) as error:  # no other error comes from resuming
        parser.error(f"--resume cannot continue from {arguments.checkpoint}: {error}")
