"""Sums of the gradients of single examples, each of bounded norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.autodiff.contributions import losses_and_cotangents, squares, weighted_sum
from jaxnn.autodiff.examples import Where, as_examples, counted, over_data, scalar
from jaxnn.core.checks import number
from jaxnn.problem.batches import leading_size


class Clipped(NamedTuple):
    """A sum of clipped gradients.

    Attributes:
        gradient: Σᵢ wᵢ min(1, C / ‖gᵢ‖) gᵢ, a tree like the parameters; 0 for those that do not count.
        norms: ‖gᵢ‖ before clipping, (examples,).
        losses: The loss of each example, (examples,).
        nonfinite: The number of examples that were left out because their norm is not finite, int32.

    Example:
        See `clipped_gradient`, which returns it.
    """

    gradient: Any
    norms: jax.Array
    losses: jax.Array
    nonfinite: jax.Array


def clipped_gradient(
    f: Callable,
    params: Any,
    data: Any,
    clip: Any,
    weights: Any = None,
    *,
    where: Where = None,
    batch_size: int | None = None,
) -> Clipped:
    """The sum of the gradients of single examples, each clipped to a norm of at most C: Σᵢ wᵢ min(1, C / ‖gᵢ‖) gᵢ.

    One example changes the sum by at most C, which is what private training bounds (Abadi et al. 2016, arXiv:1607.00133).
    Norms and sum are computed from the same inputs and cotangents of the layers, in one forward and one backward pass
    ("book-keeping", Bu et al. 2023, arXiv:2210.00038). An example whose norm is not finite is left out and counted.

    Args:
        f: The loss of one example, `f(params, example) -> scalar`; `example_loss` makes one of a `Problem`.
        params: The parameters.
        data: The examples: a pytree of arrays with a leading axis of examples.
        clip: C, positive; it may be traced.
        weights: wᵢ, (examples,); by default 1.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all.
        batch_size: The number of examples per batch, to save memory; by default all at once.

    Returns:
        A `Clipped`: gradient, norms, losses, and the number of examples that were left out.

    Raises:
        TypeError: If `f` is not a function, `clip` not a number, or `batch_size` not a whole number.
        ValueError: If `f` does not return one real number, `clip` is not positive, the leaves of `data` and the weights differ
            in length, or a pattern matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: jnp.vdot(params["w"], example)
        >>> result = nn.autodiff.clipped_gradient(f, {"w": jnp.ones(2)}, jnp.array([[3.0, 4.0], [0.0, 0.5]]), clip=2.5)
        >>> result.gradient["w"].tolist(), result.norms.tolist()
        ([1.5, 2.5], [5.0, 0.5])
    """
    loss, selected = scalar("clipped_gradient", f), counted(params, where)
    clip = number("clipped_gradient", "clip", clip, 0, above=True)
    data, batch_size = as_examples("clipped_gradient", data, batch_size)
    weights = jnp.ones(leading_size(data)) if weights is None else jnp.asarray(weights)
    if weights.shape != (leading_size(data),):
        raise ValueError(
            f"clipped_gradient takes one weight per example, of shape ({leading_size(data)},), got {list(weights.shape)}"
        )

    def of_batch(batch: tuple) -> tuple:
        data, weights = batch
        run, cotangents = losses_and_cotangents(loss, params, data, selected)
        norms = jnp.sqrt(squares(run, cotangents, lambda i: "").get("", jnp.zeros(len(run.outputs))))
        finite = jnp.isfinite(norms)
        bound = jnp.asarray(clip, norms.dtype)
        factors = jnp.where(finite, weights.astype(norms.dtype) * bound / jnp.maximum(norms, bound), 0)
        return weighted_sum(run, cotangents, factors), (norms, run.outputs)

    total, (norms, losses) = over_data(of_batch, (data, weights), batch_size)
    gradient = jax.tree.unflatten(jax.tree.structure(params), total)
    return Clipped(gradient, norms, losses, jnp.sum(~jnp.isfinite(norms), dtype=jnp.int32))
