"""Recipes, and the models, optimizers and schedules that the command line builds by name."""

import jax
import numpy as np
import pytest

from jaxnn.cli.factories import make_model, make_optimizer, make_schedule
from jaxnn.cli.recipes import DEFAULT_RECIPES, RECIPES, SUITABLE
from jaxnn.data import NAMES


def test_recipes_are_for_known_data_and_models():
    models = {model for samples in SUITABLE.values() for model in samples.models}
    assert set(DEFAULT_RECIPES) == models
    for name, model in RECIPES:
        assert name in NAMES and model in models


def test_fashion_mnist_is_trained_for_at_most_ten_epochs():
    assert RECIPES["fashion-mnist", "cnn"].epochs <= 10


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
    rate = make_schedule(schedule, 0.5, epochs=10, steps_per_epoch=5)
    np.testing.assert_allclose([rate(0), rate(5), rate(45)], [0.5, 0.5 * second_epoch, 0.5 * last_epoch], rtol=1e-5)


def test_the_cyclic_schedule_ends_lower_than_it_began():
    rates = np.array([make_schedule("cyclic", 0.5, 16, 1)(step) for step in range(17)])
    np.testing.assert_allclose(rates[::2], [0.05, 0.5, 0.05, 0.275, 0.05, 0.1625, 0.05, 0.10625, 0.05], rtol=1e-5)


def test_onecycle_rises_and_falls():
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        rates = np.array([make_schedule("onecycle", 0.5, 10, 10)(step) for step in (0, 30, 100)])
    np.testing.assert_allclose(rates, [0.5 / 25, 0.5, 0.5 / 25e4], rtol=1e-3, atol=1e-6)


def kernel(init):
    model = make_model("mlp", 2, hidden=(100,), activation="relu", init=init, dropout=0.0)
    params, _ = model.init(jax.random.key(0), np.zeros((4, 400), np.float32))
    return params["dense"]["kernel"]


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        ("random", 0.05),
        ("fan-in", np.sqrt(1 / (3 * 400))),
        ("glorot", np.sqrt(2 / (400 + 100))),
        ("xavier", np.sqrt(2 / (400 + 100))),
        ("he", np.sqrt(2 / 400)),
        ("lecun", np.sqrt(1 / 400)),
        ("orthogonal", np.sqrt(1 / 400)),
    ],
)
def test_inits(init, deviation):
    np.testing.assert_allclose(kernel(init).std(), deviation, rtol=0.02)


def test_xavier_is_glorot():
    np.testing.assert_array_equal(kernel("xavier"), kernel("glorot"))


@pytest.mark.parametrize("name", ["noisy_sgd", "adamw"])
def test_optimizers_by_name(name):
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    optimizer = make_optimizer(name, weight_decay=0.5, seed=1)(learning_rate=0.1)
    assert jax.tree.leaves(optimizer.init(params))


def test_frozen_parameters_have_no_updates():
    optimizer = make_optimizer("sgd", weight_decay=0.5, freeze=["dense/*"], seed=1)(learning_rate=0.1)
    params = {name: {"kernel": np.ones((2, 2), np.float32)} for name in ("dense", "output")}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert (updates["dense"]["kernel"] == 0).all()
    np.testing.assert_allclose(updates["output"]["kernel"], -0.1 * 1.5, rtol=1e-6)
