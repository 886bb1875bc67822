"""A sweep's checkpoints: the members that have ended, and those that a search holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxnn.population.group_run import GroupRun
from jaxnn.population.space import Setting

SECONDS = 30.0  # between two saves, where only a folder is given


def store_of(checkpoints: Any) -> Any:
    """The `Checkpoints` that were given, or new ones for the folder that was given."""
    from jaxnn.io import Checkpoints

    return checkpoints if isinstance(checkpoints, Checkpoints) else Checkpoints(checkpoints, every=SECONDS)


class Saver:
    """Saves and restores the groups of a sweep.

    Args:
        checkpoints: An `nn.io.Checkpoints`, or the path of a folder.
        key: The key of the sweep.
        settings: Its settings.
        seeds: Its seeds.
        runs: Its groups in training.
    """

    def __init__(
        self, checkpoints: Any, key: jax.Array, settings: Sequence[Setting], seeds: Sequence[int], runs: Sequence[GroupRun]
    ):
        self._store, self._runs = store_of(checkpoints), runs
        named = [{name: getattr(v, "__name__", repr(v)) for name, v in setting.items()} for setting in settings]
        self._sweep = {"key": jax.random.key_data(key).tolist(), "settings": named, "seeds": list(seeds)}
        self._saved = 0

    def restore(self) -> dict[str, Any]:
        """Continue from the last checkpoint; return what `save` was given as `more`.

        Raises:
            ValueError: If it is of another sweep.
        """
        from jaxnn.io.leaves import MismatchError

        found = self._store.restore(self._tree())
        if found is None:
            return {}
        trees, info = found
        if info["sweep"] != self._sweep:
            raise MismatchError(
                f"the checkpoints in {self._store.folder} are of a sweep with another key, space or seeds: use another folder"
            )
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
