"""Likely mistakes that train without an error, as far as they can be known before the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from jaxnn.core.layer import Layer
from jaxnn.core.text import array_text
from jaxnn.functional import losses
from jaxnn.train.hooks import Callback

_TWICE = {  # what a last layer must not compute if the loss does
    "softmax": (losses.cross_entropy, losses.focal, losses.poly_cross_entropy, losses.generalized_cross_entropy),
    "sigmoid": (losses.binary_cross_entropy, losses.binary_focal),
}
_OVER_SPACE = {"conv", "depthwise_conv", "separable_conv", "conv_transpose", "max_pool", "avg_pool"}
_CHANNELS = (1, 3)


def mistakes(model: Layer, loss: Any, x: Any, callbacks: Sequence[Callback], has_validation: bool) -> Iterator[str]:
    """One sentence for each likely mistake.

    Args:
        model: The model.
        loss: The loss as it was given.
        x: A batch of inputs, or its shapes.
        callbacks: The callbacks of the run.
        has_validation: Whether there are validation data.
    """
    last = _last(model)
    is_from_logits = not (isinstance(loss, partial) and loss.keywords.get("from_logits") is False)
    while isinstance(loss, partial):
        loss = loss.func
    if is_from_logits and loss in _TWICE.get(last, ()):
        yield (
            f"the model ends with {last}, and the loss {loss.__name__} computes it too: leave {last} out, so that the model "
            f"returns logits, or give the loss from_logits=False"
        )
    shape: tuple[int, ...] = getattr(x, "shape", ())
    is_first = len(shape) == 4 and shape[1] in _CHANNELS and shape[3] not in _CHANNELS and shape[2] == shape[3]
    if is_first and _OVER_SPACE & set(_names(model)):
        yield (
            f"the images {array_text(x)} seem to have their channels first, and are read as (batch, height, width, channels): "
            "convert them with x.transpose(0, 2, 3, 1)"
        )
    for callback in callbacks:
        if callback.prefers_validation and not has_validation:
            yield (
                f"{callback.name} monitors the training loss, as there are no validation data, and does not notice "
                'overfitting: give validation=0.1, or monitor="loss" if this is intended'
            )


def _last(model: Layer) -> str:
    """The name of the last layer of a stack."""
    while model.name == "serial":
        model = list(model.children.values())[-1]
    return model.name


def _names(model: Layer) -> Iterator[str]:
    yield model.name
    for child in model.children.values():
        yield from _names(child)
