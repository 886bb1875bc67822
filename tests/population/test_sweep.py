"""Sweeps: each member equals the run of `fit`, whatever other members there are and however they are trained."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import population
from jaxnn.compiled import Program
from jaxnn.population import scheduler
from jaxnn.population.group_run import GroupRun

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int32)
COMMON = {"loss": nn.losses.cross_entropy, "optimizer": optax.adam, "batch_size": 20, "key": KEY, "progress": False}


def network(units, rate=0.0, activation=nn.relu):
    return nn.serial(nn.dense(units), activation, nn.dropout(rate), nn.dense(2))


def sweep(space, model=network, data=(X, Y), **options):
    return nn.sweep(model, data, space, **{"epochs": 3, **COMMON, **options})


def close(a, b, tolerance=2e-5):
    chex.assert_trees_all_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture
def compiled():
    """A list to which an event is appended for each program that XLA compiles."""
    events: list[str] = []
    listen = lambda event, *_, **__: events.append(event) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def mixed():
    """A sweep of two structures, with several blocks, early stopping and validation data."""
    space = {"learning_rate": [1e-3, 1e-2], "rate": [0, 0.3], "units": [4, 6]}
    return sweep(
        space,
        seeds=3,
        epochs=4,
        validation=(X[:30], Y[:30]),
        metrics={"accuracy": nn.metrics.accuracy},
        callbacks=[nn.callbacks.early_stopping(1)],
    )


def test_a_member_equals_the_run_of_fit(mixed):
    for index in (0, 4, 23):
        member = mixed.member(index)
        alone = nn.fit(
            network,
            (X, Y),
            **COMMON | {"key": jax.random.fold_in(KEY, member.seed)},
            epochs=4,
            hyperparameters=member.setting | {"rate": float(member.setting["rate"])},
            validation=(X[:30], Y[:30]),
            metrics={"accuracy": nn.metrics.accuracy},
            callbacks=[nn.callbacks.early_stopping(1)],
        )
        close(member.params, alone.params)
        assert member.row["epoch"] == alone.epoch
        shared = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
        assert list(member.history) == [name for name in alone.history if name in shared] == list(shared)
        for name in ("epoch", "val_loss"):
            close(np.asarray(member.history[name]), np.asarray(alone.history[name]))
        close(member.row["val_accuracy"], alone.history["val_accuracy"][alone.epoch - 1])


def test_the_table_has_a_row_for_each_setting_and_seed(mixed):
    assert len(mixed) == 24
    assert [row["seed"] for row in mixed.rows[:4]] == [0, 1, 2, 0]
    assert {(row["learning_rate"], row["rate"], row["units"]) for row in mixed.rows} == {
        (a, b, c) for a in (1e-3, 1e-2) for b in (0, 0.3) for c in (4, 6)
    }
    frame = mixed.to_pandas()
    assert {name: list(frame[name]) for name in frame} == mixed.columns
    assert mixed.members(units=4, rate=0, seed=2, learning_rate=1e-3) == [2]
    with pytest.raises(ValueError, match="no column 'width'"):
        mixed.members(width=3)
    assert list(frame.columns) == [
        "learning_rate", "rate", "units", "seed", "loss", "accuracy", "val_loss", "val_accuracy", "epoch", "epochs", "status",
    ]  # fmt: skip
    assert set(frame["status"]) <= {"finished", "early"}
    best = mixed.best()
    assert best.row["val_loss"] == frame["val_loss"].min()
    assert mixed.best("val_accuracy").row["val_accuracy"] == frame["val_accuracy"].max()
    first = mixed.by_setting()[0]
    rows = [row["val_loss"] for row in mixed.rows if all(row[name] == first[name] for name in mixed.names)]
    close(first["val_loss"], np.mean(rows))
    close(first["val_loss_std"], np.std(rows, ddof=1))
    assert "2 groups, as units decides on the program" in mixed.note
    assert "*" in str(mixed).splitlines()[1] and repr(mixed) == str(mixed)
    assert "<table>" in mixed._repr_html_()


def test_the_best_member_can_be_evaluated(mixed):
    best = mixed.best()
    close(nn.evaluate(best, (X[:30], Y[:30]))["loss"], best.row["val_loss"])


def test_members_of_several_structures_are_not_stacked(mixed):
    with pytest.raises(ValueError, match=r"differ in structure, by units: take result\.groups"):
        _ = mixed.params
    assert [len(group.members) for group in mixed.groups] == [12, 12]
    with pytest.raises(IndexError, match="24 members, got 24"):
        mixed.member(24)


@pytest.mark.slow
def test_members_do_not_depend_on_the_number_of_members():
    space = [{"learning_rate": rate, "units": 4} for rate in (1e-3, 3e-3, 1e-2, 3e-2, 0.1)]
    crowd = sweep(space, seeds=[5, 2])
    few = sweep(space[2:3], seeds=[2])
    close(few.member(0).params, crowd.member(5).params)
    small = sweep(space, seeds=[5, 2], memory=1)  # blocks of one member
    assert "blocks of 1;" in small.note
    close(small.params, crowd.params)


@pytest.mark.slow
def test_members_with_large_residuals_are_trained_one_per_block(monkeypatch):
    """A step saves the activations of both dense layers, and the residuals of relu and dropout, for its backward pass."""
    space = {"learning_rate": [1e-4, 1e-3, 3e-3, 1e-2], "units": [40]}
    monkeypatch.setattr(scheduler, "_cores", lambda: 2)
    together = sweep(space, augment=lambda key, batch: batch)
    assert "blocks of 2;" in together.note
    monkeypatch.setattr(scheduler, "CPU_RESIDUAL_BYTES", 20 * 40 * 4)  # the bytes of a batch's activations in one layer
    alone = sweep(space, augment=lambda key, batch: batch)
    assert "blocks of 1;" in alone.note
    close(alone.params, together.params)


@pytest.mark.slow
def test_every_float_is_traced_and_has_an_effect(compiled):
    def model(scale, rate):
        return nn.serial(nn.dropout(rate), nn.dense(2, kernel_init=nn.initializers.normal(scale)))

    def optimizer(learning_rate, clip, momentum, decay):
        steps = [optax.clip_by_global_norm(clip), optax.add_decayed_weights(decay), optax.sgd(learning_rate, momentum)]
        return optax.chain(*steps)

    def loss(predictions, y, smoothing=0.0, **options):
        return nn.losses.mse(predictions, (1 - smoothing) * jax.nn.one_hot(y, 2), **options)

    def noise(key, batch, strength):
        return batch[0] + strength * jax.random.normal(key, batch[0].shape), batch[1]

    base = {
        "scale": 0.5,
        "clip": 1.0,
        "momentum": 0.5,
        "decay": 0.0,
        "smoothing": 0.0,
        "strength": 0.0,
        "peak": 0.1,
        "keep": 0.5,
        "rate": 0.0,
    }
    others = {
        "scale": 1.0,
        "clip": 0.1,
        "momentum": 0.9,
        "decay": 0.5,
        "smoothing": 0.2,
        "strength": 0.5,
        "peak": 0.3,
        "keep": 0.9,
        "rate": 0.3,
    }
    options = {
        "model": model, "optimizer": optimizer, "loss": loss, "augment": noise, "callbacks": [nn.callbacks.ema("keep")],
        "hyperparameters": {"learning_rate": lambda step, steps, peak: peak * (1 - step / steps)}, "epochs": 2,
    }  # fmt: skip
    settings = [base, *({**base, name: value} for name, value in others.items())]
    result = sweep(settings, **options)
    assert "1 group;" in result.note
    compiled.clear()
    kernels = result.params["dense"]["kernel"]
    for i, name in enumerate(others, 1):
        assert np.abs(kernels[i] - kernels[0]).max() > 1e-4, name

    again = [{name: 0.9 * value + 0.01 for name, value in setting.items()} for setting in settings]
    other = sweep(again, **options, seeds=[7], key=jax.random.key(1))
    assert not compiled  # although every value, the seed and the key differ
    many = sweep([{**each, "peak": 0.05 * k} for k in range(1, 9) for each in again], **options)
    assert len(compiled) == 3  # for the larger block: start, epochs, final
    assert "1 group" in many.note
    assert "3 programs" in many.note
    assert np.abs(other.params["dense"]["kernel"] - kernels).max() > 1e-2


def test_a_sweep_compiles_only_its_programs(compiled):
    key, x, y = jax.random.key(9), np.random.default_rng(9).normal(size=(31, 7)).astype(np.float32), np.arange(31) % 3
    nn.kernels.compiler_options()  # checked once per process
    compiled.clear()
    nn.sweep(nn.dense(3), (x, y), {"learning_rate": [0.1, 0.2, 0.3]}, epochs=2, **COMMON | {"key": key})
    assert len(compiled) == 2  # start and epochs; NumPy does the rest


@pytest.mark.slow
def test_all_kinds_of_structural_values_form_groups():
    space = [
        {"activation": nn.relu, "batch_size": 10, "units": 3},
        {"activation": nn.tanh, "batch_size": 10, "units": 3},
        {"activation": nn.tanh, "batch_size": 30, "units": 3},
        {"activation": nn.relu, "batch_size": 10, "units": 3},
    ]
    result = sweep(space, optimizer=optax.sgd(0.1), epochs=1)
    assert [group.members.tolist() for group in result.groups] == [[0, 3], [1], [2]]
    assert "as activation, batch_size decide on the program" in result.note or "as batch_size, activation" in result.note
    close(result.member(0).params, result.member(3).params, 0)
    assert nn.tanh.__name__ in result.table()
    narrow, wide = result.table(width=1).splitlines()[0].split(), result.table().splitlines()[0].split()
    assert narrow == [name for name in wide if name in (*result.names, result.monitored(None, None)[0])]
    assert result.table(width=max(map(len, result.table().splitlines()))) == result.table()


@pytest.mark.slow
def test_identical_programs_are_compiled_once():
    inits = {"normal": nn.initializers.normal(0.1), "uniform": nn.initializers.uniform(-0.1, 0.1)}
    space = {"init": list(inits), "learning_rate": [0.1]}
    result = sweep(space, model=lambda init: nn.dense(2, kernel_init=inits[init]), optimizer=optax.sgd, epochs=1)
    assert "2 groups" in result.note
    assert "3 programs" in result.note  # two for the start, one for the epochs


@pytest.mark.slow
def test_the_epochs_of_a_space_appear_in_the_table():
    stop = [nn.callbacks.early_stopping(1, monitor="loss", min_delta=10.0)]
    result = sweep({"epochs": [2, 4]}, model=nn.dense(2), optimizer=optax.sgd(0.1), seeds=2, callbacks=stop)
    assert [row["epochs"] for row in result.rows] == [2, 2, 4, 4]
    assert [len(result.member(i).history.rows) for i in range(4)] == [2] * 4
    assert len(result.by_setting()) == 2


@pytest.mark.slow
def test_a_space_may_consist_of_seeds_only():
    ensemble = sweep({}, model=nn.dense(2), optimizer=optax.sgd(0.1), seeds=3)
    assert [row["seed"] for row in ensemble.rows] == [0, 1, 2]
    assert len(np.unique(ensemble.params["kernel"], axis=0)) == 3
    assert len(ensemble.by_setting()) == 1
    assert " ± " in ensemble.table()


def test_a_diverging_member_is_reported_and_affects_no_other():
    space = {"learning_rate": [0.1, 1e20]}
    options = {"model": nn.dense(2), "optimizer": optax.sgd, "loss": nn.losses.mse, "epochs": 4}
    targets = (X, X[:, :2])
    with pytest.warns(RuntimeWarning, match="1 of 2 members"):
        result = nn.sweep(options.pop("model"), targets, space, **COMMON | options)
    assert [row["status"] for row in result.rows] == ["finished", "diverged"]
    alone = nn.sweep(nn.dense(2), targets, {"learning_rate": [0.1]}, **COMMON | options)
    close(result.member(0).params, alone.member(0).params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    assert result.by_setting()[-1]["learning_rate"] == 1e20
    assert np.isnan(result.by_setting()[-1]["loss"])
    skipped = nn.sweep(nn.dense(2), targets, space, **COMMON | options, on_nonfinite="skip")
    assert skipped.rows[1]["status"] == "finished"


@pytest.mark.slow
def test_stopped_members_are_removed_from_blocks_when_that_saves_time(monkeypatch):
    """If 14 of 16 members stop early, far fewer epochs are computed than without narrower blocks, frozen members included."""
    monkeypatch.setattr(scheduler, "MOST_EPOCHS", 2)
    monkeypatch.setattr(scheduler, "_cores", lambda: 1)
    computed, keep_logs, narrowed = [], GroupRun.keep_logs, scheduler.Scheduler._narrower_settings

    def counted(self, seeds, columns, before, logs):
        computed.append(len(seeds) * len(columns) * len(logs["loss"]))
        keep_logs(self, seeds, columns, before, logs)

    monkeypatch.setattr(GroupRun, "keep_logs", counted)
    options = {
        "space": {"learning_rate": [*np.linspace(5.0, 10.0, 14), 1e-3, 2e-3], "units": [4]}, "optimizer": optax.sgd,
        "epochs": 24, "callbacks": [nn.callbacks.early_stopping(1, restore_best=False, monitor="loss")],
    }  # fmt: skip
    monkeypatch.setattr(scheduler.Scheduler, "_narrower_settings", lambda *_: None)
    plain = sweep(**options)
    assert sum(computed) == 16 * 24
    computed.clear()
    as_if_epochs_were_long = lambda self, run, active, left: narrowed(self, run, active, 1e9)  # noqa: E731
    monkeypatch.setattr(scheduler.Scheduler, "_narrower_settings", as_if_epochs_were_long)
    compact = sweep(**options)
    assert [row["epochs"] for row in compact.rows] == [row["epochs"] for row in plain.rows]
    needed = sum(row["epochs"] for row in compact.rows)
    assert needed < 0.3 * 16 * 24
    assert needed <= sum(computed) < 0.5 * 16 * 24
    close(compact.params, plain.params)


@pytest.mark.slow
def test_several_devices_give_the_same_table():
    program = textwrap.dedent("""
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
        import jax, numpy as np, optax, jaxnn as nn
        x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        def swept(mesh=None):
            return nn.sweep(nn.dense(1), (x, x[:, :1]), {"learning_rate": [0.1, 0.01, 1e-3, 0.03, 0.3]}, seeds=2, mesh=mesh,
                            loss=nn.losses.mse, optimizer=optax.sgd, epochs=3, key=jax.random.key(0), progress=False)
        one = swept()
        for n in (2, 4):
            many = swept(jax.make_mesh((n,), ("members",), devices=jax.devices()[:n]))
            assert f"sharded over {n} devices" in many.note, many.note
            for a, b in zip(one.rows, many.rows, strict=True):
                np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_killed_sweep_continues_to_the_same_bits(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    program = textwrap.dedent(f"""
        import importlib, os, signal, sys
        import jax, numpy as np, optax, jaxnn as nn
        module = importlib.import_module("jaxnn.population.task")
        x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        if sys.argv[1] == "killed":
            save = module.Saver.save
            def and_kill(self, *arguments, **named):
                save(self, *arguments, **named)
                self._store.wait()
                os.kill(os.getpid(), signal.SIGKILL)
            module.Saver.save = and_kill
        store = None if sys.argv[1] == "whole" else nn.io.Checkpoints({str(tmp_path / "store")!r})
        space = {{"learning_rate": [0.1, 0.01], "variant": [1, 2, 3]}}
        result = nn.sweep(lambda variant: nn.dense(1), (x, x[:, :1]), space, loss=nn.losses.mse, optimizer=optax.sgd,
                          epochs=3, key=jax.random.key(0), progress=False, checkpoints=store)
        np.save(sys.argv[2], np.stack([member.params["kernel"] for member in map(result.member, range(6))]))
        print(result.note)
    """)
    runs = {}
    for how in ("whole", "killed", "resumed"):
        path = tmp_path / f"{how}.npy"
        done = subprocess.run([sys.executable, "-c", program, how, str(path)], capture_output=True, text=True, timeout=300)
        assert done.returncode == (-signal.SIGKILL if how == "killed" else 0), done.stderr
        runs[how] = np.load(path) if path.exists() else None
    assert runs["killed"] is None
    np.testing.assert_array_equal(runs["whole"], runs["resumed"])


@pytest.mark.slow
def test_an_interrupted_group_continues_with_the_same_blocks(tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint")

    class Interruption(Exception):
        pass

    monkeypatch.setattr(scheduler, "CPU_MEMBERS", 3)
    monkeypatch.setattr(scheduler, "_cores", lambda: 1)
    options = {"space": {"learning_rate": [0.1, 0.03, 0.01, 1e-3, 1e-4]}, "model": nn.dense(2), "seeds": 2}
    whole, keep, kept = sweep(**options), GroupRun.keep, []

    def and_interrupt(self, *arguments, **named):
        while kept and not store.steps():
            time.sleep(0.01)
        if kept:
            raise Interruption
        keep(self, *arguments, **named)
        kept.append(1)

    with monkeypatch.context() as patch, nn.io.Checkpoints(tmp_path) as store, pytest.raises(Interruption):
        patch.setattr(GroupRun, "keep", and_interrupt)
        sweep(**options, checkpoints=store)
    kept.clear()
    monkeypatch.setattr(GroupRun, "keep", lambda *given, **named: (kept.append(1), keep(*given, **named)))
    resumed = sweep(**options, checkpoints=tmp_path)
    assert len(kept) == 3  # of four blocks, one was finished before
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)


@pytest.mark.slow
def test_checkpoints_of_another_sweep_are_rejected(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    options = {"model": nn.dense(2), "optimizer": optax.sgd, "epochs": 1}
    first = sweep({"learning_rate": [0.1]}, **options, checkpoints=tmp_path)
    again = sweep({"learning_rate": [0.1]}, **options, checkpoints=tmp_path)
    np.testing.assert_array_equal(first.params["kernel"], again.params["kernel"])
    assert "0 programs" in again.note
    other = [
        ({"space": {"learning_rate": [0.2]}}, r"space\[0\] was {'learning_rate': 0.1}, and is {'learning_rate': 0.2} now"),
        ({"data": (X, 1 - Y)}, "data '1' was int32"),
        ({"loss": lambda p, y: 2 * nn.losses.cross_entropy(p, y)}, "loss, in structure 0 was cross_entropy, and is <lambda>"),
        ({"optimizer": lambda learning_rate: optax.sgd(learning_rate * 1e-6)}, "optimizer, in structure 0 was sgd"),
        ({"batch_size": 8}, "batch_size, in structure 0 was"),
        ({"epochs": 2}, "(?s)does not match.*To continue it, give what it had; to begin another one, choose another folder"),
        ({"callbacks": [nn.callbacks.ema(0.5)]}, "callbacks, in structure 0 had 0 entries, and has 1 now"),
    ]
    for changes, words in other:
        changed = {"space": {"learning_rate": [0.1]}, **options, **changes}
        with pytest.raises(ValueError, match=words):
            sweep(changed.pop("space"), **changed, checkpoints=tmp_path)


@pytest.mark.slow
def test_searches_of_other_options_are_rejected(tmp_path):
    pytest.importorskip("orbax.checkpoint")

    def search(factor, folder):
        space = {"learning_rate": [0.1, 0.2, 0.3, 0.4]}
        options = {"loss": nn.losses.cross_entropy, "optimizer": optax.sgd, "epochs": 4, "key": jax.random.key(0)}
        return nn.population.successive_halving(
            nn.dense(2), (X, Y), space, factor=factor, **options, progress=False, checkpoints=folder
        )

    search(2, tmp_path)
    with pytest.raises(ValueError, match="of another sweep: rungs had 3 entries, and has 2 now"):
        search(4, tmp_path)


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (
            {"learnig_rate": [0.1], "units": [3]},
            {},
            "hyperparameter 'learnig_rate'.* did you mean 'learning_rate'",
        ),
        ({"learning_rate": [], "units": [3]}, {}, "no value for 'learning_rate', so the grid is empty"),
        ({"learning_rate": [-0.1], "units": [3]}, {}, "learning_rate is -0.1, expected at least 0"),
        ({"learning_rate": [0.1], "units": [3], "rate": [-0.5]}, {}, r"dropout takes rate in \[0, 1\), got -0.5"),
        ({"learning_rate": [0.1], "units": [0]}, {}, "features of at least 1, got 0"),
        ({"learning_rate": [float("nan")], "units": [3]}, {}, "is nan, expected a finite number"),
        ([], {}, "the space is empty"),
        ([{"learning_rate": 0.1, "units": 3}, {"units": 3}], {}, "setting 1 has the names units, and the first one"),
        ({"learning_rate": [0.1], "units": [3], "batch_size": [0]}, {}, "batch_size of at least 1"),
        ({"learning_rate": [0.1], "units": [3]}, {"seeds": [1, 1]}, "different whole numbers"),
        ({"learning_rate": [0.1], "units": [3]}, {"seeds": 0}, "seeds of at least 1, got 0"),
        ({"learning_rate": [0.1], "units": [3]}, {"seeds": [-1]}, "seeds of at least 0, got -1"),
        ({"learning_rate": [0.1], "units": [3]}, {"memory": 0}, "memory of at least 1, got 0"),
        ({"learning_rate": [0.1, 0.01, 0.1], "units": [3]}, {}, "'learning_rate' has the value 0.1 twice: .* use seeds"),
        ({"learning_rate": [0.1], "units": [3], "seed": [1, 2]}, {}, "a column 'seed' of its own"),
        ({"learning_rate": [0.1], "units": [3], "epochs": [0]}, {}, "epochs of at least 1, got 0"),
        ({"learning_rate": [0.1], "units": [3]}, {"on_nonfinite": "raise"}, '"stop" or "skip"'),
        ({"learning_rate": [0.1], "units": [3]}, {"callbacks": [nn.callbacks.time_budget(1.0)]}, "acts on the host"),
        ({"learning_rate": [0.1], "units": [3]}, {"mesh": "all"}, "Mesh with one axis"),
    ],
)
def test_errors_are_raised_before_anything_is_compiled(space, options, message, monkeypatch):
    monkeypatch.setattr(Program, "compile", lambda self: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=message):
        sweep(space, **options)


