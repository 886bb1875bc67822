"""The one rule that picks how an operation is written, XLA's own form or ours, and in what precision sums are taken."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

_definitions = jax.make_user_context(False)  # part of the key of JAX's caches: no trace is taken for the other kind


@contextmanager
def definitions() -> Iterator[None]:
    """While this is open, what is traced takes XLA's form of an operation, which is its definition, on every backend.

    Operations are counted in it: a fast form computes the same with more of them, or fewer.

    Example:
        >>> with definitions():
        ...     choose_form(None, "canonical")
        'xla'
    """
    with _definitions(True):
        yield


def platform() -> str:
    """Name of the platform that a computation traced now will run on: "cpu", "gpu" or "tpu".

    Example:
        >>> platform() in ("cpu", "gpu", "tpu")
        True
    """
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else getattr(device, "platform", str(device))


def choose_form(form: str | None, ours: str, *operands: jax.Array) -> str:
    """Pick the form of an operation: ours on a CPU, XLA's elsewhere, unless the caller forces one.

    On accelerators XLA hands convolutions and pooling to tuned libraries; on a CPU their gradients fall to naive loops.
    Arrays with a sharding in their type (meshes with explicit axes, outside ``shard_map``) take XLA's form too: only
    its operations have rules for such types.

    Args:
        form: None to let the rule decide, "xla" or ``ours`` to force.
        ours: The name of our own form of this operation.
        *operands: The arrays it works on.

    Returns:
        "xla" or ``ours``.

    Raises:
        ValueError: If the form is none of these.

    Example:
        >>> choose_form("xla", "canonical")
        'xla'
    """
    if form is None and _definitions.value:
        return "xla"
    if form is None:
        sharded = any(axis is not None for x in operands for axis in jax.typeof(x).sharding.spec)
        return ours if platform() == "cpu" and not sharded else "xla"
    if form not in ("xla", ours):
        raise ValueError(f'form must be None, "xla" or "{ours}", got {form!r}')
    return form


@contextmanager
def chosen(operation: str, form: str | None, ours: str, *operands: jax.Array) -> Iterator[str]:
    """:func:`choose_form`, with the choice as a name around what is traced inside, such as ``max_pool[taps]``.

    `nn.summary(model, x, kernels=True)` and profilers show it.

    Example:
        >>> with chosen("max_pool", "xla", "taps") as form:
        ...     form
        'xla'
    """
    form = choose_form(form, ours, *operands)
    with jax.named_scope(f"{operation}[{form}]"):  # no layer has brackets in its name
        yield form


def widen(x: jax.Array) -> jax.Array:
    """Cast half precision to float32, in which sums are taken, and leave every other dtype alone.

    Example:
        >>> import jax.numpy as jnp
        >>> widen(jnp.zeros(1, jnp.bfloat16)).dtype, widen(jnp.zeros(1, jnp.int8)).dtype
        (dtype('float32'), dtype('int8'))
    """
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def varying(x: jax.Array) -> frozenset:
    """Mesh axes over which an array varies: inside ``shard_map`` the operands of some primitives must have the same.

    Example:
        >>> varying(jnp.zeros(1))
        frozenset()
    """
    kind: Any = jax.typeof(x)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # as jax spells it
