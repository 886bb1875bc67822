"""The rule that chooses the form of an operation, XLA's or ours, and the precision of sums."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp

from jaxnn._jax import has_sharded_type, platform
from jaxnn.core.primitives import chosen_form, definitions_are_open


def choose_form(form: str | None, ours: str, *operands: jax.Array) -> str:
    """Choose the form of an operation: ours on a CPU, XLA's elsewhere, unless the caller forces one.

    On accelerators XLA passes convolutions and pooling to tuned libraries; on a CPU their gradients become naive loops.
    Arrays with a sharding in their type (meshes with explicit axes, outside of `shard_map`) use XLA's form too, since only
    its operations have rules for such types. Inside of `definitions` XLA's form is used everywhere.

    Args:
        form: None lets the rule decide, "xla" or `ours` forces a form.
        ours: The name of our form of this operation.
        *operands: The operation's arrays.

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
def form_scope(operation: str, form: str | None, ours: str, *operands: jax.Array) -> Iterator[str]:
    """Choose the form as `choose_form` does, and add a named scope to what is traced inside, such as `max_pool[taps]`.

    `nn.summary(model, x, kernels=True)` and profilers show it.

    Example:
        >>> with form_scope("max_pool", "xla", "taps") as form:
        ...     form
        'xla'
    """
    form = choose_form(form, ours, *operands)
    with chosen_form(operation, form):
        yield form


def widen(x: jax.Array) -> jax.Array:
    """Cast half precision to float32, in which sums are computed; leave other dtypes unchanged.

    Example:
        >>> import jax.numpy as jnp
        >>> widen(jnp.zeros(1, jnp.bfloat16)).dtype, widen(jnp.zeros(1, jnp.int8)).dtype
        (dtype('float32'), dtype('int8'))
    """
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x
