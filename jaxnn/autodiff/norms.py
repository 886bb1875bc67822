"""Norms, moments and inner products of the gradients of single examples, which are formed only where that is cheaper."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.autodiff.contributions import inner_products, losses_and_cotangents, square_sums, squares, weighted_sum
from jaxnn.autodiff.examples import Where, as_examples, concatenated, counted, scalar, summed
from jaxnn.core.dtypes import at_least_float32 as wide
from jaxnn.core.trees import paths
from jaxnn.problem.batches import leading_size


def gradient_norms(
    f: Callable, params: Any, data: Any, *, by: str | None = None, where: Where = None, batch_size: int | None = None
) -> Any:
    """The norm of each example's gradient, ‖gᵢ‖ with gᵢ = ∂fᵢ/∂W.

    Where a weight W meets data in a product, gᵢ = Σₜ xₜ hₜᵀ with h the cotangents, and ‖gᵢ‖² = Σₜₛ ⟨xₜ, xₛ⟩ ⟨hₜ, hₛ⟩ needs no
    gradient (Goodfellow 2015, arXiv:1510.01799; Rochette et al. 2019, arXiv:1912.06015): in dense layers, convolutions,
    embeddings and recurrences, where it takes fewer operations. Of other parameters, the gradients are formed.

    Args:
        f: The loss of one example, `f(params, example) -> scalar`; `example_loss` makes one of a `Problem`.
        params: The parameters.
        data: The examples: a pytree of arrays with a leading axis of examples.
        by: None for the norm over all parameters; "leaf" or "layer" for one norm per parameter or per layer, the parameters
            whose paths differ in their last name only.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all.
        batch_size: The number of examples per batch, to save memory; by default all at once.

    Returns:
        (examples,), in at least float32; with `by`, a dict of such arrays by path.

    Raises:
        TypeError: If `f` is not a function, or `batch_size` not a whole number.
        ValueError: If `f` does not return one real number, the leaves of `data` differ in length, a pattern matches no path, or
            `by` is something else.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: jnp.vdot(params["w"], example)
        >>> nn.autodiff.gradient_norms(f, {"w": jnp.ones(2)}, jnp.array([[3.0, 4.0], [0.0, 2.0]]))
        Array([5., 2.], dtype=float32)
    """
    names, selected = list(paths(params)), counted(params, where)
    groups = {None: lambda i: "", "leaf": lambda i: names[i], "layer": lambda i: names[i].rpartition("/")[0]}
    if by not in groups:
        raise ValueError(f'gradient_norms takes by=None, "leaf" or "layer", got {by!r}')
    group, loss = groups[by], scalar("gradient_norms", f)
    data, batch_size = as_examples("gradient_norms", data, batch_size)

    def norms(batch: Any) -> dict[str, jax.Array]:
        run, cotangents = losses_and_cotangents(loss, params, batch, selected)
        found, zeros = squares(run, cotangents, group), jnp.zeros_like(wide(run.outputs))
        return {group(i): jnp.sqrt(found.get(group(i), zeros)) for i, s in enumerate(selected) if s}

    found = concatenated(norms, data, batch_size)
    return found[""] if by is None else found


class Moments(NamedTuple):
    """The distribution of the gradients of single examples.

    Attributes:
        mean: ḡ, the gradient of the mean loss, a tree like the parameters.
        variance: The variance of each entry, Σᵢ (gᵢ − ḡ)² / (N − 1).
        signal_to_noise: |ḡ| / √variance of each entry; 0 where both are 0.
        noise_scale: tr Σ / |G|², with tr Σ the sum of the variances and |G|² = ‖ḡ‖² − tr Σ / N, both unbiased (McCandlish et
            al. 2018, arXiv:1812.06162): about the batch size above which larger batches help less. Infinite if the estimate
            of |G|² is not positive.

    Example:
        See `gradient_moments`, which returns it.
    """

    mean: Any
    variance: Any
    signal_to_noise: Any
    noise_scale: jax.Array


def gradient_moments(f: Callable, params: Any, data: Any, *, where: Where = None, batch_size: int | None = None) -> Moments:
    """Mean, variance, signal-to-noise ratio and noise scale of the gradients of single examples.

    The squares of a dense layer with one position are summed as products of the powers of inputs and cotangents (Dangel et al.
    2020, arXiv:1912.10985), both without their means, so that a mean that is large beside the noise costs no digits. With
    several batches, the data are evaluated twice: for the mean, and for the deviations from it.

    Args:
        f: The loss of one example, `f(params, example) -> scalar`; `example_loss` makes one of a `Problem`.
        params: The parameters.
        data: The examples, at least 2: a pytree of arrays with a leading axis of examples.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all. Entries of the
            others are 0.
        batch_size: The number of examples per batch, to save memory; by default all at once.

    Returns:
        A `Moments`; its trees are like the parameters, in at least float32.

    Raises:
        TypeError: If `f` is not a function, or `batch_size` not a whole number.
        ValueError: If `f` does not return one real number, the leaves of `data` differ in length, there is only one example,
            or a pattern matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: params["w"] * example
        >>> result = nn.autodiff.gradient_moments(f, {"w": jnp.ones(())}, jnp.array([1.0, 2.0, 3.0]))
        >>> result.mean["w"].item(), result.variance["w"].item()
        (2.0, 1.0)
    """
    loss, selected = scalar("gradient_moments", f), counted(params, where)
    data, batch_size = as_examples("gradient_moments", data, batch_size)
    n = leading_size(data)
    if n < 2:
        raise ValueError("gradient_moments needs at least 2 examples for a variance, got 1")

    def totals(batch: Any) -> tuple:
        run, cotangents = losses_and_cotangents(loss, params, batch, selected)
        return [wide(a) for a in weighted_sum(run, cotangents)], square_sums(run, cotangents, about_mean=True)

    if batch_size == n:
        sums, squared = totals(data)
        mean = [a / n for a in sums]
    else:
        mean = [a / n for a in summed(lambda batch: totals(batch)[0], data, batch_size)]

        def about_mean(batch: Any) -> list:  # of all batches: the deviations in a batch, and those of its own mean
            size, (sums, squared) = leading_size(batch), totals(batch)
            return [s + size * (a / size - m) ** 2 for a, s, m in zip(sums, squared, mean, strict=True)]

        squared = summed(about_mean, data, batch_size)
    variance = [s / (n - 1) for s in squared]
    ratio = [jnp.where(m == 0, 0, jnp.abs(m) / jnp.sqrt(jnp.where(m == 0, 1, v))) for m, v in zip(mean, variance, strict=True)]
    trace = sum(map(jnp.sum, variance))
    signal = sum(jnp.sum(m**2) for m in mean) - trace / n
    noise_scale = jnp.where(signal > 0, trace / jnp.where(signal > 0, signal, 1), jnp.inf)
    like_params = functools.partial(jax.tree.unflatten, jax.tree.structure(params))
    return Moments(like_params(mean), like_params(variance), like_params(ratio), noise_scale)


def gradient_products(
    f: Callable, params: Any, data: Any, others: Any = None, *, where: Where = None, batch_size: int | None = None
) -> jax.Array:
    """The inner products of the gradients of single examples, Kᵢⱼ = ⟨gᵢ, gⱼ⟩.

    For a weight W that meets data in a product, it is Σₜₛ ⟨xᵢₜ, xⱼₛ⟩ ⟨hᵢₜ, hⱼₛ⟩, with h the cotangents; see `gradient_norms`.

    Args:
        f: The loss of one example, `f(params, example) -> scalar`; `example_loss` makes one of a `Problem`.
        params: The parameters.
        data: The examples i: a pytree of arrays with a leading axis of examples.
        others: The examples j; by default those of `data`.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all.
        batch_size: The number of examples per batch, to save memory; every pair of batches is then evaluated by itself.

    Returns:
        (N, N), or (N, M) with M others, in at least float32.

    Raises:
        TypeError: If `f` is not a function, or `batch_size` not a whole number.
        ValueError: If `f` does not return one real number, the leaves of `data` differ in length, or a pattern matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: jnp.vdot(params["w"], example)
        >>> nn.autodiff.gradient_products(f, {"w": jnp.ones(2)}, jnp.array([[3.0, 4.0], [0.0, 2.0]]))
        Array([[25.,  8.],
               [ 8.,  4.]], dtype=float32)
    """
    loss, selected = scalar("gradient_products", f), counted(params, where)
    data, size = as_examples("gradient_products", data, batch_size)
    same = others is None and size == leading_size(data)
    others, other_size = (data, size) if others is None else as_examples("gradient_products", others, batch_size)

    def evaluated(batch: Any) -> tuple:
        run, cotangents = losses_and_cotangents(loss, params, batch, selected)
        return run, [tuple(g[:, None] for g in point) for point in cotangents]

    def rows(batch: Any) -> jax.Array:
        one = evaluated(batch)

        def columns(batch: Any) -> jax.Array:
            two = one if same else evaluated(batch)
            return inner_products(*one, *two)[:, 0, :, 0].T

        return concatenated(columns, others, other_size).T

    return concatenated(rows, data, size)
