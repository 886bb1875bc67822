"""A checkpoint is continued only by the run that it is of: everything that the result depends on is compared."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.train import identity

pytest.importorskip("orbax.checkpoint")

RNG = np.random.default_rng(0)
X, V = RNG.normal(size=(23, 3)).astype(np.float32), RNG.normal(size=(6, 3)).astype(np.float32)
Y = 2 * X[:, :1]
KEY = jax.random.key(0)


def noise(key, batch, size=0.1):
    x, y = batch
    return x + size * jax.random.normal(key, x.shape), y


def less_noise(key, batch):
    return noise(key, batch, 0.01)


def error(p, y):
    return jnp.mean(jnp.abs(p - y))


def base():
    """The options of the saved run, made anew each time, as in another process."""
    return {
        "model": nn.serial(nn.dense(4), nn.relu, nn.dense(1)),
        "data": (X, Y),
        "loss": nn.losses.mse,
        "optimizer": optax.adam(1e-2),
        "hyperparameters": None,
        "epochs": 2,
        "key": KEY,
        "batch_size": 10,
        "validation": (V, V[:, :1]),
        "metrics": {"error": error},
        "callbacks": [nn.callbacks.ema(0.9), nn.callbacks.early_stopping(50, monitor="loss")],
        "augment": noise,
        "progress": False,
    }


def fit(folder=None, **changes):
    options = base() | changes
    return nn.fit(options.pop("model"), options.pop("data"), checkpoints=folder, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return folder, fit(folder)


OTHER = {
    "targets": ({"data": (X, -Y)}, r"data '1' was float32\[23, 1\] with checksum"),
    "one entry of the inputs": ({"data": (X + np.eye(23, 3, dtype=np.float32) * 1e-3, Y)}, "data '0' was"),
    "validation": ({"validation": (V, V[:, 1:2])}, "validation data '1' was"),
    "no validation": ({"validation": None}, "validation data '0' was .* and is nothing now"),
    "loss": ({"loss": nn.losses.mae}, "loss was mse, and is mae now"),
    "weights of the loss": ({"loss": lambda p, y: 2 * nn.losses.mse(p, y)}, "loss was mse, and is <lambda>"),
    "learning rate in a closure": ({"optimizer": optax.adam(2e-2)}, "what is computed by the optimizer differs"),
    "schedule in a closure": ({"optimizer": optax.adam(optax.linear_schedule(1e-2, 0, 9))}, "does not match"),
    "activation": ({"model": nn.serial(nn.dense(4), nn.tanh, nn.dense(1))}, "computed by the model differs"),
    "initializer": (
        {"model": nn.serial(nn.dense(4, kernel_init=nn.initializers.normal(0.1)), nn.relu, nn.dense(1))},
        r"weights at the start\[1\] was",
    ),
    "accumulate": ({"accumulate": 2}, "accumulate was 1, and is 2 now"),
    "sam_radius": ({"sam_radius": 0.05}, "sam_radius was 0, and is 0.05 now"),
    "on_nonfinite": ({"on_nonfinite": "skip"}, "skip_nonfinite was False"),
    "augmentation": ({"augment": less_noise}, "augmentation was noise, and is less_noise now"),
    "no augmentation": ({"augment": None}, "augmentation was noise, and is None now"),
    "the code of a metric": ({"metrics": {"error": lambda p, y: 2 * error(p, y)}}, "metric 'error' was error"),
    "the decay of a callback": (
        {"callbacks": [nn.callbacks.ema(0.8), nn.callbacks.early_stopping(50, monitor="loss")]},
        "training step, its metrics and callbacks differs",
    ),
    "the patience of a callback": (
        {"callbacks": [nn.callbacks.ema(0.9), nn.callbacks.early_stopping(5, monitor="loss")]},
        "end of an epoch, its metrics and callbacks differs",
    ),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("what", OTHER)
def test_another_run_is_refused(what, saved):
    changes, words = OTHER[what]
    with pytest.raises(ValueError, match=words) as caught:
        fit(saved[0], **changes)
    assert "choose another folder" in str(caught.value)


def test_what_may_change(saved, tmp_path):
    """The number of epochs, what only watches, the files of the data, and the spelling of equal functions."""
    folder, first = saved
    np.save(tmp_path / "x.npy", X)
    watch = nn.callbacks.csv_log(tmp_path / "log.csv")
    again = fit(folder, callbacks=[*base()["callbacks"], watch], data=(np.load(tmp_path / "x.npy", mmap_mode="r"), Y))
    assert again.history.same_as(first.history)

    def mse(p, y):  # the same program under the same name
        return nn.losses.mse(p, y)

    assert fit(folder, loss=mse).history.same_as(first.history)
    assert fit(folder, epochs=3).history.same_as(fit(epochs=3).history)


@pytest.mark.slow
def test_a_given_learning_rate_and_a_schedule(tmp_path):
    def run(rate, **changes):
        return fit(tmp_path, optimizer=optax.sgd, hyperparameters={"learning_rate": rate}, callbacks=[], **changes)

    run(lambda step, steps: 0.1 * (1 - step / steps))
    with pytest.raises(ValueError, match=r"schedule of 'learning_rate'\[0\] was 0\.1"):
        run(lambda step, steps: 0.2 * (1 - step / steps))
    # A schedule of the run's length goes on by the new length; nothing else of it may change.
    rates = run(lambda step, steps: 0.1 * (1 - step / steps), epochs=4).history["learning_rate"]
    np.testing.assert_allclose(
        rates, [0.1 * (1 - 2 / 6), 0.1 * (1 - 5 / 6), 0.1 * (1 - 8 / 12), 0.1 * (1 - 11 / 12)], rtol=1e-5
    )


@pytest.mark.slow
def test_another_learning_rate_on_purpose_is_a_new_run(tmp_path):
    options = {"optimizer": optax.sgd, "callbacks": []}
    first = fit(tmp_path / "first", hyperparameters={"learning_rate": 0.1}, **options)
    with pytest.raises(
        ValueError, match=r"'learning_rate' was 0\.1, and is 0\.01 now.*pass them as initial= with another folder"
    ):
        fit(tmp_path / "first", hyperparameters={"learning_rate": 0.01}, **options)
    second = fit(tmp_path / "second", hyperparameters={"learning_rate": 0.01}, initial=first, **options)
    np.testing.assert_allclose(second.history["learning_rate"], 0.01)


@pytest.mark.slow
def test_batches_are_told_apart_by_dtype_alone(tmp_path):
    def batches(epoch):
        lengths = RNG.integers(2, 9, 3)  # other lengths in each run
        return [(np.ones((n, 3), np.float32), np.ones((n, 1), np.float32)) for n in lengths]

    options = {"data": batches, "augment": None, "callbacks": [], "validation": None, "metrics": None}
    fit(tmp_path, **options)
    assert len(fit(tmp_path, **options, epochs=3).history.rows) == 3
    options["data"] = lambda epoch: [(X, Y.astype(np.int32))]
    with pytest.raises(ValueError, match="data '1' was float32, and is int32 now"):
        fit(tmp_path, **options, loss=lambda p, y: nn.losses.mse(p, y.astype(p.dtype)))


def test_the_checksum_of_a_large_array_reads_a_part_of_it(monkeypatch):
    monkeypatch.setattr(identity, "MOST_BYTES", 4 * 30)
    x = np.arange(300, dtype=np.float32).reshape(100, 3)
    for array in (x, jnp.asarray(x)):
        assert identity.contents("data", array) == identity.contents("data", x)
    changed = x.copy()
    changed[-1] = 0
    assert identity.contents("data", changed) != identity.contents("data", x)
    assert identity.contents("data", {"a": np.zeros((0, 3), np.float32)}) == {
        "data 'a'": "float32[0, 3] with checksum 00000000"
    }


def test_programs_are_compared_between_equal_versions_only():
    saved = {"versions": "jax 1", "loss": "mse", "what is computed by the loss": "a"}
    assert identity.difference(saved, saved | {"what is computed by the loss": "b"}) == "what is computed by the loss differs"
    assert identity.difference(saved, saved | {"what is computed by the loss": "b", "versions": "jax 2"}) is None
    assert identity.difference(saved, saved | {"loss": "mae", "versions": "jax 2"}) == "loss was mse, and is mae now"
    assert identity.difference({"batch_size": 8, "samples": 9}, {"batch_size": 8, "versions": "jax 1"}) is None  # an old one


def test_programs_that_call_python_are_not_compared():
    def loud(x):
        jax.debug.print("{}", x)
        return x

    assert identity._program(loud, jax.ShapeDtypeStruct((), jnp.float32))[0] is None
