"""Invalid arguments and the help: every message is one line that names what is allowed."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import jaxnn as nn
from jaxnn.cli import main
from jaxnn.data import NAMES


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--model vgg", "--model: invalid choice: 'vgg' .*mlp.*cnn.*rnn"),
        ("--schedule poly", "--schedule: .*constant.*linear.*exponential.*inverse.*cyclic.*cosine"),
        ("--activation step", "--activation: .*relu.*leaky_relu.*elu.*tanh.*sigmoid"),
        ("--init zeros", "--init: .*random.*fan-in.*glorot.*xavier.*he"),
        ("--data digit", "unknown data set 'digit'; did you mean 'digits'.*iris.*FILE.npz"),
        ("--data gone.npz", "there is no file gone.npz"),
        ("--epochs 0", "--epochs: '0' is not allowed; expected a whole number, at least 1"),
        ("--epochs 1.5", "--epochs: '1.5' is not allowed; expected a whole number"),
        ("--batch-size ten", "--batch-size: 'ten' is not allowed; expected a whole number, at least 1"),
        ("--learning-rate 0", "--learning-rate: '0' is not allowed; expected a number above 0"),
        ("--learning-rate nan", "--learning-rate: 'nan' is not allowed"),
        ("--learning-rate inf", "--learning-rate: 'inf' is not allowed"),
        ("--dropout 1", "--dropout: '1' is not allowed; expected a number at least 0 and below 1"),
        ("--dropout -0.1", "--dropout: '-0.1' is not allowed"),
        ("--weight-decay -1", "--weight-decay: '-1' is not allowed; expected a number at least 0"),
        ("--optimizer adan2", "unknown optimizer 'adan2'; did you mean 'adan'.*adabelief, .*sgd.*yogi"),
        ("--optimizer lbfgs --weight-decay 0.1", "lbfgs.* weight decay"),
        (
            "--data iris --freeze body/*",
            "--freeze body/.: the pattern 'body/.' matches no path; .*dense/bias, .*output",
        ),
        ("--resume", "--resume requires the folder of the run: give --checkpoint DIR"),
        ("--csv .", "csv_log .*"),
        ("--patience 0", "--patience: '0' is not allowed"),
        ("--seed -1", "--seed: '-1' is not allowed; expected a whole number, from 0 to 4294967295"),
        ("--seed 4294967296", "--seed: '4294967296' is not allowed"),
        ("--seed", "--seed: expected one argument"),
        ("--epoch 3", r"unknown argument '--epoch'; did you mean '--epochs'\? known arguments: .*--patience"),
        ("--learning-rates=3", r"did you mean '--learning-rate'\?"),
        ("train twice", "unknown argument 'twice'"),
        ("test", "unknown command 'test'; expected train, sweep, predict or export"),
        ("sweep", "sweep requires values to try: --grid learning_rate="),
        ("--seeds 3", "--grid and --seeds apply only to the command sweep"),
        (
            "sweep --grid units=3",
            "'units=3' is not allowed; expected NAME=V,V with one of the names learning_rate, .*batch_size",
        ),
        ("sweep --grid dropout=0.1,1", "--grid: '1' is not allowed; expected a number at least 0 and below 1"),
        ("sweep --grid activation=relu,step", "'step' is not allowed; expected one of relu"),
        ("sweep --grid optimizer=adam,adan2", "unknown optimizer 'adan2'; did you mean 'adan'"),
        ("sweep --grid optimizer=adam,lbfgs --grid weight_decay=0.1", "lbfgs.* weight decay"),
        ("--model cnn --data iris", "--model cnn cannot take the data 'iris'.*tables of shape .4,.; allowed: mlp"),
        ("train --model rnn --data diabetes", "--model rnn cannot take the data 'diabetes'.*allowed: mlp"),
        ("--model rnn --activation relu", "--activation does not apply to rnn.*allowed with mlp and cnn"),
    ],
)
def test_invalid_arguments(error, argv, words):
    assert re.search(words, error(*argv.split()))


@pytest.mark.parametrize(
    ("arrays", "argv", "words"),
    [
        ({"x": np.zeros((9, 2))}, "", "has no array y"),
        ({"x": np.full((9, 2), np.nan), "y": np.zeros(9, int)}, "", "18 values that are NaN"),
        ({"x": np.zeros((3, 2)), "y": np.arange(3)}, "", "cannot be split"),
        ({"x": np.zeros((9, 2)), "y": np.zeros(9, int)}, "", "only one class.*expected two or more"),
        ({"x": np.zeros((9, 5, 2)), "y": np.arange(9) % 2}, "--model cnn", "are sequences .*allowed: rnn, mlp"),
    ],
)
def test_invalid_files(error, arrays, argv, words):
    np.savez("mine.npz", **arrays)
    assert re.search(words, error("--data", "mine.npz", *argv.split()))


def test_an_output_folder_that_cannot_be_created(error, tmp_path):
    (tmp_path / "file").touch()
    assert "--out file cannot be created: File exists" in error("--data", "iris", "--out", "file")


def test_a_checkpoint_folder_that_cannot_be_created(error, tmp_path):
    (tmp_path / "file").touch()
    assert "--checkpoint file cannot be created: File exists" in error("--data", "iris", "--checkpoint", "file")


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    options = (
        "data model epochs batch-size optimizer learning-rate weight-decay freeze schedule activation init dropout patience "
        "seed out csv checkpoint resume quiet version"
    )
    assert "--grid" not in text
    for option in options.split():
        assert f"--{option} " in text
    for name in NAMES:
        assert name in text.replace("-\n                        ", "-")


@pytest.mark.parametrize("command", [(), ("sweep",)])
def test_help_fits_sixty_columns(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_sweep_has_its_own_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main(["sweep", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m jaxnn sweep --grid NAME=V,V [options]\n")
    assert "COMMAND" not in text and "--grid NAME=V,V " in text and "--seeds N " in text and "values of each network" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"jaxnn {nn.__version__}\n"


def test_help_tells_the_initializers_apart(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "fan-in: the form in the teaching notes, U(-sqrt(1/n), sqrt(1/n))" in text
    assert "glorot, also called xavier: the form of Glorot and Bengio" in text


def test_help_imports_neither_training_nor_pictures():
    program = (
        "import sys\nfrom jaxnn.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.startswith(('jaxnn.train', 'jaxnn.models', 'jaxnn.plots', 'matplotlib'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_console_script_is_the_command_line():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    module, _, function = tomllib.loads(text)["project"]["scripts"]["jaxnn"].partition(":")
    assert getattr(import_module(module), function) is main
