"""How good the networks of the command line are, on held-out parts of real data: the means must reach these bars."""

import re

import numpy as np
import pytest

from jaxnn.__main__ import main

pytestmark = pytest.mark.slow

BARS = [
    ("digits", "cnn", 3, 98.5),
    ("digits", "mlp", 3, 97.0),
    ("digits", "rnn", 3, 96.5),
    ("iris", "mlp", 5, 95.0),
    ("wine", "mlp", 5, 95.0),
    ("breast-cancer", "mlp", 5, 95.0),
    ("diabetes", "mlp", 5, 0.42),
    ("fashion-mnist", "cnn", 1, 91.0),
]


@pytest.mark.parametrize(("data", "model", "seeds", "bar"), BARS, ids=[f"{data} {model}" for data, model, _, _ in BARS])
def test_the_bar_is_reached(data, model, seeds, bar, capsys, tmp_path):
    reached = []
    for seed in range(seeds):
        try:
            code = main(["train", "--data", data, "--model", model, "--seed", str(seed), "--out", str(tmp_path)])
        except SystemExit:
            said = capsys.readouterr().err
            if "apt install" in said:
                pytest.skip(said)
            raise
        out = capsys.readouterr().out
        assert code == 0
        assert data != "fashion-mnist" or int(re.search(r"trained for (\d+) epochs", out)[1]) <= 10
        reached.append(float(re.search(r"test (?:accuracy|R²) ([\d.]+)", out)[1]))
    print(f"\n{data} {model}: {np.mean(reached):.2f} {reached}")
    assert np.mean(reached) >= bar, reached
