"""Low-rank adaptation: a trained layer that learns a little more."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.checks import whole
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, Spec, as_layer, from_setup
from jaxnn.core.naming import inside
from jaxnn.functional.initializers import lecun_normal, zeros


def lora(layer: Any, rank: int, *, alpha: float | None = None) -> Layer:
    """A layer whose kernel is W + (α/r) A B: the layer's own W, and A B of rank r to learn (LoRA, Hu et al. 2021).

    Parameters: `base`, the layer's own; `down` A (n_in, rank); `up` B (rank, n_out), zero at first, so that the layer
    starts as it was. n_out is the kernel's last axis, n_in all others: for a convolution that is one of `rank` channels
    followed by a 1×1 convolution. Freezing the layer is the optimizer's work: `nn.by_path({"*/base/*": None}, otherwise=...)`.

    Args:
        layer: a layer with a `kernel`: `dense`, `conv`, …
        rank: r, much smaller than the kernel's sides.
        alpha: α; by default r, so that the factor is 1.

    Returns:
        A `Layer`; `merge_lora` makes the parameters those of `layer` alone.

    Raises:
        ValueError: If the layer has no kernel.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> x, layer = jnp.ones((2, 4)), nn.dense(3)
        >>> trained, _ = layer.init(jax.random.key(0), x)
        >>> params, state = nn.lora(layer, 2).init(jax.random.key(1), x)
        >>> params = {**params, "base": trained}
        >>> (nn.lora(layer, 2)(params, x) == layer(trained, x)).all().item()
        True
    """
    layer, rank = as_layer(layer), whole("lora", "rank", rank)

    def setup(x):
        with inside("base"):
            base = layer.setup(x)
        kernel = base.params.get("kernel")
        if kernel is None:
            raise ValueError(f"lora takes a layer with a kernel, and '{layer.name}' has {sorted(base.params) or 'none'}")
        n_out = kernel.shape[-1]
        own = {"down": param(lecun_normal(), (kernel.size // n_out, rank)), "up": param(zeros, (rank, n_out))}
        state = {"base": base.state} if base.state else {}
        return Spec("lora", base.output, {"base": base.params, **own}, state, {"base": base})

    def apply(params, state, x, *, key, training):
        merged = merge_lora(params, alpha=alpha)
        with inside("base"):
            y, after = layer.apply(merged, state.get("base", {}), x, key=key, training=training)
        return y, {"base": after} if after else state

    return from_setup(setup, apply, "lora")


def merge_lora(params: Any, *, alpha: float | None = None) -> Any:
    """The parameters with every `lora` in them merged into its kernel, W + (α/r) A B: those of the model without `lora`.

    The network computes the same, at the cost it had before (Hu et al. 2021).

    Args:
        params: Of a model, or of a layer, made with `lora`.
        alpha: As `lora` was given it.

    Returns:
        A tree in which each `{"base": ..., "down": A, "up": B}` is its base with the kernel W + (α/r) A B.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> x, adapted = jnp.ones((2, 4)), nn.serial(dense=nn.lora(nn.dense(3), 2))
        >>> params, state = adapted.init(jax.random.key(0), x)
        >>> merged = nn.merge_lora(params)
        >>> (nn.serial(dense=nn.dense(3))(merged, x) == adapted(params, x)).all().item(), sorted(merged["dense"])
        (True, ['bias', 'kernel'])
    """
    if not isinstance(params, dict):
        return params
    if params.keys() != {"base", "down", "up"}:
        return {name: merge_lora(part, alpha=alpha) for name, part in params.items()}
    base, rank = params["base"], params["down"].shape[-1]
    change = jnp.matmul(params["down"], params["up"], precision=jax.lax.Precision.HIGHEST)
    kernel = base["kernel"]
    factor = 1.0 if alpha is None else alpha / rank
    return {**base, "kernel": kernel + (factor * change).reshape(kernel.shape).astype(kernel.dtype)}
