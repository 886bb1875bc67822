"""Fingerprints: equal configurations have equal ones, and any change in what a function reads changes them.

A compiled program depends on the functions that it was traced from: on their code, on the values that they close over and on
the globals that they read. `fingerprint` hashes all of these, so `nn.dense(3)` made twice has one fingerprint, and a loss that
reads a global has another one after the global has changed. Whatever cannot be followed (a generator, a file, an object of an
extension type, a module's attributes read by `getattr`) makes the fingerprint inexact: the program must then be traced again
before one that was kept may be used.

JAX, optax, jaxnn, the standard library and other large libraries do not change while a process runs, so their functions are
followed only through what they close over.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import hashlib
import logging
import sys
import types
import weakref
from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import _jax

# What is not followed inside: JAX and what it stands on, jaxnn, and large libraries that models are taken from.
_FIXED = frozenset(sys.stdlib_module_names) - {"__main__"} | {"jax", "jaxlib", "jaxnn", "optax", "chex", "numpy", "ml_dtypes"}
_FIXED |= {
    "flax",
    "equinox",
    "haiku",
    "keras",
    "einops",
    "jaxtyping",
    "scipy",
    "sklearn",
    "pandas",
    "torch",
    "matplotlib",
    "tqdm",
}
_UNFOLLOWED = frozenset({"globals", "locals", "vars", "eval", "exec", "open", "input", "__import__"})
_MOST_VALUES = 20_000  # above this, tracing again is quicker than following on


class Fingerprint(NamedTuple):
    """A digest, and whether it covers all dependencies.

    Attributes:
        digest: 16 bytes.
        exact: Whether equal digests mean equal programs.
    """

    digest: bytes
    exact: bool


def fingerprint(*values: Any) -> Fingerprint:
    """The fingerprint of functions, layers, arrays and containers of them.

    Args:
        *values: Any Python values.

    Returns:
        A `Fingerprint`, valid in this process.

    Example:
        >>> import jaxnn as nn
        >>> fingerprint(nn.dense(3)) == fingerprint(nn.dense(3)), fingerprint(nn.dense(3)) == fingerprint(nn.dense(4))
        (True, False)
        >>> scale = 1.0
        >>> def loss(predictions, y):
        ...     return scale * nn.losses.mse(predictions, y)
        >>> before = fingerprint(loss)
        >>> scale = 10.0
        >>> before == fingerprint(loss)
        False
    """
    walk = _Walk()
    for value in values:
        walk.add(value)
    return Fingerprint(walk.hash.digest(), walk.exact)


class _Walk:
    """One pass over values, depth first; a repeated value is hashed by its index."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self.exact = True
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # an id is a value's own only while the value lives

    def add(self, value: Any) -> None:
        if value is None or (isinstance(value, bool | int | float | complex | str | bytes) and type(value) in _PLAIN):
            self._write(type(value).__name__, repr(value))
            return
        if id(value) in self._numbers:
            self._write("again", self._numbers[id(value)])
            return
        if len(self._numbers) > _MOST_VALUES:
            self.exact = False
            return
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)
        self._follow(value)

    def _follow(self, value: Any) -> None:
        if isinstance(value, jax.Array):
            self._array(value)
        elif isinstance(value, np.ndarray | np.generic):
            self._numpy(np.asarray(value))
        elif isinstance(value, types.ModuleType):
            self._write("module", value.__name__)
            self.exact &= _is_fixed(value.__name__)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, enum.Enum):
            self._write("member", value.name)
            self.add(type(value))
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._write("method")
            self._add_all(value.__func__, value.__self__)
        elif isinstance(value, functools.partial):
            self._write("partial")
            self._add_all(value.func, value.args, value.keywords)
        elif isinstance(value, tuple | list):
            self._write(type(value).__qualname__, len(value))
            self._add_all(*value)
        elif isinstance(value, dict | types.MappingProxyType):
            self._write(type(value).__qualname__, len(value))
            for key, item in value.items():
                self._add_all(key, item)
        elif isinstance(value, Set):
            parts = sorted(fingerprint(item) for item in value)
            self._write(type(value).__qualname__, parts)
            self.exact &= all(part.exact for part in parts)
        elif isinstance(value, _BUILT_IN):
            self._write(type(value).__qualname__, getattr(value, "__module__", ""), getattr(value, "__qualname__", ""))
            if isinstance(owner := getattr(value, "__self__", None), list | Mapping):  # such as a dict's `get`
                self.add(owner)
        elif isinstance(value, np.dtype | np.ufunc | types.GenericAlias | types.UnionType):
            self._write(type(value).__qualname__, repr(value))
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        kind = type(value)
        self._write("object", kind.__module__, kind.__qualname__)
        if _named_by_fixed_module(value):  # such as `jax.nn.relu`
            self._write(value.__module__, value.__qualname__)
            return
        if isinstance(value, logging.Logger):  # which no traced value depends on
            return
        if not _is_fixed(kind.__module__):
            self.add(kind)
        attributes = _attributes(value)
        if attributes is None:
            wrapped = getattr(value, "__wrapped__", None)  # what `jax.jit` returns
            self.exact &= wrapped is not None and _is_fixed(kind.__module__)
            self.add(wrapped)
        else:
            self.add(attributes)

    def _class(self, value: type) -> None:
        self._write("class", value.__module__, value.__qualname__)
        if _is_fixed(value.__module__):
            return
        for name, item in vars(value).items():
            if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__"):
                self._write(name)
                self.add(_unwrapped(item))
        self._add_all(*value.__bases__)

    def _function(self, value: types.FunctionType) -> None:
        code = _code(value.__code__)
        self._write("function", value.__module__, value.__qualname__, code.digest)
        cells = value.__closure__ or ()
        names = value.__code__.co_freevars
        contents = {name: _contents(cell) for name, cell in zip(names, cells, strict=True)}
        self._add_all(value.__defaults__, value.__kwdefaults__)
        read = {chain[0] for chain in code.reads}
        for name, content in contents.items():
            if not (isinstance(content, types.ModuleType) and name in read):  # its attributes are followed where they are read
                self.add(content)
        if value.__dict__ and value.__dict__.keys() != {"__wrapped__"}:
            self.add({name: item for name, item in value.__dict__.items() if name != "__wrapped__"})
        home = sys.modules.get(value.__module__ or "")
        if _is_fixed(value.__module__) and value.__globals__ is getattr(home, "__dict__", None):
            return
        self.exact &= not code.unfollowed
        for first, *rest in sorted(code.reads):
            if first in contents and not isinstance(contents[first], types.ModuleType):
                continue
            found = contents.get(first, value.__globals__.get(first, getattr(builtins, first, _MISSING)))
            while rest and isinstance(found, types.ModuleType):
                found = getattr(found, rest.pop(0), _MISSING)
            self._write(first, *rest)
            self.add(found)

    def _array(self, value: jax.Array) -> None:
        if _jax.is_tracer(value) or value.is_deleted():
            self._write("tracer", id(value))
            self.exact = False
            return
        kept = _digests.get(id(value))
        if kept is None or kept[0]() is not value:
            plain = jax.random.key_data(value) if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key) else value
            digest = hashlib.blake2b(np.ascontiguousarray(np.asarray(plain)).tobytes(), digest_size=16).digest()
            kept = weakref.ref(value, functools.partial(_forget, id(value))), digest
            _digests[id(value)] = kept
        self._write("array", value.dtype, value.shape, value.aval.weak_type, kept[1])

    def _numpy(self, value: np.ndarray) -> None:
        self._write("numpy", value.dtype, value.shape)
        if value.dtype.hasobject:
            self._add_all(*value.ravel().tolist())
        else:
            self.hash.update(np.ascontiguousarray(value).tobytes())

    def _add_all(self, *values: Any) -> None:
        for value in values:
            self.add(value)

    def _write(self, *parts: Any) -> None:
        self.hash.update("\x00".join(map(str, parts)).encode(errors="surrogatepass") + b"\x01")


