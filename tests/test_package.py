"""The package as such: what importing it costs and brings, and what it says it offers."""

import operator
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn as nn

ROOT = Path(nn.__file__).parent


def test_importing_jaxnn_costs_next_to_nothing_on_top_of_jax_and_optax():
    """What `-X importtime` counts below `jaxnn` against all the rest; the least of five, to leave out the machine's load.

    The garbage collector is off: its one pass over all that JAX made, 50 ms, falls to whoever crosses its threshold.
    """

    def share() -> float:
        command = [sys.executable, "-X", "importtime", "-c", "import gc; gc.disable(); import jax, optax, jaxnn"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        lines = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)", report)
        (ours,) = [int(cumulative) for _, cumulative, name in lines if name == "jaxnn"]
        return ours / (sum(int(own) for own, _, _ in lines) - ours)

    assert min(share() for _ in range(5)) < 0.15


def test_importing_jaxnn_pulls_in_none_of_the_extras():
    program = (
        "import sys, jax, optax; before = set(sys.modules); import jaxnn\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    brought = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert brought <= {"jaxnn", "jax", "jaxlib", "optax", "chex", "numpy"}


def test_every_public_name_is_there_and_documented():
    for name in nn.__all__:
        value = getattr(nn, name)
        assert getattr(value, "__doc__", None), name
    assert len(set(nn.__all__)) == len(nn.__all__)


def test_every_name_in_the_readme_is_there():
    """Those of the examples and of the table of other libraries' names."""
    names = set(re.findall(r"\bnn((?:\.[A-Za-z_]\w*)+)", (ROOT.parent / "README.md").read_text(encoding="utf-8")))
    assert len(names) > 30
    for name in names:
        operator.attrgetter(name[1:])(nn)


FORBIDDEN = {
    "functional": "core|layers|models|train|inspect|data|population|autodiff|distributed|io",
    "kernels": r"core(?!\.primitives)|functional|layers|models|train|inspect|data|population|autodiff|distributed|io",
    "core": "functional|kernels|layers|models|train|inspect|data|population|autodiff|distributed|io",
    "layers": "models|train|inspect|data|population|autodiff|distributed|io",
    "train": "layers|models|data|population|autodiff|distributed",
    "inspect": "layers|models|train|data|population|autodiff|distributed|io",
    "io": "functional|kernels|layers|models|train|inspect|data|population|autodiff|distributed",
    "data": "core|functional|kernels|layers|models|train|inspect|population|autodiff|distributed|io",
}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room):
    pattern = re.compile(rf"^\s*(?:from jaxnn(?:\.| import )|import jaxnn\.)({FORBIDDEN[room]})\b", re.MULTILINE)
    for file in (ROOT / room).glob("*.py"):
        assert not pattern.findall(file.read_text()), file


def test_training_asks_for_pictures_checkpoints_and_diagnoses_only_where_it_uses_them():
    at_import = re.compile(r"^(?:from jaxnn(?:\.| import )|import jaxnn\.)(inspect|io)\b", re.MULTILINE)
    for file in (ROOT / "train").glob("*.py"):
        assert not at_import.findall(file.read_text()), file


def test_it_is_typed():
    assert (ROOT / "py.typed").exists()
