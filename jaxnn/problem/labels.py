"""Integer labels: which of them a loss accepts, so that others are reported before they are NaN in a compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.layer import Layer
from jaxnn.core.trees import abstract


class Labels(NamedTuple):
    """The labels that a loss accepts for a model.

    Attributes:
        classes: The number of the model's outputs.
        lowest: The lowest label that the loss accepts, None if it accepts any.
        highest: The highest label that the loss accepts, None if it accepts any.
    """

    classes: int
    lowest: int | None
    highest: int | None

    def check(self, y: Any) -> None:
        """Check labels.

        Raises:
            ValueError: If a label is out of range.
        """
        labels = np.asarray(y) if not isinstance(y, jax.Array) or y.is_fully_addressable else y  # NumPy compiles nothing
        low, high = int(labels.min()), int(labels.max())
        if (self.lowest is not None and low < self.lowest) or (self.highest is not None and high > self.highest):
            raise ValueError(
                f"the model has {self.classes} outputs, so labels are expected from 0 to {self.classes - 1}; y has labels from "
                f"{low} to {high}: renumber them, or give the last layer {high + 1} features"
            )


def labels_of(loss: Callable | None, model: Layer, batch: Any, params: Any, state: Any) -> Labels | None:
    """Ask a loss which labels it accepts: the losses of `nn.losses` refuse a label that is not a class, others need not.

    Args:
        loss: The loss, with its hyperparameters bound; None if there is none.
        model: The model.
        batch: A batch `(x, y)` or `(x, y, weights)`, or its shapes and dtypes.
        params: The model's parameters.
        state: The model's state.

    Returns:
        The labels, or None if `y` is not one label per vector of outputs, or the loss accepts all.
    """
    y = batch[1]
    if loss is None or not hasattr(y, "dtype") or not jnp.issubdtype(y.dtype, jnp.integer):
        return None
    output = output_of(model, batch, params, state)
    if not hasattr(output, "shape") or output.shape[:-1] != y.shape or output.shape[-1] == 1:
        return None

    def refuses(label: int) -> bool:
        if not np.iinfo(y.dtype).min <= label <= np.iinfo(y.dtype).max:
            return False  # there is no such label
        try:
            loss_shape(loss, output, np.full(y.shape, label, y.dtype))
        except Exception:
            return True
        return False

    classes = output.shape[-1]
    if refuses(0):  # for another reason, of which the run tells
        return None
    lowest, highest = 0 if refuses(-1) else None, classes - 1 if refuses(classes) else None
    return None if lowest is None and highest is None else Labels(classes, lowest, highest)


def output_of(model: Layer, batch: Any, params: Any, state: Any) -> Any:
    """The shape and dtype of the model's output for a batch `(x, y)`."""
    return jax.eval_shape(lambda p, s, x: model.apply(p, s, x)[0], *map(abstract, (params, state, batch[0])))


def loss_shape(loss: Callable, output: Any, y: Any) -> Any:
    """The shape of a loss. A loss of `nn.losses` checks the values of `y`, which are known here, unlike in a program."""
    return jax.eval_shape(lambda predictions: loss(predictions, y), output)