def test_a_float_that_determines_a_shape_is_named():
    def model(units):
        return nn.stateless(
            lambda key, x: {"kernel": nn.param(nn.initializers.ones, (x.shape[-1], int(units)))},
            lambda params, x: x @ params["kernel"],
            "own",
        )

    with pytest.raises(ValueError, match=r"'units' has values such as 2\.0, and floats are traced.*such as 2"):
        sweep({"units": [2.0, 4.0]}, model=model, optimizer=optax.sgd(0.1))


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match=r"expected as a sequence, got 0\.1: write \[0\.1\]"):
        sweep({"learning_rate": 0.1})
    with pytest.raises(TypeError, match="is a distribution"):
        sweep({"learning_rate": population.uniform(0.0, 1.0)})
    with pytest.raises(TypeError, match="a grid, which is a dict of lists, or as a list of dicts"):
        sweep(3)
    for name, value in (("batch_size", 16.0), ("epochs", 2.5), ("units", 4.0)):
        with pytest.raises(TypeError, match=f"{'features' if name == 'units' else name} as a whole number, got {value}"):
            sweep({"units": [3], "learning_rate": [0.1]} | {name: [value]})
    with pytest.raises(TypeError, match="learning_rate is '0.1', expected a number"):
        sweep({"learning_rate": ["0.1"], "units": [3]})
    with pytest.raises(TypeError, match="needs units"):
        sweep({"learning_rate": [0.1]})


