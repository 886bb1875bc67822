"""What only watches a run ends no run: its errors are warnings, once each."""

import io
import re
import sys
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.train.progress import Progress

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


def fit(**options):
    defaults = {"loss": nn.losses.mse, "optimizer": optax.sgd(0.1), "epochs": 3, "key": jax.random.key(0)}
    return nn.fit(nn.dense(1), (X, X[:, :1]), **{**defaults, **options})


def sweep(**options):
    return nn.sweep(
        nn.dense(1), (X, X[:, :1]), {"learning_rate": [0.1]}, loss=nn.losses.mse, optimizer=optax.sgd, epochs=2,
        key=jax.random.key(0), **options,
    )  # fmt: skip


class Stream:
    """A stream with the least that a stream has."""

    def write(self, text):
        pass

    def flush(self):
        pass


class Broken(Stream):
    def isatty(self):
        return False

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


class BrokenTerminal(Broken):
    def isatty(self):
        return True


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("stream", "fails"),
    [(None, False), (Stream(), False), (Broken(), True), (BrokenTerminal(), True), (closed(), True)],
    ids=["none", "without isatty", "closed pipe", "closed terminal", "closed"],
)
@pytest.mark.parametrize("train", [fit, sweep])
def test_progress_needs_no_usable_stderr(train, stream, fails, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    if not fails:
        train()
        return
    with pytest.warns(RuntimeWarning, match="^the display of progress failed, and the run continues") as caught:
        result = train()
    assert len(caught) <= 2  # of a sweep, the note at its end is another display
    assert result is not None


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_starts_after_compiling_and_shows_metrics_before_rates(monkeypatch):
    pytest.importorskip("tqdm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "80")
    fit(metrics={"mae": nn.metrics.mae})
    shown = [line.rstrip() for line in stream.getvalue().replace("\n", "\r").split("\r") if line.strip()]
    assert shown[0].startswith("compiling")
    assert "compiling" not in shown[-1]
    assert re.fullmatch(r"epoch 3/3  loss [\d.]+  mae [\d.]+ \S+ 100%  00:00<00:00(, [\d,]+ steps/s)?", shown[-1]), shown
    assert max(map(len, shown)) <= 80


@pytest.mark.parametrize(("columns", "shown"), [(100, "loss mae val_loss val_mae"), (72, "val_loss val_mae"), (50, "val_mae")])
def test_a_narrow_terminal_leaves_values_out_and_not_the_bar(columns, shown):
    progress = Progress(9, 10, shown=True)
    progress._bar = SimpleNamespace(ncols=columns)
    row = {"epoch": 3, "loss": 0.1234, "mae": 0.1234, "val_loss": 0.1234, "val_mae": 0.1234, "learning_rate": 0.1}
    assert progress._text(row) == "  ".join(["epoch 3/9", *(f"{name} 0.1234" for name in shown.split())])


def test_a_log_has_a_line_per_epoch_up_to_a_hundred_and_about_twenty_of_more(monkeypatch):
    for epochs, lines in ((3, 3), (250, 14)):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        fit(epochs=epochs)
        epochs_shown = [int(line.split()[1].partition("/")[0]) for line in stream.getvalue().splitlines()]
        assert epochs_shown[0] == 1 and epochs_shown[-1] == epochs
        assert len(epochs_shown) == lines


class Handle:
    """What IPython's `display` returns, and the texts that were shown in its place."""

    def __init__(self):
        self.shown = []

    def update(self, data, raw):
        self.shown.append(data["text/plain"])


@pytest.mark.parametrize("train", [fit, sweep])
def test_a_notebook_keeps_one_line(monkeypatch, capsys, train):
    pytest.importorskip("tqdm")
    handles = []
    kernel = SimpleNamespace(config={"IPKernelApp": {}})
    show = SimpleNamespace(display=lambda *_, **__: handles.append(Handle()) or handles[-1])
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel, display=show))
    monkeypatch.setitem(sys.modules, "IPython.display", show)
    train()
    [handle] = handles
    assert handle.shown[-1].startswith("epoch 3/3  loss " if train is fit else "1/1 members, 2/2 epochs")
    assert not any("\r" in text or not text for text in handle.shown)
    captured = capsys.readouterr()
    assert captured.out == "" and "epoch 3/3" not in captured.err


def test_an_encoding_without_the_characters(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.warns(RuntimeWarning, match="the display of progress failed.*UnicodeEncodeError"):
        result = fit(metrics={"größe": nn.metrics.mae})
    assert len(result.history["größe"]) == 3


def test_a_callback_that_watches_fails_with_one_warning():
    rows = []

    def on_row(row):
        rows.append(row)
        raise OSError("no space left on device")

    def on_end():
        raise ValueError("nothing to plot")

    watch = [nn.callbacks.Callback("log", on_row=on_row), nn.callbacks.Callback("picture", on_end=on_end)]
    with pytest.warns(RuntimeWarning) as caught:
        result = fit(callbacks=watch, progress=False)
    assert [str(warning.message) for warning in caught] == [
        "the callback 'log' failed, and the run continues: OSError: no space left on device",
        "the callback 'picture' failed, and the run continues: ValueError: nothing to plot",
    ]
    assert len(rows) == len(result.history["loss"]) == 3
    assert result.history.same_as(fit(progress=False).history)


def test_an_error_of_on_epoch_ends_the_run():
    def on_epoch(row, train_state):
        raise LookupError("pruned")

    with pytest.raises(LookupError, match="pruned"):
        fit(callbacks=[nn.callbacks.Callback("prune", on_epoch=on_epoch)], progress=False)


def test_a_log_that_another_run_replaces_is_left_to_it(tmp_path):
    """The run that is still writing is told; the file has the rows of the run that began last."""
    path = tmp_path / "log.csv"
    first, second = nn.callbacks.csv_log(path), nn.callbacks.csv_log(path)
    first.on_row({"epoch": 1, "loss": 1.0})
    second.on_row({"epoch": 1, "loss": 2.0})
    for epoch in (2, 3):
        with pytest.raises(OSError, match=r"another run has replaced .*log\.csv: give each run a file of its own"):
            first.on_row({"epoch": epoch, "loss": 1.0})
        second.on_row({"epoch": epoch, "loss": 2.0})
    assert path.read_text() == "epoch,loss\n1,2.0\n2,2.0\n3,2.0\n"
    second.on_end()
    first.on_row({"epoch": 1, "loss": 3.0})  # its next run
    first.on_end()
    assert path.read_text() == "epoch,loss\n1,3.0\n"


def test_one_log_for_two_runs_one_after_the_other(tmp_path):
    log = nn.callbacks.jsonl_log(tmp_path / "log.jsonl")
    fit(callbacks=[log], progress=False)
    second = fit(callbacks=[log], progress=False, optimizer=optax.sgd(0.2))
    assert nn.History.from_jsonl(tmp_path / "log.jsonl").same_as(second.history)


def test_a_removed_log_is_written_again(tmp_path):
    log = nn.callbacks.csv_log(tmp_path / "log.csv")
    log.on_row({"epoch": 1, "loss": 1.0})
    (tmp_path / "log.csv").unlink()
    log.on_row({"epoch": 2, "loss": 2.0})
    log.on_end()
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n2,2.0\n"


def test_a_picture_is_checked_before_the_run(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match=r"plot cannot write .*folder\.png: Is a directory"):
        nn.callbacks.plot(tmp_path / "folder.png").on_start(nn.History())
    with pytest.raises(ValueError, match=r"plot writes an image file.*got .*history\.csv; the formats: .*png"):
        nn.callbacks.plot(tmp_path / "history.csv").on_start(nn.History())
