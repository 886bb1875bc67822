"""`Checkpoints`: what is restored, kept and rejected, and that damage, full disks and killed processes are handled."""

import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn.io import Checkpoints, storage

pytest.importorskip("orbax.checkpoint")


class Pair(NamedTuple):
    first: Any
    second: Any


def raw(leaf):
    """Return the bits of a leaf; for a key, those of its data."""
    array = jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.asarray(array).tobytes()


def assert_same(left, right):
    """Check that structure, dtypes, shapes and bits are equal."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.dtype, a.shape, raw(a)) == (b.dtype, b.shape, raw(b))


def small(value=0.0):
    return {"dense": {"kernel": np.full((4, 3), value, np.float32), "bias": np.zeros(3, np.float32)}}


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# --- what is restored -----------------------------------------------------------------------------------------------------


def unusual_tree():
    """Return leaves of every kind, with bits that a conversion would change, at paths that are invalid file names."""
    nans = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000], np.uint32)
    params = {
        "nans": jax.lax.bitcast_convert_type(jnp.asarray(nans), jnp.float32),
        "negative zeros": jnp.full((3,), -0.0, jnp.float32),
        "bfloat16": jax.lax.bitcast_convert_type(jnp.asarray([0x7FC1, 0xFFFF, 0x8000], jnp.uint16), jnp.bfloat16),
        **{name: jnp.asarray([1, 2], name) for name in ("float16", "int8", "uint32", "complex64")},
        **{name: jnp.asarray([1, 2], name) for name in ("int4", "uint4", "float8_e4m3fn", "float8_e5m2")},
        "bool": jnp.asarray([True, False]),
        "scalar": jnp.asarray(2.5, jnp.float32),
        "zero by 3": jnp.zeros((0, 3), jnp.bfloat16),
        "empty": {},
        "..": [jnp.arange(2), (jnp.arange(3), Pair(jnp.arange(4), None))],
        "schräg\n%2F": jnp.arange(5),
    }
    kernel = {"kernel": jnp.ones((2, 3))}
    return {
        "params": params,
        "opt": optax.chain(optax.clip(1.0), optax.adam(optax.constant_schedule(0.1))).init(kernel),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), (2, 2)),
        "old key": jax.random.PRNGKey(0),
    }


def test_every_bit_is_restored(tmp_path):
    tree = unusual_tree()
    saved = {"history": [{"loss": np.float32(0.1), "val_loss": float("nan")}], "epoch": jnp.asarray(3)}
    with Checkpoints(tmp_path) as store:
        store.save(7, tree, saved)
        restored, info = store.restore(jax.eval_shape(lambda: tree))
    assert_same(restored, tree)
    assert np.float32(info["history"][0]["loss"]) == np.float32(0.1) and np.isnan(info["history"][0]["val_loss"])
    assert info["epoch"] == 3
    assert jax.random.key_impl(restored["keys"]) == "rbg"


def test_numpy_arrays_stay_numpy_arrays(tmp_path):
    tree = {"wide": np.array([1.5, -0.0, np.nan]), "long": np.array(2**62), "swapped": np.arange(3, dtype=">i4")}
    with Checkpoints(tmp_path) as store:
        store.save(0, tree)
        restored, info = store.restore(tree)
    assert info == {} and all(type(leaf) is np.ndarray for leaf in restored.values())
    assert_same(restored, tree | {"swapped": np.arange(3, dtype=np.int32)})


@pytest.mark.parametrize("tree", [{}, {"a": np.zeros((0, 2), np.int8)}, np.arange(3.0)], ids=["none", "empty", "bare"])
def test_the_smallest_trees(tree, tmp_path):
    with Checkpoints(tmp_path) as store:
        store.save(0, tree)
        assert_same(store.restore(tree)[0], tree)


def test_leaves_are_placed_on_the_devices_of_like(tmp_path):
    device = jax.devices()[0]
    like = {"free": jnp.ones(3), "fixed": jax.device_put(jnp.ones(3), device), "key": jax.device_put(jax.random.key(0), device)}
    with Checkpoints(tmp_path) as store:
        store.save(0, like)
        restored, _ = store.restore(like)
    assert {name: leaf.committed for name, leaf in restored.items()} == {"free": False, "fixed": True, "key": True}


def test_buffers_may_be_donated_after_save(tmp_path):
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {"x": jnp.zeros(100_000), "n": jnp.zeros((), jnp.int32)}
    with Checkpoints(tmp_path, keep=5) as store:
        for step in range(5):
            store.save(step, state)
            state = advance(state)
        for step in range(5):
            restored, _ = store.restore(state, step=step)
            assert float(restored["x"].min()) == float(restored["x"].max()) == int(restored["n"]) == step
            advance(restored)


def test_orbax_alone_reads_a_dict_of_arrays_by_path(tmp_path):
    import orbax.checkpoint as ocp

    with Checkpoints(tmp_path) as store:
        store.save(5, small(2.0), wait=True)
    stored = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(tmp_path / "000001-step-5" / "tree")
    assert sorted(stored) == ["dense/bias", "dense/kernel"] and stored["dense/kernel"].sum() == 24
    for path in files(tmp_path):
        assert b"\x80\x04\x95" not in path.read_bytes(), f"{path} looks like a pickle"


# --- what is kept ---------------------------------------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept(tmp_path):
    losses = {1: 0.5, 2: 0.2, 3: float("nan"), 4: 0.3, 5: 0.4}
    with Checkpoints(tmp_path, keep=2, best=("val_loss", "min")) as store:
        assert store.restore(small()) is None and store.best() is None and store.steps() == []
        for step, loss in losses.items():
            store.save(step, small(step), {"step": step}, metrics={"val_loss": loss})
        store.save(6, small(6))
        store.wait()
        assert store.steps() == [2, 5, 6] and store.best() == 2
        restored, info = store.restore(small(), step=store.best())
        assert_same(restored, small(2))
        assert info == {"step": 2}
    assert Checkpoints(tmp_path, best="val_loss").best() == store.best()
    again = Checkpoints(tmp_path, best=("val_loss", "max"))
    assert again.best() == 5  # of the checkpoints that remain
    assert len(list(tmp_path.iterdir())) == 3


def test_the_newest_checkpoint_is_the_one_written_last(tmp_path):
    with Checkpoints(tmp_path, keep=2) as store:
        for value, step in enumerate([10, 20, 30, 20, 25]):  # a run that returned to step 20
            store.save(step, small(value), wait=True)
            assert store.steps()[-1] == step
        assert store.steps() == [20, 25]
        assert_same(store.restore(small(), step=20)[0], small(3))
        assert_same(store.restore(small())[0], small(4))
        with pytest.raises(ValueError, match=r"no checkpoint of step 30; available steps: \[20, 25\]"):
            store.restore(small(), step=30)


def test_a_folder_that_is_renamed_or_swapped_keeps_its_step(tmp_path):
    with Checkpoints(tmp_path, best="loss") as store:
        for step in (10, 20):
            store.save(step, small(step), {"step": step}, metrics={"loss": step / 10}, wait=True)
    first, second = sorted(tmp_path.iterdir())
    first.rename(tmp_path / "between")
    second.rename(first)
    (tmp_path / "between").rename(second)
    for again in (store, Checkpoints(tmp_path, best="loss")):
        assert again.steps() == [10, 20] and again.best() == 10
        restored, info = again.restore(small())
        assert_same(restored, small(20))
        assert info == {"step": 20}
        assert again.restore(small(), step=10)[1] == {"step": 10}
    first.rename(tmp_path / "000077-step-99")
    again = Checkpoints(tmp_path, best="loss")
    assert again.steps() == [10, 20]
    again.save(30, small(30), wait=True)
    assert again.steps() == [10, 20, 30]


def test_of_equal_metrics_the_first_is_the_best(tmp_path):
    with Checkpoints(tmp_path, best="accuracy", keep=1, every=3600) as store:
        for step in (1, 2, 3):
            due = store.due({"accuracy": 0.5})
            assert due == (step == 1)  # an equal one is no better
            store.save(step, small(step), metrics={"accuracy": 0.5}, wait=True)
        assert store.best() == 1 and store.steps() == [1, 3]
        assert store.due({"accuracy": 0.75}) and not store.due({"accuracy": 0.25}) and not store.due()
        assert Checkpoints(tmp_path, best="accuracy", every=3600).due()  # nothing saved by this one yet


def test_saves_that_fail_one_after_another_are_reported_once(tmp_path, monkeypatch):
    from jaxnn.io import storage

    write, failing = storage.write, [True]

    def full(*arguments):
        if failing[0]:
            raise OSError(28, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(storage, "write", full)
    with Checkpoints(tmp_path) as store:
        with pytest.warns(RuntimeWarning, match="step 1 could not be written.*No space left") as caught:
            for step in (1, 2, 3):
                store.save(step, small(), wait=True)
        assert len(caught) == 1
        failing[0] = False
        store.save(4, small(), wait=True)
        failing[0] = True
        with pytest.warns(RuntimeWarning, match="step 5 could not be written"):
            store.save(5, small(), wait=True)


def test_a_save_is_due_after_some_time(tmp_path):
    store = Checkpoints(tmp_path, every=1000.0)
    assert store.due()
    store.save(0, small(), wait=True)
    assert not store.due() and Checkpoints(tmp_path).due()


def test_a_save_returns_before_anything_is_written_and_takes_the_caller_little_time(tmp_path, monkeypatch):
    state = {f"layer_{index}": jnp.ones(900) for index in range(30)}  # 100 kB
    write, released = storage.write, threading.Event()

    def held_back(*arguments):
        assert released.wait(60)
        return write(*arguments)

    monkeypatch.setattr(storage, "write", held_back)
    with Checkpoints(tmp_path) as store:
        seconds = []
        for step in range(8):
            start = time.thread_time()  # CPU time of this thread
            store.save(step, state)
            seconds.append(time.thread_time() - start)
            assert step not in store.steps()
            released.set()
            store.wait()
            assert step in store.steps()
            released.clear()
    assert np.median(seconds) < 0.05


# --- what is rejected -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_model_is_rejected(tmp_path):
    other = {"dense": {"kernel": np.zeros((8, 3), np.float32), "scale": np.zeros(3)}, "step": np.zeros((), np.int32)}
    with Checkpoints(tmp_path) as store:
        store.save(0, small())
        with pytest.raises(ValueError) as caught:
            store.restore(other)
        for line in (
            "000001-step-0 does not match; of the 3 expected leaves, these differ:",
            "  dense/kernel: found float32[4, 3], expected float32[8, 3]",
            "  dense/scale: found nothing, expected float64[3]",
            "  step: found nothing, expected int32[]",
            "  dense/bias: found float32[3], expected nothing",
        ):
            assert line in str(caught.value)
        with pytest.raises(ValueError, match=r"(?s)layer_5: found nothing.*\n  \+ 6 more$"):
            store.restore({f"layer_{index}": np.zeros(2) for index in range(10)})
        with pytest.raises(ValueError, match=r"key: found key<fry>\[\], expected key<rbg>\[\]"):
            store.save(1, {"key": jax.random.key(0)})
            store.restore({"key": jax.random.key(0, impl="rbg")})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keep": 0}, "at least 1, got 0"),
        ({"best": "latency"}, "which way is better is not known for 'latency'"),
        ({"best": ("val_loss", "least")}, '"min" or "max"'),
    ],
)
def test_invalid_options(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        Checkpoints(tmp_path, **arguments)


def test_what_cannot_be_saved(tmp_path):
    with Checkpoints(tmp_path, best=("val_loss", "min")) as store:
        with pytest.raises(TypeError, match=r"leaf 'dense/rate' is 0.1; expected an array of numbers"):
            store.save(0, {"dense": {"rate": 0.1}})
        with pytest.raises(TypeError, match="leaf 'name' is"):
            store.save(0, {"name": np.array(["text"])})
        with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
            store.save(0, {"a": {"b": np.ones(1)}, "a/b": np.ones(1)})
        with pytest.raises(TypeError, match="JSON can represent, got <object"):
            store.save(0, small(), {"model": object()})
        with pytest.raises(ValueError, match="names a metric that was not given; the metrics are loss"):
            store.save(0, small(), metrics={"loss": 1.0})
        assert store.steps() == []
    with pytest.raises(ValueError, match="requires a metric"):
        Checkpoints(tmp_path).best()


def test_without_orbax_the_error_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install orbax-checkpoint"):
        Checkpoints(tmp_path)


# --- damage ---------------------------------------------------------------------------------------------------------------


def flip(path, generator):
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def cut(path, generator):
    path.write_bytes(path.read_bytes()[: generator.randrange(path.stat().st_size)])


def garble(path, generator):
    path.write_bytes(generator.randbytes(path.stat().st_size))


def remove(path, generator):
    path.unlink()


def noise(step):
    return {"noise": np.random.default_rng(step).normal(size=300), "key": jax.random.key(step), "step": np.array(step)}


def damage_each_file(folder, damage, seed):
    """Damage each file of the newest checkpoint in turn; an intact checkpoint must be restored: the newest or the previous one.

    Returns:
        The number of times that the previous checkpoint was restored.
    """
    generator, newest, skipped = random.Random(seed), folder / "000002-step-2", 0
    with Checkpoints(folder) as store:
        for step in (1, 2):
            store.save(step, noise(step), {"step": step}, wait=True)
        for path in files(newest):
            if not (content := path.read_bytes()):
                continue
            damage(path, generator)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                restored, info = store.restore(noise(0))
            assert_same(restored, noise(info["step"]))
            if info["step"] == 1:
                (warning,) = caught
                assert warning.category is RuntimeWarning and warning.filename == __file__
                assert str(warning.message).startswith(f"skipped a damaged checkpoint, {newest}: ")
                skipped += 1
            path.write_bytes(content)
    return skipped


@pytest.mark.parametrize("damage", [flip, cut, garble, remove])
def test_a_damaged_file_is_detected(damage, tmp_path):
    assert damage_each_file(tmp_path, damage, seed=0) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, cut, garble])
@pytest.mark.parametrize("seed", range(1, 21))
def test_many_damaged_files_are_detected(damage, seed, tmp_path):
    damage_each_file(tmp_path, damage, seed)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"loss": 0.25', b'"loss": 0.35', "manifest.json has changed since it was written"),
        (b'"step": 2', b'"step": ', "JSONDecodeError"),
    ],
)
def test_a_changed_description_is_detected(old, new, words, tmp_path):
    with Checkpoints(tmp_path, best=("loss", "min")) as store:
        for step in (1, 2):
            store.save(step, noise(step), {"step": step}, metrics={"loss": 0.5 / step}, wait=True)
        manifest = tmp_path / "000002-step-2" / "manifest.json"
        assert old in manifest.read_bytes()
        manifest.write_bytes(manifest.read_bytes().replace(old, new))
        with pytest.warns(RuntimeWarning, match=f"000002-step-2: .*{words}"):
            assert store.restore(noise(0))[1] == {"step": 1}
    assert Checkpoints(tmp_path, best=("loss", "min")).best() == 1


def test_a_changed_leaf_is_named(tmp_path, monkeypatch):
    """The bits of a leaf change although the files are unchanged."""
    import orbax.checkpoint as ocp

    with Checkpoints(tmp_path) as store:
        store.save(1, small(1.0), wait=True)
        changed = {"dense/kernel": np.full((4, 3), 1.0, np.float32), "dense/bias": np.full(3, 1e-45, np.float32)}
        monkeypatch.setattr(ocp.Checkpointer, "restore", lambda self, path, args: changed)
        with pytest.warns(RuntimeWarning, match="leaf 'dense/bias' has changed since it was written"):
            assert store.restore(small()) is None


def test_a_run_continues_after_damaged_checkpoints(tmp_path):
    """Damaged checkpoints are removed in their turn, and are not taken for the newest one."""
    with Checkpoints(tmp_path, keep=1) as store:
        store.save(30, small(1.0), wait=True)
        (tmp_path / "000001-step-30" / "manifest.json").unlink()
        with pytest.warns(RuntimeWarning, match="skipped a damaged"):
            assert store.restore(small()) is None
        store.save(10, small(2.0), wait=True)
        assert store.steps() == [10]
        assert_same(store.restore(small())[0], small(2.0))


# --- full disks and killed processes --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from writes that Orbax abandoned
@pytest.mark.parametrize("limit", [0, 4000, 30_000], ids=["no file", "no leaf", "not all leaves"])
def test_a_failed_write_loses_one_checkpoint(limit, tmp_path):
    """The size of a file is limited while the second checkpoint is written."""
    state = {str(index): np.random.default_rng(index).normal(size=1000 * (1 + index)) for index in range(6)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path, keep=5) as store:
        store.save(1, state, wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            store.save(2, state)
            store._thread.join()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        words = "the checkpoint of step 2 could not be written to .* tries again.*too large"
        with pytest.warns(RuntimeWarning, match=f"(?i){words}") as caught:
            store.wait()
        assert caught[0].filename == __file__
        assert [path.name for path in tmp_path.iterdir()] == ["000001-step-1"]
        assert_same(store.restore(state)[0], state)
        store.save(3, state, wait=True)
        assert store.steps() == [1, 3]


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    state = np.zeros(500_000)
    with Checkpoints(tmp_path) as store:
        with monkeypatch.context() as patch:
            patch.setattr("shutil.disk_usage", lambda path: usage)
            store.save(1, state)
            with pytest.warns(RuntimeWarning, match=r"step 1 could not .*4\.0 MB are needed, but only 1\.0 MB are free"):
                store.wait()
        store.save(2, state, wait=True)
        assert store.steps() == [2]


SAVES = """
import sys, numpy as np
from jaxnn.io import Checkpoints, storage
store = Checkpoints(sys.argv[1], keep=2, best=("loss", "min"))
for step in range(1, 1_000_000):
    leaves = {f"layer_{i}": np.full(1000, step, np.float32) for i in range(10)}
    store.save(step, leaves, {"step": step}, metrics={"loss": 1 / step})
    store.wait()
    print(step, flush=True)
