"""Initialization in one small program: `init` first describes every leaf, then draws the whole tree at once.

Drawn one by one, leaves of different shapes compile one random generator each, 0.3–0.6 s per leaf on a CPU. Here a leaf is
first only described (`Undrawn`), and `draw` fills all leaves from blocks of one fixed size: block `b` of the leaf at path `p`
is drawn from

    fold_in(fold_in(... fold_in(key, crc32(p[0])) ..., crc32(p[-1])), b)

so that a leaf's numbers depend on the root key and its path alone. A leaf of the state has one more name, `STATE`, at the end
of its path. The program does not depend on the model: with a concrete key it is compiled once per process, for all models.
Under a transformation the same blocks are drawn by one loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn._jax import is_tracer, vary_over, varying_axes
from jaxnn.core.checks import called, whole
from jaxnn.core.naming import child_key, name_hash

BLOCK = 4096  # numbers drawn from one key
CHUNK = 32  # blocks drawn per call, at most
DEPTH = 16  # names folded into a key, with the block's number; longer paths take the next multiple
STATE = "·state"  # folded into the key of a leaf of the state, so that it differs from a parameter's at the same path


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Undrawn:
    """A leaf of parameters or state that is described but not yet drawn.

    Attributes:
        initializer: `(key, shape, dtype) -> array`. If it has a method `describe(shape) -> (distribution, scale, offset)`,
            the leaf is `offset + scale * z` and is drawn together with all others; otherwise the initializer is called
            with the leaf's own key.
        base: The shape of one copy.
        dtype: The dtype of the result.
        copies: A pair `(levels, n)` for each `repeat` around the leaf, outermost first: the subtree that starts `levels`
            names before the end of the path has `n` copies, stacked along a leading axis.
    """

    initializer: Callable
    base: tuple[int, ...]
    dtype: Any
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the drawn leaf."""
        return (*(n for _, n in self.copies), *self.base)

    @property
    def size(self) -> int:
        """The number of elements of the drawn leaf."""
        return math.prod(self.shape)

    def repeated(self, n: int, levels: int) -> Undrawn:
        """The leaf inside `n` copies of the layer that is `levels` names above it."""
        return replace(self, copies=((levels, n), *self.copies))

    def astype(self, dtype: Any) -> Undrawn:
        """The leaf, to be drawn in another dtype."""
        return replace(self, dtype=np.dtype(dtype))

    def key_paths(self, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """For each copy the names to fold into the key: the path, with the copy's number as a name."""
        for numbers in itertools.product(*(range(n) for _, n in self.copies)):
            names = list(path)
            for (levels, _), number in zip(reversed(self.copies), reversed(numbers), strict=True):
                names.insert(len(path) - levels, str(number))
            yield tuple(names)


def param(initializer: Callable, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Undrawn:
    """Describe a parameter, or an entry of the state, in a layer's `init`; it is drawn later, with all others.

    Args:
        initializer: Any `(key, shape, dtype) -> array`.
        shape: The shape of the parameter.
        dtype: Its dtype; `dtype_policy` changes it for a whole model.

    Returns:
        A leaf that the outermost `init` draws; its values depend on the root key and on its path alone.

    Raises:
        TypeError: If `initializer` is not callable, or the shape has anything but whole numbers.
        ValueError: If a size is negative.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> def projection(features):  # a custom layer
        ...     def init(key, x):
        ...         return {"kernel": nn.param(nn.initializers.ones, (x.shape[-1], features))}
        ...     return nn.stateless(init, lambda params, x: x @ params["kernel"])
        >>> projection(2).init(jax.random.key(0), jnp.ones((1, 3)))[0]["kernel"].shape
        (3, 2)
    """
    if not callable(initializer):
        raise TypeError(f"an initializer must be a function (key, shape, dtype) -> array, got {initializer!r}")
    if not isinstance(shape, Iterable):
        raise TypeError(f"the shape of a parameter is a tuple of whole numbers, got {shape!r}")
    return Undrawn(
        initializer,
        tuple(whole("param", "the sizes of its shape", n, 0) for n in shape),
        np.dtype(jax.dtypes.canonicalize_dtype(dtype)),
    )


@dataclass(frozen=True, eq=False)
class _FromInit:
    """The initializer of a leaf that a layer's `init` draws itself: the leaf at `path` of what `init(key, x)` returns."""

    init: Callable
    x: Any
    path: tuple

    def __call__(self, key, shape, dtype):
        leaf = self.init(key, self.x)
        for step in self.path:
            leaf = leaf[step.key if hasattr(step, "key") else step.idx]
        return jnp.asarray(leaf, dtype)


def describe_init(init: Callable, x: Any) -> tuple[dict, dict]:
    """The params and state of `init` with every leaf undrawn, whether it returned `param(...)` or an array."""

    def checked(key: jax.Array) -> Any:
        returned = called(init, "init(key, x) -> (params, state)", key, x)
        if not isinstance(returned, tuple) or len(returned) != 2 or not all(isinstance(part, dict) for part in returned):
            raise TypeError(f"init must return (params, state), two dicts, got {returned!r}")
        for part, name in zip(returned, ("params", "state"), strict=True):
            _check_plain(part, name)
        return returned

    returned = jax.eval_shape(checked, _abstract_key())

    def undrawn(path, leaf):
        return leaf if isinstance(leaf, Undrawn) else Undrawn(_FromInit(init, x, path), leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(undrawn, returned, is_leaf=is_undrawn)


def _check_plain(tree: Any, path: str) -> None:
    """Raise an error unless params or state are arrays in nested dicts: their names are the paths that everything uses."""
    if isinstance(tree, dict):
        for name, entry in tree.items():
            _check_plain(entry, f"{path}/{name}")
    elif not (tree is None or is_undrawn(tree) or hasattr(tree, "dtype") or isinstance(tree, (bool, int, float, complex))):
        raise TypeError(
            f"init must return params and state as arrays in nested dicts, got {path} as a {type(tree).__name__}: "
            'give its entries names, as in {"0": first, "1": second}'
        )


@lru_cache
def _abstract_key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))


def is_undrawn(leaf: Any) -> bool:
    """Whether a node is an undrawn leaf: the `is_leaf` for `jax.tree` functions, for which it is static and no leaf."""
    return isinstance(leaf, Undrawn)


def draw(key: jax.Array, params: Any, state: Any) -> tuple[Any, Any]:
    """Draw every undrawn leaf of two nested dicts, as a pure function of `key` under any transformation."""
    leaves, structure = jax.tree_util.tree_flatten_with_path((params, state), is_leaf=is_undrawn)
    values: list[Any] = [None] * len(leaves)
    groups: dict[tuple, list[_Request]] = {}
    for i, (steps, leaf) in enumerate(leaves):
        path, in_state = tuple(str(step.key) for step in steps[1:]), steps[0].idx == 1
        describe = getattr(leaf.initializer, "describe", None)
        if describe is None or not jnp.issubdtype(leaf.dtype, jnp.floating):
            values[i] = _called(key, path, leaf, _key_paths(leaf, path, in_state))
            continue
        distribution, scale, offset = describe(leaf.base)
        if distribution == "constant":
            traced = any(is_tracer(value) for value in (key, offset))
            full = jnp.full if traced else np.full  # NumPy compiles nothing
            values[i] = jnp.asarray(full(leaf.shape, offset, leaf.dtype), leaf.dtype)  # without a dtype, JAX compiles a copy
        else:
            wide = np.dtype(np.float64 if leaf.dtype == np.float64 else np.float32)
            groups.setdefault((distribution, wide), []).append(
                _Request(i, leaf, _key_paths(leaf, path, in_state), scale, offset)
            )
    for (distribution, dtype), requests in groups.items():
        for request, value in zip(requests, _drawn_together(key, distribution, dtype, requests), strict=True):
            values[request.at] = value
    return jax.tree.unflatten(structure, [_varying_as(key, value) for value in values])


def _key_paths(leaf: Undrawn, path: tuple[str, ...], in_state: bool) -> list[tuple[str, ...]]:
    """The names to fold into the root key, for each copy of the leaf."""
    if isinstance(leaf.initializer, _FromInit):  # the layer's init takes the layer's key, not the leaf's
        inner = len(leaf.initializer.path) - 1
        copies = tuple((levels - inner, n) for levels, n in leaf.copies)
        return list(replace(leaf, copies=copies).key_paths(path[: len(path) - inner]))
    return [(*names, STATE) if in_state else names for names in leaf.key_paths(path)]


def _varying_as(key: jax.Array, value: jax.Array) -> jax.Array:
    """Inside `shard_map` with one key per device, make a constant vary over devices as drawn values do.

    The gradient of a value that all devices share is summed over them: without this, networks that are independent would
    have their biases trained as one.
    """
    return vary_over(value, varying_axes(key))


class _Request(NamedTuple):
    at: int  # among the tree's leaves
    leaf: Undrawn
    key_paths: list[tuple[str, ...]]  # one per copy
    scale: Any
    offset: Any


def _called(key: jax.Array, path: tuple[str, ...], leaf: Undrawn, key_paths: list[tuple[str, ...]]) -> jax.Array:
    """A leaf whose initializer does not describe its distribution: call the initializer once per copy."""
    copies = []
    for names in key_paths:
        own_key = key
        for name in names:
            own_key = child_key(own_key, name)
        try:
            copies.append(jnp.asarray(leaf.initializer(own_key, leaf.base, leaf.dtype)))
        except TypeError as error:
            raise TypeError(
                f"the initializer of '{'/'.join(path)}' is called as (key, shape, dtype), which raised: {error}"
            ) from error
        if copies[-1].shape != leaf.base:
            raise ValueError(f"the initializer of '{'/'.join(path)}' must return the shape {leaf.base}, got {copies[-1].shape}")
    return (jnp.stack(copies) if leaf.copies else copies[0]).reshape(leaf.shape).astype(leaf.dtype)


def _drawn_together(key: jax.Array, distribution: str, dtype: np.dtype, requests: list[_Request]) -> list[jax.Array]:
    per_copy = [-(-math.prod(r.leaf.base) // BLOCK) for r in requests]  # blocks
    copies = [len(r.key_paths) for r in requests]
    counts = [n * m for n, m in zip(copies, per_copy, strict=True)]
    blocks = _blocks([names for r in requests for names in r.key_paths], np.repeat(per_copy, copies))
    scale = _per_block([r.scale for r in requests], counts, dtype)
    offset = _per_block([r.offset for r in requests], counts, dtype)
    known = not any(isinstance(value, jax.Array) for value in (scale, offset)) and not is_tracer(key)
    size = CHUNK if known else min(CHUNK, len(blocks.length))
    pad = -len(blocks.length) % size

    def chunked(a):
        a = (jnp if isinstance(a, jax.Array) else np).concatenate([a, a[:1].repeat(pad, axis=0)])
        return a.reshape(-1, size, *a.shape[1:])

    arguments = jax.tree.map(chunked, (*blocks, scale, offset))
    draw_chunk = partial(_chunk_program(distribution, dtype), key)
    flat = None
    if known:
        parts = [draw_chunk(*(a[i] for a in arguments)) for i in range(len(arguments[0]))]
        if not is_tracer(parts[0]):  # a concrete key may still be used inside a traced function
            flat = np.concatenate([np.asarray(part) for part in parts])
    if flat is None:
        flat = lax.map(lambda chunk: draw_chunk(*chunk), jax.tree.map(jnp.asarray, arguments)).reshape(-1, BLOCK)

    values, start = [], 0
    for request, count in zip(requests, counts, strict=True):
        leaf = request.leaf
        numbers = flat[start : start + count].reshape(len(request.key_paths), -1)[:, : math.prod(leaf.base)]
        values.append(jnp.asarray(numbers.reshape(leaf.shape).astype(leaf.dtype), leaf.dtype))
        start += count
    return values


class _Blocks(NamedTuple):
    """What to fold into the root key for each block: the hashes of the names, then the block's number in its leaf."""

    folded: np.ndarray  # (blocks, depth), uint32
    length: np.ndarray  # (blocks,), the number of entries in use


def _blocks(key_paths: list[tuple[str, ...]], counts: np.ndarray) -> _Blocks:
    """The blocks of all copies, of which there are `counts` for each of the paths."""
    depth = DEPTH * (max(map(len, key_paths)) // DEPTH + 1)
    hashes = np.zeros((len(key_paths), depth), np.uint32)
    for row, names in zip(hashes, key_paths, strict=True):
        row[: len(names)] = [name_hash(name) for name in names]
    lengths = np.repeat(np.array([len(names) for names in key_paths], np.int32), counts)
    folded = hashes.repeat(counts, axis=0)
    folded[np.arange(len(folded)), lengths] = np.concatenate([np.arange(n, dtype=np.uint32) for n in counts])
    return _Blocks(folded, lengths + 1)


def _per_block(values: list, counts: list[int], dtype: np.dtype) -> Any:
    """Each value repeated for its blocks: a NumPy array if all are known, traced if any is."""
    if any(isinstance(value, jax.Array) for value in values):
        stacked = jnp.stack([jnp.asarray(value, dtype) for value in values])
        return jnp.repeat(stacked, np.array(counts), total_repeat_length=sum(counts))
    return np.repeat(np.array(values, dtype), counts)


_SAMPLERS: dict[str, Callable[..., jax.Array]] = {
    "normal": jax.random.normal,
    "uniform": partial(jax.random.uniform, minval=-1.0, maxval=1.0),
    "truncated_normal": lambda key, shape, dtype: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype),
}


@lru_cache
def _chunk_program(distribution: str, dtype: np.dtype) -> Callable:
    """`(key, folded, length, scale, offset) -> (CHUNK, BLOCK)`, the only program that draws."""
    sample = _SAMPLERS[distribution]

    def block_of(key, folded, length):
        def fold(i, key):
            return jnp.where(i < length, jax.random.fold_in(key, folded[i]), key)

        return sample(lax.fori_loop(0, folded.shape[0], fold, key), (BLOCK,), dtype=dtype)

    @jax.jit
    def chunk(key, folded, length, scale, offset):
        z = jax.vmap(partial(block_of, key))(folded, length)
        return offset[:, None] + scale[:, None] * z

    return chunk
