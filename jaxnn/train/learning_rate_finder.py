"""A learning rate to start with, found in one short run (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _jax, compiled
from jaxnn.core.checks import function, whole
from jaxnn.problem.batches import abstract_batch, leading_size, padded_size, shuffled, with_rows
from jaxnn.problem.checks import checked_data
from jaxnn.problem.hyperparameters import loss_of
from jaxnn.problem.labels import labels_of
from jaxnn.problem.objective import Objective, inputs_of
from jaxnn.train.config import TrainingConfig
from jaxnn.train.state import start
from jaxnn.train.step import step_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING, DIVERGED = 0.9, 4.0
NOISY = 0.1  # the share of the steps in which the moving average still follows single batches


@dataclass(frozen=True)
class LearningRates:
    """The result of `find_learning_rate`.

    Attributes:
        learning_rates: The rates that were tried, ascending, up to where the loss diverged.
        losses: The loss at each rate.
        smoothed: The moving average of the losses.
        suggestion: The rate at which the smoothed loss falls fastest, before its minimum.

    Example:
        >>> rates, losses = np.array([0.01, 0.1, 1.0]), np.array([2.0, 1.0, 3.0])
        >>> LearningRates(rates, losses, losses, suggestion=0.1)
        LearningRates(suggestion=0.1, 3 rates from 0.01 to 1)
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float

    def __repr__(self) -> str:
        tried = f"{len(self.learning_rates)} rates from {self.learning_rates[0]:.3g} to {self.learning_rates[-1]:.3g}"
        return f"LearningRates(suggestion={self.suggestion:.3g}, {tried})"

    def plot(self) -> Figure:
        """Plot the loss over the learning rate, with the suggestion marked.

        Returns:
            A matplotlib figure; `figure.savefig(path)` writes it.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        from jaxnn.plots import figures as plots
        from jaxnn.plots.style import style
        from jaxnn.plots.training import plot_learning_rates

        with style():
            figure = plots.new_figure(7, 4)
            plot_learning_rates(self, ax=figure.subplots())
        return figure


@_jax.training_settings()
def find_learning_rate(
    model: Any,
    data: Any,
    *,
    loss: Any,
    optimizer: Callable,
    key: jax.Array,
    hyperparameters: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 200,
) -> LearningRates:
    """Train for a few steps with a learning rate that grows exponentially, and find where the loss falls fastest.

    At step t of T the learning rate is low · (high/low)^(t/(T − 1)). The losses are smoothed, mₜ = 0.9 mₜ₋₁ + 0.1 lₜ,
    divided by 1 − 0.9ᵗ; where that exceeds four times its lowest value, the run has diverged and the rest is cut off.
    The suggestion is the rate of the steepest descent over log(learning rate) after the first tenth of the steps, whose
    average follows single batches, and before the minimum. The whole run is one compiled program. The trained parameters are
    discarded.

    Args:
        model: As for `fit`.
        data: `(x, y)`, or whatever an `Objective` takes; it is passed over as often as the steps need.
        loss: As for `fit`.
        optimizer: A function of the learning rate that returns an optax transformation, such as `optax.adam`.
        key: The run's key.
        hyperparameters: Other hyperparameters, as for `fit`.
        batch_size: Samples per step, at most the size of the data.
        low: The first learning rate.
        high: The last learning rate.
        steps: T, at least 10.

    Returns:
        `LearningRates`, with `suggestion` and `plot()`.

    Raises:
        TypeError: If the optimizer is not a function of the learning rate.
        ValueError: On bad data, as `fit`; if not 0 < low < high, if there are fewer than 10 steps, or if the loss is not
            finite from the start or does not fall.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(1), (100, 2))
        >>> y = (x[:, 0] > x[:, 1]).astype(jnp.int32)
        >>> found = nn.find_learning_rate(
        ...     nn.dense(2), (x, y), loss=nn.losses.cross_entropy, optimizer=optax.adam, key=jax.random.key(0))
        >>> 1e-4 < found.suggestion < 10
        True
    """
    if not 0 < low < high:
        raise ValueError(f"find_learning_rate takes 0 < low < high, got low {low} and high {high}")
    if whole("find_learning_rate", "steps", steps) < 10:
        raise ValueError(f"find_learning_rate takes at least 10 steps, got {steps}")
    function("find_learning_rate", "optimizer", optimizer, "of the learning rate, such as optax.adam, not optax.adam(0.1)")
    objective = isinstance(loss, Objective)
    data = checked_data(data, objective=objective)
    n = leading_size(data)
    batch_size = min(whole("find_learning_rate", "batch_size", batch_size), n)
    given = {**(hyperparameters or {}), "learning_rate": lambda step: low * (high / low) ** (step / (steps - 1))}
    config = TrainingConfig.of(model, loss, optimizer, hyperparameters=given, batch_size=batch_size)
    batch, bound = abstract_batch(data, batch_size), config.problem.at()
    first = start(config, key, inputs_of(batch, loss))
    if not objective and (labels := labels_of(loss_of(loss, bound.values), bound.layer, batch, first.params, first.state)):
        labels.check(data[1])

    size = padded_size(data)  # data of other sizes share the program

    def run(state, data, n):
        step, per_epoch = step_of(config), n // batch_size

        def one(carry, _):
            state, order = carry
            state = state._replace(epoch=state.step // per_epoch)
            new = lambda: shuffled(jax.random.fold_in(state.key, state.epoch), n, size)  # noqa: E731
            order = jax.lax.cond(state.step % per_epoch == 0, new, lambda: order)
            samples = jax.lax.dynamic_slice_in_dim(order, state.step % per_epoch * batch_size, batch_size)
            state, value, _ = step(state, jax.tree.map(lambda a: a[samples], data))
            return (state, order), value

        return jax.lax.scan(one, (state, jnp.zeros(size, jnp.int32)), None, steps)[1]

    arguments = first, with_rows(data, size), np.int32(n)
    program = compiled.program("find_learning_rate", lambda: run, (*config.key(), steps), arguments)
    losses = np.asarray(program(*arguments), np.float64)
    return _read(low * (high / low) ** (np.arange(steps) / (steps - 1)), losses)


def _read(rates: np.ndarray, losses: np.ndarray) -> LearningRates:
    """Smooth the losses, cut off where they diverge, and find the steepest descent over log(learning rate)."""
    if not np.isfinite(losses[:2]).all():
        raise ValueError(f"the loss is {losses[0]} from the start: look for extreme values in the data, or lower `low`")
    smoothed, mean = np.empty_like(losses), 0.0
    for t, value in enumerate(losses):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        smoothed[t] = mean / (1 - SMOOTHING ** (t + 1))
    lowest = np.minimum.accumulate(np.where(np.isfinite(smoothed), smoothed, np.inf))
    above = ~np.isfinite(smoothed) | (smoothed - lowest > (DIVERGED - 1) * np.abs(lowest))
    end = int(above.argmax()) if above.any() else len(losses)
    start = math.ceil(NOISY * len(losses))
    minimum = start + int(np.argmin(smoothed[start:end])) if end > start else start
    if minimum - start < 2:
        raise ValueError(
            f"expected a loss that falls as the learning rate grows from {rates[0]:.3g}, got one that rises from "
            f"{rates[start]:.3g} on or earlier: lower `low`"
        )
    slope = np.gradient(smoothed[start : minimum + 1], np.log(rates[start : minimum + 1]))
    return LearningRates(rates[:end], losses[:end], smoothed[:end], float(rates[start + int(np.argmin(slope))]))
