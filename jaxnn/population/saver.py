"""A sweep's checkpoints: the members that have come to their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxnn.population.runner import Work
from jaxnn.population.space import Setting

SECONDS = 30.0  # between two saves, where only a folder is given


class Saver:
    """What `sweep` does with its `checkpoints`."""

    def __init__(self, checkpoints: Any, key: jax.Array, settings: Sequence[Setting], seeds: Sequence[int]):
        from jaxnn.io import Checkpoints

        self._store = checkpoints if isinstance(checkpoints, Checkpoints) else Checkpoints(checkpoints, every=SECONDS)
        named = [{name: getattr(v, "__name__", repr(v)) for name, v in setting.items()} for setting in settings]
        self._of = {"key": jax.random.key_data(key).tolist(), "settings": named, "seeds": list(seeds)}
        self._saved = 0

    def restore(self, works: Sequence[Work]) -> None:
        """Take up what is done.

        Raises:
            ValueError: if it is of another sweep.
        """
        found = self._store.restore(_tree(works))
        if found is None:
            return
        trees, info = found
        if info["sweep"] != self._of:
            raise ValueError(
                f"the checkpoints in {self._store.folder} are of a sweep with another key, space or seeds: use another folder"
            )
        for work, tree in zip(works, trees, strict=True):
            work.take_up(tree)
        self._saved = _done(works)

    def save_if_due(self, works: Sequence[Work]) -> None:
        """Save in the background, if there is something new."""
        if _done(works) > self._saved and self._store.due():
            self._save(works, wait=False)

    def save_last(self, works: Sequence[Work]) -> None:
        """Save what is not saved yet, and wait for it."""
        self._store.wait()
        if _done(works) > self._saved:
            self._save(works, wait=True)

    def _save(self, works: Sequence[Work], *, wait: bool) -> None:
        done = _done(works)
        self._store.save(done, _tree(works), {"sweep": self._of}, wait=wait)
        self._saved = done


def _tree(works: Sequence[Work]) -> list[dict[str, Any]]:
    return [work.snapshot() for work in works]


def _done(works: Sequence[Work]) -> int:
    return sum(int(work.result.done.sum()) for work in works)
