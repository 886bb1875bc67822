"""Ensembles: predictions of all members of a sweep, their averages, and how much they agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn import compiled
from jaxnn.core.checks import whole
from jaxnn.core.text import listed
from jaxnn.population.result import Sweep
from jaxnn.problem.batches import even_size, leading_size, over_batches, padded_size, with_rows
from jaxnn.problem.checks import checked_inputs
from jaxnn.train.config import TrainingConfig
from jaxnn.train.evaluation import errors_for

MEMBERS = 16  # in one `vmap`; blocks of members follow one another


def predict_members(result: Sweep, x: Any, *, members: Sequence[int] | None = None, batch_size: int = 256) -> jax.Array:
    """Compute the outputs of all members in inference mode, with one program per structure.

    Args:
        result: The result of `sweep`.
        x: The inputs, batched.
        members: The numbers of the members; all by default.
        batch_size: The number of samples per batch.

    Returns:
        The predictions, `(members, N, ...)`, in the order of `members`.

    Raises:
        ValueError: If there is no such member, or the outputs of members differ in shape.

    Example:
        >>> import jax, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (64, 3))
        >>> result = nn.sweep(
        ...     nn.dense(2), (x, x[:, :2]), {"learning_rate": [0.1]}, seeds=4, loss=nn.losses.mse, optimizer=optax.sgd,
        ...     epochs=2, key=jax.random.key(1), progress=False)
        >>> nn.population.predict_members(result, x).shape
        (4, 64, 2)
    """
    wanted = np.arange(len(result)) if members is None else np.asarray(members)
    if wanted.ndim != 1 or not len(wanted) or wanted.min() < 0 or wanted.max() >= len(result):
        raise ValueError(f"members needs at least one number, each from 0 to {len(result) - 1}; got {members}")
    whole("predict_members", "batch_size", batch_size)
    x = checked_inputs(x, "x")
    rows = with_rows(x, padded_size(x))  # which do not depend on each other
    found, numbers = [], []
    for stacked, (group, _) in zip(result.groups, result.parts, strict=True):
        here = np.flatnonzero(np.isin(stacked.members, wanted))
        if not len(here):
            continue
        seeds = len(stacked.members) // len(group.numbers)
        traced = {name: jnp.asarray(values[here // seeds]) for name, values in group.traced.items()}
        params, state = jax.tree.map(lambda a, here=here: jnp.asarray(a[here]), (stacked.params, stacked.state))
        arguments = params, state, traced, rows
        make = partial(_members_program, group.config, batch_size)
        with errors_for(make, params, state, traced, x):
            program = compiled.program("predict_members", make, (*group.config.key(), batch_size), arguments)
        found.append(program(*arguments)[:, : leading_size(x)])
        numbers.append(stacked.members[here])
    if len({part.shape[1:] for part in found}) > 1:
        shapes = listed(part.shape[1:] for part in found)
        raise ValueError(f"the outputs of the members differ in shape, {shapes}: pass members= to take those of one shape")
    joined = jnp.concatenate(found) if len(found) > 1 else found[0]
    order = np.argsort(np.concatenate(numbers), kind="stable")
    return joined[order[np.searchsorted(np.sort(np.concatenate(numbers)), wanted)]]


def _members_program(config: TrainingConfig, batch_size: int) -> Callable:
    problem = config.problem

    def run(params: Any, state: Any, traced: Any, x: Any):
        def member(arguments):
            params, state, traced = arguments
            model = problem.bound(problem.hyperparameters.at(traced), None).layer
            one = lambda carry, batch: (carry, model.apply(params, state, batch)[0])  # noqa: E731
            return over_batches(one, None, x, even_size(leading_size(x), batch_size))[1]

        return lax.map(member, (params, state, traced), batch_size=MEMBERS)

    return run


def mean_probabilities(logits: jax.Array, weights: Any = None) -> jax.Array:
    """Average the members' softmax probabilities, Σₘ wₘ softmax(zₘ) / Σₘ wₘ (Lakshminarayanan et al. 2017).

    Args:
        logits: The logits, `(members, ..., classes)`.
        weights: One weight per member, at least 0; equal weights by default.

    Returns:
        The probabilities, `(..., classes)`, in at least float32.

    Raises:
        ValueError: If the logits are not `(members, ..., classes)` with two classes or more, or there is not one weight per
            member.

    Example:
        >>> mean_probabilities(jnp.array([[[0.0, 0.0]], [[100.0, 0.0]]])).tolist()
        [[0.75, 0.25]]
    """
    return _mean(_probabilities(logits), weights)


def vote(logits: jax.Array) -> jax.Array:
    """Return the class that most members predict; in case of a tie, the first one.

    Args:
        logits: The logits, `(members, ..., classes)`.

    Returns:
        The labels, `(...)`, int32.

    Raises:
        ValueError: If the logits are not `(members, ..., classes)` with two classes or more.

    Example:
        >>> vote(jnp.array([[[0.0, 1.0]], [[0.0, 1.0]], [[9.0, 0.0]]])).tolist()
        [1]
    """
    chosen = jax.nn.one_hot(jnp.argmax(_checked(logits), -1), logits.shape[-1])
    return jnp.argmax(chosen.sum(0), -1).astype(jnp.int32)


def uncertainty(logits: jax.Array) -> dict[str, jax.Array]:
    """Decompose the uncertainty of an ensemble, in nats, into the noise of the data and the disagreement of the members.

    The total H(p̄) is the aleatoric part (1/M) Σₘ H(pₘ) plus the epistemic part, the mutual information of label and member
    (Depeweg et al. 2018).

    Args:
        logits: The logits, `(members, ..., classes)`.

    Returns:
        A dict with `"total"`, `"aleatoric"` and `"epistemic"`, each `(...)`.

    Raises:
        ValueError: If the logits are not `(members, ..., classes)` with two classes or more.

    Example:
        >>> sure_of_different_things = jnp.array([[[50.0, 0.0]], [[0.0, 50.0]]])
        >>> {name: round(float(value[0]), 3) for name, value in uncertainty(sure_of_different_things).items()}
        {'total': 0.693, 'aleatoric': 0.0, 'epistemic': 0.693}
    """
    p = _probabilities(logits)
    total, each = _entropy(p.mean(0)), _entropy(p).mean(0)
    return {"total": total, "aleatoric": each, "epistemic": jnp.maximum(total - each, 0)}


def spread(predictions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of the members' predictions in a regression (n − 1 in the denominator).

    Args:
        predictions: The predictions, `(members, ...)`, of at least two members.

    Returns:
        The mean and the standard deviation, each `(...)`.

    Raises:
        ValueError: If there are fewer than two members.

    Example:
        >>> [float(v[0]) for v in spread(jnp.array([[1.0], [2.0], [3.0]]))]
        [2.0, 1.0]
    """
    if predictions.ndim < 1 or predictions.shape[0] < 2:
        raise ValueError(f"spread takes predictions (members, ...) of at least two members, got shape {predictions.shape}")
    return predictions.mean(0), predictions.std(0, ddof=1)


