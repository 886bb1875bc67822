"""A group in training: what is to be done, how it is cut into blocks, and what has come of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from jaxnn.core.trees import abstract
from jaxnn.population.groups import Group, check_traceable, shapes
from jaxnn.population.programs import Block, Program
from jaxnn.problem.batches import leading_size
from jaxnn.problem.hyperparameters import loss_of, model_of, split
from jaxnn.train.epoch import inputs_of, pieces
from jaxnn.train.executors import Plan
from jaxnn.train.state import TrainState
from jaxnn.train.step import objective_of

_SHARED_BY_MANY = dict.fromkeys(("key", "step", "epoch", "position"))


@dataclass
class Trained:
    """What a group leaves, on the host; every array has two leading axes, settings and seeds.

    Attributes:
        params: the parameters.
        state: the models' states.
        epoch: the epoch at whose end these were the parameters.
        history: (…, epochs) for each value of the logs, NaN after the member's end.
        epochs: how many epochs were finished.
        diverged: whether the loss was not finite.
        done: whether the member came to its end.
    """

    params: Any
    state: Any
    epoch: np.ndarray
    history: dict[str, np.ndarray]
    epochs: np.ndarray
    diverged: np.ndarray
    done: np.ndarray


@dataclass
class Work:
    """A group in training."""

    group: Group
    data: Any
    validation: Any
    key: jax.Array  # of the whole sweep
    seed_numbers: np.ndarray  # folded into it, uint32
    multiple: int = 1  # of which a block's number of settings is one
    hold: bool = False  # whether members may go on after they were kept
    until: int = 0  # the epoch to train to
    result: Trained = field(init=False)
    held: Any = None  # a Block on the host, axes settings × seeds; without what a seed or all members share
    at: int = 0  # the epoch at which they are held
    selected: np.ndarray = field(init=False)  # settings that go on
    programs: dict[tuple, Program] = field(default_factory=dict)
    compile_seconds: float = 0.0
    lock: Any = field(default_factory=threading.Lock, repr=False)  # of the result
    compiling: Any = field(default_factory=threading.Lock, repr=False)
    rectangles: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self):
        self.samples = leading_size(self.data)
        self.x = abstract(inputs_of(self.data, self.group.plan["loss"]))
        self.start = start = check_traceable(self.group, self.x)
        logs = shapes(_logs, self.group.plan, start, self.validation)
        self.settings, self.seeds = shape = len(self.group.numbers), len(self.seed_numbers)
        zeros = lambda leaf: np.zeros((*shape, *leaf.shape), leaf.dtype)  # noqa: E731
        self.result = Trained(
            params=jax.tree.map(zeros, start.params),
            state=jax.tree.map(zeros, start.state),
            epoch=np.zeros(shape, np.int32),
            history={name: np.full((*shape, self.group.epochs), np.nan, np.float32) for name in logs},
            epochs=np.zeros(shape, np.int32),
            diverged=np.zeros(shape, bool),
            done=np.zeros(shape, bool),
        )
        self.until = self.group.epochs
        self.selected = np.ones(self.settings, bool)
        if self.hold:
            start = start._replace(**_SHARED_BY_MANY)  # type: ignore[arg-type]
            self.held = Block(jax.tree.map(zeros, start), np.zeros(shape, np.int32), np.zeros(shape, bool))  # type: ignore[arg-type]

    @cached_property
    def kept(self) -> int:
        """Bytes that a member's step keeps of its forward pass for its backward pass, besides its batch."""
        plan, start = self.group.plan, self.start
        rows = max(1, min(plan["batch_size"], self.samples) // plan["accumulate"])
        batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), self.data)
        size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
        return size(shapes(_residuals, plan, start, batch)) - size(batch)

    def weights(self) -> tuple[Any, Any]:
        """The parameters and states of all, as far as they are there."""
        return self.result.params, self.result.state

    def epochs_made(self) -> int:
        """By members, in all; those that ended early count as if they had not."""
        made = np.isfinite(self.result.history["loss"]).sum(2)
        return int(np.where(self.result.done, self.group.epochs, made).sum())

    def snapshot(self) -> dict[str, Any]:
        """A copy of what is there, for a checkpoint."""
        with self.lock:
            return jax.tree.map(np.copy, {**vars(self.result), "held": self.held})

    def take_up(self, tree: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        kept = jax.tree.map(np.array, tree)
        self.held = kept.pop("held")
        self.result = Trained(**kept)

    def cut(self, members: int | None, at_least: int) -> None:
        """Cut what is to be done into rectangles, seeds × settings, of one shape.

        Of members that have not begun, all are cut, and rectangles that were finished before the sweep was cut short are
        left out: the others are those of the whole sweep, to the same bits.
        """
        done = self.result.done
        todo = np.flatnonzero(self.selected & (~done.all(1) | (self.at == 0)))
        if not len(todo):
            self.rectangles = []
            return
        total = len(todo) * self.seeds
        members = max(1, min(total if members is None else members, -(-total // at_least)))
        wide = _even(len(todo), members)
        tall = 1 if len(todo) > members else _even(self.seeds, max(1, members // len(todo)))
        wide = -(-wide // self.multiple) * self.multiple
        columns, seeds = _cut(todo, wide), _cut(np.arange(self.seeds), tall)
        self.rectangles = [(s, c) for c in columns for s in seeds if not done[np.ix_(c, s)].all()]

    def arguments(self, seeds: np.ndarray, columns: np.ndarray) -> tuple:
        """The key, and the seeds, hyperparameters and numbers of a rectangle."""
        traced = {name: values[columns] for name, values in self.group.traced.items()}
        return self.key, self.seed_numbers[seeds], traced, columns.astype(np.int32)

    @cached_property
    def keys(self) -> jax.Array:
        """One a seed."""
        return jax.vmap(partial(jax.random.fold_in, self.key))(self.seed_numbers)

    def block(self, seeds: np.ndarray, columns: np.ndarray) -> Block:
        """A rectangle of the members that are held."""
        block = jax.tree.map(lambda leaf: np.swapaxes(leaf[columns[:, None], seeds[None, :]], 0, 1), self.held)
        per_epoch = -(-self.samples // self.group.plan["batch_size"])
        clock = {"step": np.int32(self.at * per_epoch), "epoch": np.int32(self.at), "position": np.int32(0)}
        return block._replace(train_state=block.train_state._replace(key=self.keys[seeds], **clock))

    def keep_rows(self, seeds: np.ndarray, columns: np.ndarray, before: int, rows: dict[str, np.ndarray]) -> None:
        """Take the logs of epochs to the history."""
        with self.lock:
            for name, values in rows.items():
                history = self.result.history[name]
                history[columns[:, None], seeds[None, :], before : before + len(values)] = values.transpose(2, 1, 0)

    def keep(self, seeds: np.ndarray, columns: np.ndarray, which: np.ndarray, block: Block, final: tuple, ended: bool) -> None:
        """Take what these of a block's settings leave."""
        at = columns[which][:, None], seeds[None, :]
        epoch, (params, state) = final
        stopped = block.train_state.stopped

        def put(kept: np.ndarray, leaf: Any) -> None:
            kept[at] = np.swapaxes(np.asarray(leaf)[:, which], 0, 1)

        result = self.result
        new = (params, state, epoch, block.epochs, block.diverged, np.asarray(stopped) | ended)
        with self.lock:
            kept = (result.params, result.state, result.epoch, result.epochs, result.diverged, result.done)
            jax.tree.map(put, kept, new)
            if self.held is not None:
                own = block._replace(train_state=block.train_state._replace(**_SHARED_BY_MANY))  # type: ignore[arg-type]
                jax.tree.map(put, self.held, own)


def _logs(plan: Plan, train_state: TrainState, validation: Any) -> dict[str, jax.Array]:
    return pieces(**plan).finish(train_state, validation)[1]


def _residuals(plan: Plan, train_state: TrainState, batch: Any) -> Any:
    """What a step keeps of its forward pass for its backward pass."""
    values = split(plan["hyperparameters"])[0].at(train_state.hyperparameters, train_state.step)
    model, function = model_of(plan["model"], values), objective_of(plan["loss"], values).function
    view, augment = (loss_of(plan[name], values) if plan[name] else None for name in ("view", "augment"))
    seen = view(batch) if view else batch
    seen = (*augment(train_state.key, tuple(seen[:2])), *seen[2:]) if augment else seen
    return jax.vjp(lambda params: function(model, params, train_state.state, seen, train_state.key)[0], train_state.params)[1]


def _even(n: int, most: int) -> int:
    return -(-n // -(-n // most))


def _cut(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    """Pieces of one size; the last is filled up with its own last entry."""
    pieces = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return [np.concatenate([piece, np.repeat(piece[-1:], size - len(piece))]) for piece in pieces]
