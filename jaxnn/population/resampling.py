"""Cross-validation and bootstrap: members that differ in the samples that they are trained on, in one program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _jax
from jaxnn.core.checks import check_key, whole
from jaxnn.core.naming import child_key
from jaxnn.population.result import Sweep
from jaxnn.population.space import settings_of
from jaxnn.population.task import Task
from jaxnn.problem.checks import checked_data


@_jax.training_settings()
def cross_validation(
    model: Any,
    data: Any,
    space: Any = None,
    *,
    folds: int = 5,
    checkpoints: Any = None,
    progress: bool = True,
    **options: Any,
) -> Sweep:
    """Train each setting and seed `folds` times, each time without one part of the data, and validate on that part.

    Members see the whole data, in which the samples of their fold have weight 0, so a batch has about
    (folds − 1)/folds · batch_size samples that count. Folds are drawn at random, with sizes that differ by at most one;
    with integer labels, each class is spread evenly over them.

    Args:
        model: As in `sweep`; without state, since batch statistics would see the samples that are left out.
        data: `(x, y)`.
        space: As in `sweep`; `{}` or None for one setting.
        folds: The number of folds, at least 2.
        checkpoints: As in `sweep`.
        progress: Whether to show progress.
        **options: As in `sweep`, without validation data.

    Returns:
        A `Sweep` with a column `fold`; `by_setting` takes means and deviations over folds and seeds, and `best_setting` are
        the hyperparameters for a run of `fit` on all data.

    Raises:
        ValueError: As `sweep`; on fewer samples than folds; on a model with state.

    Example:
        >>> import jax, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (60, 3))
        >>> result = nn.population.cross_validation(
        ...     nn.dense(1), (x, x[:, :1]), folds=3, loss=nn.losses.mse, optimizer=optax.sgd(0.1), epochs=5,
        ...     key=jax.random.key(1), progress=False)
        >>> len(result), result.by_setting()[0]["val_loss"] < 0.5
        (3, True)
    """
    x, y = _pair(data, "cross_validation")
    n, folds = len(jax.tree.leaves(x)[0]), whole("cross_validation", "folds", folds, 2)
    if n < folds:
        raise ValueError(f"{folds} folds take at least {folds} samples, got {n}")
    fold = _folds(_generator(options, "folds"), y, n, folds)
    left_out = jnp.asarray(fold[:, None] == np.arange(folds)[None, :], jnp.float32)
    return _trained(model, (x, y, 1 - left_out), (x, y, left_out), space, "fold", folds, checkpoints, progress, options)


@_jax.training_settings()
def bootstrap(
    model: Any,
    data: Any,
    space: Any = None,
    *,
    samples: int = 20,
    checkpoints: Any = None,
    progress: bool = True,
    **options: Any,
) -> Sweep:
    """Train each setting and seed on `samples` draws of n samples with replacement; validate on those that were not drawn.

    A sample that was drawn twice has weight 2 (Efron 1979; out-of-bag validation, Breiman 1996).

    Args:
        model: As in `cross_validation`.
        data: `(x, y)`.
        space: As in `sweep`; `{}` or None for one setting.
        samples: The number of draws.
        checkpoints: As in `sweep`.
        progress: Whether to show progress.
        **options: As in `sweep`, without validation data.

    Returns:
        A `Sweep` with a column `draw`; `by_setting` and `best_setting` take means over draws and seeds.

    Raises:
        ValueError: As `sweep`; on fewer than two samples; on a model with state.

    Example:
        >>> import jax, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (60, 3))
        >>> result = nn.population.bootstrap(
        ...     nn.dense(1), (x, x[:, :1]), samples=4, loss=nn.losses.mse, optimizer=optax.sgd(0.1), epochs=5,
        ...     key=jax.random.key(1), progress=False)
        >>> len(result)
        4
    """
    x, y = _pair(data, "bootstrap")
    n, samples = len(jax.tree.leaves(x)[0]), whole("bootstrap", "samples", samples)
    if n < 2:
        raise ValueError(f"a bootstrap takes at least two samples, got {n}")
    draws = _generator(options, "bootstrap").integers(0, n, (samples, n))
    for row in draws:  # of few samples, all may have been drawn: one is then left out
        if len(np.unique(row)) == n:
            row[0] = row[1]
    counts = np.stack([np.bincount(row, minlength=n) for row in draws], 1)
    weights, outside = jnp.asarray(counts, jnp.float32), jnp.asarray(counts == 0, jnp.float32)
    return _trained(model, (x, y, weights), (x, y, outside), space, "draw", samples, checkpoints, progress, options)


def _trained(
    model, data, validation, space, name: str, count: int, checkpoints: Any, progress: bool, options: dict[str, Any]
) -> Sweep:
    if "validation" in options:
        raise ValueError("members are validated on the samples that they were not trained on: give no validation")
    settings = [{}] if not space else settings_of(space)
    settings = [{**setting, name: float(k)} for setting in settings for k in range(count)]
    view = _fold_view if name == "fold" else _draw_view
    task = Task.of(model, data, settings, validation=validation, view=view, on_device=True, **options)
    if any(jax.tree.leaves(run.result.state) for run in task.runs):
        raise ValueError(
            "the model has state, such as batch norm's statistics, which would see the samples that are left out: use "
            "layer_norm or group_norm, or call fit for each fold"
        )
    with task.saver(checkpoints) as saver:
        if saver is not None:
            saver.restore()
        task.train(progress, saver)
    return task.result(progress, averaged_over=(name,))


def _fold_view(batch: Any, fold: Any) -> Any:
    return _column(batch, fold)


def _draw_view(batch: Any, draw: Any) -> Any:
    return _column(batch, draw)


def _column(batch: Any, k: Any) -> Any:
    x, y, weights = batch
    return x, y, jnp.take(weights, jnp.asarray(k).astype(jnp.int32), axis=1)


def _pair(data: Any, what: str) -> tuple:
    data = checked_data(data)
    if len(data) != 2:
        raise ValueError(f"{what} takes (x, y), since it weights the samples itself")
    return data


def _generator(options: dict[str, Any], name: str) -> np.random.Generator:
    """A generator that follows from the sweep's key."""
    if "key" not in options:
        raise TypeError("key= is required: the key of the whole sweep")
    return np.random.default_rng(np.asarray(jax.random.bits(child_key(check_key(options["key"]), name), (4,))))


def _folds(generator: np.random.Generator, y: Any, n: int, folds: int) -> np.ndarray:
    """The fold of each sample, dealt out class by class: sizes differ by at most one, and classes are spread evenly."""
    order = generator.permutation(n)
    if isinstance(y, jax.Array) and y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer):
        order = order[np.argsort(np.asarray(y)[order], kind="stable")]
    fold = np.empty(n, np.int64)
    fold[order] = np.arange(n) % folds
    return fold
