"""Transformer blocks: attention, a feed-forward layer or a mixture of them, norms and residual connections."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.core.block import compose
from jaxnn.core.checks import whole
from jaxnn.core.combinators import positionwise
from jaxnn.core.dtypes import promote
from jaxnn.core.initialize import is_undrawn, param
from jaxnn.core.layer import Layer, Spec, as_layer, from_setup
from jaxnn.core.naming import child_key, inside
from jaxnn.functional.activations import gelu
from jaxnn.functional.initializers import glorot_uniform, zeros
from jaxnn.layers.attention import split_any_mask
from jaxnn.layers.dropout import dropout
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
    """The layer of a transformer between its attentions: y = φ(x U) D (Vaswani et al. 2017), biases left out here.

    Gated, y = (φ(x G) · x U) D: SwiGLU with φ = `nn.silu`, GEGLU with `nn.gelu` (Shazeer 2020). Parameters: `up` U, `down`
    D and `gate` G, dense layers.

    Args:
        features: of the output.
        hidden: of U, and of G.
        activation: φ; `nn.gelu` is its tanh form.
        gated: whether there is a gate.
        use_bias: whether the products have biases.
        kernel_init: initializer of the kernels.
        output_init: that of D, where it is another one, such as a smaller one for deep stacks.

    Returns:
        A `Layer` from (..., n_in) to (..., features); a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: if a size is no whole number from 1, or a mask is not that of the input's leading axes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.feed_forward(4, 16, activation=nn.silu, gated=True)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 5, 4)))
        >>> sorted(params), layer(params, jnp.ones((2, 5, 4))).shape
        (['down', 'gate', 'up'], (2, 5, 4))
    """
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
    rate: float = 0.0,
) -> Layer:
    """A block of a transformer: attention, then `mlp`, each with a norm N and a residual connection.

    x ← x + f(N(x)) for f each of the two (pre-norm, Radford et al. 2019), or x ← N(x + f(x)) (post-norm, Vaswani et al.
    2017). A decoder's block has a cross-attention between them. A stack of pre-norm blocks wants one more norm at its end.

    Args:
        attention: a layer such as `nn.attention(512, 8)`; `is_causal=True` makes it a decoder's.
        mlp: a layer such as `nn.feed_forward(512, 2048)` or `nn.moe(...)`.
        cross: a second `attention`, over a memory; then the block's input is `(x, memory)`, and so is its output, so that
            blocks stack. Each of the two may be a pair with its mask.
        norm: makes a norm, called for each.
        pre_norm: whether the norms stand before the layers or after the sums.
        rate: of dropout on what is added to x.

    Returns:
        A `Layer` with the children `attention`, `mlp`, perhaps `cross`, and their norms `attention_norm`, …; the input is
        `x`, (batch, time, features), or `(x, mask)`, as for `nn.attention`, and the output is like it.

    Raises:
        ValueError: if the input is not of this form.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> encoder = nn.transformer_block(nn.attention(8, 2), nn.feed_forward(8, 32), rate=0.1)
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
    children = layers | {f"{name}_norm": norm() for name in layers} | {"dropout": dropout(rate)}

    def forward(run, x):
        if cross is not None and not (isinstance(x, tuple) and len(x) == 2):
            raise ValueError("a transformer_block with `cross` takes (x, memory), each perhaps a pair with its mask")
        x, memory = (x, None) if cross is None else x
        x, mask = split_any_mask(x)

        def given(name, x):
            x = x if mask is None or (name == "mlp" and mask.ndim != 2) else (x, mask)
            return (x, memory) if name == "cross" else x

        for name in layers:
            y = run(name, given(name, run(f"{name}_norm", x) if pre_norm else x))
            y = run("dropout", split_any_mask(y)[0])
            if y.shape != x.shape:
                raise ValueError(f"transformer_block adds {name}'s output {list(y.shape)} to its input {list(x.shape)}")
            x = jnp.add(*promote(x, y))
            x = x if pre_norm else run(f"{name}_norm", x)
        y = x if mask is None else (x, mask)
        return y if cross is None else (y, memory)

    return compose("transformer_block", children, forward, traced=True)


