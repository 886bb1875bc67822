"""`records`: the input and the cotangent of every layer, for each example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from jaxnn.autodiff.contributions import losses_and_cotangents
from jaxnn.autodiff.examples import Where, as_examples, concatenated, counted, scalar
from jaxnn.core.trees import paths


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Record:
    """What passes through one point: an equation at which parameters meet data.

    Attributes:
        inputs: The operands that are not made of parameters, (examples, *loops, *shape) each.
        cotangents: The derivatives of each example's loss in the equation's outputs, (examples, *loops, *shape) each.
        params: The paths of the parameters.
        primitive: The name of the equation's primitive; "copy" where a parameter becomes the initial value of a loop.
        loops: The lengths of the loops around, such as the number of copies in a `repeat` or of time steps.

    Example:
        See `records`, which returns it.
    """

    inputs: tuple[jax.Array, ...]
    cotangents: tuple[jax.Array, ...]
    params: tuple[str, ...] = field(metadata={"static": True})
    primitive: str = field(metadata={"static": True})
    loops: tuple[int, ...] = field(metadata={"static": True})


class Records(NamedTuple):
    """Losses and records of a batch.

    Attributes:
        losses: The loss of each example, (examples,).
        layers: The records of each layer's points in the order of the program, by the path of the layer: the path of the
            parameters without the last name, as far as they share it.

    Example:
        See `records`, which returns it.
    """

    losses: jax.Array
    layers: dict[str, tuple[Record, ...]]


def records(f: Callable, params: Any, data: Any, *, where: Where = None, batch_size: int | None = None) -> Records:
    """Record the input and the cotangent of every layer, for each example, in one forward and one backward pass.

    With zₖ(z, W) the output of point k, an equation at which parameters W meet data z, the records are z and ∂fᵢ/∂zₖ. The
    gradient of an example is then gᵢ = Σₖ (∂zₖ/∂W)ᵀ ∂fᵢ/∂zₖ; for a dense layer, Σₜ zₜ (∂fᵢ/∂zₖ,ₜ)ᵀ over its positions. These
    are the quantities behind per-example norms (Goodfellow 2015, arXiv:1510.01799) and K-FAC (Martens & Grosse 2015,
    arXiv:1503.05671). The program of the loss is read, so no layer has to cooperate: weights that are tied, loops and custom
    layers are recorded at every point at which they meet data. An equation with a derivative that a user has defined, a
    `while` or a `cond` is one point.

    Args:
        f: The loss of one example, `f(params, example) -> scalar`; `example_loss` makes one of a `Problem`.
        params: The parameters.
        data: The examples: a pytree of arrays with a leading axis of examples.
        where: A pattern or several of paths of the parameters to record, as in `nn.trees.mask`; by default all.
        batch_size: The number of examples per batch, to save memory; by default all at once.

    Returns:
        A `Records`: losses, and records by layer.

    Raises:
        TypeError: If `f` is not a function, or `batch_size` not a whole number.
        ValueError: If `f` does not return one real number, the leaves of `data` differ in length, or a pattern matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.serial(nn.dense(8), nn.relu, nn.dense(3))
        >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> f = nn.autodiff.example_loss(nn.Problem(model, nn.losses.cross_entropy), state)
        >>> result = nn.autodiff.records(f, params, (jnp.ones((5, 4)), jnp.arange(5) % 3))
        >>> [(point.primitive, point.params, point.cotangents[0].shape) for point in result.layers["dense_2"]]
        [('dot_general', ('dense_2/kernel',), (5, 1, 3)), ('add', ('dense_2/bias',), (5, 1, 3))]
    """
    loss, selected, names = scalar("records", f), counted(params, where), list(paths(params))
    data, batch_size = as_examples("records", data, batch_size)

    def of_batch(batch: Any) -> Records:
        run, cotangents = losses_and_cotangents(loss, params, batch, selected)
        layers: dict[str, tuple[Record, ...]] = {}
        for point, inputs, g in zip(run.points, run.inputs, cotangents, strict=True):
            of = tuple(names[i] for i in sorted(frozenset().union(*point.leaves)))
            if of:
                record = Record(inputs, g, of, point.primitive, point.loops)
                layers[_layer(of)] = (*layers.get(_layer(of), ()), record)
        return Records(run.outputs, layers)

    return concatenated(of_batch, data, batch_size)


def _layer(names: tuple[str, ...]) -> str:
    """The steps that the paths of parameters have in common, without the last one."""
    common: list[str] = []
    for steps in zip(*(name.split("/")[:-1] for name in names), strict=False):
        if len(set(steps)) > 1:
            break
        common.append(steps[0])
    return "/".join(common)
