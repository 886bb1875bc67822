"""The command line: every mistake is one line that says what is allowed, and a run leaves numbers and a picture."""

import argparse
import functools
import itertools
import os
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxnn.__main__ import OTHERWISE, RECIPES, SUITS, _model, _optimizer, _schedule, main
from jaxnn.data import NAMES, from_arrays, load

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(capsys, *argv):
    code = main(list(argv))
    return code, capsys.readouterr().out


def mistake(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("jaxnn: error: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--model vgg", "--model: invalid choice: 'vgg' .*mlp.*cnn.*rnn"),
        ("--schedule poly", "--schedule: .*constant.*linear.*exponential.*inverse.*cyclic.*cosine"),
        ("--activation step", "--activation: .*relu.*leaky_relu.*elu.*tanh.*sigmoid"),
        ("--init zeros", "--init: .*random.*xavier.*he"),
        ("--data digit", "unknown data set 'digit'; did you mean digits.*iris.*FILE.npz"),
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
        ("--optimizer adan2", "unknown optimizer 'adan2'; did you mean adan.*There are adabelief, .*sgd.*yogi"),
        ("--optimizer lbfgs --weight-decay 0.1", "lbfgs takes no weight decay"),
        (
            "--data iris --freeze body/*",
            "--freeze body/.: the pattern 'body/.' matches no path; there are dense/bias, .*output",
        ),
        ("--resume", "--resume needs to know where the run is: give --checkpoint DIR"),
        ("--csv .", "csv_log .*"),
        ("--patience 0", "--patience: '0' is not allowed"),
        ("--seed -1", "--seed: '-1' is not allowed; expected a whole number, from 0 to 4294967295"),
        ("--seed 4294967296", "--seed: '4294967296' is not allowed"),
        ("--seed", "--seed: expected one argument"),
        ("--epoch 3", r"unknown argument '--epoch' \(did you mean --epochs\?\); known are train, .*--patience"),
        ("--learning-rates=3", r"did you mean --learning-rate\?"),
        ("train twice", "unknown argument 'twice'"),
        ("test", "unknown command 'test'; expected train or sweep"),
        ("sweep", "sweep needs something to try: --grid learning_rate="),
        ("--seeds 3", "--grid and --seeds are of the command sweep"),
        ("sweep --grid units=3", "'units=3' is not allowed; expected NAME=V,V with a name of learning_rate, .*batch_size"),
        ("sweep --grid dropout=0.1,1", "--grid: '1' is not allowed; expected a number at least 0 and below 1"),
        ("sweep --grid activation=relu,step", "'step' is not allowed; expected one of relu"),
        ("--model cnn --data iris", "--model cnn cannot take the data 'iris'.*tables of shape .4,.; allowed: mlp"),
        ("train --model rnn --data diabetes", "--model rnn cannot take the data 'diabetes'.*allowed: mlp"),
        ("--model rnn --activation relu", "--activation is not for rnn.*allowed with mlp and cnn"),
    ],
)
def test_mistakes(capsys, argv, words):
    assert re.search(words, mistake(capsys, *argv.split()))


@pytest.mark.parametrize(
    ("arrays", "argv", "words"),
    [
        ({"x": np.zeros((9, 2))}, "", "has no array y"),
        ({"x": np.full((9, 2), np.nan), "y": np.zeros(9, int)}, "", "18 values that are NaN"),
        ({"x": np.zeros((3, 2)), "y": np.arange(3)}, "", "cannot be split"),
        ({"x": np.zeros((9, 2)), "y": np.zeros(9, int)}, "", "one class only.*expected two or more"),
        ({"x": np.zeros((9, 5, 2)), "y": np.arange(9) % 2}, "--model cnn", "are sequences .*allowed: rnn, mlp"),
    ],
)
def test_mistakes_in_a_file(capsys, arrays, argv, words):
    np.savez("mine.npz", **arrays)
    assert re.search(words, mistake(capsys, "--data", "mine.npz", *argv.split()))