def disagreement(logits: jax.Array) -> jax.Array:
    """Compute the fraction of samples for which two members predict different classes.

    Args:
        logits: The logits, `(members, ..., classes)`.

    Returns:
        The fractions, `(members, members)`, symmetric, with 0 on the diagonal.

    Raises:
        ValueError: If the logits are not `(members, ..., classes)` with two classes or more.

    Example:
        >>> disagreement(jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]))[0, 1].item()
        0.5
    """
    labels = jnp.argmax(_checked(logits), -1).reshape(logits.shape[0], -1)
    return (labels[:, None] != labels[None]).mean(-1)


def greedy_selection(
    predictions: jax.Array, targets: Any, score: Callable[[jax.Array, Any], Any], *, size: int = 20, mode: str = "min"
) -> np.ndarray:
    """Compute the weights of an ensemble built by greedy selection with replacement (Caruana et al. 2004).

    Each step adds the member with which the mean prediction has the best score.

    Args:
        predictions: The predictions, `(members, N, ...)`: probabilities, or the outputs of a regression. They are averaged.
        targets: The targets of the same held-out data.
        score: The score, `score(mean_predictions, targets) -> number`; traceable.
        size: The number of steps.
        mode: `"min"` if smaller scores are better, `"max"` if larger ones are.

    Returns:
        The weights, `(members,)`, which sum to 1.

    Raises:
        ValueError: If the mode is neither; if every score of a step is NaN.

    Example:
        >>> import jaxnn as nn
        >>> predictions = jnp.array([[[0.0]], [[2.0]], [[9.0]]])
        >>> greedy_selection(predictions, jnp.array([[1.0]]), nn.losses.mse, size=2).tolist()
        [0.5, 0.5, 0.0]
    """
    if mode not in ("min", "max"):
        raise ValueError(f'mode is {mode!r}, expected "min" or "max"')
    sign = 1.0 if mode == "min" else -1.0
    counts, size = np.zeros(len(predictions)), whole("greedy_selection", "size", size)
    predictions, targets = jnp.asarray(predictions), jax.tree.map(jnp.asarray, targets)
    predictions = predictions.astype(jnp.result_type(predictions.dtype, float))
    total, numbers = jnp.zeros_like(predictions[0]), np.arange(1, size + 1).astype(predictions.dtype)

    def scores_with(total, n, predictions, targets):
        return lax.map(lambda p: jnp.asarray(score((total + p) / n, targets)), predictions)

    arguments = total, numbers[0], predictions, targets
    program = compiled.program("greedy selection", lambda: scores_with, (score,), arguments)
    for n in numbers:
        scores = sign * np.asarray(program(total, n, predictions, targets))
        if np.isnan(scores).all():
            raise ValueError("greedy_selection: all scores are NaN; are there NaN in the predictions?")
        best = int(np.nanargmin(scores))
        counts[best] += 1
        total = total + predictions[best]
    return counts / counts.sum()


def soup(params: Any, weights: Any = None) -> Any:
    """Average stacked parameters into the parameters of a single network, a model soup (Wortsman et al. 2022).

    This makes sense only for members with the same initial parameters.

    Args:
        params: A pytree of arrays with a leading axis of members.
        weights: One weight per member, at least 0; equal weights by default.

    Returns:
        The pytree without the leading axis.

    Raises:
        ValueError: If there is not one weight per member.

    Example:
        >>> soup({"kernel": jnp.array([[1.0], [3.0]])})["kernel"].tolist()
        [2.0]
    """
    return jax.tree.map(lambda leaf: _mean(jnp.asarray(leaf), weights).astype(leaf.dtype), params)


def _mean(stacked: jax.Array, weights: Any) -> jax.Array:
    if weights is None:
        return stacked.mean(0)
    w = jnp.asarray(weights, stacked.dtype)
    if w.shape != stacked.shape[:1]:
        raise ValueError(f"weights needs one weight per member, shape {stacked.shape[:1]}, got {w.shape}")
    return jnp.tensordot(w / w.sum(), stacked, 1)


def _probabilities(logits: jax.Array) -> jax.Array:
    logits = _checked(logits)
    return jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), -1)


def _entropy(p: jax.Array) -> jax.Array:
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), -1)


def _checked(logits: jax.Array) -> jax.Array:
    if jnp.ndim(logits) < 2 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits of shape (members, ..., classes) with two classes or more are expected, got {jnp.shape(logits)}"
        )
    return logits
