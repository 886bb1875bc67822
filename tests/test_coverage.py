"""The comparison with other libraries: its names and tests exist, and the table is what the script writes."""

import ast
import functools
import importlib.util
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@functools.cache
def script():
    spec = importlib.util.spec_from_file_location("coverage_of_the_peers", ROOT / "bench" / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows():
    return [row for group in script().ROWS.values() for row in group]


@functools.cache
def defined_in(file):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_has_a_name_and_a_test():
    for row in rows():
        assert bool(row.ours) == bool(row.test), row.what
        if row.ours:
            script().look_up("jaxnn", row.ours)
            file, name = row.test.split("::")
            assert name in defined_in(file), row.test


def test_the_page_has_the_rows_and_the_column_of_jaxnn():
    text = script().PAGE.read_text()
    written = text.split(script().BEGIN)[1].split(script().END)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")][1:3] for line in written]
    assert cells == [[row.what, script().ours(row)] for row in rows()]


@pytest.mark.slow  # importing all libraries takes long
def test_the_columns_of_the_other_libraries_are_current(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for peer in ("flax", "equinox", "haiku", "keras", "torch"):
        pytest.importorskip(peer)
    with warnings.catch_warnings(action="ignore"):
        assert script().table() in script().PAGE.read_text()


def test_a_removed_name_is_an_error():
    for removed in ("convolve", "conv:paddings", "inspect.nothing"):
        with pytest.raises(AttributeError, match=removed.rpartition(".")[2].rpartition(":")[2]):
            script().look_up("jaxnn", removed)
