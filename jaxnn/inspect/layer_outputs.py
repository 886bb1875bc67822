"""The output of every layer of a model, and statistics of these outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnn.core.layer import Layer, as_layer
from jaxnn.core.trees import abstract
from jaxnn.programs.taps import layer_outputs, layer_paths

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def activations(
    model: Layer, params: Any, state: Any, x: Any, *, key: jax.Array | None = None, training: bool = False
) -> dict[str, jax.Array]:
    """The output of every layer, by path.

    The program that the model traces to is evaluated again, and the values that leave a layer are recorded.

    Args:
        model: The model.
        params: Its parameters.
        state: Its state.
        x: A batch.
        key: As for `model.apply`.
        training: As for `model.apply`.

    Returns:
        A dict from paths such as `"encoder/dense"` to arrays, in the order in which the layers end. The outputs of a layer
        inside a `repeat` are stacked along a leading axis, one entry per copy. A block is in the dict if it computes
        something itself after its layers, as `residual` does. A layer that does nothing, such as dropout in inference, is
        left out.

    Raises:
        ValueError: If the model does not accept the input.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.dense(8), nn.relu, body=nn.repeat(nn.residual(nn.dense(8)), 3))
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> jax.tree.map(jnp.shape, activations(model, params, state, jnp.ones((2, 4))))
        {'body': (2, 8), 'body/dense': (3, 2, 8), 'dense': (2, 8), 'relu': (2, 8)}
    """
    model = as_layer(model)
    spec = model.setup(abstract(x))

    @jax.jit
    def run(params, state, x, key):
        return layer_outputs(model, params, state, x, key=key, training=training)

    outputs = run(params, state, x, key)
    return {"/".join(path) or spec.kind: outputs[path] for path in layer_paths(spec) if path in outputs}


def activation_statistics(activations: Mapping[str, Any]) -> dict[str, list]:
    """Statistics of the output of every layer, as a dict of columns: they show whether layers still learn.

    Args:
        activations: Arrays by layer, `(batch, ..., features)`, as `nn.inspect.activations` returns them.

    Returns:
        `layer`; `mean` and `std`; `zero`, the share of values that are 0; `dead`, the share of features that are 0 for the
        whole batch, such as those of dead ReLUs.

    Example:
        >>> table = activation_statistics({"relu": np.array([[0.0, 2.0], [0.0, 0.0]])})
        >>> table["mean"], table["zero"], table["dead"]
        ([0.5], [0.75], [0.5])
    """
    table: dict[str, list] = {name: [] for name in ("layer", "mean", "std", "zero", "dead")}
    for name, values in activations.items():
        values = np.asarray(values, float)
        zero = values == 0
        dead = zero.reshape(-1, values.shape[-1] if values.ndim else 1).all(0)
        numbers = (name, values.mean(), values.std(), zero.mean(), dead.mean())
        for column, number in zip(table.values(), numbers, strict=True):
            column.append(number if isinstance(number, str) else float(number))
    return table


def plot_activations(activations: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Plot the distribution of every layer's output: a bar for mean ± one standard deviation, a line for the middle 98%.

    Args:
        activations: Arrays by layer, as `nn.inspect.activations` returns them.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. A layer with features that are 0 for the whole batch is labeled with their share.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        >>> ax = plot_activations({"dense": np.array([[-1.0, 1.0]]), "relu": np.array([[0.0, 1.0]])})
        >>> [text.get_text() for text in ax.texts]
        ['50% dead']
    """
    from jaxnn.plots.networks import plot_ranges

    table = activation_statistics(activations)
    quantiles = [np.quantile(np.asarray(values, float), (0.01, 0.99)) for values in activations.values()]
    return plot_ranges(table["layer"], table["mean"], table["std"], quantiles, table["dead"], ax=ax)
