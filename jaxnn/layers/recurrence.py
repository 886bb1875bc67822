"""Wrappers and building blocks of recurrent layers: bidirectional layers, explicit carries, and layers from cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.block import compose
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.initialize import draw, param
from jaxnn.core.layer import Layer, Spec, as_layer, from_setup
from jaxnn.core.masks import split_mask
from jaxnn.core.trees import abstract
from jaxnn.functional.initializers import zeros

BIASES = ("bias", "recurrent_bias")


def bidirectional(layer: Any) -> Layer:
    """Run a recurrent layer forward and backward in time and concatenate the outputs (Schuster & Paliwal 1997).

    y = [f(x), reverse(g(reverse(x)))]: f and g are copies of the layer with separate parameters.

    Args:
        layer: A recurrent layer, such as `nn.lstm(8)`, from (batch, time, ...) or `(x, mask)`.

    Returns:
        A `Layer` with the children `forward` and `backward`; its output has twice the features. Padding is ignored in both
        directions. With `return_sequences=False` the output is the last one of each direction.

    Raises:
        TypeError: If `layer` is not a layer.
        ValueError: If the input does not fit `layer`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.bidirectional(nn.lstm(4))
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 5, 3)))
        >>> layer(params, jnp.ones((2, 5, 3))).shape, sorted(params)
        ((2, 5, 8), ['backward', 'forward'])
    """
    layer = as_layer(layer)

    def forward(run, x):
        ahead, back = run("forward", x), run("backward", jax.tree.map(lambda a: jnp.flip(a, 1), x))
        (ahead, mask), (back, _) = split_mask(ahead), split_mask(back)
        if ahead.ndim == split_mask(x)[0].ndim:  # whole sequences
            back = jnp.flip(back, 1)
        y = jnp.concatenate([ahead, back], -1)
        return y if mask is None else (y, mask)

    return compose("bidirectional", {"forward": layer, "backward": layer}, forward, traced=True)


def carried(layer: Any) -> Layer:
    """Make the state of a layer part of its input and output: `(carry, x)` to `(carry, y)`.

    (carry, x) → (carry', y) with (y, carry') = apply(params, carry, x). The final carry of one recurrent layer can thus be the
    initial carry of another, as from an encoder to a decoder (Sutskever et al. 2014).

    Args:
        layer: A layer with state, such as `nn.lstm(8, stateful=True)` or a stack of such layers.

    Returns:
        A `Layer` without state. A carry of None stands for the initial state.

    Raises:
        ValueError: If the input is not a pair.

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

    def checked_pair(x):
        if not isinstance(x, tuple) or len(x) != 2:
            raise ValueError("carried takes a pair (carry, x), in which the first carry may be None")
        return x

    def setup(x):
        spec = layer.setup(checked_pair(x)[1])
        return Spec("carried", (abstract(spec.state), spec.output), spec.params, {}, {})

    def apply(params, state, x, *, key, training):
        carry, x = checked_pair(x)
        if carry is None:
            carry = draw(jax.random.key(0), {}, layer.setup(abstract(x)).state)[1]
        y, carry = layer.apply(params, carry, x, key=key, training=training)
        return (carry, y), state

    return from_setup(setup, apply, "carried")


def gates(n: int, features: int, kernel_init, recurrent_init, bias_init, width: int | None = None) -> Callable[[int], dict]:
    """From n_in to the parameters of `n` affine maps of x, (n_in,), and h, (width,), concatenated along the last axis."""

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
    use_bias: bool = True,
) -> Layer:
    """The recurrent layer of a cell, computed by `kernels.recurrence`.

    Args:
        name: The name of the layer.
        parameters: A function from n_in to the parameters, one of which is `kernel`, (n_in, ...).
        cell: A function `(params, z, carry) -> carry`; a carry is a tuple whose first entry is h.
        carry: The names and widths of the entries of the carry, h first.
        return_sequences: Whether the output is every h, rather than the last one.
        stateful: Whether the carry is kept in the state.
        weights: A function from the parameters to W, U and b of the recurrence; by default `kernel`, `recurrent_kernel` and
            `bias`.
        use_bias: Whether there are the parameters `bias` and `recurrent_bias`, rather than zeros in their place.

    Returns:
        The `Layer`.
    """

    def init(key, x):
        x, _ = checked(name, x)
        state = {part: param(zeros, (x.shape[0], width)) for part, width in carry.items()}
        params = parameters(x.shape[-1])
        return {k: v for k, v in params.items() if use_bias or k not in BIASES}, state if stateful else {}

    def apply(params, state, x, *, key=None, training=False):
        x, mask = checked(name, x, params["kernel"].shape[0])
        if not use_bias:
            absent = {k: v for k, v in parameters(x.shape[-1]).items() if k in BIASES}
            params = params | {k: jnp.zeros(v.shape, params["kernel"].dtype) for k, v in absent.items()}
        x, *values = promote(x, *params.values())
        params = dict(zip(params, values, strict=True))
        start = tuple(first(name, state, part, (x.shape[0], width), x.dtype, stateful) for part, width in carry.items())
        names = ("kernel", "recurrent_kernel", "bias")
        kernel, recurrent_kernel, bias = weights(params) if weights else (params[name] for name in names)

        wide = {name: at_least_float32(v, linear=True) for name, v in params.items()}

        def step(z, before):
            return cell(_CastOnRead(z.dtype, wide), z, before)

        last, hs = kernels.recurrence(step, x, kernel, recurrent_kernel, bias, start, mask)
        after = (
            {part: at_least_float32(v).astype(state[part].dtype) for part, v in zip(carry, last, strict=True)}
            if stateful
            else state
        )
        if not return_sequences:
            return last[0], after
        return (hs if mask is None else (hs, mask)), after

    return Layer(init, apply, name)


class _CastOnRead(dict):
    """Wide parameters that are cast to a dtype when the cell reads them: their gradients are summed over time in float32."""

    def __init__(self, dtype: Any, params: dict):
        super().__init__(params)
        self._dtype = dtype

    def __getitem__(self, name: str) -> jax.Array:
        return super().__getitem__(name).astype(self._dtype)


def first(name: str, state: dict, part: str, shape: tuple[int, ...], dtype: Any, stateful: bool) -> jax.Array:
    """One entry of the carry before the first step."""
    if not stateful:
        return jnp.zeros(shape, dtype)
    if part not in state or state[part].shape != shape:
        got = list(state[part].shape) if part in state else "none"
        raise ValueError(f"{name} is stateful and takes a state {part} {list(shape)}, got {got}: run init for this batch size")
    return state[part].astype(dtype)


def checked(name: str, x: Any, n_in: int | None = None, space: bool = False) -> tuple[jax.Array, jax.Array | None]:
    """Check the shapes of an input and return it with its mask, or None."""
    x, mask = split_mask(x)
    if (x.ndim < 4) if space else (x.ndim != 3):
        axes = "(batch, time, *space, channels)" if space else "(batch, time, features)"
        raise ValueError(f"{name} takes an input of shape {axes}, got {list(x.shape)}")
    if mask is not None and mask.ndim != 2:
        raise ValueError(f"{name} takes a mask of shape (batch, time), got {list(mask.shape)}")
    if n_in not in (None, x.shape[-1]):
        raise ValueError(f"{name} was initialized for {n_in} input features, got an input of shape {list(x.shape)}")
    return x, mask
