"""Reports on non-finite values: where the first one comes from, and which leaf of a tree has one."""

from __future__ import annotations

from typing import Any

import jax

from jaxnn.core.layer import as_layer, from_setup
from jaxnn.core.trees import abstract, paths
from jaxnn.problem.objective import inputs_of
from jaxnn.problem.problem import Problem
from jaxnn.programs.nonfinite import NonFinite, locate_nonfinite
from jaxnn.programs.nonfinite_trace import is_finite

__all__ = ["NonFinite", "find_nonfinite", "first_nonfinite_path"]


def find_nonfinite(
    model: Any,
    params: Any,
    state: Any,
    batch: Any,
    *,
    loss: Any,
    key: jax.Array | None = None,
    training: bool = True,
) -> NonFinite | None:
    """Find the first non-finite value in the loss of a batch or in its gradient with respect to the parameters.

    Where values are not finite, each operation is computed by itself. This takes seconds and may round differently than a
    compiled training step does. An intended infinity, such as the −∞ of a mask, is reported only if it makes the loss or a
    gradient non-finite.

    Args:
        model: The model.
        params: Its parameters.
        state: Its state.
        batch: `(x, y)` or `(x, y, weights)`, with one entry per sample along the leading axes; whatever an `Objective` takes.
        loss: The loss, `loss(predictions, y) -> scalar`, or an `Objective`.
        key: The key of the step, for layers that draw random numbers.
        training: As for `model.apply`.

    Returns:
        A `NonFinite`, or None if the loss and all gradients are finite.

    Raises:
        ValueError: If the model or the loss does not accept the batch.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.dense(2), logarithm=jnp.log)
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
        >>> x, y = jnp.array([[1.0, 1.0], [0.0, 0.0]]), jnp.ones((2, 2))
        >>> found = find_nonfinite(model, params, {}, (x, y), loss=nn.losses.mse)
        >>> found.path, found.phase, found.example, found.samples
        ('logarithm', 'forward', 'log(0) = -inf', (1,))
    """

    model = as_layer(model)
    problem = Problem(model, loss)

    def objective(layer, params, state, batch, key):
        def apply(params, state, x, **_):  # a problem is in training where it has a key; here `training` decides
            return layer.apply(params, state, x, key=key, training=training)

        bound = problem.bound({}, None, from_setup(layer.setup, apply, layer.name, layer.children))
        return bound.objective(params, state, batch, None)[0]

    return locate_nonfinite(objective, model, params, state, batch, key, model.setup(abstract(inputs_of(batch, loss))))


def first_nonfinite_path(tree: Any) -> str | None:
    """The path of the first leaf with a NaN or an infinite value; the leaves are read on the host.

    Args:
        tree: A pytree of arrays.

    Returns:
        A path such as `"dense/kernel"`, or `""` for a tree that is a single array; None if all values are finite.

    Example:
        >>> first_nonfinite_path({"dense": {"bias": float("inf"), "kernel": 1.0}})
        'dense/bias'
    """
    return next((path for path, leaf in paths(tree).items() if not is_finite(leaf)), None)
