"""The programs that train a block of members, seeds × settings: a `vmap` over settings inside a `vmap` over seeds.

Members of one seed share the order of the data and the random keys, so these are not mapped. A batch is gathered once for
all of these members, and the matrix products of their first layers become one product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnn import compiled
from jaxnn.population.groups import started
from jaxnn.problem.batches import over_batches
from jaxnn.problem.running import check_numbers
from jaxnn.train.config import TrainingConfig
from jaxnn.train.epoch import EpochParts, epoch_parts
from jaxnn.train.hooks import final_weights
from jaxnn.train.state import TrainState

MOST_EPOCHS = 32  # per call


class Block(NamedTuple):
    """The members that one program trains together.

    Attributes:
        train_state: The train states. The key has an axis of seeds; step, epoch and position have none, as they are the
            same for all members; every other leaf has two leading axes, seeds and settings.
        epochs: The number of epochs that each member has finished, `(seeds, settings)`, int32.
        diverged: Whether the member's loss became non-finite, `(seeds, settings)`. Such a member keeps its train state from
            before that epoch.
    """

    train_state: TrainState
    epochs: jax.Array
    diverged: jax.Array


_SHARED = ("step", "epoch", "position")  # the same for every member
_SHARED_BY_SETTINGS = ("key", *_SHARED)  # the same for every setting of a seed
_AXES = Block(TrainState(**{n: None if n in _SHARED else 0 for n in TrainState._fields}), 0, 0)  # type: ignore[arg-type]
_AXES_OF_ONE_SEED = _AXES._replace(train_state=_AXES.train_state._replace(key=None))  # type: ignore[arg-type]


def over_members(function: Callable) -> Callable:
    """Map `function(block, *shared) -> (block, values)`, written for one member, over a block."""

    def run(block: Block, *shared: Any):
        seeds, settings = block.epochs.shape
        one_seed = _over(function, _AXES_OF_ONE_SEED, _SHARED_BY_SETTINGS, settings)
        return _over(one_seed, _AXES, _SHARED, seeds)(block, *shared)

    return run


def _over(function: Callable, axes: Any, shared_names: tuple[str, ...], size: int) -> Callable:
    """`vmap` over a block's leading axis. An axis of length 1 is dropped, as it would make every product batched."""

    def single(block: Block, *shared: Any):
        after, values = function(map_members(lambda a: a[0], block, shared_names), *shared)
        return map_members(lambda a: a[None], after, shared_names), jax.tree.map(lambda a: a[None], values)

    def mapped(block: Block, *shared: Any):
        return jax.vmap(function, (axes, *(None,) * len(shared)), (axes, 0))(block, *shared)

    return mapped if size > 1 else single


def map_members(function: Callable, block: Block, shared_names: tuple[str, ...] = _SHARED) -> Block:
    """Apply a function to every leaf of a block that is not shared."""
    shared = {name: getattr(block.train_state, name) for name in shared_names}
    own = block._replace(train_state=block.train_state._replace(**dict.fromkeys(shared_names)))  # type: ignore[arg-type]
    own = jax.tree.map(function, own)
    return own._replace(train_state=own.train_state._replace(**shared))


def select_settings(block: Block, settings: Any) -> Block:
    """The block with only these settings."""
    return map_members(lambda a: a[:, settings], block, _SHARED_BY_SETTINGS)


