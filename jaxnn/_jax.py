"""JAX's semi-public corners in one file: the one to mend for a new JAX.

What is imported from `jax.extend` or `jax.interpreters`, and what is read from attributes of tracers, types, equations and
devices that JAX does not document, stands here under a plain name. `jax.extend` imports Pallas, so it is imported inside
the functions that need it. Works with jax 0.10 to 0.12.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.core
from jax import lax

# Platforms and configuration


def platform() -> str:
    """Name of the platform that a computation traced now will run on: "cpu", "gpu" or "tpu".

    Example:
        >>> platform() in ("cpu", "gpu", "tpu")
        True
    """
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else getattr(device, "platform", str(device))


def platforms_of(array: jax.Array) -> set[str]:
    """Names of the platforms of the devices on which an array lies.

    Example:
        >>> import jax.numpy as jnp
        >>> platforms_of(jnp.zeros(1)) <= {"cpu", "gpu", "tpu"}
        True
    """
    return {device.platform for device in array.devices()}


def matmul_precision() -> str | None:
    """The precision that `jax.default_matmul_precision` asks for, or None.

    Example:
        >>> with jax.default_matmul_precision("highest"):
        ...     matmul_precision()
        'highest'
    """
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def trace_context() -> tuple:
    """JAX's settings that decide on what a function is traced and compiled to, such as precision and promotion; hashable.

    Example:
        >>> with jax.default_matmul_precision("highest"):
        ...     inside = trace_context()
        >>> inside == trace_context()
        False
    """
    from jax._src import config  # there is no public name for the key of JAX's own caches

    return (jax.default_backend(), *config.trace_context())


def reset_compilation_cache() -> None:
    """Let JAX look at the settings of its persistent compilation cache again, also after it has compiled something.

    Example:
        >>> reset_compilation_cache()
    """
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    reset_cache()


@contextlib.contextmanager
def training_settings() -> Iterator[None]:
    """The settings of a training run, which finds values that are not finite itself and moves data to the device on purpose.

    So JAX's `debug_nans` and `debug_infs` are off, and its `transfer_guard` lets implicit transfers pass.

    Example:
        >>> with jax.debug_nans(True), training_settings():
        ...     jax.config.jax_debug_nans
        False
    """
    with jax.debug_nans(False), jax.debug_infs(False), jax.transfer_guard("allow"):
        yield


_forked = False


def check_not_forked() -> None:
    """Refuse to compute in a process that was forked from one in which JAX had started.

    Raises:
        RuntimeError: In such a process, in which JAX's threads do not exist, so that it would wait for them for ever.

    Example:
        >>> check_not_forked()
    """
    if _forked:
        raise RuntimeError(
            "this process was forked from one in which JAX had already started, and would hang: start it with "
            'multiprocessing.get_context("spawn"), or fork before anything is computed with JAX'
        )


def _note_fork() -> None:
    global _forked
    from jax._src import xla_bridge  # there is no public name

    _forked = xla_bridge.backends_are_initialized()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_note_fork)


# Traces


def is_tracer(x: Any) -> bool:
    """Whether x is traced, so that its value is unknown.

    Example:
        >>> is_tracer(1.0), jax.jit(is_tracer)(1.0).item()
        (False, True)
    """
    return isinstance(x, jax.core.Tracer)


def is_tracing() -> bool:
    """Whether the caller runs inside a transformation, such as `jit`, `grad` or `vmap`.

    Example:
        >>> is_tracing()
        False
    """
    from jax.extend.core import get_opaque_trace_state

    now = get_opaque_trace_state()
    with jax.core.eval_context():
        return now != get_opaque_trace_state()


def trace_switch(default: Any) -> Any:
    """A thread-local setting that is part of the key of JAX's caches of traces and compiled programs.

    A function that was traced under one value is traced again under another. Call it at import only: adding a setting is
    not thread-safe.

    Args:
        default: The hashable value outside of any context.

    Returns:
        An object `s`: `s.value` is the current value, `with s(value):` sets it.

    Example:
        >>> switch = trace_switch(1)
        >>> with switch(2):
        ...     switch.value
        2
    """
    return jax.make_user_context(default)


# Types of arrays


def varying_axes(x: Any) -> frozenset[str]:
    """Mesh axes over which an array varies; inside `shard_map`, operands of most primitives must agree in them.

    Example:
        >>> import jax.numpy as jnp
        >>> varying_axes(jnp.zeros(1))
        frozenset()
    """
    kind: Any = jax.typeof(x)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # the newer and the older name


def vary_over(x: Any, axes: frozenset[str]) -> Any:
    """The array x, marked as varying over `axes` too.

    Example:
        >>> import jax.numpy as jnp
        >>> vary_over(jnp.zeros(1), frozenset())
        Array([0.], dtype=float32)
    """
    missing = tuple(sorted(axes - varying_axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def vary_alike(tree: Any) -> Any:
    """All arrays of a pytree, marked as varying over the mesh axes over which any of them varies.

    Example:
        >>> import jax.numpy as jnp
        >>> vary_alike((jnp.zeros(1), jnp.ones(1)))
        (Array([0.], dtype=float32), Array([1.], dtype=float32))
    """
    axes: frozenset[str] = frozenset().union(*map(varying_axes, jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: vary_over(x, axes), tree)


def has_sharded_type(x: Any) -> bool:
    """Whether the type of an array names mesh axes, as it does on a mesh with explicit axes outside of `shard_map`.

    Example:
        >>> import jax.numpy as jnp
        >>> has_sharded_type(jnp.zeros(1))
        False
    """
    kind: Any = jax.typeof(x)
    return any(axis is not None for axis in kind.sharding.spec)


# Primitives


def bilinear_primitive(
    name: str,
    *,
    cpu: Callable[..., jax.Array],
    default: Callable[..., jax.Array],
    result: Callable[..., Any],
    transposes: tuple[Callable[..., jax.Array], Callable[..., jax.Array]],
    batch: Callable[..., tuple[jax.Array, int]],
    static: str,
) -> Any:
    """A new primitive of two arrays, linear in each, with the rules for all of JAX's transformations.

    Args:
        name: The primitive's name.
        cpu: Computes it where a program is lowered for a CPU: `cpu(a, b, **static)`.
        default: Computes it on all other platforms.
        result: The type of the result, from the types of the operands: `result(a, b, **static)`.
        transposes: The cotangents of the first operand, `(g, a, b, **static)` with `a.aval` its type, and of the second,
            with `b.aval` its type.
        batch: The batching rule, `batch(operands, axes, **static) -> (result, axis)`.
        static: The name of its static keyword argument.

    Returns:
        The primitive; call its `bind(a, b, **static)`.
    """
    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir

    primitive = Primitive(name)
    primitive.def_impl(jax.jit(cpu, static_argnames=static))
    primitive.def_abstract_eval(result)
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))
    ad.defbilinear(primitive, *transposes)
    batching.primitive_batchers[primitive] = batch
    return primitive


# Equations of programs (jaxprs)


@functools.cache
def literal_type() -> type:
    """The class of constants that stand in an equation in place of a variable; `.val` is the value.

    Example:
        >>> literal_type().__name__
        'Literal'
    """
    from jax.extend.core import Literal

    return Literal


def is_literal(v: Any) -> bool:
    """Whether an operand or output of an equation is a constant and not a variable.

    Example:
        >>> [eqn] = jax.make_jaxpr(lambda x: x + 1.0)(2.0).eqns
        >>> [is_literal(v) for v in eqn.invars]
        [False, True]
    """
    return isinstance(v, literal_type())


def scope_groups(eqn: Any) -> tuple[tuple[str, ...], ...]:
    """The names of `jax.named_scope` around an equation, as far as its own program knows them, in groups.

    A new group begins at each transformation. A derivative can carry the same names twice, once for each transformation.

    Example:
        >>> def f(x):
        ...     with jax.named_scope("a"), jax.named_scope("b"):
        ...         return x + 1
        >>> [eqn] = jax.make_jaxpr(f)(2.0).eqns
        >>> scope_groups(eqn)
        (('a', 'b'),)
    """
    groups: list[list[str]] = [[]]
    for part in eqn.source_info.name_stack.stack:
        if type(part).__name__ == "Scope":
            groups[-1].append(part.name)
        elif groups[-1]:
            groups.append([])
    return tuple(tuple(group) for group in groups if group)


def scope_names(eqn: Any) -> tuple[str, ...]:
    """The names of `jax.named_scope` around an equation, outermost first, each once: the last of `scope_groups`.

    Example:
        >>> def f(x):
        ...     with jax.named_scope("a"):
        ...         return jax.numpy.sin(x)
        >>> {scope_names(eqn) for eqn in jax.make_jaxpr(jax.grad(f))(2.0).eqns}
        {('a',)}
    """
    groups = scope_groups(eqn)
    return groups[-1] if groups else ()


def traceback_of(eqn: Any) -> Any:
    """Where an equation was written: a traceback whose `frames`, innermost first, have `file_name`, `function_name` and
    `line_num`; or None.

    Example:
        >>> def f(x):
        ...     return x + 1
        >>> [eqn] = jax.make_jaxpr(f)(2.0).eqns
        >>> any(frame.function_name == "f" for frame in traceback_of(eqn).frames)
        True
    """
    return eqn.source_info.traceback


def bind(eqn: Any, arrays: Sequence[Any]) -> Sequence[Any]:
    """Compute the outputs of one equation, in the context in which it was traced.

    Example:
        >>> [eqn] = jax.make_jaxpr(lambda x: x + 1.0)(2.0).eqns
        >>> [float(y) for y in bind(eqn, [3.0, 1.0])]
        [4.0]
    """
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params(eqn.params))
    return outputs if eqn.primitive.multiple_results else [outputs]


def subprograms(eqn: Any) -> list[tuple[Any, Sequence[Any]]]:
    """The programs inside the equation of a call, loop or branch, each as a jaxpr with its constants.

    Those of a `while` are its condition and its body; those of a `cond` its branches.

    Example:
        >>> [eqn] = jax.make_jaxpr(jax.jit(lambda x: x + 1.0))(2.0).eqns
        >>> [(len(jaxpr.eqns), consts) for jaxpr, consts in subprograms(eqn)]
        [(1, [])]
    """
    keys = ("cond_jaxpr", "body_jaxpr") if eqn.primitive.name == "while" else ("jaxpr", "call_jaxpr")
    programs = eqn.params.get("branches") or [eqn.params[key] for key in keys if key in eqn.params]
    return [(getattr(program, "jaxpr", program), list(getattr(program, "consts", ()))) for program in programs]


def program_file(eqn: Any) -> str:
    """The path of the file in which the function of a call was written; "" if that is unknown.

    Example:
        >>> [eqn] = jax.make_jaxpr(jax.nn.relu)(1.0).eqns
        >>> program_file(eqn).endswith(".py")
        True
    """
    [(program, _)] = subprograms(eqn)
    return program.debug_info.func_filename or ""


def scan_counts(eqn: Any) -> tuple[int, int]:
    """The numbers of constants and of carried values among the operands of a `scan`; the others are scanned over.

    Example:
        >>> program = jax.make_jaxpr(lambda xs, y: lax.scan(lambda c, x: (c + x * y, c), 0.0, xs))(jax.numpy.ones(3), 2.0)
        >>> [scan_counts(eqn) for eqn in program.eqns if eqn.primitive.name == "scan"]
        [(1, 1)]
    """
    if "num_consts" in eqn.params:  # before jax 0.12
        return eqn.params["num_consts"], eqn.params["num_carry"]
    constants, carry, _ = eqn.params["ft_in"].unpack()
    return len(constants), len(carry)


def while_counts(eqn: Any) -> tuple[int, int]:
    """The numbers of constants of the condition and of the body of a `while`, which come first among its operands.

    Example:
        >>> program = jax.make_jaxpr(lambda n, d: lax.while_loop(lambda x: x < n, lambda x: x + d, 0.0))(4.0, 1.0)
        >>> [while_counts(eqn) for eqn in program.eqns if eqn.primitive.name == "while"]
        [(1, 1)]
    """
    return eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
