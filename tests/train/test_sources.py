"""Data of every kind train the same run, and what is wrong with them is said, before the run or by the batch."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = X @ np.array([[1.0], [2.0], [3.0]], np.float32)
MODEL, OPTIMIZER = nn.dense(1), optax.sgd(0.1)
BATCHES = [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)]

equal = chex.assert_trees_all_equal


def fit(data=(X, Y), **options):
    defaults = {"loss": nn.losses.mse, "optimizer": OPTIMIZER, "epochs": 2, "key": KEY, "batch_size": 4, "progress": False}
    return nn.fit(options.pop("model", MODEL), data, **{**defaults, **options})


def memory_map(array, folder):
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@functools.cache
def plain():
    return fit()


def by_hand(batches):
    """Gradient descent on the mean squared error, in float64."""
    start = nn.init_train_state(MODEL, OPTIMIZER, KEY, X).params
    kernel, bias = (np.asarray(start[name], np.float64) for name in ("kernel", "bias"))
    for x, y in batches:
        error = 2 * (x @ kernel + bias - y) / len(x)
        kernel, bias = kernel - 0.1 * x.T @ error, bias - 0.1 * error.sum(0)
    return {"kernel": kernel, "bias": bias}


def close(params, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-4, atol=1e-6)


# --- the same data in other containers ---


def containers(folder):
    pd = pytest.importorskip("pandas")
    index = np.random.default_rng(1).permutation(12)
    frame, column = pd.DataFrame(X, index=index), pd.DataFrame(Y, index=index)
    return {
        "pandas": (frame, column),
        "a memory map and pandas": (memory_map(X, folder), column),
        "big-endian": (X.astype(">f4"), Y.astype(">f4")),
        "big-endian memory maps": (memory_map(X.astype(">f4"), folder), memory_map(Y.astype(">f4"), folder)),
        "a list": [X, jnp.asarray(Y)],
        "a list with a memory map": [memory_map(X, folder), Y],
    }


@pytest.mark.slow
def test_the_container_of_the_data_changes_no_run(tmp_path):
    for name, data in containers(tmp_path).items():
        result = fit(data, validation=(X, Y) if "list" in name else None)
        close(result.params, jax.tree.map(np.asarray, plain().params))


@pytest.mark.slow
def test_every_entry_point_takes_them_by_position(tmp_path):
    options = {"loss": nn.losses.mse, "optimizer": optax.sgd(0.1), "epochs": 1, "key": KEY, "progress": False}
    population = nn.population
    calls = {
        "evaluate": lambda data: nn.evaluate(plain(), data)["loss"],
        "predict": lambda data: nn.predict(plain(), data[0]).sum(),
        "sweep": lambda data: nn.sweep(MODEL, data, {}, validation=data, **options).rows[0]["val_loss"],
        "cross_validation": lambda data: population.cross_validation(MODEL, data, folds=2, **options).rows[1]["val_loss"],
        "bootstrap": lambda data: population.bootstrap(MODEL, data, samples=2, **options).rows[1]["val_loss"],
        "find_learning_rate": lambda data: nn.find_learning_rate(
            MODEL, data, loss=nn.losses.mse, optimizer=optax.sgd, key=KEY, steps=20, batch_size=4
        ).losses[-1],
    }
    given = containers(tmp_path)
    for name, call in calls.items():
        expected = float(call((X, Y)))
        for container in ("pandas", "big-endian memory maps"):
            assert float(call(given[container])) == expected, (name, container)


def test_a_list_of_arrays_is_a_tuple_for_an_objective():
    def function(model, params, state, batch, key):
        y, state = model.apply(params, state, batch[0])
        return nn.losses.mse(y, batch[1]), (state, y)

    objective = nn.Objective(function)
    results = [fit(data, loss=objective) for data in ([X, Y], (X, Y), lambda epoch: [[X, Y]])]
    assert [int(result.train_state.step) for result in results] == [6, 6, 2]
    equal(results[0].params, results[1].params)
    assert nn.evaluate(results[0], [X, Y])["loss"] == nn.evaluate(results[0], (X, Y))["loss"]


# --- labels: only a loss that needs classes refuses others, whatever the source ---


def known_only(predictions, y):
    return nn.losses.cross_entropy(predictions, jnp.maximum(y, 0), where=y >= 0)


def label_sources(labels, folder):
    return {
        "arrays": (X, labels),
        "a memory map": (memory_map(X, folder), labels),
        "a stream": lambda epoch: [(X[:4], labels[:4]), (X[4:8], labels[4:8]), (X[8:], labels[8:])],
    }


@pytest.mark.slow
def test_a_custom_loss_may_ignore_labels(tmp_path):
    model = nn.dense(3)
    labels = np.arange(12, dtype=np.int32) % 4 - 1
    for name, data in label_sources(labels, tmp_path).items():
        result = fit(data, model=model, loss=known_only, validation=(X, labels))
        assert np.isfinite(result.history["val_loss"]).all(), name
    swept = nn.sweep(
        model, (X, labels), {"learning_rate": [0.1]}, loss=known_only, optimizer=optax.sgd, epochs=1, key=KEY, progress=False
    )
    assert np.isfinite(swept.rows[0]["loss"])
    assert nn.evaluate(result, (X, labels))["loss"] == pytest.approx(
        nn.evaluate(result, (X[labels >= 0], labels[labels >= 0]), loss=nn.losses.cross_entropy)["loss"], rel=1e-5
    )


def test_a_built_in_loss_refuses_them_also_in_a_later_batch(tmp_path):
    model, labels = nn.dense(3), np.zeros(12, np.int32)
    labels[9] = 3
    words = "from 0 to 2; y has labels from 0 to 3"
    for name, data in label_sources(labels, tmp_path).items():
        error, prefix = (ValueError, "") if name == "arrays" else (nn.DataError, "batch . of epoch 1: ValueError: the model")
        with pytest.raises(error, match=prefix + ".*" + words):
            fit(data, model=model, loss=nn.losses.cross_entropy)
    with pytest.raises(ValueError, match=words):
        nn.evaluate((model, *model.init(KEY, X)), (X, labels), loss=nn.losses.cross_entropy)


# --- streams ---


def test_a_loader_whose_length_is_not_known():
    class Loader:
        def __len__(self):
            raise TypeError("object of type 'Endless' has no len()")

        def __iter__(self):
            return iter(BATCHES)

    result = fit(Loader())
    assert result.history["step"] == [3, 6]
    close(result.params, by_hand(BATCHES * 2))


def test_no_batch_of_a_shared_generator_is_lost():
    drawn = []

    def endless():
        for i in itertools.count():
            drawn.append(i)
            yield BATCHES[i % 3]

    generator = endless()
    result = fit(lambda epoch: itertools.islice(generator, 4))
    assert drawn == list(range(8)) and int(result.train_state.step) == 8
    close(result.params, by_hand([BATCHES[i % 3] for i in range(8)]))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ((X[:0], Y[:0]), r"x of the batch has no samples: its shape is \[0, 3\]"),
        (
            (X[:4, :2], Y[:4]),
            r"the batch is \(float32\[4, 2\], .*, the one before was \(float32\[4, 3\], .* only the number of",
        ),
        ((X[:4].astype(np.float16), Y[:4]), r"the batch is \(float16\[4, 3\]"),
        (({"x": X[:4]}, Y[:4]), r"the batch is \(\{x: float32\[4, 3\]\}"),
        ((X[:4], Y[:4], np.ones(4, np.float32)), r"the batch is .* float32\[4\]\), the one before was"),
        ({"x": X[:4], "y": Y[:4]}, r"got a dict with 'x', 'y': pass a tuple of its entries, such as \(d\['x'\], d\['y'\]\)"),
        ((X[:4], Y[:3]), r"got x \[4, 3\], y \[3, 1\]"),
        ((X[:4], Y[:4].astype(np.float64)), "y of the batch is float64"),
    ],
)
def test_a_later_batch_of_another_kind(second, words):
    with pytest.raises(nn.DataError, match="batch 1 of epoch 1: .*Error: .*" + words) as raised:
        fit(lambda epoch: [BATCHES[0], second])
    assert int(raised.value.result.train_state.step) == 1


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (lambda epoch: None, TypeError, "must return an iterable of batches, got NoneType"),
        (lambda epoch: [], ValueError, "the data have no batches"),
        (iter([{"x": X, "y": Y}]), TypeError, "batch is expected as a pair .* got a dict with 'x', 'y'"),
        (iter([(X[:0], Y[:0])]), ValueError, "x of the batch has no samples"),
        (BATCHES * 2, TypeError, "got list of 6 entries: pass a list of batches as lambda epoch: batches"),
    ],
)
def test_a_first_batch_or_source_of_another_kind(data, error, words):
    with pytest.raises(error, match=words):
        fit(data)


# --- values that are not finite ---


def test_bad_values_are_named_and_not_the_learning_rate(tmp_path):
    x = X.copy()
    x[7, 1] = np.nan
    advice = r"The data are the cause: x of the batch has NaN or infinite values in 1 of 4 samples, first at index"
    with pytest.warns(RuntimeWarning, match=rf"{advice} 7$"):  # of the data
        result = fit((memory_map(x, tmp_path), Y))
    assert result.stopped == "diverged"
    with pytest.warns(RuntimeWarning, match=rf"step 1 is not finite.*{advice} 3$"):  # of the batch
        fit(lambda epoch: [(x[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)])
    with pytest.warns(RuntimeWarning, match="The data are the cause: hinge: targets run from .*, expected only -1 and 1"):
        fit(loss=nn.losses.hinge)
    with pytest.warns(RuntimeWarning, match="lower learning rate"):
        fit(loss=lambda p, y: jnp.log(jnp.mean((p - y) ** 2) * 0) * 0)
    with pytest.raises(nn.NonFiniteError) as raised:
        fit((memory_map(x, tmp_path), Y), on_nonfinite="raise")
    assert 7 in raised.value.samples and raised.value.found.phase == "input"


def test_weights_that_are_all_0_have_no_mean(tmp_path):
    none, some = np.zeros(4, np.float32), np.ones(4, np.float32)
    with pytest.raises(ValueError, match="weights of the data are all 0"):
        fit((memory_map(X, tmp_path), Y, np.zeros(12, np.float32)))
    with pytest.raises(nn.DataError, match="weights of the batches of epoch 1 are all 0"):
        fit(lambda epoch: [(*batch, none) for batch in BATCHES])
    weighted = fit(lambda epoch: [(*BATCHES[0], none), (*BATCHES[1], some)])
    assert np.isfinite(weighted.history["loss"]).all()


# --- initialization ---


@pytest.mark.slow
def test_the_state_of_a_layer_is_that_of_a_batch():
    x = np.random.default_rng(2).normal(size=(8, 5, 3)).astype(np.float32)
    y = x.sum((1, 2))[:, None]
    model = nn.serial(nn.rnn(2, stateful=True, return_sequences=False), nn.dense(1))
    result = fit((x, y), model=model)
    assert {leaf.shape for leaf in jax.tree.leaves(result.state)} == {(4, 2)}
    state, _ = nn.train_run(model, loss=nn.losses.mse, optimizer=OPTIMIZER, epochs=2, batch_size=4)(KEY, (x, y))
    chex.assert_trees_all_close(state.params, result.params, rtol=1e-5)
