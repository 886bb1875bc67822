"""What a single example does to the result of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.autodiff.examples import Where, as_examples, concatenated, counted, scalar
from jaxnn.autodiff.products import Product, hessian, solve
from jaxnn.core.dtypes import at_least_float32 as wide
from jaxnn.problem.batches import leading_size


def influence(
    f: Callable,
    params: Any,
    data: Any,
    others: Any,
    *,
    product: Product | None = None,
    damping: Any = 0.0,
    tolerance: float = 1e-5,
    max_steps: int | None = None,
    where: Where = None,
    batch_size: int | None = None,
) -> jax.Array:
    """The change in the loss of other examples if training had left one example out, without training again.

    At a minimum of (1/N) Σⱼ fⱼ(W) + λ/2 ‖W‖², taking the term fᵢ/N away moves the minimum by (H + λ I)⁻¹ gᵢ / N to first order
    in 1/N, and the loss of example m changes by Iₘᵢ = gₘᵀ (H + λ I)⁻¹ gᵢ / N (Cook & Weisberg 1982; Koh & Liang 2017,
    arXiv:1703.04730). One linear system is solved per other example; the products with the gᵢ are one derivative along its
    solution, so that no gradient of a single example is formed.

    Args:
        f: The loss of one example, `f(params, example) -> scalar`; `example_loss` makes one of a `Problem`.
        params: The parameters at the minimum.
        data: The examples of training i: a pytree of arrays with a leading axis of examples.
        others: The examples m, such as those of a test set.
        product: v ↦ A v in place of the Hessian's, for losses that are not convex: `gauss_newton`, with the same `where`.
        damping: λ, at least 0: the penalty of the training loss, or what makes the Hessian positive definite.
        tolerance: As in `solve`.
        max_steps: As in `solve`.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all.
        batch_size: The number of examples per batch, to save memory; by default all at once.

    Returns:
        (M, N), in at least float32. Positive where leaving the example out makes the other's loss larger.

    Raises:
        TypeError: If `f` is not a function, or a number is of another kind.
        ValueError: If `f` does not return one real number, the leaves of `data` or `others` differ in length, a number is out
            of range, or a pattern matches no path.

    Example:
        The mean of 1, 2, 6 and 3 is 3, and smaller without the third:

        >>> import jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: (params["mean"] - example) ** 2 / 2
        >>> nn.autodiff.influence(f, {"mean": jnp.array(3.0)}, jnp.array([1.0, 2.0, 6.0, 3.0]), jnp.array([2.0]))
        Array([[ 0.5 ,  0.25, -0.75,  0.  ]], dtype=float32)
    """
    loss = scalar("influence", f)
    data, size = as_examples("influence", data, batch_size)
    others, _ = as_examples("influence", others)
    n = leading_size(data)
    product = hessian(f, params, data, where=where, batch_size=batch_size) if product is None else product
    params = jax.tree.map(jnp.asarray, params)
    keep = jax.tree.unflatten(jax.tree.structure(params), counted(params, where))

    def of_other(example: Any) -> jax.Array:
        gradient = jax.tree.map(lambda g, s: g if s else jnp.zeros_like(g), jax.grad(loss)(params, example), keep)
        s = solve(product, gradient, damping=damping, tolerance=tolerance, max_steps=max_steps)
        along = lambda batch: jax.jvp(lambda params: jax.vmap(loss, (None, 0))(params, batch), (params,), (s,))[1]  # noqa: E731
        return wide(concatenated(along, data, size)) / n

    return lax.map(of_other, others)
