"""The one cache of compiled programs: bounded, clearable, and invalidated when anything that a function reads changes.

A program is looked up by the fingerprint of the configuration that it is made from (`core/fingerprint.py`), by the shapes,
dtypes and shardings of its arguments, and by JAX's own settings. Where the fingerprint is exact, nothing is traced the second
time, whether or not the objects are the same. Where it is not, or no program has it, the program is traced and lowered, which
takes a fraction of the time that compiling takes, and a compiled program of the same text for the same shapes is used if there
is one.

Only executables are kept, no functions: a model that is no longer referenced is freed.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import cached_property
from typing import Any

import jax

from jaxnn import _jax
from jaxnn.core.fingerprint import fingerprint
from jaxnn.kernels.compiler import compiler_options

MOST_PROGRAMS = 256  # a program of an epoch takes about 10 MB
MOST_SHAPES = 8  # programs of one configuration for arguments of different shapes, such as data of different sizes
LONG_SECONDS = 1.0  # of compiling, compared with which returning the compiler's memory costs little (measured: 35 to 100 ms)


def clear_programs() -> None:
    """Free all compiled programs that `fit`, `sweep`, `evaluate`, `predict` and the like have kept.

    Programs in use are freed when they end. The next call of each compiles again.

    Example:
        >>> import jaxnn as nn
        >>> nn.clear_programs()
    """
    with _lock:
        _programs.clear()
    _return_memory()


class Program:
    """A function, traced for arguments of certain shapes, that is compiled once, by the first thread that asks.

    Attributes:
        output: The output's pytree of `jax.ShapeDtypeStruct`.
    """

    def __init__(self, function: Callable, arguments: tuple, donate: bool):
        start = time.perf_counter()
        jitted = jax.jit(function, compiler_options=compiler_options(), donate_argnums=0 if donate else ())
        self._lowered: Any = jitted.lower(*arguments)
        self.output = self._lowered.out_info
        self._executable = _executable(self._lowered, (signature(arguments), jax.tree.structure(self.output)), donate)
        self._tracing = time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """The time that tracing and compiling took."""
        return self._tracing + self._executable.seconds

    @property
    def bytes(self) -> int:
        """The memory that the compiled program takes."""
        return self._executable.bytes

    def compile(self) -> Callable:
        """The compiled program."""
        executable = self._executable
        with executable.lock:
            if executable.call is None:
                start = time.perf_counter()
                executable.call = self._lowered.compile()
                executable.seconds = time.perf_counter() - start
                if executable.seconds > LONG_SECONDS:
                    _return_memory()
        self._lowered = None  # which holds what was traced
        return executable.call

    def __call__(self, *arguments: Any) -> Any:
        """Run the program."""
        return self.compile()(*arguments)


class _Executable:
    """A compiled program, shared by all `Program`s of one text."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.call: Any = None
        self.seconds = 0.0

    @cached_property  # the analysis takes milliseconds
    def bytes(self) -> int:
        """Arguments that are not donated, results and temporaries."""
        memory = self.call.memory_analysis()
        if memory is None:
            return 0
        own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        return own + memory.temp_size_in_bytes


def program(
    name: str,
    make: Callable[[], Callable],
    configuration: tuple,
    arguments: tuple,
    *,
    context: Hashable = (),
    donate: bool = False,
) -> Program:
    """The program of `make()` for arguments like these, kept from an earlier call or traced now.

    Args:
        name: What tells programs of one configuration apart, such as `"epochs"`.
        make: Returns the function; called only if it must be traced.
        configuration: All that the function depends on, compared by its fingerprint.
        arguments: Arrays, or `jax.ShapeDtypeStruct`s.
        context: What else it depends on, compared by equality, such as a mesh.
        donate: Whether the first argument's buffers are used up.

    Returns:
        The `Program`.
    """
    _jax.check_not_forked()
    found = fingerprint(configuration)
    key = (name, found.digest, context, donate, signature(arguments), _jax.trace_context(), tuple(compiler_options().items()))
    with _lock:
        kept = _programs.get(key)
        if kept is not None and found.exact:
            _programs.move_to_end(key)
            return kept
    structs = jax.tree.map(_struct, arguments)
    made = Program(make(), structs, donate)
    with _lock:
        _programs[key] = made
        _programs.move_to_end(key)
        alike = [other for other in _programs if other[:2] == key[:2]]
        for other in alike[:-MOST_SHAPES]:
            del _programs[other]
        while len(_programs) > MOST_PROGRAMS:
            _programs.popitem(last=False)
    return made


def shapes(name: str, make: Callable[[], Callable], configuration: tuple, arguments: tuple) -> Any:
    """`jax.eval_shape(make(), *arguments)`, cached in the same way."""
    found = fingerprint(configuration)
    key = (name, found.digest, "shapes", signature(arguments), _jax.trace_context())
    with _lock:
        if found.exact and key in _programs:
            _programs.move_to_end(key)
            return _programs[key]
    output = jax.eval_shape(make(), *jax.tree.map(_struct, arguments))
    with _lock:
        _programs[key] = output
    return output


def signature(arguments: Any) -> tuple:
    """What a program is compiled for: shapes, dtypes, and the sharding of committed arrays."""
    leaves, structure = jax.tree.flatten(jax.tree.map(_struct, arguments))
    return tuple((leaf.shape, leaf.dtype, leaf.weak_type, leaf.sharding) for leaf in leaves), structure


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    sharding = leaf.sharding if getattr(leaf, "committed", False) else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _return_memory() -> None:
    """Return to the operating system what has been freed; glibc keeps it (measured: 270 MB after 40 compilations)."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # other C libraries lack it
            ctypes.CDLL(None).malloc_trim(0)


_lock = threading.RLock()
_programs: OrderedDict[tuple, Any] = OrderedDict()
_executables: weakref.WeakValueDictionary[tuple, _Executable] = weakref.WeakValueDictionary()


def _executable(lowered: Any, interface: tuple, donate: bool) -> _Executable:
    """The executable of a text; the text alone leaves out arguments that are not used, and how results are nested."""
    text = hashlib.blake2b(lowered.as_text().encode(), digest_size=32).digest()
    key = (text, interface, donate, tuple(compiler_options().items()))
    with _lock:
        kept = _executables.get(key)
        if kept is None:
            kept = _executables[key] = _Executable()
        return kept