def moe(expert: Any, experts: int, *, k: int = 2, capacity_factor: float | None = None, router_init=glorot_uniform()) -> Layer:
    """A sparse mixture of experts: y = Σₑ gₑ(x) fₑ(x) over the k experts that a router scores highest.

    p = softmax(x R); the gates g are the k highest of p, divided by their sum (for k = 1, p itself, without which the
    router would learn nothing). With a capacity factor c an expert takes at most ⌈c · k · tokens / experts⌉ tokens of the
    batch: first choices come first, then earlier tokens, and what is beyond adds nothing (GShard, Lepikhin et al. 2020;
    Switch, Fedus et al. 2021). Without, nothing is dropped, and every expert computes every token.

    The state's `balance_loss` is that of the last batch in training: experts · Σₑ fₑ Pₑ, where fₑ is the share of the
    choices that fall on e and Pₑ the mean of pₑ: 1 if all are used alike. It is differentiable: a loss of one's own adds it,
    some 0.01 times, from the state that `apply` returns.

    Args:
        expert: a layer from (tokens, features) to (tokens, features), such as `nn.feed_forward(512, 2048)`.
        experts: how many copies of it, each with parameters of its own, stacked under `expert`.
        k: how many of them each token goes to.
        capacity_factor: c; None for no limit.
        router_init: initializer of R, `router` (features, experts).

    Returns:
        A `Layer` that keeps the leading axes; in a padded sequence `(x, mask)` what is padding takes no place.

    Raises:
        ValueError: if k is larger than `experts`, or the expert has state.

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
    if k > experts:
        raise ValueError(f"moe sends each token to k={k} of {experts} experts: k must not be larger")

    def setup(x):
        x, mask = split_any_mask(x)
        with inside("expert"):
            one = expert.setup(jax.ShapeDtypeStruct((x.size // x.shape[-1], x.shape[-1]), x.dtype))
        if one.state:
            raise ValueError(f"moe takes experts without state, and '{expert.name}' has {sorted(one.state)}")
        copies = jax.tree_util.tree_map_with_path(
            lambda p, leaf: leaf.repeated(experts, len(p)), one.params, is_leaf=is_undrawn
        )
        params = {"expert": copies, "router": param(router_init, (x.shape[-1], experts))}
        y = jax.ShapeDtypeStruct((*x.shape[:-1], one.output.shape[-1]), one.output.dtype)
        state = {"balance_loss": param(zeros, ())}
        return Spec("moe", y if mask is None else (y, mask), params, state, {"expert": one})

    def apply(params, state, x, *, key, training):
        x, mask = split_any_mask(x)
        rows = x.reshape(-1, x.shape[-1])
        valid = jnp.ones(len(rows)) if mask is None else mask.reshape(-1).astype(jnp.float32)
        logits = jnp.matmul(*promote(rows.astype(jnp.float32), params["router"]))
        p = jax.nn.softmax(logits.astype(jnp.float32), -1)
        top, chosen = jax.lax.top_k(p, k)
        gates = top if k == 1 else top / top.sum(-1, keepdims=True)
        choices = jax.nn.one_hot(chosen, experts) * valid[:, None, None]  # (tokens, k, experts)
        if training:
            n = jnp.maximum(valid.sum(), 1)
            balance = experts * jnp.sum(choices.sum((0, 1)) / (n * k) * (p * valid[:, None]).sum(0) / n)
            state = {"balance_loss": balance.astype(state["balance_loss"].dtype)}
        keys = None if key is None else jax.random.split(child_key(key, "expert"), experts)

        def run(params, key, x):
            with inside("expert"):
                return expert.apply(params, {}, x, key=key, training=training)[0]

        if capacity_factor is None:
            ys = jax.vmap(run, (0, None if keys is None else 0, None))(params["expert"], keys, rows)
            share = jnp.einsum("nk,nke->ne", gates, choices)
            y = jnp.einsum("ne,eno->no", share.astype(ys.dtype), ys)
        else:
            places = _places(choices, math.ceil(capacity_factor * k * len(rows) / experts))  # (tokens, k, experts, capacity)
            sent = jnp.einsum("nkec,ni->eci", places.astype(rows.dtype), rows)
            ys = jax.vmap(run, (0, None if keys is None else 0, 0))(params["expert"], keys, sent)
            y = jnp.einsum("nkec,nk,eco->no", places.astype(ys.dtype), gates.astype(ys.dtype), ys)
        y = y.reshape(*x.shape[:-1], -1)
        return (y if mask is None else (y, mask)), state

    return from_setup(setup, apply, "moe")


def _places(choices: jax.Array, capacity: int) -> jax.Array:
    """Each choice's place in its expert's queue, one-hot: first choices of all tokens first. Beyond capacity all zero."""
    tokens, k, experts = choices.shape
    queue = choices.swapaxes(0, 1).reshape(k * tokens, experts)
    before = (jnp.cumsum(queue, 0) - queue).reshape(k, tokens, experts).swapaxes(0, 1)
    return jax.nn.one_hot(before.astype(jnp.int32), max(capacity, 1)) * choices[..., None]