_PLAIN = frozenset({bool, int, float, complex, str, bytes})
_BUILT_IN = (
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_MISSING = "no such name"
_digests: dict[int, tuple[weakref.ref, bytes]] = {}  # of JAX's arrays, which do not change


def _forget(number: int, _: Any) -> None:
    _digests.pop(number, None)


class _Code(NamedTuple):
    digest: bytes
    reads: frozenset[tuple[str, ...]]  # chains of names from a global or a variable closed over, such as ("jnp", "pi")
    unfollowed: bool  # whether it reads what cannot be known from here


@functools.lru_cache(maxsize=4096)
def _code(code: types.CodeType) -> _Code:
    digest = hashlib.blake2b(code.co_code, digest_size=16)
    reads: set[tuple[str, ...]] = set()
    unfollowed = False
    for part in _nested(code):
        digest.update(repr((part.co_code, part.co_names, part.co_varnames, part.co_freevars, part.co_argcount)).encode())
        digest.update(repr([c for c in part.co_consts if not isinstance(c, types.CodeType)]).encode())
        for chain in _chains(part):
            reads.add(chain)
            unfollowed |= chain[0] in _UNFOLLOWED
        imported = [i.argval for i in dis.get_instructions(part) if i.opname == "IMPORT_NAME"]
        unfollowed |= not all(map(_is_fixed, imported))
    return _Code(digest.digest(), frozenset(reads), unfollowed)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _chains(code: types.CodeType) -> Iterator[tuple[str, ...]]:
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"):
            if chain:
                yield tuple(chain)
            chain = [instruction.argval]
        elif chain and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(instruction.argval)
        elif chain and instruction.opname not in ("CACHE", "PUSH_NULL", "PRECALL", "EXTENDED_ARG", "NOP"):
            yield tuple(chain)
            chain = []
    if chain:
        yield tuple(chain)


def _is_fixed(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _FIXED


def _named_by_fixed_module(value: Any) -> bool:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str) and _is_fixed(module)):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _MISSING


def _attributes(value: Any) -> dict[str, Any] | None:
    """An object's own attributes, or None if it keeps its values where they cannot be seen."""
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    own = getattr(value, "__dict__", None)
    if own is None and not slots and type(value).__module__ != "builtins" and _is_python_class(type(value)):
        return {}
    if (own is None and not slots) or not _is_python_class(type(value)):
        return None
    return {**(own or {}), **{name: getattr(value, name, _MISSING) for name in slots if name != "__weakref__"}}


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_python_class(kind: type) -> bool:
    """Whether a class was made by a `class` statement all the way up: objects of extension types may have hidden state."""
    return all(base is object or base.__flags__ & (1 << 9) for base in kind.__mro__)


def _unwrapped(item: Any) -> Any:
    if isinstance(item, staticmethod | classmethod):
        return item.__func__
    if isinstance(item, property):
        return (item.fget, item.fset)
    if isinstance(item, functools.cached_property):
        return item.func
    return item
