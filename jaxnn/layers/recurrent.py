"""Recurrent layers over (batch, time, features): one cell each, one recurrence for all.

A padded sequence is `(x, mask)`, the mask (batch, time) true where there is data: at the other positions the carry stays
as it was and the output is zero, so the last state is that of the last real position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.combinators import split_mask
from jaxnn.core.draw import param
from jaxnn.core.dtypes import promote
from jaxnn.core.layer import Layer, stateless
from jaxnn.core.options import whole
from jaxnn.functional.activations import sigmoid, tanh
from jaxnn.functional.initializers import fan_in_uniform, zeros


def rnn(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = tanh,
    return_sequences: bool = True,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """The plain recurrent layer: hₜ = φ(xₜ W + hₜ₋₁ U + b), h₀ = 0 (Elman 1990).

    Parameters: `kernel` W (n_in, features), `recurrent_kernel` U (features, features), `bias` b (features,).

    Args:
        features: the length of h.
        activation: φ.
        return_sequences: whether the output is every hₜ or the last alone.
        kernel_init: initializer of W.
        recurrent_init: initializer of U.
        bias_init: initializer of b.

    Returns:
        A `Layer` from (batch, time, n_in), or `(x, mask)`, to (batch, time, features), with the mask if there was one, or
        to (batch, features).

    Raises:
        ValueError: if the input has not three axes, or other features than the kernel was made for.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.rnn(16, return_sequences=False)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> layer(params, jnp.ones((4, 7, 3))).shape
        (4, 16)
    """

    def cell(z, h):
        return activation(z)

    return _recurrent("rnn", 1, features, return_sequences, (kernel_init, recurrent_init, bias_init), cell)


def lstm(
    features: int,
    *,
    return_sequences: bool = True,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """Long short-term memory (Hochreiter & Schmidhuber 1997; with forget gate, Gers et al. 2000).

    [i, f, g, o] = xₜ W + hₜ₋₁ U + b;  cₜ = σ(f) cₜ₋₁ + σ(i) tanh(g);  hₜ = σ(o) tanh(cₜ);  h₀ = c₀ = 0.

    Parameters, the gates in that order along the last axis: `kernel` W (n_in, 4 · features), `recurrent_kernel` U
    (features, 4 · features), `bias` b (4 · features,); PyTorch's two biases are one here, their sum.

    Args:
        features: the length of h and of c.
        return_sequences: whether the output is every hₜ or the last alone.
        kernel_init: initializer of W.
        recurrent_init: initializer of U.
        bias_init: initializer of b.

    Returns:
        A `Layer` from (batch, time, n_in), or `(x, mask)`, to (batch, time, features), with the mask if there was one, or
        to (batch, features).

    Raises:
        ValueError: if the input has not three axes, or other features than the kernel was made for.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.lstm(16)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> layer(params, jnp.ones((4, 7, 3))).shape, nn.trees.count(params)
        ((4, 7, 16), 1280)
    """

    def cell(z, carry):
        _, c = carry
        i, f, g, o = jnp.split(z, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    return _recurrent("lstm", 4, features, return_sequences, (kernel_init, recurrent_init, bias_init), cell, carries=2)


def gru(
    features: int,
    *,
    return_sequences: bool = True,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """Gated recurrent unit (Cho et al. 2014), the reset gate after the product, as in cuDNN and PyTorch.

    r = σ(xₜ Wᵣ + hₜ₋₁ Uᵣ + bᵣ);  z = σ(xₜ W_z + hₜ₋₁ U_z + b_z);  n = tanh(xₜ Wₙ + bₙ + r · (hₜ₋₁ Uₙ + aₙ));
    hₜ = (1 − z) n + z hₜ₋₁;  h₀ = 0.

    Parameters, in the order r, z, n along the last axis: `kernel` W (n_in, 3 · features), `recurrent_kernel` U
    (features, 3 · features), `bias` b (3 · features,), and `recurrent_bias` aₙ (features,).

    Args:
        features: the length of h.
        return_sequences: whether the output is every hₜ or the last alone.
        kernel_init: initializer of W.
        recurrent_init: initializer of U.
        bias_init: initializer of b and of aₙ.

    Returns:
        A `Layer` from (batch, time, n_in), or `(x, mask)`, to (batch, time, features), with the mask if there was one, or
        to (batch, features).

    Raises:
        ValueError: if the input has not three axes, or other features than the kernel was made for.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.gru(16)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> layer(params, jnp.ones((4, 7, 3))).shape
        (4, 7, 16)
    """

    def cell(z, h):
        n_x, r, z, n_h = jnp.split(z, 4, axis=-1)
        z = sigmoid(z)
        n = tanh(n_x + sigmoid(r) * n_h)
        return (1 - z) * n + z * h

    def weights(params):  # the columns of n come from x and from h apart: first and last
        kernel, bias = (jnp.roll(params[k], features, axis=-1) for k in ("kernel", "bias"))
        return kernel, params["recurrent_kernel"], jnp.concatenate([bias, params["recurrent_bias"]])

    def extra(features):
        return {"recurrent_bias": param(bias_init, (features,))}

    initializers = (kernel_init, recurrent_init, bias_init)
    return _recurrent("gru", 3, features, return_sequences, initializers, cell, extra=extra, weights=weights)


def _recurrent(
    name: str,
    gates: int,
    features: int,
    return_sequences: bool,
    initializers: tuple,
    cell: Callable[[jax.Array, Any], Any],
    *,
    carries: int = 1,
    extra: Callable[[int], dict] = lambda features: {},
    weights: Callable[[dict], tuple[jax.Array, jax.Array, jax.Array]] = lambda params: (
        params["kernel"],
        params["recurrent_kernel"],
        params["bias"],
    ),
) -> Layer:
    """The layer of a cell of `kernels.recurrence`, whose carry is h, or a tuple of `carries` arrays with h first."""
    features = whole(name, "features", features)
    kernel_init, recurrent_init, bias_init = initializers

    def init(key, x):
        x, _ = _checked(name, x)
        return {
            "kernel": param(kernel_init, (x.shape[-1], gates * features)),
            "recurrent_kernel": param(recurrent_init, (features, gates * features)),
            "bias": param(bias_init, (gates * features,)),
            **extra(features),
        }

    def apply(params, x):
        x, mask = _checked(name, x, params["kernel"].shape[0])
        x, *values = promote(x, *params.values())
        params = dict(zip(params, values, strict=True))
        h = jnp.zeros((x.shape[0], features), x.dtype)
        last, hs = kernels.recurrence(cell, x, *weights(params), (h,) * carries if carries > 1 else h, mask)
        if not return_sequences:
            return last[0] if carries > 1 else last
        return hs if mask is None else (hs, mask)

    return stateless(init, apply, name)


def _checked(name: str, x: Any, n_in: int | None = None) -> tuple[jax.Array, jax.Array | None]:
    x, mask = split_mask(x)
    if x.ndim != 3:
        raise ValueError(f"{name} takes an input of shape (batch, time, features), got {list(x.shape)}")
    if mask is not None and mask.ndim != 2:
        raise ValueError(f"{name} takes a mask of shape (batch, time), got {list(mask.shape)}")
    if n_in not in (None, x.shape[-1]):
        raise ValueError(f"{name} was made for {n_in} input features, got an input of shape {list(x.shape)}")
    return x, mask
