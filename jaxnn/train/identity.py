"""The identity of a run: all that its result depends on, as far as it can be told; it is stored with the run's checkpoints.

A run continues from a checkpoint only if both have the same identity. An identity is a dict of items that JSON can represent:

- numbers and options by value, data by shape, dtype and a checksum of the content;
- functions (model, loss, optimizer, schedules, callbacks) by name and by what they compute: a digest of the program that JAX
  traces from them. So the learning rate in `optax.sgd(0.1)` counts, and another spelling of the same loss does not. Programs
  are compared only between equal versions of JAX, optax and jaxnn on one platform, and if they do not call Python back.
"""

from __future__ import annotations

import functools
import hashlib
import math
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnn import _jax
from jaxnn.core.trees import abstract, paths
from jaxnn.problem.hyperparameters import LENGTHS, optimizer_of
from jaxnn.problem.objective import Objective, inputs_of
from jaxnn.train.config import TrainingConfig
from jaxnn.train.epoch import epoch_parts
from jaxnn.train.state import TrainState

MOST_BYTES = 2**26  # of an array that are read for its checksum, which takes about 0.1 s
_SCHEDULE_STEPS = (0, 1, 10, 100, 1000, 10_000)
_PROGRAM = "what is computed by the "
_VERSIONS = "versions"


