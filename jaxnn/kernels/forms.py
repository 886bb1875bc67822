"""The one rule that picks how an operation is written: XLA's own form, or ours where ours is faster."""

import jax


def platform() -> str:
    """Name of the platform that a computation traced now will run on: "cpu", "gpu" or "tpu".

    Example:
        >>> platform() in ("cpu", "gpu", "tpu")
        True
    """
    device = jax.config.jax_default_device
    return jax.default_backend() if device is None else getattr(device, "platform", str(device))


def choose_form(form: str | None, ours: str) -> str:
    """Pick the form of an operation: ours on a CPU, XLA's elsewhere, unless the caller forces one.

    On accelerators XLA hands convolutions and pooling to tuned libraries; on a CPU their gradients fall to naive loops.

    Args:
        form: None to let the rule decide, "xla" or ``ours`` to force.
        ours: The name of our own form of this operation.

    Returns:
        "xla" or ``ours``.

    Raises:
        ValueError: If the form is none of these.

    Example:
        >>> choose_form("xla", "canonical")
        'xla'
    """
    if form is None:
        return ours if platform() == "cpu" else "xla"
    if form not in ("xla", ours):
        raise ValueError(f'form must be None, "xla" or "{ours}", got {form!r}')
    return form