def start_program(config: TrainingConfig, x: Any) -> Callable:
    """`start(key, seeds, traced, numbers) -> block`, for seeds `(seeds,)`, hyperparameters and numbers `(settings,)`."""

    def one(key, values, number):
        return Block(started(config, key, values, x), jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def start(key, seeds, traced, numbers):  # `numbers` has the axis of settings even if nothing is traced
        def of_seed(seed):
            return jax.vmap(one, (None, 0, 0), _AXES_OF_ONE_SEED)(jax.random.fold_in(key, seed), traced, numbers)

        if seeds.shape[0] > 1:
            return jax.vmap(of_seed, 0, _AXES)(seeds)
        return map_members(lambda a: a[None], of_seed(seeds[0]))

    return start


def epochs_program(config: TrainingConfig, most_epochs: int = MOST_EPOCHS, axis_name: str | None = None) -> Callable:
    """A program that trains all members of a block for some epochs.

    Args:
        config: The configuration of the members' runs.
        most_epochs: The number of epochs per call, at most.
        axis_name: Under `shard_map`, the axis of the mesh over whose devices the block is sharded.

    Returns:
        `program(block, data, validation, until) -> (block, logs, ended)`, which trains until the epoch `until` has ended,
        all members have stopped, or `most_epochs` epochs have ended; `ended` is the number of epochs. `logs` has an array
        `(most_epochs, seeds, settings)` for each value, NaN for members that have stopped.
    """
    parts = epoch_parts(config)

    def epoch(block: Block, data: Any, validation: Any):
        return _member_epoch(parts, config, block, data, validation)

    run = jax.jit(over_members(epoch))  # traced once, for the logs' shapes and in the loop

    def any_active(block: Block) -> jax.Array:
        active = jnp.any(~block.train_state.stopped)
        return active if axis_name is None else lax.pmax(active.astype(jnp.int32), axis_name) > 0

    def program(block: Block, data: Any, validation: Any, until: jax.Array):
        def continues(carry):
            block, _, ended, active = carry
            return (ended < most_epochs) & (block.train_state.epoch < until) & active

        def once(carry):
            block, logs, ended, _ = carry
            block, new = run(block, data, validation)
            logs = jax.tree.map(lambda buffer, value: lax.dynamic_update_index_in_dim(buffer, value, ended, 0), logs, new)
            return block, logs, ended + 1, any_active(block)

        like = jax.eval_shape(run, block, data, validation)[1]
        logs = jax.tree.map(lambda a: jnp.full((most_epochs, *a.shape), jnp.nan, a.dtype), like)
        block, logs, ended, _ = lax.while_loop(continues, once, (block, logs, jnp.zeros((), jnp.int32), any_active(block)))
        return block, logs, ended

    return program


def _member_epoch(parts: EpochParts, config: TrainingConfig, block: Block, data: Any, validation: Any):
    before = block.train_state
    order = parts.order(before, data)
    one = lambda train_state, batch: (parts.advance(train_state, batch)[0], None)  # noqa: E731
    after, _ = over_batches(one, before, data, config.batch_size, order)
    after, logs = parts.finish(after, validation)
    logs = {name: jnp.asarray(value, jnp.float32) for name, value in check_numbers(logs).items()}
    bad = ~jnp.isfinite(logs["loss"]) & (not config.skip_nonfinite)
    kept = before.stopped | bad
    as_for_all = {name: getattr(after, name) for name in ("key", "step", "epoch", "position", "totals")}
    after = jax.tree.map(lambda new, old: jnp.where(kept, old, new), after, before)
    after = after._replace(stopped=after.stopped | bad, **as_for_all)
    logs = {name: jnp.where(before.stopped, jnp.nan, value) for name, value in logs.items()}
    epochs = block.epochs + (~kept).astype(jnp.int32)
    return Block(after, epochs, block.diverged | (bad & ~before.stopped)), logs


def final_program(config: TrainingConfig) -> Callable:
    """`final(block) -> (epoch, (params, state))`, the weights that each member returns: for early stopping, the best ones."""

    def final(block: Block):
        return block, final_weights(config.callbacks, block.train_state._replace(epoch=block.epochs))

    return lambda block: over_members(final)(block)[1]


def program_for(config: TrainingConfig, name: str, mesh: Any, arguments: tuple) -> compiled.Program:
    """The program `"start"`, `"epochs"` or `"final"`; the first argument of `"start"` is the shape of the model's inputs."""
    axis = None if mesh is None else mesh.axis_names[0]
    x = None
    if name == "start":
        x, *rest = arguments
        arguments = tuple(rest)

    def make() -> Callable:
        function = {
            "start": lambda: start_program(config, x),
            "epochs": lambda: epochs_program(config, MOST_EPOCHS, axis),
            "final": lambda: final_program(config),
        }[name]()
        return function if mesh is None else _sharded(function, name, mesh, axis)

    context = mesh, compiled.signature(x)
    return compiled.program(f"sweep, {name}", make, config.key(), arguments, context=context, donate=name == "epochs")


def _sharded(function: Callable, name: str, mesh: Any, axis: Any) -> Callable:
    """The function with the settings of its block sharded over the devices of the mesh."""
    mapped, replicated = P(None, axis), P()
    shared = dict.fromkeys(("key", "step", "epoch", "position"), replicated)
    state = TrainState(*[mapped] * len(TrainState._fields))._replace(**shared)  # type: ignore[arg-type]
    block = Block(state, mapped, mapped)  # type: ignore[arg-type]
    inputs, outputs = {
        "start": ((replicated, replicated, P(axis), P(axis)), block),
        "epochs": ((block, replicated, replicated, replicated), (block, P(None, None, axis), replicated)),
        "final": ((block,), mapped),
    }[name]
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
