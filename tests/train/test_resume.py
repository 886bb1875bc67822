"""A run that is killed and resumed gives the parameters, optimizer state and history of an uninterrupted run, bit for bit."""

import os
import random
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import jaxnn as nn

pytest.importorskip("orbax.checkpoint")
from jaxnn.io import Checkpoints

PROGRAM = """
import os, signal, sys
import numpy as np, jax, optax, jaxnn as nn
from jaxnn.io import Checkpoints
x = np.random.default_rng(0).normal(size=(103, 4)).astype(np.float32)
y = (x[:, 0] > 0).astype(np.int32)
store = Checkpoints(sys.argv[1])
moment, events = int(sys.argv[3]), 0  # a moment is an audit event of the interpreter: a file opened, a frame read, ...

def count(event, arguments):
    global events
    events += 1
    if events == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def rest(row, train_state):
    if row["epoch"] % 2:  # so that there are many checkpoints, some written during an epoch
        store.wait()
        if moment == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
result = nn.fit(
    lambda rate: nn.serial(nn.dense(8), nn.relu, nn.batch_norm(), nn.dropout(rate), nn.dense(2)), (x, y),
    loss=nn.losses.cross_entropy, optimizer=optax.adam, epochs=40, key=jax.random.key(0), batch_size=10, progress=False,
    hyperparameters={"learning_rate": 1e-2, "rate": 0.2}, validation=(x, y), metrics={"accuracy": nn.metrics.accuracy},
    callbacks=[nn.callbacks.ema(0.9), nn.callbacks.early_stopping(30), nn.callbacks.reduce_on_plateau(0.5, 3),
               nn.callbacks.Callback("rest", on_epoch=rest)],
    checkpoints=store)
total, moment = events, -1
leaves = {str(i): jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
          for i, leaf in enumerate(jax.tree.leaves((result.params, result.state, result.train_state)))}
np.savez(sys.argv[2], **leaves)
result.history.to_jsonl(sys.argv[2] + ".jsonl")
print(total)
"""


def train(folder, out, moment=-1):
    """Run the program, and kill it at a moment if it runs that long; at moment 0, kill it after its first checkpoint.

    What a whole run compiled is read by the next ones.

    Returns:
        The number of moments of the whole program; 0 if it was killed.
    """
    command = [sys.executable, "-c", PROGRAM, str(folder), str(out), str(moment)]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | cache)
    if done.returncode == -signal.SIGKILL:
        return 0
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def same(one, two):
    a, b = np.load(f"{one}.npz"), np.load(f"{two}.npz")
    assert a.files == b.files
    for name in a.files:
        assert a[name].tobytes() == b[name].tobytes(), name
    assert nn.History.from_jsonl(f"{one}.jsonl").same_as(nn.History.from_jsonl(f"{two}.jsonl"))


@pytest.mark.slow
def test_killed_at_25_random_moments(tmp_path):
    train(tmp_path / "first", tmp_path / "first-out")
    whole = train(tmp_path / "whole", tmp_path / "whole-out")
    moments, kills = random.Random(0), 0
    while kills < 25:
        folder, out = tmp_path / "cut", tmp_path / "cut-out"
        shutil.rmtree(folder, ignore_errors=True)
        while not train(folder, out, moments.randint(1, whole)):
            kills += 1
        same(tmp_path / "whole-out", out)


@pytest.mark.slow
def test_killed_once(tmp_path):
    train(tmp_path / "whole", tmp_path / "whole-out")
    assert not train(tmp_path / "cut", tmp_path / "cut-out", moment=0)
    assert train(tmp_path / "cut", tmp_path / "cut-out")
    same(tmp_path / "whole-out", tmp_path / "cut-out")


# --- in one process ---

