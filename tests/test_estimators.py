"""Estimators: scikit-learn's own checks, and what they share with other estimators."""

import pickle

import jax
import numpy as np
import optax
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_regression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

import jaxnn as nn
from jaxnn import compiled
from jaxnn.estimators import JaxnnClassifier, JaxnnRegressor

X, Y = load_iris(return_X_y=True)
SMALL = {"hidden": (8,), "epochs": 3, "random_state": 0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the checks give bad input on purpose
@pytest.mark.parametrize("estimator", [JaxnnClassifier, JaxnnRegressor])
def test_the_checks_of_scikit_learn(estimator):
    """All but the one that scikit-learn expects its own networks to fail: a weight of 2 is not two samples in other batches."""
    expected = {"check_sample_weight_equivalence_on_dense_data": "batches differ"}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        results = check_estimator(estimator(epochs=20), expected_failed_checks=expected, on_fail=None, on_skip=None)
    assert {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"} == {}
    assert sum(r["status"] == "passed" for r in results) > 50


@pytest.mark.slow
def test_a_search_over_rates_and_folds_traces_two_training_programs(monkeypatch):
    traced = []

    class Counted(compiled.Program):
        def __init__(self, function, *arguments):
            traced.append(function.__qualname__.split(".")[0])
            super().__init__(function, *arguments)

    nn.clear_programs()
    monkeypatch.setattr(compiled, "Program", Counted)
    x, y = load_digits(return_X_y=True)
    search = GridSearchCV(JaxnnClassifier(**SMALL), {"learning_rate": [1e-3, 3e-3, 1e-2]}, cv=3).fit(x[:500] / 16, y[:500])
    assert search.best_params_["learning_rate"] == 1e-2 and search.best_score_ > 0.5
    assert traced.count("array_program") <= 2


@pytest.mark.slow
def test_copies_and_pickles_predict_the_same():
    model = JaxnnClassifier(learning_rate=0.01, **SMALL).fit(X, np.array(["a", "b", "c"])[Y])
    assert model.classes_.tolist() == ["a", "b", "c"] and model.n_iter_ == 3 == len(model.loss_curve_)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(clone(model).fit(X, np.array(["a", "b", "c"])[Y]).predict_proba(X), model.predict_proba(X))
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    logits = nn.predict((model.model_, model.params_, model.state_), X.astype(np.float32))
    np.testing.assert_allclose(model.predict_proba(X), jax.nn.softmax(logits), rtol=1e-5)


@pytest.mark.slow
def test_weights_of_classes_and_of_samples_multiply():
    of_samples = np.random.default_rng(0).uniform(0.5, 2, len(X))
    of_classes = {0: 1.0, 1: 3.0, 2: 0.5}
    both = JaxnnClassifier(class_weight=of_classes, **SMALL).fit(X, Y, of_samples)
    product = JaxnnClassifier(**SMALL).fit(X, Y, of_samples * np.array([1.0, 3.0, 0.5])[Y])
    np.testing.assert_array_equal(both.predict_proba(X), product.predict_proba(X))


@pytest.mark.slow
def test_fits_go_on_from_the_weights_so_far():
    model = JaxnnClassifier(optimizer=optax.sgd, learning_rate=0.01, **{**SMALL, "epochs": 40})
    model.fit(X, Y)
    first = model.loss_curve_
    model.set_params(warm_start=True).fit(X, Y)
    assert model.loss_curve_[0] < first[-1] * 1.1 < first[0]
    for _ in range(2):
        model.partial_fit(X, Y)
    assert len(model.loss_curve_) == 1
    with pytest.raises(ValueError, match="classes must be passed"):
        JaxnnClassifier().partial_fit(X, Y)
    with pytest.raises(ValueError, match="not among"):
        model.partial_fit(X, Y + 1)


@pytest.mark.slow
def test_early_stopping_custom_networks_and_several_outputs():
    x, y = make_regression(200, 4, n_targets=2, random_state=0)
    y = y / y.std()
    model = JaxnnRegressor(
        lambda outputs: nn.serial(nn.dense(16), nn.tanh, nn.dense(outputs)), learning_rate=0.03, weight_decay=1e-3, epochs=200,
        early_stopping=True, validation_fraction=0.2, patience=5, random_state=0,
    ).fit(x, y)  # fmt: skip
    losses = model.history_["val_loss"]
    assert model.n_iter_ == int(np.argmin(losses)) + 1 and len(losses) <= 200
    assert model.predict(x).shape == (200, 2) and model.score(x, y) > 0.9


def test_errors():
    with pytest.raises(TypeError, match="a function from the number of outputs"):
        JaxnnClassifier(nn.dense(3)).fit(X, Y)
    with pytest.raises(ValueError, match="1 class"):
        JaxnnClassifier().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="give yours its own"):
        JaxnnRegressor(optimizer=optax.sgd, weight_decay=0.1).fit(X, Y)
    with pytest.raises(ValueError, match="NaN"):
        JaxnnRegressor().fit(X * np.nan, Y)
