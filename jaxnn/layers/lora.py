"""Low-rank adaptation (LoRA) of trained layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.checks import number, whole
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, Spec, as_layer, from_setup
from jaxnn.core.naming import inside
from jaxnn.core.text import listed
from jaxnn.functional.initializers import lecun_normal, zeros


def lora(layer: Any, rank: int, *, alpha: float | None = None) -> Layer:
    """Add a low-rank product to a layer's kernel, W + (α/r) A B with A B of rank r (LoRA, Hu et al. 2021).

    Parameters: `base`, those of the layer itself; `down`, A (n_in, rank); `up`, B (rank, n_out), initially zero, so that the
    output is unchanged at first. n_out is the size of the kernel's last axis, n_in that of all others together: for a
    convolution, A B is a convolution to `rank` channels followed by a 1×1 convolution. To freeze the layer, leave its
    parameters out in the optimizer: `nn.by_path({"*/base/*": None}, otherwise=...)`.

    Args:
        layer: A layer with a parameter `kernel`, such as `dense` or `conv`.
        rank: The rank r, usually much smaller than n_in and n_out.
        alpha: The scale α; by default r, so that the factor is 1.

    Returns:
        A `Layer`; `merge_lora` converts its parameters to those of `layer`.

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
    alpha = None if alpha is None else number("lora", "alpha", alpha)

    def setup(x):
        with inside("base"):
            base = layer.setup(x)
        kernel = base.params.get("kernel")
        if kernel is None:
            raise ValueError(f"lora takes a layer with a kernel, got '{layer.name}' with parameters {listed(base.params)}")
        n_out = kernel.shape[-1]
        factors = {"down": param(lecun_normal(), (kernel.size // n_out, rank)), "up": param(zeros, (rank, n_out))}
        state = {"base": base.state} if base.state else {}
        return Spec("lora", base.output, {"base": base.params, **factors}, state, {"base": base})

    def apply(params, state, x, *, key, training):
        merged = merge_lora(params, alpha=alpha)
        with inside("base"):
            y, after = layer.apply(merged, state.get("base", {}), x, key=key, training=training)
        return y, {"base": after} if after else state

    return from_setup(setup, apply, "lora")


def merge_lora(params: Any, *, alpha: float | None = None) -> Any:
    """Merge every `lora` in a tree of parameters into its kernel, W + (α/r) A B (Hu et al. 2021).

    The model without `lora` then computes the same values, at its original cost.

    Args:
        params: The parameters of a model or layer that contains `lora`.
        alpha: The value that `lora` was given.

    Returns:
        A tree in which each `{"base": ..., "down": A, "up": B}` is replaced by its base with the kernel W + (α/r) A B.

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
    if params.keys() != {"base", "down", "up"} or isinstance(params["down"], dict):  # a block may have such children
        return {name: merge_lora(part, alpha=alpha) for name, part in params.items()}
    base, rank = params["base"], params["down"].shape[-1]
    change = jnp.matmul(params["down"], params["up"], precision=jax.lax.Precision.HIGHEST)
    kernel = base["kernel"]
    factor = 1.0 if alpha is None else alpha / rank
    return {**base, "kernel": kernel + (factor * change).reshape(kernel.shape).astype(kernel.dtype)}
