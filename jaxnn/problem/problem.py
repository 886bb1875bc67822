"""`Problem`: what is trained, bound once. Training, evaluation, sweeps and derivatives are functions of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.core.checks import function
from jaxnn.core.layer import Layer
from jaxnn.core.naming import child_key
from jaxnn.functional._counted import mean_and_weight, weight_found
from jaxnn.problem.hyperparameters import Hyperparameters, loss_of, model_of
from jaxnn.problem.objective import Objective, objective_of
from jaxnn.problem.running import weight_of


class Bound(NamedTuple):
    """A problem at one step, with the values of all hyperparameters.

    Attributes:
        layer: The model.
        objective: `objective(params, state, batch, key) -> (loss, (state, predictions))`, for `jax.grad(…, has_aux=True)`.
            The key is None in inference mode.
        weighted: The same with the weight of the loss in a mean over batches, `-> (loss, (weight, state, predictions))`:
            what the loss divides by if it is a mean under a mask, else the number of samples or the sum of their weights.
        values: All hyperparameters by name.
        key: The step's key, or None if the problem was bound without a train state.
        augment: `augment(batch) -> batch`, the step's augmentation.
    """

    layer: Layer
    objective: Callable[[Any, Any, Any, jax.Array | None], tuple[jax.Array, tuple[Any, Any]]]
    weighted: Callable[[Any, Any, Any, jax.Array | None], tuple[jax.Array, tuple[jax.Array, Any, Any]]]
    values: dict[str, Any]
    key: Any
    augment: Callable[[Any], Any]


@dataclass(frozen=True)
class Problem:
    """A model, its loss, and the hyperparameters of both.

    Attributes:
        model: A `Layer`, or a function of hyperparameters that returns one.
        loss: `loss(predictions, y) -> scalar`, the batch's mean, or `-> (sum, weight)`, or an `Objective`; None if there is
            nothing to minimize.
        hyperparameters: Numbers and schedules by name, see `fit`. Comparisons ignore the values of traced numbers.
        augment: `augment(key, (x, y)) -> (x, y)`, applied to each batch in training; it may take hyperparameters.
        view: `view(batch, **hyperparameters) -> batch`, the part of a batch that steps and validation see.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> problem = nn.Problem(nn.dense(1), nn.losses.mse)
        >>> params, state = problem.at().layer.init(jax.random.key(0), jnp.ones((4, 2)))
        >>> batch = jnp.ones((4, 2)), jnp.zeros((4, 1))
        >>> gradient, (state, predictions) = jax.grad(problem.objective, has_aux=True)(params, state, batch)
        >>> jax.tree.map(jnp.shape, gradient)
        {'bias': (1,), 'kernel': (2, 1)}
    """

    model: Any
    loss: Any
    hyperparameters: Any = field(default_factory=Hyperparameters)
    augment: Callable | None = None
    view: Callable | None = None

    def __post_init__(self) -> None:
        function("Problem", "model", self.model, "of hyperparameters, or a Layer")
        object.__setattr__(self, "hyperparameters", Hyperparameters.of(self.hyperparameters))

    def at(self, train_state: Any = None) -> Bound:
        """The problem at the step of a train state; without one, at step 0 with the hyperparameters as given.

        Args:
            train_state: A `TrainState`, or None.

        Returns:
            A `Bound`: layer, objective, values, key and augmentation of the step.

        Raises:
            TypeError: If the model is not a `Layer` and does not return one.
        """
        if train_state is None:
            return self.bound(self.hyperparameters.at(), None)
        values = self.hyperparameters.at(train_state.hyperparameters, train_state.step, train_state.epoch)
        return self.bound(values, jax.random.fold_in(child_key(train_state.key, "step"), train_state.step))

    def bound(self, values: dict[str, Any], key: Any, layer: Layer | None = None) -> Bound:
        """The problem with given values of the hyperparameters.

        Args:
            values: All hyperparameters by name.
            key: The step's key, or None.
            layer: A layer in place of the model; by default the model.

        Returns:
            A `Bound`.

        Raises:
            TypeError: If the model is not a `Layer` and does not return one.
        """
        layer = model_of(self.model, values) if layer is None else layer
        function = objective_of(self.loss, values).function

        def means(params, state, batch, key):
            loss, aux = function(layer, params, state, batch, key)
            loss, weight = mean_and_weight(loss)
            if jnp.shape(loss) != ():
                raise ValueError(
                    f"the loss is one number per batch, got an array of shape {list(jnp.shape(loss))}: take its mean, "
                    'or leave reduction at "mean"'
                )
            return loss, weight, *aux

        def objective(params, state, batch, key):
            loss, _, state, predictions = means(params, state, batch, key)
            return loss, (state, predictions)

        def weighted(params, state, batch, key):
            loss, weight, after, predictions = means(params, state, batch, key)
            if weight is None and isinstance(self.loss, Objective):
                alone = lambda params, state, batch: means(params, state, batch, key)[0]  # noqa: E731
                weight = weight_found(alone, *jax.lax.stop_gradient((params, state)), batch)
            elif weight is None and self.loss is not None and len(batch) == 2:
                weight = weight_found(loss_of(self.loss, values), jax.lax.stop_gradient(predictions), batch[1])
            return loss, (weight_of(batch) if weight is None else weight, after, predictions)

        def augment(batch):
            if self.augment is None:
                return batch
            return (*loss_of(self.augment, values)(child_key(key, "augment"), tuple(batch[:2])), *batch[2:])

        return Bound(layer, objective, weighted, values, key, augment)

    def viewed(self, batch: Any, train_state: Any) -> Any:
        """The part of a batch that steps and validation see, before augmentation.

        Args:
            batch: A batch of the data.
            train_state: The train state, whose hyperparameters the view may take.

        Returns:
            The batch that `view` returns, or the batch itself.
        """
        if self.view is None:
            return batch
        values = self.hyperparameters.at(train_state.hyperparameters, train_state.step, train_state.epoch)
        return loss_of(self.view, values)(batch)

    def objective(self, params: Any, state: Any, batch: Any, key: jax.Array | None = None) -> tuple[jax.Array, tuple[Any, Any]]:
        """The loss of a batch, and `(state, predictions)`: what everything differentiates, `jax.grad(…, has_aux=True)`.

        Args:
            params: The model's parameters.
            state: The model's state.
            batch: `(x, y)` or `(x, y, weights)`; whatever the `Objective` takes.
            key: The key of a training step; None for inference mode.

        Returns:
            `(loss, (state, predictions))`, the loss a scalar.

        Raises:
            ValueError: If the loss is not a scalar.
        """
        return self.at().objective(params, state, batch, key)

    def with_defaults(self, **defaults: Any) -> Problem:
        """The problem with further hyperparameters, unless they were given.

        Args:
            **defaults: Values by name.

        Returns:
            A `Problem`.
        """
        return replace(self, hyperparameters=self.hyperparameters.with_defaults(defaults))
