"""What a mean divides by: the weight of a batch's loss in a mean over batches.

A loss under a mask is Σᵢ lᵢ / Σᵢ mᵢ, and the mean over several batches is the mean of their losses weighted by Σᵢ mᵢ. A
function may say so itself and return `(sum, weight)`. The losses of `jaxnn.functional.losses` return their mean, and mark
what they divide by; the mark is found in the program of the function that calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxnn._jax import bind, is_literal, subprograms

_MARK = "what a mean divides by"
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}


def counted(weight: jax.Array) -> jax.Array:
    """Mark what a loss divides by, or the array whose sum that is."""
    return checkpoint_name(weight, _MARK)


def mean_and_weight(value: Any) -> tuple[jax.Array, jax.Array | None]:
    """The mean and the weight of what a loss returned: a scalar, whose weight is None, or `(sum, weight)`.

    Raises:
        ValueError: If it is another tuple.
    """
    if not isinstance(value, tuple | list):
        return value, None
    if len(value) != 2 or any(jnp.shape(part) for part in value):
        raise ValueError(f"a loss returns one number per batch, or (sum, weight), two numbers; got {value!r}")
    total, weight = jnp.asarray(value[0]), jax.lax.stop_gradient(jnp.asarray(value[1], jnp.float32))
    return total / jnp.where(weight == 0, 1, weight).astype(total.dtype), weight


def weight_found(function: Callable, *arguments: Any, shape: tuple[int, ...] = ()) -> jax.Array | None:
    """What the one marked mean that a function computes divides by, or None if there is none, or several.

    Args:
        function: The function. A mean inside a loop, a branch or a `vmap` does not count.
        *arguments: Its arguments.
        shape: The shape of the marked array: `()` in a mean.
    """
    program = jax.make_jaxpr(function)(*arguments)
    if _marks(program.jaxpr, shape) != 1:
        return None
    found: list[jax.Array] = []
    _evaluate(program.jaxpr, program.consts, jax.tree.leaves(arguments), shape, found)
    return jax.lax.stop_gradient(found[0].astype(jnp.float32))


def _is_mark(eqn: Any, shape: tuple[int, ...]) -> bool:
    return eqn.primitive.name == "name" and eqn.params["name"] == _MARK and eqn.invars[0].aval.shape == shape


def _called(eqn: Any) -> list[tuple[Any, Sequence[Any]]]:
    return subprograms(eqn) if eqn.primitive.name in _CALLS else []


def _marks(jaxpr: Any, shape: tuple[int, ...]) -> int:
    return sum(_is_mark(eqn, shape) + sum(_marks(body, shape) for body, _ in _called(eqn)) for eqn in jaxpr.eqns)


def _evaluate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], shape: tuple[int, ...], found: list) -> list:
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))
    read = lambda v: v.val if is_literal(v) else env[v]  # noqa: E731
    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        if _is_mark(eqn, shape):
            found.append(operands[0])
        bodies = [body for body in _called(eqn) if _marks(body[0], shape)]
        outputs = _evaluate(*bodies[0], operands, shape, found) if bodies else bind(eqn, operands)
        if found:
            return []
        env |= zip(eqn.outvars, outputs, strict=True)
    return [read(v) for v in jaxpr.outvars]
