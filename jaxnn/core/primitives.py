"""What is known of primitives that JAX does not define, and of the forms that `nn.kernels` chose.

A primitive describes itself here where it is defined; tools that read programs look it up. So neither needs to know
the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn._jax import trace_switch

_definitions = trace_switch(False)


class Description(NamedTuple):
    """What is known of a primitive.

    Attributes:
        flops: The number of floating-point operations of an equation, or None.
        form: The form in which an equation is computed, such as `"conv taps"`, or None.
    """

    flops: Callable[[Any], int] | None = None
    form: Callable[[Any], str] | None = None


_DESCRIPTIONS: dict[str, Description] = {}


def describe(
    primitive_name: str, *, flops: Callable[[Any], int] | None = None, form: Callable[[Any], str] | None = None
) -> None:
    """Enter a primitive into the table.

    Args:
        primitive_name: Its name, as equations show it.
        flops: From an equation to its number of floating-point operations.
        form: From an equation to the form in which it is computed, such as `"conv taps"`.

    Example:
        >>> describe("fused_example", flops=lambda eqn: 2 * eqn.outvars[0].aval.size)
        >>> is_described("fused_example")
        True
    """
    _DESCRIPTIONS[primitive_name] = Description(flops, form)


def is_described(primitive_name: str) -> bool:
    """Whether a primitive is in the table.

    Example:
        >>> is_described("add")
        False
    """
    return primitive_name in _DESCRIPTIONS


def flops_of(eqn: Any) -> int | None:
    """The number of floating-point operations of an equation; None if its primitive does not tell them.

    Example:
        >>> [eqn] = jax.make_jaxpr(lambda x: x + 1.0)(2.0).eqns
        >>> flops_of(eqn) is None
        True
    """
    flops = _DESCRIPTIONS.get(eqn.primitive.name, Description()).flops
    return None if flops is None else flops(eqn)


def form_of(eqn: Any) -> str | None:
    """The form in which an equation is computed, such as `"conv taps"`; None if its primitive does not tell it.

    Example:
        >>> [eqn] = jax.make_jaxpr(lambda x: x + 1.0)(2.0).eqns
        >>> form_of(eqn) is None
        True
    """
    form = _DESCRIPTIONS.get(eqn.primitive.name, Description()).form
    return None if form is None else form(eqn)


@contextmanager
def definitions() -> Iterator[None]:
    """While this is open, a model traces to JAX's own primitives only, on every backend.

    Each operation of `nn.kernels` takes XLA's form, which is its definition: a convolution, for instance, becomes
    `lax.conv_general_dilated`. This serves tools that know no other primitives, and those that count operations, since a
    fast form computes the same with more or fewer of them. Values agree up to rounding.

    The setting is part of the key of JAX's caches, so a jitted function is traced anew inside, and its program from outside
    is not taken, nor the other way round. It acts while a function is traced: a jaxpr, an exported or an ahead-of-time
    compiled function that was made outside stays what it is. The setting belongs to the thread that opens it.

    Returns:
        A context manager.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> conv = lambda x: nn.kernels.conv(x, jnp.ones((3, 1, 1)))
        >>> with nn.kernels.definitions():
        ...     print(jax.make_jaxpr(conv)(jnp.ones((1, 5, 1))).eqns[-1].primitive)
        conv_general_dilated
    """
    with _definitions(True):
        yield


def definitions_are_open() -> bool:
    """Whether the caller is inside of `definitions`.

    Example:
        >>> with definitions():
        ...     definitions_are_open()
        True
    """
    return _definitions.value


@contextmanager
def chosen_form(operation: str, form: str) -> Iterator[None]:
    """Write the form of an operation into the names around what is traced inside, such as `max_pool[taps]`.

    Example:
        >>> def f(x):
        ...     with chosen_form("max_pool", "taps"):
        ...         return x + 1
        >>> from jaxnn._jax import scope_names
        >>> [eqn] = jax.make_jaxpr(f)(2.0).eqns
        >>> scope_names(eqn)
        ('max_pool[taps]',)
    """
    with jax.named_scope(f"{operation}[{form}]"):  # no layer's name has brackets
        yield


def form_in_scope(name: str) -> str | None:
    """The form that a name of `chosen_form` tells; None for any other name.

    Example:
        >>> form_in_scope("max_pool[taps]"), form_in_scope("dense")
        ('max_pool taps', None)
    """
    return name[:-1].replace("[", " ") if name.endswith("]") else None


def convolution_products(
    sizes: Iterable[tuple[int, int, int]],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
) -> int:
    """The number of products of an input element and a kernel element in a convolution of one input and one output channel.

    Padding and the zeros of a dilation are no input elements.

    Args:
        sizes: The sizes of input, kernel and output along each spatial axis.
        strides: The strides.
        padding: A (low, high) pair per spatial axis.
        lhs_dilation: The dilation of the input.
        rhs_dilation: The dilation of the kernel.

    Example:
        >>> convolution_products([(4, 3, 4)], (1,), ((1, 1),), (1,), (1,))
        10
    """
    total = 1
    for (n, k, m), s, (low, _), d, r in zip(sizes, strides, padding, lhs_dilation, rhs_dilation, strict=True):
        position = np.arange(m)[:, None] * s + np.arange(k) * r - low
        total *= int(((position >= 0) & (position <= (n - 1) * d) & (position % d == 0)).sum())
    return total
