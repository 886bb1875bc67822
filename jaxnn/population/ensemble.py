"""Ensembles: the predictions of all members of a sweep, their agreement, and their averages."""

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
from jaxnn.population.result import Sweep
from jaxnn.problem.batches import over_batches
from jaxnn.problem.checks import checked_inputs
from jaxnn.train.config import TrainingConfig

MEMBERS = 16  # mapped over at a time


def predict_members(result: Sweep, x: Any, *, members: Sequence[int] | None = None, batch_size: int = 256) -> jax.Array:
    """The outputs of all members, each network of a structure in one program, dropout and the like off.

    Args:
        result: what `sweep` returned.
        x: the inputs, batched.
        members: their numbers; all by default.
        batch_size: samples a batch.

    Returns:
        The predictions, (members, N, …), in the order of `members`.

    Raises:
        ValueError: if there is no such member, or outputs differ in shape.

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
        raise ValueError(f"members are numbers from 0 to {len(result) - 1}, at least one; got {members}")
    x = checked_inputs(x, "x")
    whole("predict_members", "batch_size", batch_size)
    found, numbers = [], []
    for stacked, (group, _) in zip(result.groups, result.parts, strict=True):
        here = np.flatnonzero(np.isin(stacked.members, wanted))
        if not len(here):
            continue
        seeds = len(stacked.members) // len(group.numbers)
        traced = {name: jnp.asarray(values[here // seeds]) for name, values in group.traced.items()}
        params, state = jax.tree.map(lambda a, here=here: jnp.asarray(a[here]), (stacked.params, stacked.state))
        arguments = params, state, traced, x
        make = partial(_members_program, group.config, batch_size)
        program = compiled.program("predict_members", make, (*group.config.key(), batch_size), arguments)
        found.append(program(*arguments))
        numbers.append(stacked.members[here])
    if len({part.shape[1:] for part in found}) > 1:
        raise ValueError(f"outputs differ in shape: {', '.join(str(part.shape[1:]) for part in found)}")
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
            return over_batches(one, None, x, batch_size)[1]

        return lax.map(member, (params, state, traced), batch_size=MEMBERS)

    return run


def mean_probabilities(logits: jax.Array, weights: Any = None) -> jax.Array:
    """The members' mean softmax, Σₘ wₘ softmax(zₘ) / Σₘ wₘ (Lakshminarayanan et al. 2017).

    Args:
        logits: (members, …, classes).
        weights: one a member, at least 0; all the same by default.

    Returns:
        Probabilities, (…, classes), in at least float32.

    Raises:
        ValueError: if the logits are not (members, …, classes) of two classes or more, or the weights not one a member.

    Example:
        >>> mean_probabilities(jnp.array([[[0.0, 0.0]], [[100.0, 0.0]]])).tolist()
        [[0.75, 0.25]]
    """
    return _mean(_probabilities(logits), weights)


def vote(logits: jax.Array) -> jax.Array:
    """The class that most members choose; of several the first.

    Args:
        logits: (members, …, classes).

    Returns:
        Labels, (…), int32.

    Raises:
        ValueError: if the logits are not (members, …, classes) of two classes or more.

    Example:
        >>> vote(jnp.array([[[0.0, 1.0]], [[0.0, 1.0]], [[9.0, 0.0]]])).tolist()
        [1]
    """
    chosen = jax.nn.one_hot(jnp.argmax(_checked(logits), -1), logits.shape[-1])
    return jnp.argmax(chosen.sum(0), -1).astype(jnp.int32)


def uncertainty(logits: jax.Array) -> dict[str, jax.Array]:
    """How sure an ensemble is, in nats: what is in the data, and what more members would not agree on.

    total H(p̄) = aleatoric (1/M) Σₘ H(pₘ) + epistemic, the mutual information of label and member (Depeweg et al. 2018).

    Args:
        logits: (members, …, classes).

    Returns:
        `"total"`, `"aleatoric"` and `"epistemic"`, each (…).

    Raises:
        ValueError: if the logits are not (members, …, classes) of two classes or more.

    Example:
        >>> sure_of_different_things = jnp.array([[[50.0, 0.0]], [[0.0, 50.0]]])
        >>> {name: round(float(value[0]), 3) for name, value in uncertainty(sure_of_different_things).items()}
        {'total': 0.693, 'aleatoric': 0.0, 'epistemic': 0.693}
    """
    p = _probabilities(logits)
    total, each = _entropy(p.mean(0)), _entropy(p).mean(0)
    return {"total": total, "aleatoric": each, "epistemic": jnp.maximum(total - each, 0)}


def spread(predictions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of a regression's members (n − 1 in the denominator).

    Args:
        predictions: (members, …), at least two members.

    Returns:
        The two, each (…).

    Raises:
        ValueError: if there are fewer than two members.

    Example:
        >>> [float(v[0]) for v in spread(jnp.array([[1.0], [2.0], [3.0]]))]
        [2.0, 1.0]
    """
    if predictions.ndim < 1 or predictions.shape[0] < 2:
        raise ValueError(f"spread takes predictions (members, …) of at least two members, got shape {predictions.shape}")
    return predictions.mean(0), predictions.std(0, ddof=1)


