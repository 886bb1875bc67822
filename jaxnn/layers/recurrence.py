"""What recurrent layers share: the layer of a cell, both directions of time, and a carry that comes in and goes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.block import compose
from jaxnn.core.combinators import split_mask
from jaxnn.core.dtypes import promote
from jaxnn.core.initialize import draw, param
from jaxnn.core.layer import Layer, Spec, as_layer, from_setup
from jaxnn.core.trees import abstract
from jaxnn.functional.initializers import zeros


def bidirectional(layer: Any) -> Layer:
    """A recurrent layer over a sequence and over its reverse, outputs side by side (Schuster & Paliwal 1997).

    y = [f(x), reverse(g(reverse(x)))], f and g of one kind with parameters of their own.

    Args:
        layer: a recurrent layer, such as `nn.lstm(8)`, from (batch, time, ...), or `(x, mask)`.

    Returns:
        A `Layer` with the children `forward` and `backward`; its output has twice the features. Padding is padding in
        both directions, and with `return_sequences=False` each direction gives its own last output.

    Raises:
        TypeError: If `layer` is none.
        ValueError: If the input is not what `layer` takes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.bidirectional(nn.lstm(4))
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 5, 3)))
        >>> layer(params, jnp.ones((2, 5, 3))).shape, sorted(params)
        ((2, 5, 8), ['backward', 'forward'])
    """
    layer = as_layer(layer)

    def forward(run, x):
        there, back = run("forward", x), run("backward", jax.tree.map(lambda a: jnp.flip(a, 1), x))
        (there, mask), (back, _) = split_mask(there), split_mask(back)
        if there.ndim == split_mask(x)[0].ndim:  # whole sequences
            back = jnp.flip(back, 1)
        y = jnp.concatenate([there, back], -1)
        return y if mask is None else (y, mask)

    return compose("bidirectional", {"forward": layer, "backward": layer}, forward, traced=True)


def carried(layer: Any) -> Layer:
    """A layer with state whose state comes with the input and goes with the output: `(carry, x)` to `(carry, y)`.

    (carry, x) → (carry', y) with (y, carry') = apply(params, carry, x): so a recurrent layer's final carry can be
    another's initial one, as from an encoder to a decoder (Sutskever et al. 2014).

    Args:
        layer: a layer with state, such as `nn.lstm(8, stateful=True)` or a stack of them.

    Returns:
        A `Layer` without state. A carry of `None` is the initial state.

    Raises:
        ValueError: If the input is no pair.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> def translate(run, xs):
        ...     carry, _ = run("encoder", (None, xs[0]))
        ...     return run("decoder", (carry, xs[1]))[1]
        >>> lstm = nn.carried(nn.lstm(4, stateful=True))
        >>> model = nn.block(translate, encoder=lstm, decoder=lstm)
        >>> pair = jnp.ones((2, 7, 3)), jnp.ones((2, 5, 6))
        >>> params, state = model.init(jax.random.key(0), pair)
        >>> model(params, pair).shape
        (2, 5, 4)
    """
    layer = as_layer(layer)

    def both(x):
        if not isinstance(x, tuple) or len(x) != 2:
            raise ValueError("carried takes a pair (carry, x), the carry None at the start")
        return x

    def setup(x):
        spec = layer.setup(both(x)[1])
        return Spec("carried", (abstract(spec.state), spec.output), spec.params, {}, {})

    def apply(params, state, x, *, key, training):
        carry, x = both(x)
        if carry is None:
            carry = draw(jax.random.key(0), {}, layer.setup(abstract(x)).state)[1]
        y, carry = layer.apply(params, carry, x, key=key, training=training)
        return (carry, y), state

    return from_setup(setup, apply, "carried")


def gates(n: int, features: int, kernel_init, recurrent_init, bias_init, width: int | None = None) -> Callable[[int], dict]:
    """The parameters of `n` affine maps of x, (n_in,), and h, (width,), side by side, for a given n_in."""

    def parameters(n_in):
        return {
            "kernel": param(kernel_init, (n_in, n * features)),
            "recurrent_kernel": param(recurrent_init, (width or features, n * features)),
            "bias": param(bias_init, (n * features,)),
        }

    return parameters


def recurrent(
    name: str,
    parameters: Callable[[int], dict],
    cell: Callable[[dict, jax.Array, tuple], tuple],
    carry: dict[str, int],
    return_sequences: bool,
    stateful: bool,
    weights: Callable[[dict], tuple] | None = None,
) -> Layer:
    """The layer of a cell of `kernels.recurrence`.

    Args:
        name: The layer's.
        parameters: n_in ↦ the parameters, of which one is `kernel` (n_in, ...).
        cell: (params, z, carry) ↦ carry, a tuple of which h is the first.
        carry: Names and widths, h first.
        return_sequences: Whether the output is every h or the last.
        stateful: Whether the carry is kept in the state.
        weights: Params ↦ W, U and b of the recurrence; by default `kernel`, `recurrent_kernel` and `bias`.

    Returns:
        The `Layer`.
    """

    def init(key, x):
        x, _ = checked(name, x)
        state = {part: param(zeros, (x.shape[0], width)) for part, width in carry.items()}
        return parameters(x.shape[-1]), state if stateful else {}

    def apply(params, state, x, *, key=None, training=False):
        x, mask = checked(name, x, params["kernel"].shape[0])
        x, *values = promote(x, *params.values())
        params = dict(zip(params, values, strict=True))
        start = tuple(first(name, state, part, (x.shape[0], width), x.dtype, stateful) for part, width in carry.items())
        own = ("kernel", "recurrent_kernel", "bias")
        kernel, recurrent_kernel, bias = weights(params) if weights else (params[k] for k in own)

        def step(z, before):
            return cell(_In(z.dtype, params), z, before)

        last, hs = kernels.recurrence(step, x, kernel, recurrent_kernel, bias, start, mask)
        after = {part: v.astype(state[part].dtype) for part, v in zip(carry, last, strict=True)} if stateful else state
        if not return_sequences:
            return last[0], after
        return (hs if mask is None else (hs, mask)), after

    return Layer(init, apply, name)


class _In(dict):
    """Parameters in a dtype, cast where the cell takes them: sums are float32 where parameters are narrow."""

    def __init__(self, dtype: Any, params: dict):
        super().__init__(params)
        self._dtype = dtype

    def __getitem__(self, name: str) -> jax.Array:
        return super().__getitem__(name).astype(self._dtype)


def first(name: str, state: dict, part: str, shape: tuple[int, ...], dtype: Any, stateful: bool) -> jax.Array:
    """The carry before the first step."""
    if not stateful:
        return jnp.zeros(shape, dtype)
    if part not in state or state[part].shape != shape:
        got = list(state[part].shape) if part in state else "none"
        raise ValueError(f"{name} is stateful and takes a state {part} {list(shape)}, got {got}: init gives one for a batch")
    return state[part].astype(dtype)


def checked(name: str, x: Any, n_in: int | None = None, space: bool = False) -> tuple[jax.Array, jax.Array | None]:
    """The input and its mask, or None."""
    x, mask = split_mask(x)
    if (x.ndim < 4) if space else (x.ndim != 3):
        axes = "(batch, time, *space, channels)" if space else "(batch, time, features)"
        raise ValueError(f"{name} takes an input of shape {axes}, got {list(x.shape)}")
    if mask is not None and mask.ndim != 2:
        raise ValueError(f"{name} takes a mask of shape (batch, time), got {list(mask.shape)}")
    if n_in not in (None, x.shape[-1]):
        raise ValueError(f"{name} was made for {n_in} input features, got an input of shape {list(x.shape)}")
    return x, mask