def test_a_folder_that_cannot_be(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert "--out file cannot be made: File exists" in mistake(capsys, "--data", "iris", "--out", "file")


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    options = (
        "data model epochs batch-size optimizer learning-rate weight-decay freeze schedule activation init dropout patience "
        "seed out csv checkpoint resume"
    )
    for option in options.split():
        assert f"--{option} " in text
    for name in NAMES:
        assert name in text.replace("-\n                        ", "-")


def test_recipes_are_for_known_data_and_models():
    models = {model for _, suited in SUITS.values() for model in suited}
    assert set(OTHERWISE) == models
    for name, model in RECIPES:
        assert name in NAMES and model in models


def test_digits_end_to_end(capsys, tmp_path):
    code, out = run(capsys, "--epochs", "2", "--seed", "1")
    assert code == 0
    assert "digits: 1294 samples to train on, 144 to validate, 359 to test" in out
    assert re.search(r"output .*\(B, 10\).* 1,290 ", out)  # 128 · 10 + 10
    assert "2 epochs" in out
    accuracy = float(re.search(r"test accuracy ([\d.]+)%", out)[1])
    assert accuracy > 60
    assert re.search(r"most confused: \d read as \d, \d+ of 3\d\n", out)
    assert re.search(r"time: [\d.]+ s, of which [\d.]+ s compiling", out)
    picture = tmp_path / "jaxnn-run" / "training.png"
    assert str(picture.relative_to(tmp_path)) in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_regression_reports_r_squared(capsys):
    code, out = run(capsys, "train", "--data", "diabetes", "--epochs", "15", "--out", "a/b")
    assert code == 0
    assert float(re.search(r"test R² ([\d.-]+), mean squared error", out)[1]) > 0.2
    assert "accuracy" not in out
    assert os.path.exists("a/b/training.png")


def test_same_seed_same_numbers(capsys):
    argv = ("--data", "wine", "--epochs", "3", "--dropout", "0.2", "--init", "lecun", "--schedule", "linear")
    first, again, other = (run(capsys, *argv, "--seed", seed)[1] for seed in ("5", "5", "6"))
    assert "mlp, lecun initialization, adam at 0.01 (linear), 3 epochs, batches of 16, seed 5" in first
    numbers = [re.search(r"test accuracy.*\n.*", out)[0] for out in (first, again, other)]
    assert numbers[0] == numbers[1] != numbers[2]


@pytest.mark.parametrize(
    ("schedule", "second_epoch", "last_epoch"),  # of ten, by the formulas, in units of the rate
    [
        ("constant", 1.0, 1.0),
        ("linear", 0.9, 0.1),
        ("exponential", 0.01**0.1, 0.01**0.9),
        ("inverse", 1 / 2, 1 / 10),
        ("cosine", (1 + np.cos(0.1 * np.pi)) / 2, (1 + np.cos(0.9 * np.pi)) / 2),
    ],
)
def test_schedules(schedule, second_epoch, last_epoch):
    rate = _schedule(schedule, 0.5, epochs=10, per_epoch=5)
    np.testing.assert_allclose([rate(0), rate(5), rate(45)], [0.5, 0.5 * second_epoch, 0.5 * last_epoch], rtol=1e-5)


def test_cyclic_schedule_ends_lower_than_it_began():
    rates = np.array([_schedule("cyclic", 0.5, 16, 1)(step) for step in range(17)])
    np.testing.assert_allclose(rates[::2], [0.05, 0.5, 0.05, 0.275, 0.05, 0.1625, 0.05, 0.10625, 0.05], rtol=1e-5)


def test_onecycle_rises_and_falls():
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        rates = np.array([_schedule("onecycle", 0.5, 10, 10)(step) for step in (0, 30, 100)])
    np.testing.assert_allclose(rates, [0.5 / 25, 0.5, 0.5 / 25e4], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        ("random", 0.05),
        ("xavier", np.sqrt(1 / (3 * 400))),
        ("glorot", np.sqrt(2 / (400 + 100))),
        ("he", np.sqrt(2 / 400)),
        ("lecun", np.sqrt(1 / 400)),
        ("orthogonal", np.sqrt(1 / 400)),
    ],
)
def test_inits(init, deviation):
    data = from_arrays(np.zeros((4, 400)), [0, 1, 0, 1])
    arguments = argparse.Namespace(model="mlp", init=init, activation="relu", dropout=0.0, hidden=(100,))
    params, _ = _model(arguments, data).init(jax.random.key(0), data.x)
    np.testing.assert_allclose(params["dense"]["kernel"].std(), deviation, rtol=0.02)


