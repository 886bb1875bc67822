"""Networks as scikit-learn estimators: for pipelines, cross-validation and searches over hyperparameters.

They hold NumPy arrays and what they were given, so that they can be cloned and pickled as other estimators are. The data are
converted to float32. Fits that differ only in numbers such as the learning rate, in their epochs or in the number of samples
share compiled programs, also where a search makes a new estimator for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import jaxnn as nn

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state, compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError("nn.estimators needs scikit-learn of at least version 1.6: pip install scikit-learn") from error

__all__ = ["JaxnnClassifier", "JaxnnRegressor"]


class _Network(BaseEstimator):
    """What classifier and regressor share."""

    def __init__(
        self,
        model: Callable[[int], nn.Layer] | None = None,
        *,
        hidden: Sequence[int] = (100,),
        activation: Any = "relu",
        dropout: float = 0.0,
        loss: Callable | None = None,
        optimizer: Any = "adam",
        learning_rate: float = 1e-3,
        weight_decay: float | None = None,
        epochs: int = 100,
        batch_size: int = 32,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        callbacks: Sequence[Any] = (),
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.model = model
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @property
    def model_(self) -> nn.Layer:
        """The network, built again at each access: a `Layer` is made of functions, which cannot be pickled."""
        check_is_fitted(self)
        return self._layer(self.n_outputs_)

    @property
    def loss_curve_(self) -> list[float]:
        """The training loss of each epoch."""
        check_is_fitted(self)
        return self.history_["loss"]

    def _layer(self, outputs: int) -> nn.Layer:
        if self.model is not None:
            if isinstance(self.model, nn.Layer) or not callable(self.model):
                raise TypeError(
                    "model is a function from the number of outputs to a Layer, such as `lambda outputs: "
                    f"nn.serial(nn.dense(64), nn.relu, nn.dense(outputs))`; got {self.model!r}"
                )
            return self.model(outputs)
        activation = getattr(nn, self.activation) if isinstance(self.activation, str) else self.activation
        return nn.models.mlp(tuple(self.hidden), outputs, activation=activation, dropout=self.dropout)

    def _optimizer(self) -> tuple[Callable, dict[str, float]]:
        """A function of the traced numbers, and these."""
        known = {"learning_rate": float(self.learning_rate)}
        if not isinstance(self.optimizer, str):
            if self.weight_decay is not None:
                raise ValueError("weight_decay is that of an optimizer given by name: give yours its own instead")
            return self.optimizer, known
        name = self.optimizer
        if self.weight_decay is None:
            return lambda learning_rate: nn.named_optimizer(name, learning_rate), known
        known |= {"weight_decay": float(self.weight_decay)}
        return lambda learning_rate, weight_decay: nn.named_optimizer(name, learning_rate, weight_decay=weight_decay), known

    def _train(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, outputs: int, epochs: int, initial: Any) -> Any:
        optimizer, numbers = self._optimizer()
        callbacks = list(self.callbacks)
        if self.early_stopping:
            callbacks.append(nn.callbacks.early_stopping(self.patience))
        result = nn.fit(
            self._layer(outputs),
            (x, y) if weights is None else (x, y, weights.astype(np.float32)),
            loss=self.loss or self._default_loss,
            optimizer=optimizer,
            hyperparameters=numbers,
            epochs=epochs,
            batch_size=self.batch_size,
            validation=self.validation_fraction if self.early_stopping else None,
            callbacks=callbacks,
            initial=initial,
            key=jax.random.key(check_random_state(self.random_state).randint(2**31 - 1)),
            progress=bool(self.verbose),
        )
        self.params_, self.state_ = jax.tree.map(np.asarray, (result.params, result.state))
        self.history_, self.n_iter_, self.n_outputs_ = result.history, max(result.epoch, 1), outputs
        return self

    def _initial(self, outputs: int) -> Any:
        """The weights so far, if they fit."""
        fitted = hasattr(self, "params_") and self.n_outputs_ == outputs
        return (self.params_, self.state_) if fitted else None

    def _outputs(self, x: Any) -> np.ndarray:
        check_is_fitted(self)
        x = validate_data(self, x, dtype=np.float32, reset=False)
        return np.asarray(nn.predict((self.model_, self.params_, self.state_), x))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "params_")


class JaxnnClassifier(ClassifierMixin, _Network):
    """A classifier: a network whose outputs are the logits of the classes, trained by `nn.fit`.

    Args:
        model: A function from the number of outputs to a `Layer`; None makes a multilayer perceptron of `hidden`, `activation`
            and `dropout`.
        hidden: The number of neurons of each hidden layer.
        activation: The activation after each hidden layer, a function or the name of one in `nn`.
        dropout: The dropout rate after each activation.
        loss: The loss; by default `nn.losses.cross_entropy`, of logits and integer labels.
        optimizer: The name of one of optax's optimizers, or a function of `learning_rate` that returns one.
        learning_rate: The learning rate.
        weight_decay: As in `named_optimizer`; None is the optimizer's own default.
        epochs: The number of passes over the data, at most.
        batch_size: Samples per step.
        early_stopping: Whether to hold out `validation_fraction` of the data and to stop when their loss has not fallen for
            `patience` epochs, with the weights of the best one.
        validation_fraction: The share of the data that is held out for early stopping.
        patience: The number of epochs without a lower loss.
        class_weight: Weights of classes by label, "balanced" for n / (classes · count), or None for equal ones.
        callbacks: Further callbacks of `nn.callbacks`.
        warm_start: Whether `fit` starts from the weights of the last `fit` of the same shapes.
        random_state: The seed of weights, order and dropout: None, an int, or a `numpy.random.RandomState`.
        verbose: Whether to show progress.

    Attributes:
        params_: The parameters of the network, NumPy arrays.
        state_: Its state, likewise.
        model_: The `Layer`.
        history_: The `History` of the last fit.
        loss_curve_: The training loss of each epoch.
        n_iter_: The number of the epoch whose weights these are.
        n_features_in_: The number of features.
        feature_names_in_: Their names, if the data had any.
        classes_: The classes, sorted.

    Raises:
        TypeError: In `fit`, if `model` is not a function.
        ValueError: In `fit`, if `weight_decay` is given with an optimizer that is a function.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> x, y = load_iris(return_X_y=True)
        >>> network = JaxnnClassifier(hidden=(16,), learning_rate=0.01, epochs=30, random_state=0)
        >>> make_pipeline(StandardScaler(), network).fit(x, y).score(x, y) > 0.9
        True
    """

    def __init__(
        self,
        model: Callable[[int], nn.Layer] | None = None,
        *,
        hidden: Sequence[int] = (100,),
        activation: Any = "relu",
        dropout: float = 0.0,
        loss: Callable | None = None,
        optimizer: Any = "adam",
        learning_rate: float = 1e-3,
        weight_decay: float | None = None,
        epochs: int = 100,
        batch_size: int = 32,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        class_weight: Any = None,
        callbacks: Sequence[Any] = (),
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        super().__init__(
            model,
            hidden=hidden,
            activation=activation,
            dropout=dropout,
            loss=loss,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            epochs=epochs,
            batch_size=batch_size,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            patience=patience,
            callbacks=callbacks,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    _default_loss = staticmethod(nn.losses.cross_entropy)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> JaxnnClassifier:
        """Train on samples and their classes.

        Args:
            X: The samples, (samples, features).
            y: The classes, (samples,), labels of any kind.
            sample_weight: One weight per sample, at least 0; it multiplies that of the class.

        Returns:
            The estimator.

        Raises:
            ValueError: On bad data, or if there is one class only.
        """
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        return self._fit(X, y, sample_weight, unique_labels(y), self.epochs, warm=self.warm_start)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> JaxnnClassifier:
        """Train for one epoch, from the weights so far; the optimizer starts anew.

        Args:
            X: The samples, (samples, features).
            y: The classes, (samples,).
            classes: All classes; needed in the first call.
            sample_weight: One weight per sample.

        Returns:
            The estimator.

        Raises:
            ValueError: On bad data, in a first call without `classes`, or on a class that is not one of them.
        """
        first = not hasattr(self, "params_")
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit: those of all batches to come")
        X, y = validate_data(self, X, y, dtype=np.float32, reset=first)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        known = unique_labels(classes) if classes is not None else self.classes_
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(f"partial_fit was called with the classes {self.classes_} before, and with {known} now")
        return self._fit(X, y, sample_weight, known, 1, warm=True)

    def _fit(self, X: Any, y: Any, sample_weight: Any, classes: np.ndarray, epochs: int, *, warm: bool) -> JaxnnClassifier:
        if len(classes) < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got 1 class: {classes[0]!r}")
        if unknown := sorted(set(np.unique(y).tolist()) - set(classes.tolist())):
            raise ValueError(f"y has the classes {unknown}, which are not among {classes.tolist()}")
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if self.class_weight is not None:
            of_class = compute_sample_weight(self.class_weight, y)
            weights = of_class if weights is None else weights * of_class
        initial = self._initial(len(classes)) if warm else None
        self.classes_ = classes
        return self._train(X, np.searchsorted(classes, y).astype(np.int32), weights, len(classes), epochs, initial)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class.

        Args:
            X: The samples, (samples, features).

        Returns:
            (samples, classes), in the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of the probability of each class.

        Args:
            X: The samples, (samples, features).

        Returns:
            (samples, classes), in the order of `classes_`.
        """
        logits = self._outputs(X).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class.

        Args:
            X: The samples, (samples, features).

        Returns:
            (samples,), of `classes_`.
        """
        best = self._outputs(X).argmax(1)
        return self.classes_[best]


class JaxnnRegressor(RegressorMixin, _Network):
    """A regressor: a network trained by `nn.fit`.

    Args:
        model: A function from the number of outputs to a `Layer`; None makes a multilayer perceptron of `hidden`, `activation`
            and `dropout`.
        hidden: The number of neurons of each hidden layer.
        activation: The activation after each hidden layer, a function or the name of one in `nn`.
        dropout: The dropout rate after each activation.
        loss: The loss; by default `nn.losses.mse`.
        optimizer: The name of one of optax's optimizers, or a function of `learning_rate` that returns one.
        learning_rate: The learning rate.
        weight_decay: As in `named_optimizer`; None is the optimizer's own default.
        epochs: The number of passes over the data, at most.
        batch_size: Samples per step.
        early_stopping: Whether to hold out `validation_fraction` of the data and to stop when their loss has not fallen for
            `patience` epochs, with the weights of the best one.
        validation_fraction: The share of the data that is held out for early stopping.
        patience: The number of epochs without a lower loss.
        callbacks: Further callbacks of `nn.callbacks`.
        warm_start: Whether `fit` starts from the weights of the last `fit` of the same shapes.
        random_state: The seed of weights, order and dropout: None, an int, or a `numpy.random.RandomState`.
        verbose: Whether to show progress.

    Attributes:
        params_: The parameters of the network, NumPy arrays.
        state_: Its state, likewise.
        model_: The `Layer`.
        history_: The `History` of the last fit.
        loss_curve_: The training loss of each epoch.
        n_iter_: The number of the epoch whose weights these are.
        n_features_in_: The number of features.
        feature_names_in_: Their names, if the data had any.

    Raises:
        TypeError: In `fit`, if `model` is not a function.
        ValueError: In `fit`, if `weight_decay` is given with an optimizer that is a function.

    Example:
        >>> from sklearn.datasets import make_regression
        >>> x, y = make_regression(100, 3, random_state=0)
        >>> model = JaxnnRegressor(hidden=(16,), learning_rate=0.01, epochs=30, random_state=0).fit(x, y / y.std())
        >>> model.predict(x).shape, model.score(x, y / y.std()) > 0.5
        ((100,), True)
    """

    _default_loss = staticmethod(nn.losses.mse)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> JaxnnRegressor:
        """Train on samples and their targets.

        Args:
            X: The samples, (samples, features).
            y: The targets, (samples,) or (samples, outputs).
            sample_weight: One weight per sample, at least 0.

        Returns:
            The estimator.

        Raises:
            ValueError: On bad data.
        """
        X, y = validate_data(self, X, y, dtype=np.float32, multi_output=True, y_numeric=True)
        return self._fit(X, y, sample_weight, self.epochs, warm=self.warm_start)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> JaxnnRegressor:
        """Train for one epoch, from the weights so far; the optimizer starts anew.

        Args:
            X: The samples, (samples, features).
            y: The targets, (samples,) or (samples, outputs).
            sample_weight: One weight per sample.

        Returns:
            The estimator.

        Raises:
            ValueError: On bad data.
        """
        first = not hasattr(self, "params_")
        X, y = validate_data(self, X, y, dtype=np.float32, multi_output=True, y_numeric=True, reset=first)
        return self._fit(X, y, sample_weight, 1, warm=True)

    def _fit(self, X: Any, y: Any, sample_weight: Any, epochs: int, *, warm: bool) -> JaxnnRegressor:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        outputs = 1 if y.ndim == 1 else y.shape[1]
        self._is_one_dimensional = y.ndim == 1
        targets = np.asarray(y, np.float32).reshape(len(y), outputs)
        return self._train(X, targets, weights, outputs, epochs, self._initial(outputs) if warm else None)

    def predict(self, X: Any) -> np.ndarray:
        """The prediction for each sample.

        Args:
            X: The samples, (samples, features).

        Returns:
            (samples,), or (samples, outputs) if the targets had two axes.
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if self._is_one_dimensional else outputs