"""


def kill_while_saving(folders, generator):
    """Kill processes that do nothing but save; each folder must then contain the last step that its process reported."""
    command = [sys.executable, "-W", "ignore", "-c", SAVES]
    children = [subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, text=True) for folder in folders]
    reported = []
    for child in children:
        with child:
            first = child.stdout.readline()  # the saves have begun
            time.sleep(generator.uniform(0, 0.3))  # at any moment, the outcome must be the same
            child.send_signal(signal.SIGKILL)
            reported.append([int(line) for line in [first, *child.stdout] if line.endswith("\n")][-1])
    like = {f"layer_{i}": np.zeros(1000, np.float32) for i in range(10)}
    for folder, last in zip(folders, reported, strict=True):
        store = Checkpoints(folder, keep=2)
        restored, info = store.restore(like)  # warnings are errors: no checkpoint is skipped
        assert info["step"] in (last, last + 1)
        assert all((leaf == info["step"]).all() for leaf in restored.values())
        assert last < 2 or len(store.steps()) >= 2
        for step in store.steps():
            assert store.restore(like, step=step)[1] == {"step": step}
        store.save(info["step"] + 1, like, wait=True)
        assert len(list(folder.iterdir())) == 2  # no partial checkpoint remains


@pytest.mark.slow
def test_a_killed_save_leaves_complete_checkpoints(tmp_path):
    kill_while_saving([tmp_path / str(index) for index in range(2)], random.Random())


@pytest.mark.slow
def test_twenty_five_killed_saves(tmp_path):
    for index in range(0, 26, 2):
        kill_while_saving([tmp_path / str(index), tmp_path / str(index + 1)], random.Random())
