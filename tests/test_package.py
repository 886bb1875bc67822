"""The package as such: what importing it costs and brings, and what it says it offers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn as nn

ROOT = Path(nn.__file__).parent


def test_importing_jaxnn_costs_next_to_nothing_on_top_of_jax_and_optax():
    """Its own modules' share of `-X importtime`, which does not swing with the machine's load as two wall times do."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import jax, optax, jaxnn"], capture_output=True, text=True, check=True
    )
    lines = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \|(\s+)(\S+)", done.stderr)
    total = sum(int(own) for own, _, _, _ in lines)
    (cumulative,) = [int(c) for _, c, _, name in lines if name == "jaxnn"]
    assert cumulative / (total - cumulative) < 0.15


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


FORBIDDEN = {
    "functional": "core|layers|models|train|inspect|data|population|autodiff|distributed|io",
    "kernels": "core|functional|layers|models|train|inspect|data|population|autodiff|distributed|io",
    "core": "functional|kernels|layers|models|train|inspect|data|population|autodiff|distributed|io",
    "layers": "models|train|inspect|data|population|autodiff|distributed|io",
    "train": "layers|models|inspect|data|population|autodiff|distributed|io",
    "inspect": "layers|models|train|data|population|autodiff|distributed|io",
    "data": "core|functional|kernels|layers|models|train|inspect|population|autodiff|distributed|io",
}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room):
    pattern = re.compile(rf"^\s*(?:from jaxnn(?:\.| import )|import jaxnn\.)({FORBIDDEN[room]})\b", re.MULTILINE)
    for file in (ROOT / room).glob("*.py"):
        assert not pattern.findall(file.read_text()), file


def test_it_is_typed():
    assert (ROOT / "py.typed").exists()
