"""The exercises, `tests/exercises/`: programs as a student writes them from README and docstrings, each in its own process."""

import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn as nn

SCRIPTS = sorted((Path(__file__).parent / "exercises").glob("*.py"))


def test_there_are_seventeen_short_exercises():
    assert len(SCRIPTS) == 17
    for script in SCRIPTS:
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, script.name
        assert "\nassert " in text, script.name


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_exercise(script, tmp_path):
    if script.stem == "fashion_mnist_cnn":
        try:
            nn.data.load("fashion-mnist")
        except FileNotFoundError:
            pytest.skip("Fashion-MNIST is not on this machine: apt install dataset-fashion-mnist")
    done = subprocess.run([sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []  # what a run writes, it was asked for