def test_patience_stops_early(capsys):
    _, out = run(capsys, "--data", "iris", "--epochs", "500", "--learning-rate", "0.05", "--patience", "3")
    done = int(re.search(r"stopped early after epoch (\d+)", out)[1])
    kept = int(re.search(r"the parameters are those of epoch (\d+)", out)[1])
    assert done < 500 and kept == done - 3


def test_a_sweep_prints_its_table_and_writes_picture_and_csv(capsys, tmp_path):
    argv = ["sweep", "--data", "iris", "--epochs", "4", "--seeds", "2"]
    argv += ["--grid", "learning_rate=0.01,0.0001", "--grid", "batch-size=16,32"]
    code, out = run(capsys, *argv)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["learning_rate", "batch_size", "loss", "accuracy", "val_loss", "val_accuracy"]
    assert lines[1].startswith("*  0.01 ")
    assert len([line for line in lines if " ± " in line]) == 4
    assert re.search(r"the best has loss [\d.]+, accuracy [\d.]+ on the test part", out)
    table = (tmp_path / "jaxnn-run" / "sweep.csv").read_text().splitlines()
    assert len(table) == 9
    assert table[0].startswith("learning_rate,batch_size,seed,loss,accuracy,val_loss,val_accuracy,epoch,epochs,status")
    assert (tmp_path / "jaxnn-run" / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_optimizers_and_weight_decay(capsys):
    argv = ("--data", "iris", "--epochs", "3", "--csv", "log.csv", "--optimizer")
    code, out = run(capsys, *argv, "sm3", "--schedule", "onecycle", "--learning-rate", "0.1", "--weight-decay", "1e-3")
    assert code == 0
    assert "sm3 at 0.1 (onecycle)" in out
    log = np.genfromtxt("log.csv", delimiter=",", names=True)
    assert log["loss"][-1] < log["loss"][0]
    assert log["learning_rate"].argmax() == 0 and log["learning_rate"][-1] < 2e-3
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    for name in ("noisy_sgd", "adamw"):
        made = _optimizer(argparse.Namespace(optimizer=name, weight_decay=0.5, seed=1, freeze=[]))(learning_rate=0.1)
        assert jax.tree.leaves(made.init(params))


def test_frozen_parameters_stay_as_drawn(capsys):
    code, _ = run(capsys, "--data", "iris", "--epochs", "3", "--csv", "log.csv", "--freeze", "dense/*", "--freeze", "output/*")
    assert code == 0
    losses = np.genfromtxt("log.csv", delimiter=",", names=True)["loss"]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)  # all of them: the epochs differ in the order of their sums
    made = _optimizer(argparse.Namespace(optimizer="sgd", weight_decay=0.5, seed=1, freeze=["dense/*"]))(learning_rate=0.1)
    params = {name: {"kernel": np.ones((2, 2), np.float32)} for name in ("dense", "output")}
    updates, _ = made.update(params, made.init(params), params)
    assert (updates["dense"]["kernel"] == 0).all()
    np.testing.assert_allclose(updates["output"]["kernel"], -0.1 * 1.5, rtol=1e-6)


