"""Run the benchmark scripts of this folder, and write their results as a table and a plot.

python -m bench [--rounds 5] [--out bench/results] [names of scripts, such as cnn attention]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NOT_BENCHMARKS = ("__main__", "common", "coverage", "picture")
SCRIPTS = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_BENCHMARKS)


def measure(names: list[str], rounds: int) -> tuple[list[dict], list[str]]:
    """Run each script in a separate process; return the tables and the names of the scripts that failed."""
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "tables.jsonl")
        record.touch()
        for name in names:
            command = [sys.executable, str(HERE / f"{name}.py"), "--rounds", str(rounds)]
            if subprocess.run(command, env=os.environ | {"JAXNN_BENCH_RECORD": str(record)}).returncode:
                failed.append(name)
        return [json.loads(line) for line in record.read_text().splitlines()], failed


def write_table(tables: list[dict], path: Path) -> None:
    """Write Markdown: for each workload, the median, spread and relative time of each contender."""
    lines = [
        "# Results",
        "",
        "Written by `python -m bench`. The last column is the contender's time divided by jaxnn's.",
        "",
    ]
    for table in tables:
        lines += [f"## {table['title']}", "", f"{table['machine']}. {table['rounds']} interleaved rounds, {table['unit']}.", ""]
        lines += ["| | median | min | max | / jaxnn |", "|---|---:|---:|---:|---:|"]
        lines += [
            f"| {name} | {m:.3f} | {low:.3f} | {high:.3f} | {r:.2f} |" for name, (m, low, high, r) in table["rows"].items()
        ]
        lines += [""]
    path.write_text("\n".join(lines))


def plot(tables: list[dict], path: Path) -> None:
    """Plot one row per workload: each contender's time divided by jaxnn's, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    peers = list(dict.fromkeys(name for t in tables for name in t["rows"] if name != t["ours"]))
    fig, ax = plt.subplots(figsize=(11, 1.5 + 0.45 * len(tables)), layout="constrained")
    markers = "osD^v<>Pp*hX"
    for i, name in enumerate(peers):
        points = [(t["rows"][name][3], row) for row, t in enumerate(tables) if name in t["rows"]]
        x, y = zip(*points, strict=True)
        ax.plot(x, y, markers[i % len(markers)], color=plt.get_cmap("tab20")(i % 20), label=name)
    ax.axvline(1, color="black", linewidth=1)
    ax.set(xscale="log", xlabel="time divided by jaxnn's; to the right of the line jaxnn is faster")
    ax.set_yticks(range(len(tables)), [t["title"] for t in tables], fontsize=8)
    ax.invert_yaxis()
    ax.grid(axis="x", which="both", alpha=0.3)
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    fig.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=SCRIPTS, help=f"any of {', '.join(SCRIPTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="path without suffix; .md and .png are added")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SCRIPTS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}; available are {', '.join(SCRIPTS)}")
    tables, failed = measure(options.names, options.rounds)
    if tables:
        write_table(tables, options.out.with_suffix(".md"))
        plot(tables, options.out.with_suffix(".png"))
        print(f"\nwritten: {options.out.with_suffix('.md')}, {options.out.with_suffix('.png')}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
