"""Differentially private training: gradients for `fit`, random batches, and the privacy that a run spends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.autodiff.clipping import clipped_gradient
from jaxnn.autodiff.examples import Where, counted
from jaxnn.core.checks import check_key, number, whole
from jaxnn.core.dtypes import at_least_float32 as wide
from jaxnn.core.naming import child_key
from jaxnn.core.text import array_text
from jaxnn.problem.batches import leading_size
from jaxnn.problem.checks import as_data
from jaxnn.problem.running import has_weights


@dataclass(frozen=True)
class Private:
    """The gradient of a private step, for `gradient=` of `fit`; equal ones share compiled programs.

    Attributes:
        clip: C.
        noise: σ.
        batch_size: B.
        accumulate: The number of parts of a batch.
        where: Patterns of paths of the parameters that count.

    Example:
        See `private`, which returns it.
    """

    clip: Any
    noise: Any
    batch_size: int
    accumulate: int = 1
    where: Where = None

    def __call__(self, objective: Callable, params: Any, state: Any, batch: Any, key: jax.Array) -> tuple[Any, tuple]:
        """The gradient of a batch.

        Args:
            objective: `objective(params, state, batch, key) -> (loss, (weight, state, predictions))`.
            params: The parameters.
            state: The model's state, which must be empty.
            batch: The batch.
            key: The key of the step.

        Returns:
            `(gradients, (loss, weight, state, predictions, skipped))`.

        Raises:
            ValueError: If the model has a state.
        """
        if jax.tree.leaves(state):
            raise ValueError(
                f"private trains models without state, got the state {array_text(state)}: statistics over a batch, as those of "
                "batch_norm, are not private, and make examples depend on each other; use layer_norm or group_norm"
            )
        n = leading_size(batch)
        weights = batch[2] if has_weights(batch) else jnp.ones(n)
        taking_part = weights > 0

        def loss(params: Any, example: Any) -> jax.Array:
            data, weight, i = example
            value = objective(params, state, jax.tree.map(lambda a: a[None], data), jax.random.fold_in(key, i))[0]
            return value * weight.astype(value.dtype)

        examples, size = (batch, weights, jnp.arange(n)), -(-n // self.accumulate)
        sums = clipped_gradient(loss, params, examples, self.clip, taking_part, where=self.where, batch_size=size)
        keys = jax.random.split(child_key(key, "noise"), len(jax.tree.leaves(params)))

        def noisy(total: jax.Array, counts: bool, key: jax.Array) -> jax.Array:
            if not counts:
                return total
            total = wide(total)
            noise = jax.random.normal(key, total.shape, total.dtype)
            return (total + jnp.asarray(self.noise * self.clip, total.dtype) * noise) / self.batch_size

        leaves, tree = jax.tree.flatten(sums.gradient)
        gradients = jax.tree.unflatten(tree, map(noisy, leaves, counted(params, self.where), keys))
        finite = jnp.isfinite(sums.norms)
        skipped = jnp.sum(taking_part & ~finite, dtype=jnp.int32)
        used = taking_part & finite
        weight = jnp.sum(jnp.where(used, weights, 0))
        value = jnp.sum(jnp.where(used, wide(sums.losses), 0)) / jnp.where(weight == 0, 1, weight)
        value = jnp.where(jnp.any(used) | (skipped == 0), value, jnp.nan)  # no example is left: the parameters are the cause
        predictions = objective(params, state, batch, key)[1][2]  # computed only for metrics
        return gradients, (value, weight, state, predictions, skipped)


def private(clip: Any, noise: Any, batch_size: int, *, accumulate: int = 1, where: Where = None) -> Private:
    """A differentially private gradient for `gradient=` of `fit`: (Σᵢ wᵢ min(1, C / ‖wᵢ gᵢ‖) gᵢ + σ C ε) / B, with ε ~ N(0, I).

    One example changes the sum by at most C, and noise hides it (DP-SGD, Abadi et al. 2016, arXiv:1607.00133). `privacy_spent`
    tells what a run with the batches of `poisson_batches` has spent. Batches of another kind, such as those that `fit` cuts of
    arrays, are trained with the same clipping and noise, but `privacy_spent` does not hold for them.

    The loss of an example is that of a batch of one, in training mode, with a dropout of its own. An example whose gradient is
    not finite is left out; the history has their number as `"skipped"`. The noise follows from the key of the run and the
    number of the step, so a run that continues from a checkpoint ends with the same bits.

    The parameters are private. The history, metrics, and what a callback decides by them are not: they see the data without
    noise. The random numbers are those of JAX, in floating point, which is not hardened against an attacker who knows their
    last digits (Mironov 2012, "On significance of the least significant bits for differential privacy").

    Args:
        clip: C, the largest norm of an example's gradient, positive; it may be traced.
        noise: σ, the standard deviation of the noise in units of C, at least 0; it may be traced.
        batch_size: B, the expected number of examples per batch.
        accumulate: The number of parts of a batch that are taken one after another, to save memory.
        where: A pattern or several of paths of the parameters that are trained, as in `nn.trees.mask`; by default all. The
            gradient of the others is 0.

    Returns:
        A function for `gradient=`.

    Raises:
        TypeError: If a number is of another kind.
        ValueError: If a number is out of range, or, when it is traced, if the model has a state.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> x = jax.random.normal(jax.random.key(0), (200, 4))
        >>> y = (x[:, 0] > 0).astype(jnp.int32)
        >>> batches = nn.autodiff.poisson_batches((x, y), 32, jax.random.key(1))
        >>> result = nn.fit(
        ...     nn.dense(2), batches, loss=nn.losses.cross_entropy, optimizer=optax.sgd(1.0), epochs=3, key=jax.random.key(2),
        ...     gradient=nn.autodiff.private(clip=1.0, noise=0.5, batch_size=32), progress=False)
        >>> result.history["skipped"]
        [0.0, 0.0, 0.0]
    """
    return Private(
        number("private", "clip", clip, 0, above=True),
        number("private", "noise", noise, 0),
        whole("private", "batch_size", batch_size),
        whole("private", "accumulate", accumulate),
        where if where is None or isinstance(where, str) else tuple(where),
    )


@dataclass(frozen=True, eq=False)
class PoissonBatches:
    """Random batches, for `fit`: called with an epoch, counted from 1, an iterator over its batches; `len` is their number.

    Attributes:
        data: `(x, y)`, NumPy arrays.
        batch_size: The expected number of samples per batch.
        rows: The number of rows of a batch, of which those without a sample have the weight 0.
        seed: Whole numbers that the draws follow from.

    Example:
        See `poisson_batches`, which returns it.
    """

    data: tuple
    batch_size: int
    rows: int
    seed: tuple[int, ...]

    def __len__(self) -> int:
        return max(round(leading_size(self.data) / self.batch_size), 1)

    def __call__(self, epoch: int) -> Iterator[tuple]:
        """Iterate over the batches of an epoch.

        Args:
            epoch: The epoch, counted from 1.

        Yields:
            `(x, y, weights)`.
        """
        n = leading_size(self.data)
        for step in range(len(self)):
            draws = np.random.default_rng((*self.seed, epoch, step)).random(n)
            drawn = np.flatnonzero(draws < self.batch_size / n)
            rows = max(-(-len(drawn) // self.rows), 1) * self.rows
            index = np.zeros(rows, np.int64)
            index[: len(drawn)] = drawn
            weights = (np.arange(rows) < len(drawn)).astype(np.float32)
            yield (*jax.tree.map(lambda a: a[index], self.data), weights)  # noqa: B023


def poisson_batches(data: Any, batch_size: int, key: jax.Array) -> PoissonBatches:
    """Batches that each sample enters independently with probability q = B / N, for private training with `fit`.

    It is the sampling that `privacy_spent` assumes. The number of samples differs from batch to batch; each has the same number
    of rows, four standard deviations above B, and those without a sample have the weight 0. A batch of more samples than
    that has twice as many rows, or more, for which `fit` compiles another program: no sample is left out. An epoch has N / B
    batches, rounded. The draws follow from the key, the epoch and the number of the batch.

    Args:
        data: `(x, y)`, pytrees of arrays with one leading axis of samples, or a `Dataset` of `nn.data`. They stay on the host.
        batch_size: B, at most the number of samples.
        key: A random key, other than that of the run.

    Returns:
        A function of the epoch, as `fit` takes it in place of arrays.

    Raises:
        TypeError: If the data are not `(x, y)`.
        ValueError: If lengths differ, there are weights, or `batch_size` is greater than the number of samples.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> result = nn.autodiff.poisson_batches((jnp.ones((100, 3)), jnp.zeros(100)), 20, jax.random.key(0))
        >>> x, y, weights = next(result(1))
        >>> len(result), x.shape, float(weights.sum())
        (5, (36, 3), 23.0)
    """
    data = jax.tree.map(np.asarray, as_data(data))
    if len(data) == 3:
        raise ValueError("poisson_batches gives samples the weights 0 and 1: leave out those of the data, expected (x, y)")
    n = leading_size(data)
    batch_size = whole("poisson_batches", "batch_size", batch_size)
    if batch_size > n:
        raise ValueError(f"poisson_batches takes a batch_size of at most the number of samples, {n}, got {batch_size}")
    deviation = (batch_size * (1 - batch_size / n)) ** 0.5
    rows = min(int(batch_size + np.ceil(4 * deviation)), n)
    return PoissonBatches(data, batch_size, rows, tuple(np.ravel(jax.random.key_data(check_key(key))).tolist()))


def privacy_spent(noise: float, *, batch_size: int, samples: int, steps: int, delta: float) -> float:
    """The ε for which a run is (ε, δ)-differentially private: P(A) ≤ e^ε P′(A) + δ, for data that differ by one example.

    The run has made steps with the gradient of `private` on batches of `poisson_batches`. Neighboring data are those with an
    example added or removed. The privacy loss of the steps is composed numerically (Koskela et al. 2020, arXiv:1906.03049) by
    Google's dp-accounting: `pip install dp-accounting`.

    Args:
        noise: σ, as in `private`.
        batch_size: The expected number of samples per batch.
        samples: The number of samples of the data.
        steps: The number of steps, `epochs * len(batches)`.
        delta: δ, in (0, 1); less than 1 / samples is usual.

    Returns:
        ε; infinity without noise.

    Raises:
        ImportError: If dp-accounting is not installed.
        TypeError: If a number is of another kind.
        ValueError: If a number is out of range.

    Example:
        `nn.autodiff.privacy_spent(1.1, batch_size=256, samples=60_000, steps=15 * 234, delta=1e-5)` after 15 epochs, and

        >>> import jaxnn as nn
        >>> nn.autodiff.privacy_spent(1.1, batch_size=256, samples=60_000, steps=0, delta=1e-5)  # before the first step
        0.0
    """
    noise = number("privacy_spent", "noise", noise, 0)
    samples, steps = whole("privacy_spent", "samples", samples), whole("privacy_spent", "steps", steps, 0)
    batch_size = whole("privacy_spent", "batch_size", batch_size)
    delta = number("privacy_spent", "delta", delta, 0, 1, above=True)
    if batch_size > samples:
        raise ValueError(f"privacy_spent takes a batch_size of at most the number of samples, {samples}, got {batch_size}")
    if steps == 0:
        return 0.0
    if noise == 0:
        return float("inf")
    try:
        import dp_accounting
        from dp_accounting.pld import PLDAccountant
    except ImportError as error:
        raise ImportError("privacy_spent needs dp-accounting: pip install dp-accounting") from error
    event = dp_accounting.PoissonSampledDpEvent(batch_size / samples, dp_accounting.GaussianDpEvent(float(noise)))
    accountant = PLDAccountant().compose(dp_accounting.SelfComposedDpEvent(event, steps))
    return float(accountant.get_epsilon(float(delta)))
