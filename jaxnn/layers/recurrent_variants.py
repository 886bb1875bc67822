"""Further recurrent layers: the minimal gated unit, independent neurons, and a convolutional LSTM."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.checks import function, whole
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer
from jaxnn.core.masks import zero_padding
from jaxnn.functional.activations import relu, sigmoid, tanh
from jaxnn.functional.initializers import fan_in_uniform, uniform, zeros
from jaxnn.layers.convolution import PerAxis, spatial
from jaxnn.layers.recurrence import checked, first, gates, recurrent


def minimal_gru(
    features: int,
    *,
    return_sequences: bool = True,
    stateful: bool = False,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """The minimal gated unit, a GRU with one gate (Zhou et al. 2016).

    f = σ(xₜ W_f + hₜ₋₁ U_f + b_f);  n = tanh(xₜ Wₙ + (f · hₜ₋₁) Uₙ + bₙ);  hₜ = (1 − f) hₜ₋₁ + f n;  h₀ = 0.

    Parameters, in the order f, n along the last axis: `kernel`, `recurrent_kernel` and `bias`.

    Args:
        features: The size of h.
        return_sequences: Whether the output is every hₜ, rather than only the last one.
        stateful: Whether the carry is kept in the state.
        kernel_init: Initializer of W.
        recurrent_init: Initializer of U.
        bias_init: Initializer of b.

    Returns:
        A `Layer`, as for `gru`.

    Raises:
        ValueError: If the input does not have three axes, or its number of features is not that of the kernel.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> params, state = nn.minimal_gru(16).init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> nn.minimal_gru(16)(params, jnp.ones((4, 7, 3))).shape
        (4, 7, 16)
    """
    features = whole("minimal_gru", "features", features)

    def cell(params, z, carry):
        (h,) = carry
        n, f = jnp.split(z, 2, axis=-1)
        f = sigmoid(f)
        return ((1 - f) * h + f * tanh(n + (f * h) @ params["recurrent_kernel"][:, features:]),)

    def weights(params):  # the cell computes the product with Uₙ
        kernel, bias = (jnp.roll(params[k], features, axis=-1) for k in ("kernel", "bias"))
        return kernel, params["recurrent_kernel"][:, :features], bias

    parameters = gates(2, features, kernel_init, recurrent_init, bias_init)
    return recurrent("minimal_gru", parameters, cell, {"h": features}, return_sequences, stateful, weights)


def ind_rnn(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = relu,
    return_sequences: bool = True,
    stateful: bool = False,
    kernel_init=fan_in_uniform(),
    recurrent_init=uniform(0.0, 1.0),
    bias_init=zeros,
) -> Layer:
    """Independent recurrent neurons: hₜ = φ(xₜ W + u · hₜ₋₁ + b), h₀ = 0 (IndRNN, Li et al. 2018).

    Parameters: `kernel` W (n_in, features), `recurrent_kernel` u (features,), `bias` b (features,).

    Args:
        features: The size of h.
        activation: The activation φ.
        return_sequences: Whether the output is every hₜ, rather than only the last one.
        stateful: Whether the carry is kept in the state.
        kernel_init: Initializer of W.
        recurrent_init: Initializer of u.
        bias_init: Initializer of b.

    Returns:
        A `Layer`, as for `rnn`.

    Raises:
        ValueError: If the input does not have three axes, or its number of features is not that of the kernel.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> params, state = nn.ind_rnn(16).init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> params["recurrent_kernel"].shape
        (16,)
    """
    features = whole("ind_rnn", "features", features)
    function("ind_rnn", "activation", activation, "of an array")

    def parameters(n_in):
        params = gates(1, features, kernel_init, recurrent_init, bias_init)(n_in)
        return params | {"recurrent_kernel": param(recurrent_init, (features,))}

    def cell(params, z, carry):
        (h,) = carry
        return (activation(z + params["recurrent_kernel"][None] * h),)

    def weights(params):
        return params["kernel"], jnp.zeros((features, 0), params["kernel"].dtype), params["bias"]

    return recurrent("ind_rnn", parameters, cell, {"h": features}, return_sequences, stateful, weights)


def conv_lstm(
    features: int,
    kernel_size: PerAxis,
    *,
    return_sequences: bool = True,
    stateful: bool = False,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """An LSTM whose products are convolutions with padding `"SAME"` (Shi et al. 2015, without peepholes).

    i, f, g, o = W ∗ xₜ + U ∗ hₜ₋₁ + b;  cₜ = σ(f) cₜ₋₁ + σ(i) tanh(g);  hₜ = σ(o) tanh(cₜ);  h₀ = c₀ = 0.

    Parameters, the gates i, f, g, o along the last axis: `kernel` W (*kernel_size, channels, 4 · features),
    `recurrent_kernel` U (*kernel_size, features, 4 · features), `bias` b (4 · features,).

    Args:
        features: The number of channels of h and of c.
        kernel_size: The kernel size of both convolutions, one number for all spatial axes or one per axis.
        return_sequences: Whether the output is every hₜ, rather than only the last one.
        stateful: Whether the carry is kept in the state.
        kernel_init: Initializer of `kernel`.
        recurrent_init: Initializer of `recurrent_kernel`.
        bias_init: Initializer of `bias`.

    Returns:
        A `Layer` from (batch, time, *space, channels), or `(x, mask)`, to (batch, time, *space, features), with the mask
        if there is one, or, for `return_sequences=False`, to (batch, *space, features).

    Raises:
        ValueError: If the input is not (batch, time, *space, channels), or its number of channels is not that of the kernel.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.conv_lstm(4, 3), jnp.ones((2, 5, 6, 6, 3))
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).shape
        (2, 5, 6, 6, 4)
    """
    features = whole("conv_lstm", "features", features)

    def init(key, x):
        x, _ = checked("conv_lstm", x, space=True)
        size = spatial("conv_lstm", "kernel_size", kernel_size, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
        carry = param(zeros, (x.shape[0], *x.shape[2:-1], features))
        return {
            "kernel": param(kernel_init, (*size, x.shape[-1], 4 * features)),
            "recurrent_kernel": param(recurrent_init, (*size, features, 4 * features)),
            "bias": param(bias_init, (4 * features,)),
        }, {"h": carry, "c": carry} if stateful else {}

    def apply(params, state, x, *, key=None, training=False):
        x, mask = checked("conv_lstm", x, params["kernel"].shape[-2], space=True)
        x, kernel, recurrent_kernel, bias = promote(x, *(params[k] for k in ("kernel", "recurrent_kernel", "bias")))
        x = zero_padding(x, mask)
        batch, time, *space = x.shape[:-1]
        ones = (1,) * len(space)

        def convolved(x, kernel):
            return kernels.conv(x, kernel, strides=ones, padding="SAME", dilation=ones, groups=1)

        zs = convolved(x.reshape(batch * time, *x.shape[2:]), kernel)
        zs = (zs + kernels.spread(bias, zs)).reshape(batch, time, *space, 4 * features).swapaxes(0, 1)
        valid = jnp.ones((time, batch), bool) if mask is None else mask.T
        shape = (batch, *space, features)
        wide = at_least_float32(recurrent_kernel, linear=True)  # its gradient is a sum over time
        start = tuple(first("conv_lstm", state, part, shape, x.dtype, stateful) for part in ("h", "c"))

        def step(carry, now):
            z, valid = now
            h, c = carry
            i, f, g, o = jnp.split(z + convolved(h, wide.astype(h.dtype)), 4, axis=-1)
            new_c = sigmoid(f) * c + sigmoid(i) * tanh(g)
            new_h = sigmoid(o) * tanh(new_c)
            valid = valid.reshape(batch, *ones, 1)
            carry = jnp.where(valid, new_h, h), jnp.where(valid, new_c, c)
            return carry, jnp.where(valid, new_h, jnp.zeros_like(h))

        (h, c), hs = jax.lax.scan(step, start, (zs, valid))
        after = {k: at_least_float32(v).astype(state[k].dtype) for k, v in (("h", h), ("c", c))} if stateful else state
        hs = hs.swapaxes(0, 1)
        return (h if not return_sequences else hs if mask is None else (hs, mask)), after

    return Layer(init, apply, "conv_lstm")
