"""Options for XLA that make a CPU program faster, where this jaxlib knows them."""

import functools
import threading
from collections.abc import Callable

import jax

from jaxnn._jax import is_tracing, platform

# Each product and convolution goes to the library alone. The value without INDIVIDUAL lets XLA join products with what
# surrounds them, is no faster, and crashes the process where many padded products are added up (jaxlib 0.10.2).
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
_lock = threading.Lock()


def compiler_options() -> dict[str, str]:
    """Options to pass as `jax.jit(..., compiler_options=...)` on the current backend.

    On a CPU they let XLA hand convolutions and matrix products to its fast library, about twice as fast. A jaxlib that
    does not know them refuses to compile, so the first call compiles a trivial function to find out.

    Returns:
        A new dict, empty where there is nothing to gain. `jax.jit` takes it at the top level only, see `jit`.

    Example:
        >>> isinstance(compiler_options(), dict)
        True
    """
    if platform() != "cpu":
        return {}
    with _lock:
        return dict(_known_cpu_options())


@functools.cache
def _known_cpu_options() -> dict[str, str]:
    try:
        probe = jax.jit(lambda x: x, compiler_options=_CPU_OPTIONS)
        probe.lower(jax.ShapeDtypeStruct((), "float32")).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _CPU_OPTIONS


def jit(function: Callable, **jit_kwargs) -> Callable:
    """`jax.jit` with `compiler_options`.

    JAX allows compiler options on the outermost `jit` only. So a function made here, when it is called while another
    transformation is tracing, runs as under a plain `jax.jit` and takes on the options of the program around it.
    Put it outermost: `jit(grad(f))` has the options, `grad(jit(f))` has not.

    Args:
        function: The function to compile.
        **jit_kwargs: Arguments of `jax.jit`; `compiler_options` are added to ours and win over them.

    Returns:
        The compiled function, with `lower`, `trace`, `eval_shape` and `clear_cache` as `jax.jit` gives them.

    Example:
        >>> import jax.numpy as jnp
        >>> jit(lambda x: x + 1)(jnp.zeros(2))
        Array([1., 1.], dtype=float32)
    """
    own_options = jit_kwargs.pop("compiler_options", None) or {}
    nested = jax.jit(function, **jit_kwargs)

    @functools.cache  # found at the first call, so that decorating a function starts no backend
    def outermost() -> Callable:
        return jax.jit(function, compiler_options={**compiler_options(), **own_options}, **jit_kwargs)

    @functools.wraps(function)
    def run(*args, **kwargs):
        return (nested if is_tracing() else outermost())(*args, **kwargs)

    for name in ("lower", "trace", "eval_shape", "clear_cache"):
        setattr(run, name, functools.partial(_call, outermost, name))
    return run


def _call(compiled: Callable, name: str, *args, **kwargs):
    return getattr(compiled(), name)(*args, **kwargs)
