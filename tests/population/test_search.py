"""Searches, cross-validation, bootstrap and ensembles, against sweeps, `fit` and NumPy."""

import signal
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits, load_iris

import jaxnn as nn
from jaxnn import population
from jaxnn.compiled import Program
from jaxnn.population.group_run import GroupRun

KEY = jax.random.key(3)
X = np.random.default_rng(1).normal(size=(96, 4)).astype(np.float32)
Y = X[:, :1] - X[:, 1:2]
COMMON = {"loss": nn.losses.mse, "optimizer": optax.sgd, "key": KEY, "progress": False, "batch_size": 16}
RATES = {"learning_rate": [1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2]}


def close(a, b, tolerance=1e-5):
    chex.assert_trees_all_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_halving_continues_members_from_their_train_states():
    halved = population.successive_halving(nn.dense(1), (X, Y), RATES, epochs=6, first_epochs=2, factor=3, seeds=2, **COMMON)
    whole = nn.sweep(nn.dense(1), (X, Y), RATES, epochs=6, seeds=2, **COMMON)
    assert sorted(row["epochs"] for row in halved.rows) == [2] * 8 + [6] * 4
    assert {row["status"] for row in halved.rows} == {"finished", "dropped"}
    for a, b in zip(halved.rows, whole.rows, strict=True):
        if a["epochs"] == 6:
            close(halved.member(halved.rows.index(a)).params, whole.member(whole.rows.index(b)).params)
    at_two = [np.mean([whole.member(2 * i + k).history["loss"][1] for k in range(2)]) for i in range(6)]
    assert {row["learning_rate"] for row in halved.rows if row["epochs"] == 6} == {
        RATES["learning_rate"][i] for i in np.argsort(at_two)[:2]
    }


class Interruption(Exception):
    """Interrupts a search."""


def proposed(**options):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = options.pop("study", None) or optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    suggest = lambda trial: {"learning_rate": trial.suggest_float("rate", 1e-3, 0.1, log=True)}  # noqa: E731
    return population.optuna_search(study, suggest, nn.dense(1), (X, Y), rounds=3, members=3, epochs=2, **COMMON | options)


