"""Execute the notebooks, and write their outputs into them or compare these with the committed ones.

`python notebooks/regenerate.py [NOTEBOOK...]` writes, all notebooks by default; `--check` compares. An error in a cell ends it.

What is written differs from run to run in numbers only: no times, no counters, no addresses in memory, of a progress bar the
last line, and of pictures 64 colors.

Compared are, cell by cell, the number of outputs, the kinds of each (text, HTML, picture), and which words the text has, NaN
and infinity among them. Numbers are not compared, nor is the order of words: processors round differently, so that the best
of two networks may be the other one; what a network must reach, the notebooks assert. Of pictures, and of cells with the tag
`varies`, such as those that print what a network wrote, only the kinds are compared.
"""

import argparse
import base64
import difflib
import io
import re
import sys
import time
import zlib
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

NUMBER = re.compile(r"\d[\d.,:]*(?:e[-+]?\d+)?(?: ?(?:[nµm]?s|min|[kKMG]i?B)\b)?")  # 1e-05, 0.5, 2 s, 00:02, 230 kB
TAG = re.compile(r"<[^<>]*>")
WORD = re.compile(r"[^\W\d_]{2,}")
UUID = r"[0-9a-f]{32}"
FRAME = re.compile(r"(data:image/png;base64,)([\w+/=\\\n]+)")


def main() -> None:
    """Write or check the notebooks given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="by default all", metavar="NOTEBOOK")
    parser.add_argument("--check", action="store_true", help="compare the outputs with the committed ones, and write nothing")
    arguments = parser.parse_args()
    differences = []
    for path in arguments.notebooks or sorted(Path(__file__).parent.glob("*.ipynb")):
        start, committed = time.monotonic(), nbformat.read(path, as_version=4)
        executed = execute(committed, path.parent)
        if arguments.check:
            differences += compare(path.name, committed, executed)
        else:
            path.write_text(nbformat.writes(executed) + "\n", encoding="utf-8")
        print(f"{path.name}: {time.monotonic() - start:.0f} s, {len(nbformat.writes(executed)) // 2**10} KiB", flush=True)
    if differences:
        print(*differences, sep="\n")
        sys.exit("outputs differ from the committed ones; if that is intended, run python notebooks/regenerate.py")


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Return a copy of the notebook with the outputs of its execution, normalized."""
    notebook = nbformat.from_dict(notebook)
    nbclient.NotebookClient(
        notebook,
        timeout=900,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in map(normalized, cell.outputs) if output.get("text") != ""]
    return notebook


def normalized(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an output without what differs from run to run."""
    if output.output_type == "stream":
        output.text = re.sub(r"[^\n]*\r(?=[^\n])|\r", "", output.text)  # what a terminal would have overwritten
        return output
    if "execution_count" in output:
        output.execution_count = None
    output.metadata = {}
    for kind, content in output.data.items():
        if kind == "image/png":
            output.data[kind] = fewer_colors(content)
        elif kind.startswith("text/"):
            content = FRAME.sub(lambda frame: frame[1] + fewer_colors(frame[2].replace("\\\n", "")), content)  # of animations
            content = re.sub(r" at 0x[0-9a-f]+", "", content)
            identity = f"{zlib.crc32(re.sub(UUID, '', content).encode()):08x}"
            output.data[kind] = re.sub(UUID, identity, content)  # of an animation
    return output


def fewer_colors(picture: str) -> str:
    """Return a PNG of 64 colors, as base64 like the one given."""
    image, file = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), io.BytesIO()
    image.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def compare(name: str, committed: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> list[str]:
    """Return the differences of two notebooks with equal cells, as lines."""
    differences = []
    for number, (old, new) in enumerate(zip(committed.cells, executed.cells, strict=True)):
        if old.cell_type == "code":
            varies = "varies" in old.metadata.get("tags", ())
            texts = [comparable(cell.outputs, varies) for cell in (old, new)]
            lines = list(difflib.unified_diff(*texts, "committed", "now", n=0, lineterm=""))
            differences += [f"{name}, cell {number}:", *lines] if lines else []
    return differences


def comparable(outputs: list[nbformat.NotebookNode], varies: bool) -> list[str]:
    """Return the lines of outputs that are compared."""
    lines = []
    for output in outputs:
        data = {output.name: output.text} if output.output_type == "stream" else output.data
        for kind, content in sorted(data.items()):
            lines.append(f"{output.output_type} {kind}")
            if not varies and not kind.startswith("image/png"):
                lines += sorted(set(WORD.findall(NUMBER.sub(" ", TAG.sub(" ", FRAME.sub("", content))))))
    return lines


if __name__ == "__main__":
    main()
