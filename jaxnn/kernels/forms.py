"""The one rule that picks how an operation is written, XLA's own form or ours, and in what precision sums are taken."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp

from jaxnn._jax import has_sharded_type, platform
from jaxnn._jax import varying_axes as varying  # noqa: F401
from jaxnn.core.primitives import chosen_form, definitions, definitions_are_open  # noqa: F401


def choose_form(form: str | None, ours: str, *operands: jax.Array) -> str:
    """Pick the form of an operation: ours on a CPU, XLA's elsewhere, unless the caller forces one.

    On accelerators XLA hands convolutions and pooling to tuned libraries; on a CPU their gradients fall to naive loops.
    Arrays with a sharding in their type (meshes with explicit axes, outside `shard_map`) take XLA's form too: only
    its operations have rules for such types.

    Args:
        form: None to let the rule decide, "xla" or `ours` to force.
        ours: The name of our own form of this operation.
        *operands: The arrays it works on.

    Returns:
        "xla" or `ours`.

    Raises:
        ValueError: If the form is none of these.

    Example:
        >>> choose_form("xla", "canonical")
        'xla'
    """
    if form is None and definitions_are_open():
        return "xla"
    if form is None:
        sharded = any(map(has_sharded_type, operands))
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
    with chosen_form(operation, form):
        yield form


def widen(x: jax.Array) -> jax.Array:
    """Cast half precision to float32, in which sums are taken, and leave every other dtype alone.

    Example:
        >>> import jax.numpy as jnp
        >>> widen(jnp.zeros(1, jnp.bfloat16)).dtype, widen(jnp.zeros(1, jnp.int8)).dtype
        (dtype('float32'), dtype('int8'))
    """
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x
