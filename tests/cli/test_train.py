"""The command `train`, from the arguments to the printed scores and the picture."""

import io
import itertools
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import jaxnn as nn
from jaxnn.data import load

RNG = np.random.default_rng(0)


def test_digits_end_to_end(run, tmp_path):
    code, out = run("--epochs", "2", "--seed", "1")
    assert code == 0
    assert "digits: 1294 samples for training, 144 for validation, 359 for testing" in out
    assert re.search(r"output .*\(B, 10\).* 1,290 ", out)  # 128 · 10 + 10
    assert "2 epochs" in out
    accuracy = float(re.search(r"test accuracy ([\d.]+)%", out)[1])
    assert accuracy > 60
    assert re.search(r"most confused: \d read as \d, \d+ of 3\d\n", out)
    assert re.search(r"time: [\d.]+ s, of which [\d.]+ s compiling", out)
    picture = tmp_path / "jaxnn-run" / "training.png"
    assert str(picture.relative_to(tmp_path)) in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_regression_reports_r_squared(run):
    code, out = run("train", "--data", "diabetes", "--epochs", "15", "--out", "a/b")
    assert code == 0
    assert float(re.search(r"test R² ([\d.-]+), mean squared error", out)[1]) > 0.2
    assert "accuracy" not in out
    assert os.path.exists("a/b/training.png")


@pytest.mark.slow
def test_equal_seeds_give_equal_numbers(run):
    argv = ("--data", "wine", "--epochs", "3", "--dropout", "0.2", "--init", "lecun", "--schedule", "linear")
    first, again, other = (run(*argv, "--seed", seed)[1] for seed in ("5", "5", "6"))
    assert "mlp, lecun initialization, adam at 0.01 (linear),\n3 epochs, batches of 16, seed 5" in first
    numbers = [re.search(r"test accuracy.*\n.*", out)[0] for out in (first, again, other)]
    assert numbers[0] == numbers[1] != numbers[2]


@pytest.mark.slow
def test_patience_stops_early(run):
    _, out = run("--data", "iris", "--epochs", "500", "--learning-rate", "0.05", "--patience", "3")
    done = int(re.search(r"stopped early after epoch (\d+)", out)[1])
    kept = int(re.search(r"the parameters are those of epoch (\d+)", out)[1])
    assert done < 500 and kept == done - 3


@pytest.mark.slow
def test_optimizer_schedule_and_weight_decay(run):
    argv = ("--data", "iris", "--epochs", "3", "--csv", "log.csv", "--optimizer")
    code, out = run(*argv, "sm3", "--schedule", "onecycle", "--learning-rate", "0.1", "--weight-decay", "1e-3")
    assert code == 0
    assert "sm3 at 0.1 (onecycle)" in out
    log = np.genfromtxt("log.csv", delimiter=",", names=True)
    assert log["loss"][-1] < log["loss"][0]
    assert log["learning_rate"].argmax() == 0 and log["learning_rate"][-1] < 2e-3


@pytest.mark.slow
def test_frozen_parameters_keep_their_initial_values(run):
    code, _ = run("--data", "iris", "--epochs", "3", "--csv", "log.csv", "--freeze", "dense/*", "--freeze", "output/*")
    assert code == 0
    losses = np.genfromtxt("log.csv", delimiter=",", names=True)["loss"]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)  # not exact: each epoch sums in another order


@pytest.mark.slow
def test_a_run_is_resumed_to_the_same_end(run, error, tmp_path):
    argv = ("--data", "iris", "--schedule", "constant", "--csv", "log.csv", "--checkpoint")
    _, whole = run(*argv, "whole", "--epochs", "6")
    run(*argv, "cut", "--epochs", "2", "--resume")  # nothing to resume yet: the same command starts and restarts a run
    assert re.search("cut already contains a run, at step 14; give --resume", error(*argv, "cut"))
    code, resumed = run(*argv, "cut", "--epochs", "6", "--resume")
    assert code == 0
    assert "trained for 6 epochs" in resumed
    numbers = [re.search(r"test accuracy.*\n.*", out)[0] for out in (whole, resumed)]
    assert numbers[0] == numbers[1]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 7
    message = error(*argv, "cut", "--resume", "--seed", "1", output=True)
    assert re.search("--resume cannot continue from cut: .*another key", message)
    message = error(*argv, "cut", "--resume", "--optimizer", "sgd", output=True)
    assert re.search("--resume cannot continue from cut: the checkpoint .*found", message)


def test_an_error_of_the_training_is_not_attributed_to_resume(run, capsys, monkeypatch):
    def fit(*args, **options):
        raise ValueError("the model has too many layers")

    monkeypatch.setattr(nn, "fit", fit)
    with pytest.raises(ValueError, match="^the model has too many layers$"):
        run("--data", "iris", "--checkpoint", "folder", "--resume")
    assert "--resume" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported(run, tmp_path):
    argv = ("--data", "iris", "--epochs", "2", "--checkpoint", "folder", "--resume")
    run(*argv)
    for manifest in (tmp_path / "folder").glob("*/manifest.json"):
        manifest.write_text("{}")
    with pytest.warns(RuntimeWarning, match="damaged checkpoint"):
        code, out = run(*argv)
    assert code == 0 and "trained for 2 epochs" in out