SEARCHES = {
    "halving": lambda **o: [population.successive_halving(nn.dense(1), (X, Y), RATES, epochs=4, factor=2, **COMMON, **o)],
    "hyperband": lambda **o: population.hyperband(nn.dense(1), (X, Y), RATES, epochs=4, factor=2, **COMMON, **o),
    "pbt": lambda **o: [population.population_based_training(nn.dense(1), (X, Y), RATES, epochs=6, interval=2, **COMMON, **o)],
    "optuna": proposed,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_an_interrupted_search_continues_to_the_same_bits(name, tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint")
    from jaxnn.population.saver import Saver

    search, save, done = SEARCHES[name], Saver.save, []

    def and_interrupt(self, *arguments, **named):
        save(self, *arguments, **named | {"wait": True})
        done.append(1)
        if len(done) == 2:
            raise Interruption

    whole = search()
    with monkeypatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(Saver, "save", and_interrupt)
        search(checkpoints=tmp_path)
    trained = []
    with monkeypatch.context() as patch:
        patch.setattr(GroupRun, "keep", lambda *given, keep=GroupRun.keep, **named: (trained.append(1), keep(*given, **named)))
        resumed = search(checkpoints=tmp_path)
        assert trained
        trained.clear()
        again = search(checkpoints=tmp_path)
        assert not trained  # nothing was left to train
    for these in (resumed, again):
        for part, other in zip(these, whole, strict=True):
            assert part.rows == other.rows
            jax.tree.map(np.testing.assert_array_equal, part.params, other.params)


@pytest.mark.slow
def test_a_killed_search_continues_to_the_same_bits(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    program = textwrap.dedent(f"""
        import os, signal
        import numpy as np, optax, jax, jaxnn as nn
        from jaxnn.population.saver import Saver
        x = np.random.default_rng(1).normal(size=(96, 4)).astype(np.float32)
        saved, save = [], Saver.save
        def and_kill(self, *arguments, **named):
            save(self, *arguments, **named)
            saved.append(1)
            if len(saved) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        Saver.save = and_kill
        nn.population.hyperband(nn.dense(1), (x, x[:, :1] - x[:, 1:2]), {RATES}, epochs=4, factor=2, loss=nn.losses.mse,
                                optimizer=optax.sgd, key=jax.random.key(3), batch_size=16, checkpoints={str(tmp_path)!r})
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bracket-1", "bracket-2"]
    resumed, whole = SEARCHES["hyperband"](checkpoints=tmp_path), SEARCHES["hyperband"]()
    for part, other in zip(resumed, whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, part.params, other.params)


@pytest.mark.slow
def test_an_interrupted_study_continues_with_the_same_trials(tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint")
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    tell, told = study.tell, []

    def and_interrupt(*arguments, **named):
        if len(told) == 4:
            raise Interruption
        told.append(tell(*arguments, **named))

    with monkeypatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(study, "tell", and_interrupt)
        proposed(study=study, checkpoints=tmp_path)
    assert len(study.trials) == 6
    rates = [trial.params["rate"] for trial in study.trials]
    results = proposed(study=study, checkpoints=tmp_path)
    assert len(study.trials) == 9
    assert all(trial.state.is_finished() for trial in study.trials)
    rows = [row for result in results for row in result.rows]
    assert [row["learning_rate"] for row in rows[:6]] == rates
    assert [trial.value for trial in study.trials] == [row["loss"] for row in rows]


@pytest.mark.slow
def test_copies_replace_the_worst_members():
    rates = {"learning_rate": [1e-6, 1e-5, 0.05, 0.1]}
    result = population.population_based_training(nn.dense(1), (X, Y), rates, epochs=6, interval=2, **COMMON)
    plain = nn.sweep(nn.dense(1), (X, Y), rates, epochs=6, **COMMON)
    assert [row["epochs"] for row in result.rows] == [6] * 4
    assert max(row["loss"] for row in result.rows) < max(row["loss"] for row in plain.rows) / 10
    assert min(row["learning_rate"] for row in result.rows) > 1e-5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: population.successive_halving(nn.dense(1), (X, Y), RATES, epochs=2, **COMMON), "do not make two rungs"),
        (lambda: population.successive_halving(nn.dense(1), (X, Y), RATES, epochs=9, factor=1, **COMMON), "at least 2, got 1"),
        (lambda: population.hyperband(nn.dense(1), (X, Y), RATES, epochs=9, **COMMON), "brackets of at least two settings"),
        (
            lambda: population.population_based_training(
                nn.dense(1), (X, Y), RATES, epochs=4, interval=2, seeds=2, **COMMON
            ),
            "one structure and one seed, got 1 structures and 2 seeds",
        ),
        (
            lambda: population.population_based_training(
                nn.dense(1), (X, Y), {}, epochs=4, interval=2, **COMMON | {"optimizer": optax.sgd(0.1)}
            ),
            "at least two settings of at least one traced",
        ),
        (
            lambda: population.successive_halving(nn.dense(1), (X, Y), RATES, epochs=9, monitor="val_loss", **COMMON),
            "no value 'val_loss': the table has loss",
        ),
        (lambda: population.hyperband(nn.dense(1), (X, Y), RATES, epochs=0, **COMMON), "epochs of at least 1, got 0"),
        (lambda: population.cross_validation(nn.dense(1), (X, Y), RATES, folds=97, epochs=1, **COMMON), "at least 97 samples"),
        (lambda: population.cross_validation(nn.dense(1), (X, Y), epochs=1, validation=(X, Y), **COMMON), "give no validation"),
        (
            lambda: population.cross_validation(
                nn.serial(nn.batch_norm(), nn.dense(1)), (X, Y), epochs=1, **COMMON | {"optimizer": optax.sgd(0.1)}
            ),
            "the model has state",
        ),
    ],
)  # fmt: skip
def test_errors_explain_invalid_arguments(call, message, monkeypatch):
    monkeypatch.setattr(Program, "compile", lambda self: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_halving_finds_a_top_setting_at_a_third_of_the_cost():
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x, y = (digits.data / 16).astype(np.float32)[order], digits.target.astype(np.int32)[order]
    space = {
        "learning_rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1],
        "rate": [0.0, 0.2, 0.4, 0.6],
        "decay": [0.0, 1e-3, 1e-2],
    }

    def optimizer(learning_rate, decay):
        return optax.adamw(learning_rate, weight_decay=decay)

    def model(rate):
        return nn.serial(nn.dense(16), nn.relu, nn.dropout(rate), nn.dense(10))

    options = {
        "loss": nn.losses.cross_entropy, "optimizer": optimizer, "epochs": 18, "batch_size": 64, "key": KEY,
        "validation": (x[1200:], y[1200:]), "progress": False,
    }  # fmt: skip
    full = nn.sweep(model, (x[:600], y[:600]), space, **options)
    halved = population.successive_halving(model, (x[:600], y[:600]), space, first_epochs=2, factor=3, **options)
    winner = halved.best().setting
    ranked = [{name: row[name] for name in space} for row in full.by_setting()]
    assert ranked.index(winner) < 0.05 * len(ranked)
    made = sum(row["epochs"] for row in halved.rows)
    assert made <= 0.3 * sum(row["epochs"] for row in full.rows)


@pytest.mark.slow
def test_optuna_proposes_the_settings_of_each_round():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    results = population.optuna_search(
        study, lambda trial: {"learning_rate": trial.suggest_float("rate", 1e-3, 0.1, log=True)}, nn.dense(1), (X, Y),
        rounds=2, members=3, epochs=2, **COMMON,
    )  # fmt: skip
    assert [len(result) for result in results] == [3, 3]
    assert study.best_value == pytest.approx(min(row["loss"] for result in results for row in result.rows))


def test_an_error_leaves_no_trial_of_optuna_running(monkeypatch):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def states(suggest, error, match, **options):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
        with pytest.raises(error, match=match):
            population.optuna_search(study, suggest, nn.dense(1), (X, Y), rounds=1, members=3, epochs=1, **COMMON, **options)
        return [trial.state.name for trial in study.trials]

    def refuse(*_):
        raise MemoryError("as if training failed")

    suggest = lambda trial: {"learning_rate": trial.suggest_float("rate", 1e-3, 0.1)}  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(population.search.Task, "train", refuse)
        assert states(suggest, MemoryError, "as if") == ["FAIL"] * 3
        assert states(suggest, ValueError, "study is to minimize", mode="max") == ["FAIL"] * 3  # before anything is trained
        assert states(lambda trial: {**suggest(trial), "typo": 1.0}, ValueError, "'typo'") == ["FAIL"] * 3
        assert states(lambda trial: 1 / 0, ZeroDivisionError, "division") == ["FAIL"] * 3


def test_a_round_of_optuna_that_failed_continues_with_its_settings(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("orbax.checkpoint")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, given = optuna.create_study(), []

    def suggest(trial):
        given.append(trial.suggest_float("rate", 1e-3, 0.1))
        return {"learning_rate": given[-1]}

    def search():
        return population.optuna_search(study, suggest, nn.dense(1), (X, Y), rounds=1, members=2, epochs=1, **COMMON,
                                        checkpoints=tmp_path)  # fmt: skip

    def fails(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(population.search.Task, "train", fails)
        search()
    search()
    assert given[:2] == given[2:] and len(study.best_trials) == 1
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.slow
def test_members_are_validated_on_the_fold_left_out():
    iris = load_iris()
    x, y = iris.data.astype(np.float32), iris.target.astype(np.int32)
    result = population.cross_validation(
        nn.dense(3), (x, y), {"learning_rate": [0.1]}, folds=4, seeds=2, loss=nn.losses.cross_entropy, optimizer=optax.adam,
        metrics={"accuracy": nn.metrics.accuracy}, epochs=15, key=KEY, progress=False,
    )  # fmt: skip
    assert len(result) == 8
    [row] = result.by_setting("val_accuracy")
    assert row["val_accuracy"] > 0.9
    from jaxnn.population.resampling import _folds, _generator

    fold = _folds(_generator({"key": KEY}, "folds"), jnp.asarray(y), 150, 4)
    assert sorted(np.bincount(fold)) == [37, 37, 38, 38]
    for k in range(4):
        assert np.ptp(np.bincount(y[fold == k])) <= 1
        member = result.member(2 * k)
        here = nn.evaluate(member, (x[fold == k], y[fold == k]), metrics={"accuracy": nn.metrics.accuracy})
        close(here["accuracy"], member.row["val_accuracy"])
        close(here["loss"], member.row["val_loss"], 1e-4)


@pytest.mark.slow
def test_samples_of_weight_zero_have_no_influence():
    """Gradient descent on the training part of a fold converges to NumPy's least squares solution."""
    result = population.cross_validation(
        nn.dense(1), (X, Y + 0.1 * X[:, 2:3] ** 2), folds=3, loss=nn.losses.mse, optimizer=optax.sgd(0.1), epochs=200, key=KEY,
        batch_size=96, progress=False,
    )  # fmt: skip
    from jaxnn.population.resampling import _folds, _generator

    fold = _folds(_generator({"key": KEY}, "folds"), jnp.asarray(Y), 96, 3)
    for k in range(3):
        design = np.c_[X, np.ones(96)][fold != k].astype(np.float64)
        solution = np.linalg.lstsq(design, (Y + 0.1 * X[:, 2:3] ** 2)[fold != k], rcond=None)[0]
        params = result.member(k).params
        close(np.r_[params["kernel"], params["bias"][None]], solution, 1e-4)


def test_bootstrap_members_are_validated_out_of_bag():
    result = population.bootstrap(nn.dense(1), (X, Y), RATES, samples=5, epochs=3, **COMMON)
    assert len(result) == 30
    assert len(result.by_setting()) == 6
    assert len({row["val_loss"] for row in result.rows}) == 30
    losses = np.reshape([row["val_loss"] for row in result.rows], (6, 5)).mean(1)  # (rate,), over draws
    assert result.best_setting() == {"learning_rate": RATES["learning_rate"][losses.argmin()]}  # without a draw's number


@pytest.fixture(scope="module")
def classifiers():
    labels = (X[:, 0] > 0).astype(np.int32)
    return nn.sweep(
        lambda units: nn.models.mlp([units], 2), (X, labels), {"units": [3, 5], "learning_rate": [0.01, 0.1]}, seeds=2,
        loss=nn.losses.cross_entropy, optimizer=optax.adam, epochs=2, key=KEY, progress=False,
    )  # fmt: skip


@pytest.mark.slow
def test_predict_members_matches_predict_for_each_member(classifiers):
    together = population.predict_members(classifiers, X, batch_size=40)
    for i in range(8):
        member = classifiers.member(i)
        close(together[i], nn.predict(member, X), 1e-5)
    some = population.predict_members(classifiers, X, members=[6, 1])
    close(some, together[jnp.array([6, 1])])
    with pytest.raises(ValueError, match="each from 0 to 7"):
        population.predict_members(classifiers, X, members=[8])
    with pytest.raises(ValueError, match=r"an input of shape \[96, 2\]"):
        population.predict_members(classifiers, X[:, :2])


@pytest.mark.slow
def test_ensembles_against_numpy(classifiers):
    logits = population.predict_members(classifiers, X)
    z = np.asarray(logits, np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    w = np.arange(8.0)
    close(population.mean_probabilities(logits), p.mean(0))
    close(population.mean_probabilities(logits, w), np.tensordot(w / w.sum(), p, 1))
    np.testing.assert_array_equal(population.vote(logits), (z.argmax(-1).mean(0) > 0.5).astype(int))
    parts = population.uncertainty(logits)
    entropy = lambda p: -(p * np.log(p)).sum(-1)  # noqa: E731
    close(parts["total"], entropy(p.mean(0)), 1e-4)
    close(parts["aleatoric"], entropy(p).mean(0), 1e-4)
    close(parts["epistemic"], entropy(p.mean(0)) - entropy(p).mean(0), 1e-4)
    labels = z.argmax(-1)
    close(population.disagreement(logits), (labels[:, None] != labels[None]).mean(-1))
    close(population.spread(logits)[1], z.std(0, ddof=1), 1e-4)
    with pytest.raises(ValueError, match="one weight per member"):
        population.mean_probabilities(logits, [1.0])
    with pytest.raises(ValueError, match="two classes or more"):
        population.vote(logits[..., :1])


@pytest.mark.slow
def test_greedy_selection_is_at_least_as_good_as_the_best_member(classifiers):
    labels = (X[:, 0] > 0).astype(np.int32)
    p = jax.nn.softmax(population.predict_members(classifiers, X))
    score = lambda p, y: -jnp.mean(jnp.log(jnp.take_along_axis(p, y[:, None], 1)))  # noqa: E731
    weights = population.greedy_selection(p, labels, score, size=10)
    assert weights.sum() == pytest.approx(1)
    assert score(jnp.tensordot(weights.astype(np.float32), p, 1), labels) <= min(score(each, labels) for each in p) + 1e-6
    with pytest.raises(ValueError, match="all scores are NaN"):
        population.greedy_selection(jnp.nan * p, labels, score, size=1)
    worst = population.greedy_selection(p, labels, score, size=1, mode="max")
    assert worst.argmax() == np.argmax([score(each, labels) for each in p])


@pytest.mark.slow
def test_a_soup_is_the_weighted_mean(classifiers):
    params = classifiers.groups[0].params
    close(population.soup(params, [1, 0, 0, 0])["dense"]["kernel"], params["dense"]["kernel"][0])
    close(population.soup(params)["dense"]["kernel"], params["dense"]["kernel"].mean(0))


@pytest.mark.slow
@pytest.mark.parametrize("resample", [population.cross_validation, population.bootstrap])
def test_resampling_continues_from_checkpoints(resample, tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint")
    options = {**COMMON, "optimizer": optax.sgd(0.1), "epochs": 2}
    name = "folds" if resample is population.cross_validation else "samples"
    whole = resample(nn.dense(1), (X, Y), **{name: 3}, **options)
    first = resample(nn.dense(1), (X, Y), **{name: 3}, **options, checkpoints=tmp_path)
    trained, keep = [], GroupRun.keep
    monkeypatch.setattr(GroupRun, "keep", lambda *given, **named: (trained.append(1), keep(*given, **named)))
    again = resample(nn.dense(1), (X, Y), **{name: 3}, **options, checkpoints=tmp_path)
    assert not trained
    for result in (first, again):
        np.testing.assert_array_equal(result.params["kernel"], whole.params["kernel"])
