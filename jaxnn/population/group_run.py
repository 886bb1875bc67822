"""The training of a group: its members, their division into blocks, and the results so far."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from jaxnn import compiled
from jaxnn.population.groups import Group, check_traceable
from jaxnn.population.programs import Block
from jaxnn.problem.batches import abstract_batch, leading_size
from jaxnn.problem.objective import inputs_of
from jaxnn.train.config import TrainingConfig
from jaxnn.train.epoch import epoch_parts

_SHARED_FIELDS = dict.fromkeys(("key", "step", "epoch", "position"))


@dataclass
class Trained:
    """The results of a group's members on the host; every array has two leading axes, settings and seeds.

    Attributes:
        params: The parameters.
        state: The states of the models.
        epoch: The epoch from whose end the parameters are.
        history: For each value in the logs, an array `(settings, seeds, epochs)`, NaN after the end of a member's training.
        epochs: The number of epochs finished.
        diverged: Whether the loss became non-finite.
        done: Whether the member's training has ended.
    """

    params: Any
    state: Any
    epoch: np.ndarray
    history: dict[str, np.ndarray]
    epochs: np.ndarray
    diverged: np.ndarray
    done: np.ndarray


@dataclass
class GroupRun:
    """The training of a group.

    Attributes:
        group: The group.
        data: The data on the device.
        validation: The validation data on the device, or None.
        key: The key of the whole sweep.
        seed_numbers: The seeds, which are folded into the key, uint32.
        multiple: A number that must divide the number of settings in a block.
        hold: Whether train states are held on the host, so that members can continue later, as searches need it.
        until: The epoch up to which to train.
        result: The results so far.
        held: The held train states, or None: a `Block` on the host with axes settings × seeds, without the values that all
            members of a seed share.
        at: The epoch at which the train states are held.
        selected: Whether each setting continues.
        programs: The programs by name and block shape.
        compile_seconds: The time spent on compiling.
        lock: The lock that guards the result.
        compiling: The lock held by the thread that compiles.
        rectangles: The seeds and settings of each block.
    """

    group: Group
    data: Any
    validation: Any
    key: jax.Array
    seed_numbers: np.ndarray
    multiple: int = 1
    hold: bool = False
    until: int = 0
    result: Trained = field(init=False)
    held: Any = None
    at: int = 0
    selected: np.ndarray = field(init=False)
    programs: dict[tuple, compiled.Program] = field(default_factory=dict)
    compile_seconds: float = 0.0
    lock: Any = field(default_factory=threading.Lock, repr=False)
    compiling: Any = field(default_factory=threading.Lock, repr=False)
    rectangles: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self):
        config = self.group.config
        self.samples = leading_size(self.data)
        self.x = inputs_of(abstract_batch(self.data, config.batch_size), config.problem.loss)
        self.start = start = check_traceable(self.group, self.x)
        finish = lambda: lambda train_state, validation: epoch_parts(config).finish(train_state, validation)[1]  # noqa: E731
        logs = compiled.shapes("logs", finish, config.key(), (start, self.validation))
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
            start = start._replace(**_SHARED_FIELDS)  # type: ignore[arg-type]
            self.held = Block(jax.tree.map(zeros, start), np.zeros(shape, np.int32), np.zeros(shape, bool))  # type: ignore[arg-type]

    @cached_property
    def residual_bytes(self) -> int:
        """The bytes that a member's step saves in the forward pass for the backward pass, without the batch."""
        config = self.group.config
        samples = max(1, min(config.batch_size, self.samples) // config.accumulate)
        batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((samples, *a.shape[1:]), a.dtype), self.data)
        size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
        residuals = compiled.shapes("residuals", partial(_residuals, config), config.key(), (self.start, batch))
        return size(residuals) - size(batch)

    def weights(self) -> tuple[Any, Any]:
        """The parameters and states of all members so far."""
        return self.result.params, self.result.state

    def epochs_made(self) -> int:
        """The number of epochs of all members so far; a member that ended early counts in full."""
        made = np.isfinite(self.result.history["loss"]).sum(2)
        return int(np.where(self.result.done, self.group.epochs, made).sum())

    def snapshot(self) -> dict[str, Any]:
        """A copy of the results so far, for a checkpoint."""
        with self.lock:
            return jax.tree.map(np.copy, {**vars(self.result), "held": self.held})

    def restore(self, tree: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        kept = jax.tree.map(np.array, tree)
        self.held = kept.pop("held")
        self.result = Trained(**kept)

    def cut(self, members: int | None, at_least: int) -> None:
        """Divide the members to be trained into rectangles of one shape, seeds × settings.

        Before the first epoch, all members are divided, and rectangles that an interrupted sweep has finished are left out.
        So the remaining rectangles, and their results, are bit for bit those of an uninterrupted sweep.

        Args:
            members: The number of members per rectangle, at most; None for no limit.
            at_least: The number of rectangles to aim for, one per thread.
        """
        done = self.result.done
        todo = np.flatnonzero(self.selected & (~done.all(1) | (self.at == 0)))
        if not len(todo):
            self.rectangles = []
            return
        total = len(todo) * self.seeds
        members = max(1, min(total if members is None else members, -(-total // at_least)))
        width = _even_size(len(todo), members)
        height = 1 if len(todo) > members else _even_size(self.seeds, max(1, members // len(todo)))
        width = -(-width // self.multiple) * self.multiple
        settings, seeds = _cut(todo, width), _cut(np.arange(self.seeds), height)
        self.rectangles = [(s, c) for c in settings for s in seeds if not done[np.ix_(c, s)].all()]

    def arguments(self, seeds: np.ndarray, settings: np.ndarray) -> tuple:
        """The arguments of the start program: the key, and a rectangle's seeds, traced hyperparameters and settings."""
        traced = {name: values[settings] for name, values in self.group.traced.items()}
        return self.key, self.seed_numbers[seeds], traced, settings.astype(np.int32)

    @cached_property
    def keys(self) -> jax.Array:
        """One key per seed."""
        return jax.vmap(partial(jax.random.fold_in, self.key))(self.seed_numbers)

    def block(self, seeds: np.ndarray, settings: np.ndarray) -> Block:
        """The block of a rectangle, from the held train states."""
        block = jax.tree.map(lambda leaf: np.swapaxes(leaf[settings[:, None], seeds[None, :]], 0, 1), self.held)
        per_epoch = -(-self.samples // self.group.config.batch_size)
        clock = {"step": np.int32(self.at * per_epoch), "epoch": np.int32(self.at), "position": np.int32(0)}
        return block._replace(train_state=block.train_state._replace(key=self.keys[seeds], **clock))

    def keep_logs(self, seeds: np.ndarray, settings: np.ndarray, before: int, logs: dict[str, np.ndarray]) -> None:
        """Copy the logs of epochs to the history."""
        with self.lock:
            for name, values in logs.items():
                history = self.result.history[name]
                history[settings[:, None], seeds[None, :], before : before + len(values)] = values.transpose(2, 1, 0)

    def keep(self, seeds: np.ndarray, settings: np.ndarray, which: np.ndarray, block: Block, final: tuple, ended: bool) -> None:
        """Copy a block's results for the settings at the indices `which`."""
        at = settings[which][:, None], seeds[None, :]
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
                own = block._replace(train_state=block.train_state._replace(**_SHARED_FIELDS))  # type: ignore[arg-type]
                jax.tree.map(put, self.held, own)


def _residuals(config: TrainingConfig) -> Any:
    """A function whose output is what a step's forward pass saves for its backward pass."""

    def residuals(train_state, batch):
        bound = config.problem.at(train_state)
        viewed = bound.augment(config.problem.viewed(batch, train_state))
        loss = lambda params: bound.objective(params, train_state.state, viewed, bound.key)[0]  # noqa: E731
        return jax.vjp(loss, train_state.params)[1]

    return residuals


def _even_size(n: int, most: int) -> int:
    """The smallest size of parts of n such that their number is that of parts of size `most`."""
    return -(-n // -(-n // most))


def _cut(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut an array into parts of one size; the last part is padded with its last entry."""
    parts = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return [np.concatenate([part, np.repeat(part[-1:], size - len(part))]) for part in parts]