def test_a_run_is_resumed_to_the_same_end(capsys, tmp_path):
    argv = ("--data", "iris", "--schedule", "constant", "--csv", "log.csv", "--checkpoint")
    _, whole = run(capsys, *argv, "whole", "--epochs", "6")
    run(capsys, *argv, "cut", "--epochs", "2", "--resume")  # of nothing: the same command serves a first and a later start
    assert re.search("cut has a run already, at step 14; expected --resume", mistake(capsys, *argv, "cut"))
    code, resumed = run(capsys, *argv, "cut", "--epochs", "6", "--resume")
    assert code == 0
    assert "trained for 6 epochs" in resumed
    numbers = [re.search(r"test accuracy.*\n.*", out)[0] for out in (whole, resumed)]
    assert numbers[0] == numbers[1]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 7
    with pytest.raises(SystemExit) as caught:
        main([*argv, "cut", "--resume", "--seed", "1"])
    assert caught.value.code == 2
    assert re.search("--resume cannot go on from cut: .*another key", capsys.readouterr().err)


def test_a_checkpoint_folder_that_cannot_be(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert "--checkpoint file cannot be made: File exists" in mistake(capsys, "--data", "iris", "--checkpoint", "file")


def test_divergence_is_said(capsys):
    code, out = run(capsys, "--data", "diabetes", "--learning-rate", "1e30", "--schedule", "constant")
    assert code == 1
    assert "try a lower --learning-rate" in out


def sequences(folder):
    labels = np.arange(60) % 2
    x = RNG.normal(size=(60, 5, 3)) + 3 * labels[:, None, None]
    np.savez(folder / "mine.npz", x=x, y=labels, x_test=x[:10], y_test=labels[:10])


def colour_images(folder):
    labels = np.arange(60) % 3
    x = np.zeros((60, 9, 9, 3), np.uint8)
    x[np.arange(60), :, :, labels] = 200
    np.savez(folder / "mine.npz", x=x, y=labels)


def grey_regression(folder):
    x = RNG.integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(folder / "mine.npz", x=x, y=x.mean((1, 2)))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (sequences, "54 samples to train on, 6 to validate, 10 to test(.|\n)*rnn, xavier(.|\n)*test accuracy"),
        (colour_images, "43 samples to train on, 5 to validate, 12 to test(.|\n)*cnn, he(.|\n)*test accuracy"),
        (grey_regression, "cnn, he(.|\n)*test R²"),
    ],
)
def test_own_files(capsys, tmp_path, write, words):
    write(tmp_path)
    code, out = run(capsys, "--data", "mine.npz", "--epochs", "3")
    assert code == 0
    assert re.search(words, out)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_reports_what_was_reached(tmp_path):
    command = [sys.executable, "-m", "jaxnn", "--data", "iris", "--epochs", "1000000", "--schedule", "constant"]
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # in the background a shell has SIGINT ignored
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, preexec_fn=listen) as process:
        lines = itertools.takewhile(lambda line: not line.startswith("epoch 1/"), process.stderr)
        before = "".join(lines)
        process.send_signal(signal.SIGINT)
        out, after = process.communicate(timeout=60)
    assert process.returncode == 130, before + after
    assert re.search(r"interrupted after epoch \d+ of 1000000", out)
    assert "test accuracy" in out
    assert (tmp_path / "jaxnn-run" / "training.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "seeds", "bar"),
    [
        ("--data digits", 3, 98.5),
        ("--data digits --model mlp", 3, 97),
        ("--data digits --model rnn", 3, 96.5),
        ("--data iris", 5, 95),
        ("--data wine", 5, 95),
        ("--data breast-cancer", 5, 95),
        ("--data diabetes", 5, 0.42),
        ("--data fashion-mnist", 1, 91),
    ],
)
def test_defaults_reach_their_bar(capsys, argv, seeds, bar):
    if "fashion-mnist" in argv:
        try:
            load("fashion-mnist")
        except FileNotFoundError:
            pytest.skip("Fashion-MNIST is not on this machine")
    outputs = [run(capsys, *argv.split(), "--seed", str(seed))[1] for seed in range(seeds)]
    scores = [float(re.search(r"test (?:accuracy|R²) ([\d.-]+)", out)[1]) for out in outputs]
    print(f"\n{argv}: mean {np.mean(scores):.4g} of {scores}")
    assert np.mean(scores) >= bar, scores


def test_fashion_mnist_is_learned_in_ten_epochs():
    assert RECIPES["fashion-mnist", "cnn"].epochs <= 10