X = np.random.default_rng(0).normal(size=(103, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
MODEL = nn.serial(nn.dense(8), nn.relu, nn.dropout(0.2), nn.dense(2))
OPTIMIZER = optax.adam(1e-2)


def fit(checkpoints=None, model=MODEL, **options):
    defaults = {
        "loss": nn.losses.cross_entropy,
        "optimizer": OPTIMIZER,
        "epochs": 4,
        "key": jax.random.key(0),
        "batch_size": 10,
    }
    return nn.fit(model, (X, Y), **{**defaults, **options}, checkpoints=checkpoints, progress=False)


@pytest.mark.slow
def test_a_run_that_failed_within_an_epoch_continues_from_there(tmp_path, monkeypatch):
    from jaxnn.train.executors import ArrayExecutor

    call, calls = ArrayExecutor.call, []

    def failing(self, state, steps):
        calls.append(int(state.step))
        if len(calls) == 7:
            raise MemoryError
        return call(self, state, 4)

    with monkeypatch.context() as patch:
        patch.setattr(ArrayExecutor, "call", failing)
        with pytest.raises(MemoryError):
            fit(Checkpoints(tmp_path, every=1e-9))
    assert calls[-1] == 24
    resumed, whole = fit(tmp_path), fit()
    assert resumed.history.same_as(whole.history)
    for a, b in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_checkpoints_of_another_run_are_rejected(tmp_path, compilations):
    fit(tmp_path)
    with pytest.raises(ValueError, match="another key"):
        fit(tmp_path, key=jax.random.key(1))
    with pytest.raises(ValueError, match="batch_size was 10, and is 20 now"):
        fit(tmp_path, batch_size=20)
    with pytest.raises(ValueError, match="params/dense/kernel"):
        fit(tmp_path, model=nn.serial(nn.dense(9), nn.relu, nn.dropout(0.2), nn.dense(2)))
    with pytest.raises(ValueError, match="opt_state"):
        fit(tmp_path, optimizer=optax.sgd(0.1, momentum=0.9))
    before = compilations()
    again = fit(tmp_path)
    assert compilations() == before
    assert len(again.history.rows) == 4


@pytest.mark.slow
def test_a_long_history_is_packed_once_and_old_checkpoints_have_rows(tmp_path, monkeypatch):
    from jaxnn.train import saver

    monkeypatch.setattr(saver, "EPOCHS", 3)
    packed, sizes = saver.packed, []
    monkeypatch.setattr(saver, "packed", lambda rows: sizes.append(len(rows)) or packed(rows))
    whole = fit(Checkpoints(tmp_path), epochs=8, batch_size=50)
    assert sizes == [1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    train_state, info = Checkpoints(tmp_path).restore(whole.train_state, step=whole.history["step"][-2])
    with Checkpoints(tmp_path) as store:
        store.save(int(train_state.step), train_state, {**info, "rows": None, "history": whole.history.rows[:7]})
    resumed = fit(Checkpoints(tmp_path), epochs=8, batch_size=50)
    assert resumed.history.same_as(whole.history)
    assert resumed.history["seconds"][:7] == whole.history["seconds"][:7]
    assert resumed.history["seconds"][7:] != whole.history["seconds"][7:]


def test_a_damaged_checkpoint_is_skipped(tmp_path):
    fit(Checkpoints(tmp_path), epochs=2)
    fit(Checkpoints(tmp_path), epochs=3)
    newest = max(tmp_path.glob("*-step-*"))
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(RuntimeWarning, match="skipped a damaged checkpoint"):
        resumed = fit(Checkpoints(tmp_path))
    assert resumed.history.same_as(fit().history)


@pytest.mark.slow
def test_the_best_checkpoint_is_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=1, best=("val_loss", "min"))
    result = fit(store, validation=(X, Y), callbacks=[nn.callbacks.Callback("each", on_epoch=lambda row, state: False)])
    rows = result.history.rows
    assert store.best() == min(rows, key=lambda row: row["val_loss"])["step"]


def test_a_failed_save_is_repeated(tmp_path, monkeypatch):
    from jaxnn.io import storage

    write, calls = storage.write, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no space left on the device")
        return write(*arguments)

    monkeypatch.setattr(storage, "write", failing)
    with pytest.warns(RuntimeWarning, match="no space left"):
        result = fit(Checkpoints(tmp_path))
    assert len(result.history.rows) == 4
    assert Checkpoints(tmp_path).steps()[-1] == int(result.train_state.step)


# --- what is saved, and to where ---


VALIDATION = X[:40], (X[:40, 1] > 0).astype(np.int32)  # on which the network soon gets worse


@pytest.mark.slow
def test_the_best_epoch_of_a_fast_run_is_kept(tmp_path):
    """However many epochs the machine makes per call."""
    store = Checkpoints(tmp_path, keep=1, best="val_loss", every=3600)
    history = fit(store, validation=VALIDATION, epochs=12, batch_size=50).history
    losses = history["val_loss"]
    assert 0 < np.argmin(losses) < 11  # neither the first nor the last
    assert store.best() == history["step"][int(np.argmin(losses))]
    assert store.steps() == [store.best(), history["step"][-1]]


def test_each_epoch_is_saved_if_no_time_is_given(tmp_path):
    store = Checkpoints(tmp_path, keep=100)
    assert store.steps() == [] and fit(store, epochs=6, batch_size=50).history["step"] == store.steps()


def test_a_best_metric_that_the_run_does_not_have(tmp_path, compilations):
    fit(epochs=1)
    before = compilations()
    with pytest.raises(ValueError, match=r"best=\('val_loss', 'min'\) names a metric .*; the metrics are loss$"):
        fit(Checkpoints(tmp_path, best="val_loss"), epochs=1)
    assert compilations() == before


def test_a_folder_that_disappears_loses_no_result(tmp_path):
    store = Checkpoints(tmp_path / "folder")

    def remove(row, train_state):
        if row["epoch"] == 2:
            store.wait()
            shutil.rmtree(tmp_path / "folder")

    with pytest.warns(RuntimeWarning, match="could not be written") as caught:
        result = fit(store, callbacks=[nn.callbacks.Callback("remove", on_epoch=remove)])
    assert len(caught) == 1 and result.stopped == "finished"
    assert result.history.same_as(fit().history)


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_told(tmp_path):
    pytest.importorskip("fcntl")
    told = []

    def second(row, train_state):
        with pytest.raises(BlockingIOError, match=r"another run is using the checkpoints in .*choose another folder"):
            fit(tmp_path)
        told.append(row["epoch"])

    fit(tmp_path, epochs=1, callbacks=[nn.callbacks.Callback("second", on_epoch=second)])
    assert told == [1]
    assert len(fit(tmp_path, epochs=2).history.rows) == 2  # released at the end

    def fail(history):
        raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"):
        fit(tmp_path, epochs=3, callbacks=[nn.callbacks.Callback("log", on_start=fail)])
    assert len(fit(tmp_path, epochs=3).history.rows) == 3  # and after an error


def test_a_second_process_in_the_same_folder_is_told(tmp_path):
    pytest.importorskip("fcntl")
    program = f"""if True:
        import sys
        from jaxnn.io import Checkpoints
        try:
            Checkpoints({str(tmp_path)!r}).claim()
        except BlockingIOError as error:
            print(error)
    """
    store = Checkpoints(tmp_path)
    store.claim()
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    finally:
        store.release()
    assert f"another run is using the checkpoints in {tmp_path}" in done.stdout
