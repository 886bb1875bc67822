"""Initialization draws once: the random numbers of a whole tree come out of one small program.

Drawn leaf by leaf, every leaf of its own shape compiles a random generator of its own, 0.3–0.6 s each on a CPU. Here a
leaf is first only described (`Undrawn`), and `draw` fills all of them from blocks of one fixed size: block `b` of the leaf
at path `p` is drawn from

    fold_in(fold_in(... fold_in(key, crc32(p[0])) ..., crc32(p[-1])), b)

so that a leaf's numbers depend on the root key and its path alone, and the program's size on nothing at all: called with
a concrete key it is compiled once a process for all models. Under a transform the same blocks are drawn by one loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn._jax import is_tracer, vary_over, varying_axes
from jaxnn.core.naming import name_hash

BLOCK = 4096  # numbers drawn from one key
CHUNK = 32  # blocks drawn by one call, at the most
DEPTH = 16  # names in a path and a block's number; deeper trees take another multiple


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Undrawn:
    """A leaf of parameters that is described and not yet drawn.

    Attributes:
        initializer: `(key, shape, dtype) -> array`. If it has `describe(shape) -> (distribution, scale, offset)`, the leaf
            is `offset + scale * z`, drawn together with all others; if not, it is called with the leaf's own key.
        base: the shape of one copy.
        dtype: the dtype of the result.
        copies: `(levels, n)` for each `repeat` around the leaf, outermost first: `n` copies of the subtree that starts
            `levels` names before the path's end, stacked along a leading axis.
    """

    initializer: Callable
    base: tuple[int, ...]
    dtype: Any
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The drawn leaf's shape."""
        return (*(n for _, n in self.copies), *self.base)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def repeated(self, n: int, levels: int) -> Undrawn:
        """The leaf of a layer repeated `n` times, `levels` names above."""
        return replace(self, copies=((levels, n), *self.copies))

    def astype(self, dtype: Any) -> Undrawn:
        """The leaf to be drawn in another dtype."""
        return replace(self, dtype=np.dtype(dtype))

    def chains(self, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """The names folded into the key, for each copy; a copy goes by its number."""
        for numbers in itertools.product(*(range(n) for _, n in self.copies)):
            chain = list(path)
            for (levels, _), number in zip(reversed(self.copies), reversed(numbers), strict=True):
                chain.insert(len(path) - levels, str(number))
            yield tuple(chain)


def param(initializer: Callable, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Undrawn:
    """A parameter (or an entry of the state) as a layer's `init` returns it: described, and drawn with all the others.

    Args:
        initializer: any `(key, shape, dtype) -> array`.
        shape: the parameter's shape.
        dtype: its dtype, float32 by default; `dtype_policy` changes it for a whole model.

    Returns:
        A leaf that the outermost `init` draws; it depends on the root key and on its path alone.

    Raises:
        TypeError: if `initializer` cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> def projection(features):  # a layer of one's own
        ...     def init(key, x):
        ...         return {"kernel": nn.param(nn.initializers.ones, (x.shape[-1], features))}
        ...     return nn.stateless(init, lambda params, x: x @ params["kernel"])
        >>> projection(2).init(jax.random.key(0), jnp.ones((1, 3)))[0]["kernel"].shape
        (3, 2)
    """
    if not callable(initializer):
        raise TypeError(f"an initializer is a function (key, shape, dtype) -> array, got {initializer!r}")
    return Undrawn(initializer, tuple(shape), np.dtype(jax.dtypes.canonicalize_dtype(dtype)))


@dataclass(frozen=True, eq=False)
class _FromInit:
    """The 'initializer' of a leaf that a layer's own `init` draws: the leaf at `path` of what `init(key, x)` returns."""

    init: Callable
    x: Any
    path: tuple

    def __call__(self, key, shape, dtype):
        leaf = self.init(key, self.x)
        for step in self.path:
            leaf = leaf[step.key if hasattr(step, "key") else step.idx]
        return leaf.astype(dtype)


def undrawn_call(init: Callable, x: Any) -> tuple[dict, dict]:
    """`init`'s params and state with every leaf undrawn, whether it returned `param(...)` or an array of its own."""
    returned = jax.eval_shape(lambda key: init(key, x), _abstract_key())
    if not isinstance(returned, tuple) or len(returned) != 2 or not all(isinstance(part, dict) for part in returned):
        raise TypeError(f"init returns (params, state), two dicts; got {returned!r}")

    def undrawn(path, leaf):
        return leaf if isinstance(leaf, Undrawn) else Undrawn(_FromInit(init, x, path), leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(undrawn, returned, is_leaf=is_undrawn)


@lru_cache
def _abstract_key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))


def draw(key: jax.Array, tree: Any) -> Any:
    """Fill every undrawn leaf of `tree`, a tuple of nested dicts; a pure function of `key` under any transform."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_undrawn)
    values: list[Any] = [None] * len(leaves)
    groups: dict[tuple, list[_Request]] = {}
    for i, (steps, leaf) in enumerate(leaves):
        path = tuple(str(step.key) for step in steps[1:])  # the first step tells params from state
        describe = getattr(leaf.initializer, "describe", None)
        if describe is None or not jnp.issubdtype(leaf.dtype, jnp.floating):
            values[i] = _called(key, path, leaf)
            continue
        distribution, scale, offset = describe(leaf.base)
        if distribution == "constant":
            traced = any(is_tracer(value) for value in (key, offset))
            full = jnp.full if traced else np.full  # NumPy has nothing to compile
            values[i] = jnp.asarray(full(leaf.shape, offset, leaf.dtype), leaf.dtype)  # without a dtype, JAX compiles a copy
        else:
            wide = np.dtype(np.float64 if leaf.dtype == np.float64 else np.float32)
            groups.setdefault((distribution, wide), []).append(_Request(i, path, leaf, scale, offset))
    for (distribution, dtype), requests in groups.items():
        for request, value in zip(requests, _drawn_together(key, distribution, dtype, requests), strict=True):
            values[request.at] = value
    return jax.tree.unflatten(structure, [_varying_as(key, value) for value in values])


def _varying_as(key: jax.Array, value: jax.Array) -> jax.Array:
    """Inside `shard_map`, with a key a device, a constant is each device's own, as what is drawn is.

    What all devices share has the sum of their gradients: networks of their own would have their biases trained as one.
    """
    return vary_over(value, varying_axes(key))


class _Request(NamedTuple):
    at: int  # among the tree's leaves
    path: tuple[str, ...]
    leaf: Undrawn
    scale: Any
    offset: Any


def _called(key: jax.Array, path: tuple[str, ...], leaf: Undrawn) -> jax.Array:
    """A leaf whose initializer cannot say what it draws: call it, once a copy."""
    own = leaf.initializer
    if isinstance(own, _FromInit):  # the layer's init takes the layer's key, not the leaf's
        path = path[: len(path) - (len(own.path) - 1)]
        levels = tuple((n - (len(own.path) - 1), copies) for n, copies in leaf.copies)
        chains = replace(leaf, copies=levels).chains(path)
    else:
        chains = leaf.chains(path)
    keys = [_fold_names(key, chain) for chain in chains]
    copies = [jnp.asarray(own(k, leaf.base, leaf.dtype)) for k in keys]
    for copy in copies:
        if copy.shape != leaf.base:
            raise ValueError(f"the initializer of '{'/'.join(path)}' was asked for {leaf.base}, returned {copy.shape}")
    return (jnp.stack(copies) if leaf.copies else copies[0]).reshape(leaf.shape).astype(leaf.dtype)


def _fold_names(key: jax.Array, chain: tuple[str, ...]) -> jax.Array:
    for name in chain:
        key = jax.random.fold_in(key, np.uint32(name_hash(name)))
    return key


def _drawn_together(key: jax.Array, distribution: str, dtype: np.dtype, requests: list[_Request]) -> list[jax.Array]:
    chains = [list(r.leaf.chains(r.path)) for r in requests]
    blocks = [-(-math.prod(r.leaf.base) // BLOCK) for r in requests]
    counts = [len(c) * b for c, b in zip(chains, blocks, strict=True)]
    rows = _rows([c for group in chains for c in group], np.repeat(blocks, [len(c) for c in chains]))
    scale, offset = (_spread(values, counts, dtype) for values in ([r.scale for r in requests], [r.offset for r in requests]))
    known = not any(isinstance(value, jax.Array) for value in (scale, offset)) and not is_tracer(key)
    size = CHUNK if known else min(CHUNK, len(rows.length))
    pad = -len(rows.length) % size

    def chunked(a):
        a = (jnp if isinstance(a, jax.Array) else np).concatenate([a, a[:1].repeat(pad, axis=0)])
        return a.reshape(-1, size, *a.shape[1:])

    arguments = jax.tree.map(chunked, (*rows, scale, offset))
    one = partial(_chunk_program(distribution, dtype), key)
    flat = None
    if known:
        parts = [one(*(a[i] for a in arguments)) for i in range(len(arguments[0]))]
        if not is_tracer(parts[0]):  # a concrete key may still be used inside a traced function
            flat = np.concatenate([np.asarray(part) for part in parts])
    if flat is None:
        flat = lax.map(lambda row: one(*row), jax.tree.map(jnp.asarray, arguments)).reshape(-1, BLOCK)

    values, start = [], 0
    for request, count, group in zip(requests, counts, chains, strict=True):
        cut = flat[start : start + count].reshape(len(group), -1)[:, : math.prod(request.leaf.base)]
        values.append(jnp.asarray(cut.reshape(request.leaf.shape).astype(request.leaf.dtype), request.leaf.dtype))
        start += count
    return values


class _Rows(NamedTuple):
    folded: np.ndarray  # (rows, depth), uint32
    length: np.ndarray  # (rows,), how many of them are in use


def _rows(chains: list[tuple[str, ...]], blocks: np.ndarray) -> _Rows:
    """One row a block: what to fold into the key, the names' hashes and then the block's number, and how many they are."""
    depth = DEPTH * (max(map(len, chains)) // DEPTH + 1)
    hashes = np.zeros((len(chains), depth), np.uint32)
    for row, chain in zip(hashes, chains, strict=True):
        row[: len(chain)] = [name_hash(name) for name in chain]
    names = np.repeat(np.array([len(c) for c in chains], np.int32), blocks)
    folded = hashes.repeat(blocks, axis=0)
    folded[np.arange(len(folded)), names] = np.concatenate([np.arange(n, dtype=np.uint32) for n in blocks])
    return _Rows(folded, names + 1)


def _spread(values: list, counts: list[int], dtype: np.dtype) -> Any:
    """One number a row: of NumPy if all are known, traced if any is."""
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


def is_undrawn(leaf: Any) -> bool:
    """Whether a node is a leaf not yet drawn; to be passed as `is_leaf`, since to JAX it is static and no leaf at all."""
    return isinstance(leaf, Undrawn)
