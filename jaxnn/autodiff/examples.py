"""What the verbs share: examples and their number, losses of one example, batches, and the parameters that count."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxnn.core.checks import function, whole
from jaxnn.core.layer import as_layer
from jaxnn.core.text import array_text
from jaxnn.core.trees import mask
from jaxnn.problem.batches import leading_size, over_batches
from jaxnn.problem.objective import Objective
from jaxnn.problem.problem import Problem

Where = str | Sequence[str] | None


def example_loss(problem: Problem, state: Any = None) -> Callable[[Any, Any], jax.Array]:
    """The loss of one example, as the functions of `nn.autodiff` take it, from a problem: fᵢ(W) = L(model(W, xᵢ), yᵢ).

    The model is applied to a batch of one example, in inference mode. In training mode, batch norm would normalize the example
    by itself, and the loss would not be that of training: there is no loss of one example then.

    Args:
        problem: A `Problem`, whose data are `(x, y)` or what its `Objective` takes.
        state: The model's state, which stays fixed; by default there is none.

    Returns:
        `f(params, example) -> scalar`; an example has no batch axis.

    Raises:
        TypeError: If `problem` is not a `Problem`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> problem = nn.Problem(nn.dense(1), nn.losses.mse)
        >>> params, state = nn.dense(1).init(jax.random.key(0), jnp.ones((1, 2)))
        >>> f = nn.autodiff.example_loss(problem, state)
        >>> f(params, (jnp.ones(2), jnp.zeros(1))).shape
        ()
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"example_loss takes a Problem, such as nn.Problem(model, loss), got {problem!r}")
    state = {} if state is None else state

    def loss(params: Any, example: Any) -> jax.Array:
        return problem.objective(params, state, jax.tree.map(lambda a: jnp.asarray(a)[None], example))[0]

    return loss


def outputs_and_losses(caller: str, problem: Any, params: Any, state: Any, data: Any) -> tuple[Callable, Callable]:
    """The model and the loss of a problem apart, for one example, in inference mode.

    Returns:
        `outputs(params, x) -> z`, a vector of all outputs, and `loss(z, y) -> scalar`; neither takes a batch axis.

    Raises:
        TypeError: If the problem is not a `Problem`, its loss is an `Objective`, or the data are not `(x, y)`.
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"{caller} takes a Problem, such as nn.Problem(model, loss), got {problem!r}")
    if isinstance(problem.loss, Objective):
        raise TypeError(f"{caller} needs outputs and loss apart: give the Problem a loss(predictions, y), not an Objective")
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError(f"{caller} takes data as a pair (x, y), got {array_text(data)}")
    layer, state = problem.at().layer, {} if state is None else state
    objective = problem.bound(problem.hyperparameters.at(), None, as_layer(lambda z: z)).objective  # of z itself
    one = jax.eval_shape(lambda data: jax.tree.map(lambda a: jnp.asarray(a)[:1], data), data)
    batched = functools.partial(jax.tree.map, lambda a: a[None])

    def predictions(params: Any, x: Any) -> Any:
        return layer.apply(params, state, x, training=False)[0]

    unravel = ravel_pytree(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(predictions, params, one[0])))[1]

    def outputs(params: Any, x: Any) -> jax.Array:
        return ravel_pytree(predictions(params, batched(x)))[0]

    def loss(z: jax.Array, y: Any) -> jax.Array:
        return objective({}, {}, (unravel(z), batched(y)), None)[0]

    return outputs, loss


def scalar(caller: str, f: Any) -> Callable[[Any, Any], jax.Array]:
    """The loss `f(params, example)`, checked when it is traced: it returns one real number."""
    function(caller, "f", f, "f(params, example) -> scalar")

    def loss(params: Any, example: Any) -> jax.Array:
        value = f(params, example)
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(
                f"{caller} takes the loss of one example, f(params, example) -> one real number; f returned {array_text(value)}"
            )
        return jnp.asarray(value)

    return loss


def as_examples(caller: str, data: Any, batch_size: int | None = None) -> tuple[Any, int]:
    """The data as arrays, and the number of examples in a batch.

    Raises:
        ValueError: If the leaves do not share the length of their leading axis, or there is no example.
    """
    data = jax.tree.map(jnp.asarray, data)
    shapes = [leaf.shape for leaf in jax.tree.leaves(data)]
    if not shapes or len({shape[:1] for shape in shapes}) > 1 or not all(shape and shape[0] for shape in shapes):
        raise ValueError(
            f"{caller} takes data as arrays with a leading axis of examples, of one length, at least 1; got {array_text(data)}"
        )
    n = leading_size(data)
    return data, n if batch_size is None else min(n, whole(caller, "batch_size", batch_size))


def counted(params: Any, where: Where) -> list[bool]:
    """For each leaf of the parameters, whether it is differentiated: those whose path matches a pattern; all by default."""
    if where is None:
        return [True] * len(jax.tree.leaves(params))
    return jax.tree.leaves(mask(params, *((where,) if isinstance(where, str) else where)))


def over_data(function: Callable[[Any], tuple[Any, Any]], data: Any, batch_size: int) -> tuple[Any, Any]:
    """Evaluate a function of the data batch by batch.

    Args:
        function: `function(batch) -> (totals, each)`.
        data: The examples.
        batch_size: The number of examples per batch; the last one is smaller if need be.

    Returns:
        The sum of the totals, and what is per example, joined along the leading axis.
    """
    if leading_size(data) <= batch_size:
        return function(data)
    first = jax.tree.map(lambda a: a[:batch_size], data)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda batch: function(batch)[0], first))

    def step(totals: Any, batch: Any) -> tuple[Any, Any]:
        new, each = function(batch)
        return jax.tree.map(jnp.add, totals, new), each

    return over_batches(step, zeros, data, batch_size)


def concatenated(function: Callable[[Any], Any], data: Any, batch_size: int) -> Any:
    """What a function returns for each batch, joined along the leading axis."""
    return over_data(lambda batch: ((), function(batch)), data, batch_size)[1]


def summed(function: Callable[[Any], Any], data: Any, batch_size: int) -> Any:
    """The sum of what a function returns for each batch."""
    return over_data(lambda batch: (function(batch), ()), data, batch_size)[0]