def config_identity(
    config: TrainingConfig, start: TrainState, batch: Any, validation: Any, *, streamed: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The identity of a configuration, and the names of the floating-point numbers in its history.

    Args:
        config: The configuration.
        start: The train state at the start; arrays or their shapes.
        batch: A batch of the data, likewise.
        validation: The validation data, likewise, or None.
        streamed: Whether the shapes of the first batch need not be the same in another run.
    """
    problem, known, parts = config.problem, config.problem.hyperparameters, epoch_parts(config)
    start = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), start)
    batch, validation = abstract(batch), None if validation is None else abstract(validation)

    def augmentation(start, batch):
        return problem.at(start).augment(problem.viewed(batch, start))

    def model(start, batch):
        bound, x = problem.at(start), inputs_of(problem.viewed(batch, start), problem.loss)
        return bound.layer.apply(start.params, start.state, x, key=bound.key, training=True)

    def loss(start, batch):
        bound = problem.at(start)
        return bound.objective(start.params, start.state, problem.viewed(batch, start), bound.key)

    def optimizer(start, batch):
        made = optax.with_extra_args_support(optimizer_of(config.optimizer, problem.at(start).values))
        zero = jnp.zeros((), jnp.float32)
        extra = {"value": zero, "grad": start.params, "value_fn": lambda params: zero}  # for line searches
        with jax.numpy_dtype_promotion("standard"):
            return made.update(start.params, start.opt_state, start.params, **extra)

    shapes = ", ".join(map(_form, jax.tree.leaves(batch))) if streamed else ""
    items: dict[str, Any] = {_VERSIONS: _versions() + shapes}
    for name in ("batch_size", "accumulate", "sam_radius", "loss_scaling", "skip_nonfinite"):
        items[name] = getattr(config, name)
    if config.clip_norm is not None:  # runs saved before there was one have no such item
        items["clip_norm"] = config.clip_norm
    if config.gradient is not None:
        items["gradient"] = name_of(config.gradient)
    for name, value in (*known.fixed, *known.numbers.items()):
        if name not in LENGTHS:
            items[f"hyperparameter {name!r}"] = float(value) if name in known.numbers else name_of(value)
    read = [known.at(step=jnp.asarray(step, jnp.int32)) for step in _SCHEDULE_STEPS if known.schedules]
    for name, _ in known.schedules:
        items[f"schedule of {name!r}"] = [float(values[name]) for values in read]
    functions = {"model": problem.model, "loss": problem.loss, "optimizer": config.optimizer, "augmentation": problem.augment}
    items |= {what: name_of(function) for what, function in functions.items()}
    items |= {f"metric {name!r}": name_of(metric) for name, metric in (config.metrics or {}).items()}
    items["callbacks"] = [callback.name for callback in config.callbacks]
    # From parts to the whole, so that the first difference names the part; the last two include metrics and callbacks.
    computed: dict[str, Callable] = {"augmentation": augmentation, "model": model, "loss": loss, "optimizer": optimizer}
    for what, function in (computed | {"training step, its metrics and callbacks": parts.advance}).items():
        items[_PROGRAM + what] = _program(function, start, batch)[0]
    items[_PROGRAM + "end of an epoch, its metrics and callbacks"], (_, logs) = _program(parts.finish, start, validation)
    return items, [name for name, log in logs.items() if log.shape == () and jnp.issubdtype(log.dtype, jnp.floating)]


def contents(what: str, tree: Any) -> dict[str, str]:
    """Items with the shape, dtype and checksum of each array.

    In an array of more than `MOST_BYTES`, rows at equal distances are read, up to that size: a difference in other rows is
    not found.
    """
    return {_item(what, path): f"{_form(leaf)} with checksum {_checksum(leaf):08x}" for path, leaf in paths(tree).items()}


def dtypes(what: str, tree: Any) -> dict[str, str]:
    """Items with the dtype of each array."""
    return {_item(what, path): str(leaf.dtype) for path, leaf in paths(tree).items()}


def sizes(tree: Any) -> list[float]:
    """The mean absolute value of each array, which differs little if another platform rounds otherwise."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))]
    return [float(np.abs(leaf.astype(np.complex128 if leaf.dtype.kind == "c" else np.float64)).mean()) for leaf in leaves]


def name_of(value: Any) -> Any:
    """A hyperparameter's value itself, or the name of a function, layer or optimizer, which is the same in every process."""
    while isinstance(value, functools.partial | Objective):
        value = value.func if isinstance(value, functools.partial) else value.function
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, tuple | list):
        return [name_of(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return value.tolist()
    return getattr(value, "__name__", None) or getattr(value, "name", None) or type(value).__name__


def difference(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """The first item in which two identities differ, as text, or None."""
    names = dict.fromkeys(sorted([*given, *saved], key=lambda name: _PROGRAM in name))  # what is stored has lost its order
    versions = [name for name in given if name.startswith(_VERSIONS)]
    if not any(name in saved for name in versions):  # written before identities had all of today's items
        names = {name: None for name in names if name in saved and name in given}
    same_versions = all(saved.get(name) == given[name] for name in versions)
    for name in names:
        one, other = saved.get(name, "nothing"), given.get(name, "nothing")
        is_program = _PROGRAM in name
        if name in versions or (is_program and not (same_versions and one and other)) or _equal(one, other):
            continue
        return f"{name} differs" if is_program else _change(name, one, other)
    return None


def _change(name: str, one: Any, other: Any) -> str:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return next(_change(f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(one, other, strict=True)) if not _close(a, b))
    if isinstance(one, list) and isinstance(other, list):
        return f"{name} had {len(one)} entries, and has {len(other)} now"
    one, other = (f"{value:.7g}" if isinstance(value, float) else value for value in (one, other))
    return f"{name} was {one}, and is {other} now"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return type(one) is type(other) and one == other


def _close(one: Any, other: Any) -> bool:
    """Equal, up to the rounding of another platform: the numbers in a list were computed."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5) or (math.isnan(one) and math.isnan(other))
    return _equal(one, other)


def _program(function: Callable, *arguments: Any) -> tuple[str | None, Any]:
    """A digest of the program, None if it is not the same in every process, and the shapes of its output."""
    lowered = jax.jit(function).lower(*arguments)
    text = lowered.as_text()
    digest = None if "_callback" in text else hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return digest, lowered.out_info


def _versions() -> str:
    own = sys.modules["jaxnn"].__version__
    return f"jax {jax.__version__}, optax {optax.__version__}, jaxnn {own}, {_jax.platform()}"


def _item(what: str, path: str) -> str:
    return f"{what} {path!r}" if path else what


def _form(leaf: Any) -> str:
    return f"{jax.dtypes.canonicalize_dtype(leaf.dtype)}[{', '.join(map(str, leaf.shape))}]"


def _checksum(leaf: Any) -> int:
    if leaf.nbytes > MOST_BYTES and len(leaf) > 1:
        leaf = leaf[np.linspace(0, len(leaf) - 1, max(1, int(len(leaf) * MOST_BYTES / leaf.nbytes)), dtype=np.int64)]
    array = np.asarray(jax.device_get(leaf))
    array = np.ascontiguousarray(array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False))
    return zlib.crc32(array.reshape(-1).view(np.uint8).data) if array.size else 0