@pytest.mark.slow
def test_a_run_that_learned_nothing_says_so_and_a_picture_that_is_replaced(run):
    code, out = run("--data", "iris", "--epochs", "1", "--learning-rate", "1e-7", "--quiet")
    assert code == 0
    assert re.search(r"the validation loss [\d.]+ is no better than that of a constant guess, 1\.\d+: .*--learning-rate", out)
    assert out.startswith("trained for 1 epoch\n") and "picture: jaxnn-run/training.png\n" in out.replace(os.sep, "/")
    again = run("--data", "iris", "--epochs", "2", "--learning-rate", "0.01")[1]
    assert "constant guess" not in again
    assert "training.png, in place of an earlier one\n" in again


def test_divergence_is_reported(run):
    code, out = run("--data", "diabetes", "--learning-rate", "1e30", "--schedule", "constant")
    assert code == 1
    assert "try a lower --learning-rate" in out


def sequences(folder):
    labels = np.arange(60) % 2
    x = RNG.normal(size=(60, 5, 3)) + 3 * labels[:, None, None]
    np.savez(folder / "mine.npz", x=x, y=labels, x_test=x[:10], y_test=labels[:10])


def color_images(folder):
    labels = np.arange(60) % 3
    x = np.zeros((60, 9, 9, 3), np.uint8)
    x[np.arange(60), :, :, labels] = 200
    np.savez(folder / "mine.npz", x=x, y=labels)


def gray_regression(folder):
    x = RNG.integers(0, 256, (60, 8, 8), np.uint8)
    np.savez(folder / "mine.npz", x=x, y=x.mean((1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (sequences, "54 samples for training, 6 for validation, 10 for testing(.|\n)*rnn, fan-in(.|\n)*test accuracy"),
        (color_images, "43 samples for training, 5 for validation, 12 for testing(.|\n)*cnn, he(.|\n)*test accuracy"),
        (gray_regression, "cnn, he(.|\n)*test R²"),
    ],
)
def test_npz_files(run, tmp_path, write, words):
    write(tmp_path)
    code, out = run("--data", "mine.npz", "--epochs", "3")
    assert code == 0
    assert re.search(words, out)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_reports_the_completed_epochs(tmp_path):
    command = [sys.executable, "-m", "jaxnn", "--data", "iris", "--epochs", "1000000", "--schedule", "constant"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
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
def test_defaults_reach_their_bar(run, argv, seeds, bar):
    if "fashion-mnist" in argv:
        try:
            load("fashion-mnist")
        except FileNotFoundError:
            pytest.skip("Fashion-MNIST is not on this machine")
    outputs = [run(*argv.split(), "--seed", str(seed))[1] for seed in range(seeds)]
    scores = [float(re.search(r"test (?:accuracy|R²) ([\d.-]+)", out)[1]) for out in outputs]
    print(f"\n{argv}: mean {np.mean(scores):.4g} of {scores}")
    assert np.mean(scores) >= bar, scores


# --- files, terminals and signals ---


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_the_characters(run, monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    code, _ = run("--data", "diabetes", "--epochs", "1")
    assert code == 0
    stream.flush()
    assert b"test R" in stream.buffer.getvalue()


@pytest.mark.slow
def test_an_output_that_nothing_reads(run, tmp_path, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Broken())
    code, _ = run("--data", "iris", "--epochs", "1")
    assert code == 0 and (tmp_path / "jaxnn-run" / "training.png").exists()


def test_a_picture_that_cannot_be_written_is_an_error_before_the_training(error, tmp_path):
    (tmp_path / "folder" / "training.png").mkdir(parents=True)
    assert re.search(r"--out cannot write folder.training\.png: Is a directory", error("--data", "iris", "--out", "folder"))


@pytest.mark.slow
def test_more_epochs_with_a_schedule_of_the_run(run, error):
    argv = ("--data", "iris", "--checkpoint", "folder", "--resume", "--epochs")
    run(*argv, "1")
    code, out = run(*argv, "2")
    assert code == 0 and "trained for 2 epochs" in out
    message = error(*argv, "3", "--learning-rate", "9", output=True)
    assert "schedule of 'learning_rate'[0] was 0.01" in message and "choose another folder" in message


def interrupted(moments, *argv, started="epoch 1/"):
    """The return code, and what was written, of a command that gets Ctrl-C after each pause, once it trains."""
    command = [sys.executable, "-m", "jaxnn", "--data", "iris", "--epochs", "1000000", "--schedule", "constant", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        before = "".join(itertools.takewhile(lambda line: not line.startswith(started), process.stderr)) if started else ""
        for moment in moments:
            time.sleep(moment)
            process.send_signal(signal.SIGINT)
        out, after = process.communicate(timeout=120)
    return process.returncode, out, before + after


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.1])
def test_ctrl_c_twice_ends_at_once(tmp_path, pause):
    code, out, err = interrupted([0.3, pause], "--batch-size", "1")
    assert code == 130, err
    assert "jaxnn: interrupted" in err or "interrupted after epoch" in out
    assert "FATAL" not in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.parametrize("moment", [0.05, 0.15, 0.3, 0.6, 1.0, 1.5, 2.5, 4.0])
def test_ctrl_c_while_importing_and_compiling(tmp_path, moment):
    """Neither an abort, nor a signal's core, nor a module that is left half imported, nor a Ctrl-C that is lost."""
    code, out, err = interrupted([moment], started="")
    if "Could not import runpy" in err:  # Python itself had not started yet
        return
    assert code in (130, -signal.SIGINT), (code, err)
    assert "ImportError" not in err and "FATAL" not in err