@pytest.mark.slow
def test_ctrl_c_returns_the_results_so_far():
    program = textwrap.dedent("""
        import os, signal, threading, time
        import jax, numpy as np, optax, jaxnn as nn
        x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        from jaxnn.population.group_run import GroupRun
        keep_logs = GroupRun.keep_logs
        interrupted = []
        def and_interrupt(self, *arguments):
            keep_logs(self, *arguments)
            if not interrupted:
                interrupted.append(1)
                os.kill(os.getpid(), signal.SIGINT)
        GroupRun.keep_logs = and_interrupt
        result = nn.sweep(nn.dense(1), (x, x[:, :1]), {"learning_rate": [0.1, 0.01]}, loss=nn.losses.mse, optimizer=optax.sgd,
                          epochs=10**6, key=jax.random.key(0), progress=False)
        assert {row["status"] for row in result.rows} == {"interrupted"}, result.rows
        assert all(0 < row["epochs"] < 10**6 for row in result.rows)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_distributions_and_sequences():
    for kind in (population.uniform(1.0, 3.0), population.log_uniform(1.0, 3.0)):
        values = [kind.at(u) for u in np.linspace(0, 1, 11)]
        assert values[0] == pytest.approx(1)
        assert values[-1] == pytest.approx(3)
        assert values == sorted(values)
    assert [population.integers(2, 3).at(u) for u in (0.0, 0.49, 0.51, 0.99)] == [2, 2, 3, 3]
    rates = np.asarray([s["r"] for s in population.sobol({"r": population.uniform(0.0, 1.0), "k": [1, 2]}, 16)])
    assert sorted((16 * rates).astype(int)) == list(range(16))
    drawn = population.random({"r": population.log_uniform(1e-4, 1.0), "k": ["a", "b"]}, 400, KEY)
    assert abs(np.mean([np.log10(s["r"]) for s in drawn]) + 2) < 0.2
    assert 150 < sum(s["k"] == "a" for s in drawn) < 250
    assert drawn == population.random({"r": population.log_uniform(1e-4, 1.0), "k": ["a", "b"]}, 400, KEY)
    for bad in (lambda: population.uniform(1, 0), lambda: population.log_uniform(0, 1), population.choice):
        with pytest.raises(ValueError, match="takes"):
            bad()


@pytest.mark.slow
def test_jax_arrays_and_numpy_numbers_are_values():
    result = sweep({"learning_rate": jnp.array([0.1, 0.01]), "units": np.array([3])}, epochs=1)
    assert [row["learning_rate"] for row in result.rows] == pytest.approx([0.1, 0.01])
    assert len(result.groups) == 1


def test_cores_and_memory_on_systems_with_less_information(monkeypatch):
    known = scheduler.strategy_for()
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.sysconf_names", {"SC_PHYS_PAGES": os.sysconf_names["SC_PHYS_PAGES"]})
    assert scheduler.strategy_for().threads == os.cpu_count()
    assert scheduler.strategy_for().memory >= known.memory
    monkeypatch.setattr("os.sysconf_names", {})
    assert scheduler.strategy_for().memory == 2**31
