"""`FitResult`, and the error of a run whose loss stopped being finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from jaxnn.core.html import layer_html
from jaxnn.core.layer import Layer
from jaxnn.train.history import History
from jaxnn.train.rows import TIMES
from jaxnn.train.state import TrainState


@dataclass(frozen=True)
class FitResult:
    """The result of a run.

    Attributes:
        params: The trained parameters.
        state: The model's state.
        history: One row per epoch: `"loss"`, each metric, the same with `val_` where there was validation data, and more.
        stopped: Why the run ended: `"finished"`, `"early"`, `"interrupted"`, or `"diverged"` if a loss was not finite.
        epoch: The epoch, counted from 1, after which the parameters were taken (after an interruption: the last epoch that
            was finished); 0 if none was.
        compile_seconds: The time spent on tracing and compiling, about 0 where an earlier run had done it.
        model: The model, made from the hyperparameters if it was a function of them.
        loss: The loss, for `evaluate`.
        metrics: The metrics, for `evaluate`.
        train_state: Everything that is needed to continue.

    Example:
        See `fit`, which returns one.
    """

    params: Any
    state: Any
    history: History
    stopped: str
    epoch: int
    compile_seconds: float
    model: Layer
    loss: Any
    metrics: Mapping[str, Any]
    train_state: TrainState

    def __repr__(self) -> str:
        return f"<FitResult: {self._line()}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._line())}</p>{layer_html(self.model, self.params)}"

    def _line(self) -> str:
        """How the run ended, and the values of the epoch that the parameters are of."""
        made = len(self.history.rows)
        row = next((row for row in self.history.rows if row.get("epoch") == self.epoch), {})
        values = [f"{name} {value:.4g}" for name, value in row.items() if name not in ("epoch", "step", *TIMES)]
        kept = [f"parameters of epoch {self.epoch}"] if self.epoch != made else []
        return ", ".join([self.stopped, f"{made} epoch{'s' * (made != 1)}", *kept, *values])


class NonFiniteError(FloatingPointError):
    """The error that `fit(..., on_nonfinite="raise")` raises for a loss that is not finite.

    Attributes:
        step: The step whose loss it was, counted from 0.
        samples: The indices of its batch in the data, None if they are not known.
        found: What `nn.inspect.find_nonfinite` found.
        result: A `FitResult` with what was trained before.

    Example:
        >>> from types import SimpleNamespace
        >>> before = SimpleNamespace(epoch=0)  # stands for a FitResult
        >>> raise NonFiniteError(3, np.array([7, 2]), "log(0) = -inf", before)
        Traceback (most recent call last):
        jaxnn.train.result.NonFiniteError: the loss of step 3 (epoch 1), on the samples 7, 2 is not finite: log(0) = -inf
    """

    def __init__(self, step: int, samples: np.ndarray | None, found: Any, result: FitResult):
        self.step, self.samples, self.found, self.result = step, samples, found, result
        shown = "" if samples is None else f", on the samples {_some(samples)}"
        super().__init__(
            f"the loss of step {step} (epoch {result.epoch + 1}){shown} is not finite: {found or 'not found again'}"
        )


def _some(samples: np.ndarray) -> str:
    shown = ", ".join(map(str, samples[:8].tolist()))
    return shown if len(samples) <= 8 else f"{shown}, … ({len(samples)} in all)"
