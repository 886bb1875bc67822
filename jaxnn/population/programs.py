"""The programs that train a block: a rectangle of members, seeds × settings, in one `vmap` of another.

Members of one seed share the order of the data and the keys that are drawn from, so these are not mapped over: a batch
is gathered once for all of them, and their first layers' products are one product.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxnn import kernels
from jaxnn.population.groups import started
from jaxnn.problem.batches import leading_size, over_batches
from jaxnn.problem.running import check_numbers
from jaxnn.train.epoch import Pieces, pieces
from jaxnn.train.executors import Plan
from jaxnn.train.hooks import final_weights
from jaxnn.train.state import TrainState

MOST_ROWS = 32  # epochs a call


class Block(NamedTuple):
    """Some members in training.

    Attributes:
        train_state: the key has an axis of seeds; the step, epoch and position have none, as they are the same for all;
            everything else has two axes, seeds and settings.
        epochs: how many epochs each member has finished, (seeds, settings), int32.
        diverged: whether its loss was not finite, (seeds, settings). It is as it was before that epoch.
    """

    train_state: TrainState
    epochs: jax.Array
    diverged: jax.Array


_SHARED = ("step", "epoch", "position")  # the same for every member
_OF_A_SEED = ("key", *_SHARED)  # the same for every setting
_AXES = Block(TrainState(**{n: None if n in _SHARED else 0 for n in TrainState._fields}), 0, 0)  # type: ignore[arg-type]
_AXES_OF_ONE_SEED = _AXES._replace(train_state=_AXES.train_state._replace(key=None))  # type: ignore[arg-type]


def over_members(function: Callable) -> Callable:
    """`function(block, *shared) -> (block, values)` of one member made one of a block."""

    def run(block: Block, *shared: Any):
        seeds, settings = block.epochs.shape
        one_seed = _over(function, _AXES_OF_ONE_SEED, _OF_A_SEED, settings)
        return _over(one_seed, _AXES, _SHARED, seeds)(block, *shared)

    return run


def _over(function: Callable, axes: Any, shared_names: tuple[str, ...], size: int) -> Callable:
    """`vmap` over a block's leading axis; one alone is no axis, which would make batched products of plain ones."""

    def alone(block: Block, *shared: Any):
        after, values = function(of_each(lambda a: a[0], block, shared_names), *shared)
        return of_each(lambda a: a[None], after, shared_names), jax.tree.map(lambda a: a[None], values)

    def many(block: Block, *shared: Any):
        return jax.vmap(function, (axes, *(None,) * len(shared)), (axes, 0))(block, *shared)

    return many if size > 1 else alone


def of_each(function: Callable, block: Block, shared_names: tuple[str, ...] = _SHARED) -> Block:
    """The block with a function of every leaf that is not shared by all."""
    shared = {name: getattr(block.train_state, name) for name in shared_names}
    own = block._replace(train_state=block.train_state._replace(**dict.fromkeys(shared_names)))  # type: ignore[arg-type]
    own = jax.tree.map(function, own)
    return own._replace(train_state=own.train_state._replace(**shared))


def columns_of(block: Block, columns: Any) -> Block:
    """The block with these of its settings alone."""
    return of_each(lambda a: a[:, columns], block, _OF_A_SEED)


