"""A sweep's checkpoints: the members that have ended, and those that a search holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from jaxnn.population.group_run import GroupRun
from jaxnn.population.space import Setting
from jaxnn.train.identity import config_identity, contents, difference, name_of
from jaxnn.train.saver import of_another_run, read, stored

SECONDS = 30.0  # between two saves, where only a folder is given


def store_of(checkpoints: Any) -> Any:
    """The `Checkpoints` that were given, or new ones for the folder that was given."""
    return stored(checkpoints, SECONDS)


class Saver:
    """Saves and restores the groups of a sweep.

    Args:
        checkpoints: An `nn.io.Checkpoints`, or the path of a folder.
        key: The key of the sweep.
        settings: Its settings.
        seeds: Its seeds.
        runs: Its groups in training.
        search: The options of the search that the sweep belongs to, by name.
    """

    def __init__(
        self,
        checkpoints: Any,
        key: jax.Array,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        runs: Sequence[GroupRun],
        search: Mapping[str, Any],
    ):
        self._store, self._runs = store_of(checkpoints), runs
        named = [{name: name_of(value) for name, value in setting.items()} for setting in settings]
        self._sweep = {"key": jax.random.key_data(key).tolist(), "space": named, "seeds": list(seeds), **search}
        self._sweep |= contents("data", runs[0].data) | contents("validation data", runs[0].validation)
        for number, run in enumerate(runs):
            self._sweep |= {f"{name}, in structure {number}": item for name, item in _identity(run).items()}
        self._saved = 0

    @contextmanager
    def claimed(self) -> Iterator[Saver]:
        """A context in which no other run may use the folder.

        Raises:
            BlockingIOError: If another run uses it.
        """
        self._store.claim()
        try:
            yield self
        finally:
            self._store.release()

    def restore(self) -> dict[str, Any]:
        """Continue from the last checkpoint; return what `save` was given as `more`.

        Raises:
            ValueError: If it is of another sweep.
        """
        found = read(self._store, self._tree())
        if found is None:
            return {}
        trees, info = found
        if differing := difference(info["sweep"], self._sweep):
            raise of_another_run(self._store.folder, f"another sweep: {differing}")
        for run, tree in zip(self._runs, trees, strict=True):
            run.restore(tree)
        self._saved = self._done()
        return info["more"]

    def save_if_due(self) -> None:
        """Save in the background, if a save is due and more members have ended."""
        if self._done() > self._saved and self._store.due():
            self.save(self._done(), wait=False)

    def save_last(self) -> None:
        """Save what is not saved yet, and wait until it is written."""
        self._store.wait()
        if self._done() > self._saved:
            self.save(self._done(), wait=True)

    def save(self, number: int, more: Mapping[str, Any] | None = None, *, wait: bool) -> None:
        """Save everything, under a number."""
        self._saved = self._done()
        self._store.save(number, self._tree(), {"sweep": self._sweep, "more": dict(more or {})}, wait=wait)

    def _tree(self) -> list[dict[str, Any]]:
        return [run.snapshot() for run in self._runs]

    def _done(self) -> int:
        return sum(int(run.result.done.sum()) for run in self._runs)


def _identity(run: GroupRun) -> dict[str, Any]:
    config = run.group.config
    size = min(config.batch_size, run.samples)
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), run.data)
    return {"epochs": run.group.epochs, **config_identity(config, run.start, batch, run.validation)[0]}