def disagreement(logits: jax.Array) -> jax.Array:
    """How often two members choose different classes: (members, members), symmetric, 0 on the diagonal.

    Args:
        logits: (members, …, classes).

    Returns:
        Shares of the samples, (members, members).

    Raises:
        ValueError: if the logits are not (members, …, classes) of two classes or more.

    Example:
        >>> disagreement(jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]))[0, 1].item()
        0.5
    """
    labels = jnp.argmax(_checked(logits), -1).reshape(logits.shape[0], -1)
    return (labels[:, None] != labels[None]).mean(-1)


def greedy_selection(
    predictions: jax.Array, targets: Any, score: Callable[[jax.Array, Any], Any], *, size: int = 20, mode: str = "min"
) -> np.ndarray:
    """Weights of an ensemble that is put together member by member, with replacement (Caruana et al. 2004).

    Each time that member is added with which the mean prediction scores best.

    Args:
        predictions: (members, N, …): probabilities, or a regression's outputs; they are averaged as they are.
        targets: what the score compares with, of held-out data.
        score: `score(mean predictions, targets) -> number`, traceable.
        size: how many times a member is added.
        mode: `"min"` if a small score is good, `"max"` if a large one is.

    Returns:
        Weights, (members,), that sum to 1.

    Raises:
        ValueError: on another mode.

    Example:
        >>> import jaxnn as nn
        >>> predictions = jnp.array([[[0.0]], [[2.0]], [[9.0]]])
        >>> greedy_selection(predictions, jnp.array([[1.0]]), nn.losses.mse, size=2).tolist()
        [0.5, 0.5, 0.0]
    """
    if mode not in ("min", "max"):
        raise ValueError(f'mode is "min" or "max", got {mode!r}')
    sign = 1.0 if mode == "min" else -1.0
    counts = np.zeros(len(predictions))
    total = jnp.zeros_like(predictions[0])
    scores_with = jax.jit(lambda total, n: lax.map(lambda p: jnp.asarray(score((total + p) / n, targets)), predictions))
    for n in range(1, whole("greedy_selection", "size", size) + 1):
        best = int(np.argmin(sign * np.nan_to_num(np.asarray(scores_with(total, float(n))), nan=sign * np.inf)))
        counts[best] += 1
        total = total + predictions[best]
    return counts / counts.sum()


def soup(params: Any, weights: Any = None) -> Any:
    """The weighted mean of stacked parameters: one network, at the cost of one (Wortsman et al. 2022).

    It makes sense for members that were trained from the same start.

    Args:
        params: a tree of arrays with a leading axis of members.
        weights: one a member, at least 0; all the same by default.

    Returns:
        The tree without that axis.

    Raises:
        ValueError: if the weights are not one a member.

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
        raise ValueError(f"weights are one a member, of shape {stacked.shape[:1]}, got {w.shape}")
    return jnp.tensordot(w / w.sum(), stacked, 1)


def _probabilities(logits: jax.Array) -> jax.Array:
    logits = _checked(logits)
    return jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), -1)


def _entropy(p: jax.Array) -> jax.Array:
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), -1)


def _checked(logits: jax.Array) -> jax.Array:
    if jnp.ndim(logits) < 2 or logits.shape[-1] < 2:
        raise ValueError(f"logits are (members, …, classes) with two classes or more, got shape {jnp.shape(logits)}")
    return logits
