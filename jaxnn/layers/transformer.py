"""Transformer blocks: attention, feed-forward layers and mixtures of experts, with norms and residual connections."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.block import compose
from jaxnn.core.checks import function, number, whole
from jaxnn.core.combinators import positionwise
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.initialize import is_undrawn, param
from jaxnn.core.layer import Layer, Spec, as_layer, from_setup
from jaxnn.core.masks import split_mask, zero_padding
from jaxnn.core.naming import child_key, inside
from jaxnn.core.text import array_text
from jaxnn.functional.activations import gelu
from jaxnn.functional.initializers import glorot_uniform, zeros
from jaxnn.layers.dropout import dropout as dropout_layer
from jaxnn.layers.linear import dense
from jaxnn.layers.normalization import layer_norm


def feed_forward(
    features: int,
    hidden: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = gelu,
    gated: bool = False,
    use_bias: bool = True,
    kernel_init=glorot_uniform(),
    output_init=None,
) -> Layer:
    """The feed-forward layer of a transformer: y = φ(x U) D, without the biases (Vaswani et al. 2017).

    Gated, it is y = (φ(x G) · x U) D: SwiGLU with φ = `nn.silu`, GEGLU with `nn.gelu` (Shazeer 2020). Its children are the
    dense layers `up` U, `down` D and `gate` G.

    Args:
        features: The number of output features.
        hidden: The number of output features of U and of G.
        activation: The activation φ; `nn.gelu` uses the tanh approximation.
        gated: Whether there is a gate.
        use_bias: Whether the dense layers have biases.
        kernel_init: Initializer of the kernels.
        output_init: Initializer of D, by default `kernel_init`; deep stacks use a smaller one.

    Returns:
        A `Layer` from (..., n_in) to (..., features); a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If a size is less than 1, or the mask's shape is not that of the input's leading axes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.feed_forward(4, 16, activation=nn.silu, gated=True)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 5, 4)))
        >>> sorted(params), layer(params, jnp.ones((2, 5, 4))).shape
        (['down', 'gate', 'up'], (2, 5, 4))
    """
    function("feed_forward", "activation", activation, "of an array")
    sizes = {"up": hidden, "down": features} | ({"gate": hidden} if gated else {})
    inits = dict.fromkeys(sizes, kernel_init) | {"down": output_init or kernel_init}
    children = {name: dense(n, use_bias=use_bias, kernel_init=inits[name]) for name, n in sizes.items()}

    def forward(run, x):
        return run("down", activation(run("gate", x)) * run("up", x) if gated else activation(run("up", x)))

    return positionwise(compose("feed_forward", children, forward, traced=True))


def transformer_block(
    attention: Any,
    mlp: Any,
    *,
    cross: Any = None,
    norm: Callable[[], Layer] = layer_norm,
    pre_norm: bool = True,
    dropout: float = 0.0,
) -> Layer:
    """A transformer block: attention and then an MLP, each with a norm N and a residual connection.

    For each of the two layers f: x ← x + f(N(x)) (pre-norm, Radford et al. 2019) or x ← N(x + f(x)) (post-norm, Vaswani et
    al. 2017). The block of a decoder has cross-attention between them. A stack of pre-norm blocks needs a norm at its end.

    Args:
        attention: A layer such as `nn.attention(512, 8)`; with `is_causal=True` for a decoder.
        mlp: A layer such as `nn.feed_forward(512, 2048)` or `nn.moe(...)`.
        cross: A second attention layer, over a memory. The block's input is then `(x, memory)`, and so is its output, so
            that blocks stack. Each of the two may be a pair with its mask.
        norm: A function that returns a norm; called once per norm.
        pre_norm: Whether the norms come before the layers, rather than after the sums.
        dropout: The dropout rate on what is added to x.

    Returns:
        A `Layer` with the children `attention`, `mlp`, `cross` if there is one, and their norms `attention_norm`, …. Its
        input is `x`, (batch, time, features), or `(x, mask)`, as for `nn.attention`; its output has the same form.

    Raises:
        ValueError: If the input does not have this form.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> encoder = nn.transformer_block(nn.attention(8, 2), nn.feed_forward(8, 32), dropout=0.1)
        >>> decoder = nn.transformer_block(
        ...     nn.attention(8, 2, is_causal=True), nn.feed_forward(8, 32), cross=nn.attention(8, 2)
        ... )
        >>> model = nn.serial(nn.parallel(nn.identity, nn.repeat(encoder, 2)), nn.repeat(decoder, 2), lambda ys: ys[0])
        >>> pair = jnp.ones((2, 5, 8)), jnp.ones((2, 7, 8))
        >>> params, state = model.init(jax.random.key(0), pair)
        >>> model(params, pair).shape
        (2, 5, 8)
    """
    layers = {"attention": as_layer(attention)} | ({} if cross is None else {"cross": as_layer(cross)}) | {"mlp": as_layer(mlp)}
    children = layers | {f"{name}_norm": norm() for name in layers} | {"dropout": dropout_layer(dropout)}

    def forward(run, x):
        if cross is not None and not (isinstance(x, tuple) and len(x) == 2):
            raise ValueError("transformer_block with `cross` takes (x, memory), each of which may be a pair with its mask")
        x, memory = (x, None) if cross is None else x
        x, mask = split_mask(x, any_shape=True)
        x = zero_padding(x, mask if mask is not None and mask.ndim == 2 else None)

        def input_of(name, x):
            x = x if mask is None or (name == "mlp" and mask.ndim != 2) else (x, mask)
            return (x, memory) if name == "cross" else x

        for name in layers:
            y = run(name, input_of(name, run(f"{name}_norm", x) if pre_norm else x))
            y = split_mask(y, any_shape=True)[0]
            if getattr(y, "shape", None) != x.shape:  # such as the pair of attention(return_weights=True)
                raise ValueError(
                    f"transformer_block adds {name}'s output to its input, expected {array_text(x)}, got {array_text(y)}"
                )
            y = run("dropout", y)
            x = jnp.add(*promote(x, y))
            x = x if pre_norm else run(f"{name}_norm", x)
        y = x if mask is None else (x, mask)
        return y if cross is None else (y, memory)

    return compose("transformer_block", children, forward, traced=True)


def moe(expert: Any, experts: int, *, k: int = 2, capacity_factor: float | None = None, router_init=glorot_uniform()) -> Layer:
    """A sparse mixture of experts: y = Σₑ gₑ(x) fₑ(x) over the k experts with the highest router scores.

    With p = softmax(x R), the gates g are the k largest entries of p, divided by their sum; for k = 1 they are p itself, since
    the router would otherwise learn nothing. With a capacity factor c an expert takes at most ⌈c · k · tokens / experts⌉
    tokens of the batch: first choices before second choices, then earlier tokens before later ones; tokens beyond the
    capacity contribute nothing (GShard, Lepikhin et al. 2020; Switch, Fedus et al. 2021). Without a capacity factor no token
    is dropped, and every expert computes every token.

    The entry `balance_loss` of the state belongs to the last training batch: experts · Σₑ fₑ Pₑ, where fₑ is the fraction of
    the choices that fall on expert e and Pₑ the mean of pₑ. It is 1 if all experts are used equally. It is differentiable: a
    custom loss can add it, with a factor of about 0.01, from the state that `apply` returns.

    Args:
        expert: A layer from (tokens, features) to (tokens, features), such as `nn.feed_forward(512, 2048)`.
        experts: The number of experts, copies of the layer with their own parameters, stacked under `expert`.
        k: The number of experts per token.
        capacity_factor: The capacity factor c; None for no limit.
        router_init: Initializer of R, `router` (features, experts).

    Returns:
        A `Layer` that keeps the leading axes; the padding of a padded sequence `(x, mask)` takes no capacity.

    Raises:
        ValueError: If `k` is larger than `experts`, or the expert has state.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.moe(nn.feed_forward(4, 16), 8, k=2, capacity_factor=1.25)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 5, 4)))
        >>> apply = jax.jit(layer.apply, static_argnames="training")
        >>> y, state = apply(params, state, jnp.ones((2, 5, 4)), training=True)
        >>> y.shape, params["expert"]["up"]["kernel"].shape, state["balance_loss"].shape
        ((2, 5, 4), (8, 4, 16), ())
    """
    expert, experts, k = as_layer(expert), whole("moe", "experts", experts), whole("moe", "k", k)
    if capacity_factor is not None:
        number("moe", "capacity_factor", capacity_factor, 0, above=True)
    if k > experts:
        raise ValueError(f"moe takes k of at most the number of experts, {experts}, got {k}")

    def setup(x):
        x, mask = split_mask(x)
        with inside("expert"):
            one = expert.setup(jax.ShapeDtypeStruct((math.prod(x.shape[:-1]), x.shape[-1]), x.dtype))
        if one.state:
            raise ValueError(f"moe takes experts without state, got '{expert.name}' with the state {sorted(one.state)}")
        copies = jax.tree_util.tree_map_with_path(
            lambda p, leaf: leaf.repeated(experts, len(p)), one.params, is_leaf=is_undrawn
        )
        params = {"expert": copies, "router": param(router_init, (x.shape[-1], experts))}
        y = jax.ShapeDtypeStruct((*x.shape[:-1], one.output.shape[-1]), one.output.dtype)
        state = {"balance_loss": param(zeros, ())}
        return Spec("moe", y if mask is None else (y, mask), params, state, {"expert": one})

    def apply(params, state, x, *, key, training):
        x, mask = split_mask(x)
        tokens = zero_padding(x, mask).reshape(math.prod(x.shape[:-1]), x.shape[-1])
        p = jax.nn.softmax(jnp.matmul(*promote(at_least_float32(tokens), params["router"])), -1)
        valid = jnp.ones(len(tokens), p.dtype) if mask is None else mask.reshape(-1).astype(p.dtype)
        top, chosen = jax.lax.top_k(p, k)
        gates = top if k == 1 else top / top.sum(-1, keepdims=True)
        choices = jax.nn.one_hot(chosen, experts, dtype=p.dtype) * valid[:, None, None]  # (tokens, k, experts)
        if training:
            n = jnp.maximum(valid.sum(), 1)
            balance = experts * jnp.sum(choices.sum((0, 1)) / (n * k) * (p * valid[:, None]).sum(0) / n)
            state = {"balance_loss": balance.astype(state["balance_loss"].dtype)}
        keys = None if key is None else jax.random.split(child_key(key, "expert"), experts)

        def run(params, key, x):
            with inside("expert"):
                return expert.apply(params, {}, x, key=key, training=training)[0]

        if capacity_factor is None:
            ys = jax.vmap(run, (0, None if keys is None else 0, None))(params["expert"], keys, tokens)
            share = jnp.einsum("nk,nke->ne", gates, choices)
            y = jnp.einsum("ne,eno->no", share.astype(ys.dtype), ys)
        else:
            slots = _slots(choices, math.ceil(capacity_factor * k * len(tokens) / experts))  # (tokens, k, experts, capacity)
            sent = jnp.einsum("nkec,ni->eci", slots.astype(tokens.dtype), tokens)
            ys = jax.vmap(run, (0, None if keys is None else 0, 0))(params["expert"], keys, sent)
            y = jnp.einsum("nkec,nk,eco->no", slots.astype(ys.dtype), gates.astype(ys.dtype), ys)
        y = y.reshape(*x.shape[:-1], y.shape[-1])
        return (y if mask is None else (y, mask)), state

    return from_setup(setup, apply, "moe")


def _slots(choices: jax.Array, capacity: int) -> jax.Array:
    """The slot of each choice in its expert's capacity, one-hot; all zero beyond it. First choices come before second ones."""
    tokens, k, experts = choices.shape
    queue = choices.swapaxes(0, 1).reshape(k * tokens, experts)
    before = (jnp.cumsum(queue, 0) - queue).reshape(k, tokens, experts).swapaxes(0, 1)
    return jax.nn.one_hot(before.astype(jnp.int32), max(capacity, 1), dtype=choices.dtype) * choices[..., None]