def start_program(plan: Plan, loss_scaling: bool, x: Any) -> Callable:
    """`start(key, seeds, traced, numbers) -> block`, for seeds (seeds,), traced hyperparameters and numbers (settings,)."""

    def one(key, values, number):
        return Block(started(plan, loss_scaling, key, values, x), jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def start(key, seeds, traced, numbers):  # the numbers say how many settings there are, where nothing is traced
        def of_seed(seed):
            return jax.vmap(one, (None, 0, 0), _AXES_OF_ONE_SEED)(jax.random.fold_in(key, seed), traced, numbers)

        if seeds.shape[0] > 1:
            return jax.vmap(of_seed, 0, _AXES)(seeds)
        return of_each(lambda a: a[None], of_seed(seeds[0]))

    return start


def epochs_program(plan: Plan, most_rows: int = MOST_ROWS, axis_name: str | None = None) -> Callable:
    """Epochs of all members in one program.

    Args:
        plan: the arguments of `train.epoch.pieces`.
        most_rows: epochs a call at the most.
        axis_name: of the mesh over whose devices the block is cut, under `shard_map`.

    Returns:
        `program(block, data, validation, until) -> (block, rows, ended)`, which trains until the epoch `until` has ended,
        or nobody goes on any more, or `most_rows` epochs have ended. `rows` has for each value of the logs an array
        (most_rows, seeds, settings), NaN for members that have stopped.
    """
    parts = pieces(**plan)
    stop_at_nonfinite = not plan.get("skip_nonfinite")

    def epoch(block: Block, data: Any, validation: Any):
        return _member_epoch(parts, plan["batch_size"], stop_at_nonfinite, block, data, validation)

    run = jax.jit(over_members(epoch))  # traced once, for the logs' shapes and in the loop

    def anybody(block: Block) -> jax.Array:
        going = jnp.any(~block.train_state.stopped)
        return going if axis_name is None else lax.pmax(going.astype(jnp.int32), axis_name) > 0

    def program(block: Block, data: Any, validation: Any, until: jax.Array):
        def goes_on(carry):
            block, _, ended, going = carry
            return (ended < most_rows) & (block.train_state.epoch < until) & going

        def once(carry):
            block, rows, ended, _ = carry
            block, logs = run(block, data, validation)
            rows = jax.tree.map(lambda buffer, value: lax.dynamic_update_index_in_dim(buffer, value, ended, 0), rows, logs)
            return block, rows, ended + 1, anybody(block)

        logs = jax.eval_shape(run, block, data, validation)[1]
        rows = jax.tree.map(lambda a: jnp.full((most_rows, *a.shape), jnp.nan, a.dtype), logs)
        block, rows, ended, _ = lax.while_loop(goes_on, once, (block, rows, jnp.zeros((), jnp.int32), anybody(block)))
        return block, rows, ended

    return program


def _member_epoch(parts: Pieces, batch_size: int, stop_at_nonfinite: bool, block: Block, data: Any, validation: Any):
    before = block.train_state
    order = parts.order(before, leading_size(data))
    one = lambda train_state, batch: (parts.advance(train_state, batch)[0], None)  # noqa: E731
    after, _ = over_batches(one, before, data, batch_size, order)
    after, logs = parts.finish(after, validation)
    logs = {name: jnp.asarray(value, jnp.float32) for name, value in check_numbers(logs).items()}
    bad = ~jnp.isfinite(logs["loss"]) & stop_at_nonfinite
    kept = before.stopped | bad
    as_for_all = {name: getattr(after, name) for name in ("key", "step", "epoch", "position", "totals")}
    after = jax.tree.map(lambda new, old: jnp.where(kept, old, new), after, before)
    after = after._replace(stopped=after.stopped | bad, **as_for_all)
    logs = {name: jnp.where(before.stopped, jnp.nan, value) for name, value in logs.items()}
    epochs = block.epochs + (~kept).astype(jnp.int32)
    return Block(after, epochs, block.diverged | (bad & ~before.stopped)), logs


def final_program(plan: Plan) -> Callable:
    """`final(block) -> (epoch, (params, state))`, what each member returns: of early stopping, the best weights."""
    callbacks = plan["callbacks"]

    def final(block: Block):
        return block, final_weights(callbacks, block.train_state._replace(epoch=block.epochs))

    return lambda block: over_members(final)(block)[1]


class Program:
    """A function that is traced in one thread and compiled in another; the first argument's buffers are used up."""

    def __init__(self, function: Callable, arguments: tuple, donate: bool = False):
        start = time.perf_counter()
        self._traced = jax.jit(function, compiler_options=kernels.compiler_options(), donate_argnums=0 if donate else ()).lower(
            *arguments
        )
        self.output = self._traced.out_info
        self.place = _place(self._traced.as_text(), *map(jax.tree.structure, (arguments, self.output)))
        self._tracing = time.perf_counter() - start

    def compile(self) -> Callable:
        """The compiled program; at once, if there is one of the same text, and after another thread if that is at it."""
        with self.place.lock:
            if self.place.program is None:
                start = time.perf_counter()
                self.place.program = self._traced.compile()
                self.place.seconds = time.perf_counter() - start
        return self.place.program

    @property
    def bytes(self) -> int:
        """What the compiled program takes."""
        return self.place.bytes

    @property
    def seconds(self) -> float:
        """What tracing and compiling took, whenever it was."""
        return self._tracing + self.place.seconds


@dataclass
class _Place:
    lock: threading.Lock = field(default_factory=threading.Lock)
    program: Any = None
    seconds: float = 0.0

    @cached_property  # XLA takes some milliseconds to say
    def bytes(self) -> int:
        """Arguments that are not used up, results, and in between."""
        memory = self.program.memory_analysis()
        if memory is None:
            return 0
        own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        return own + memory.temp_size_in_bytes


@lru_cache(maxsize=512)
def _place(text: str, arguments: Any, output: Any) -> _Place:
    """Where a compiled program is kept: programs of one text, such as those of two initializations, are one."""
    return _Place()


def program_for(plan: Plan, loss_scaling: bool, name: str, mesh: Any, arguments: tuple) -> Program:
    """The program `"start"`, `"epochs"` or `"final"` for such arguments; those of `"start"` begin with the abstract inputs."""
    leaves, structure = jax.tree.flatten(arguments)
    forms = tuple((leaf.shape, leaf.dtype, leaf.sharding if getattr(leaf, "committed", False) else None) for leaf in leaves)
    return _kept_program(plan, loss_scaling, name, mesh, forms, structure)


@lru_cache(maxsize=512)
def _kept_program(plan: Plan, loss_scaling: bool, name: str, mesh: Any, forms: tuple, structure: Any) -> Program:
    """Kept, so that a second sweep neither traces nor compiles again."""
    arguments = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(s, d, sharding=sharding) for s, d, sharding in forms])
    axis = None if mesh is None else mesh.axis_names[0]
    if name == "start":
        x, *arguments = arguments
        function = start_program(plan, loss_scaling, x)
    else:
        function = epochs_program(plan, MOST_ROWS, axis) if name == "epochs" else final_program(plan)
    if mesh is not None:
        each, none = P(None, axis), P()
        state = TrainState(*[each] * len(TrainState._fields))._replace(key=none, step=none, epoch=none, position=none)  # type: ignore[arg-type]
        block = Block(state, each, each)  # type: ignore[arg-type]
        inputs, outputs = {
            "start": ((none, none, P(axis), P(axis)), block),
            "epochs": ((block, none, none, none), (block, P(None, None, axis), none)),
            "final": ((block,), each),
        }[name]
        function = jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
    return Program(function, tuple(arguments), donate=name == "epochs")
