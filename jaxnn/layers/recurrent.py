"""The plain recurrent layer, LSTM and GRU over (batch, time, features): one cell each, one recurrence for all.

A padded sequence is `(x, mask)`, the mask (batch, time) true where there is data: at the other positions the carry stays
as it was and the output is zero, so the last state is that of the last real position.

`stateful=True` keeps the carry in the state: a sequence may come in pieces, and gives what it would give at once. The
initial carry is the state given, the final one the state returned; `nn.carried` makes both part of input and output.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.core.checks import whole
from jaxnn.core.dtypes import at_least_float32
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer
from jaxnn.functional.activations import sigmoid, tanh
from jaxnn.functional.initializers import fan_in_uniform, ones, zeros
from jaxnn.layers.recurrence import gates, recurrent


def rnn(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = tanh,
    return_sequences: bool = True,
    stateful: bool = False,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """The plain recurrent layer: hₜ = φ(xₜ W + hₜ₋₁ U + b), h₀ = 0 (Elman 1990).

    Parameters: `kernel` W (n_in, features), `recurrent_kernel` U (features, features), `bias` b (features,); PyTorch's two
    biases are one here, their sum.

    Args:
        features: The length of h.
        activation: φ.
        return_sequences: Whether the output is every hₜ or the last alone.
        stateful: Whether the carry is kept in the state, (batch, features) each, rather than 0 at the start of every call.
        kernel_init: Initializer of W.
        recurrent_init: Initializer of U.
        bias_init: Initializer of b.

    Returns:
        A `Layer` from (batch, time, n_in), or `(x, mask)`, to (batch, time, features), with the mask if there was one, or
        to (batch, features).

    Raises:
        ValueError: If the input has not three axes, or other features than the kernel was made for.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.rnn(16, return_sequences=False)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> layer(params, jnp.ones((4, 7, 3))).shape
        (4, 16)
    """

    features = whole("rnn", "features", features)

    def cell(params, z, carry):
        return (activation(z),)

    parameters = gates(1, features, kernel_init, recurrent_init, bias_init)
    return recurrent("rnn", parameters, cell, {"h": features}, return_sequences, stateful)


def lstm(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = tanh,
    gate_activation: Callable[[jax.Array], jax.Array] = sigmoid,
    return_sequences: bool = True,
    stateful: bool = False,
    projection: int | None = None,
    peephole: bool = False,
    normalize: bool = False,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """Long short-term memory (Hochreiter & Schmidhuber 1997; with forget gate, Gers et al. 2000).

    [i, f, g, o] = xₜ W + hₜ₋₁ U + b;  cₜ = σ(f) cₜ₋₁ + σ(i) tanh(g);  hₜ = σ(o) tanh(cₜ);  h₀ = c₀ = 0.

    Parameters, the gates in that order along the last axis: `kernel` W (n_in, 4 · features), `recurrent_kernel` U
    (features, 4 · features), `bias` b (4 · features,); PyTorch's two biases are one here, their sum.

    With a projection, hₜ = (σ(o) tanh(cₜ)) P (Sak et al. 2014; PyTorch's `proj_size`): `projection` P (features,
    projection), and U has that many rows. With peepholes, pᵢ cₜ₋₁ and p_f cₜ₋₁ are added to i and f, and pₒ cₜ to o (Gers &
    Schmidhuber 2000): `peephole` (3, features). Normalized, [i, f, g, o] = N(xₜ W) + N(hₜ₋₁ U) + b and hₜ = σ(o) tanh(N(cₜ)),
    N a layer norm (Ba et al. 2016): `kernel_scale`, `recurrent_scale`, `cell_scale` and `cell_bias`.

    Args:
        features: The length of h and of c.
        activation: In place of tanh.
        gate_activation: In place of σ.
        return_sequences: Whether the output is every hₜ or the last alone.
        stateful: Whether the carry is kept in the state, (batch, features) each, rather than 0 at the start of every call.
        projection: The length of h, if it is not that of c.
        peephole: Whether the gates see c.
        normalize: Whether the sums and c are normalized.
        kernel_init: Initializer of W, and of P.
        recurrent_init: Initializer of U.
        bias_init: Initializer of b.

    Returns:
        A `Layer` from (batch, time, n_in), or `(x, mask)`, to (batch, time, features), with the mask if there was one, or
        to (batch, features).

    Raises:
        ValueError: If the input has not three axes, or other features than the kernel was made for.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.lstm(16)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> layer(params, jnp.ones((4, 7, 3))).shape, nn.trees.count(params)
        ((4, 7, 16), 1280)
    """

    features = whole("lstm", "features", features)
    width = features if projection is None else whole("lstm", "projection", projection)

    def parameters(n_in):
        params = gates(4, features, kernel_init, recurrent_init, bias_init, width)(n_in)
        if projection is not None:
            params["projection"] = param(kernel_init, (features, width))
        if peephole:
            params["peephole"] = param(bias_init, (3, features))
        if normalize:
            params |= {name: param(ones, (4 * features,)) for name in ("kernel_scale", "recurrent_scale")}
            params |= {"cell_scale": param(ones, (features,)), "cell_bias": param(zeros, (features,))}
        return params

    def cell(params, z, carry):
        _, c = carry
        to_i, to_f, to_o = params["peephole"][:, None] if peephole else (jnp.zeros((), c.dtype),) * 3
        if normalize:
            from_x, from_h = jnp.split(z, 2, axis=-1)
            z = _normalized(from_x, params["kernel_scale"]) + _normalized(from_h, params["recurrent_scale"])
            z = z + params["bias"][None]
        i, f, g, o = jnp.split(z, 4, axis=-1)
        c = gate_activation(f + to_f * c) * c + gate_activation(i + to_i * c) * activation(g)
        seen = _normalized(c, params["cell_scale"]) + params["cell_bias"][None] if normalize else c
        h = gate_activation(o + to_o * c) * activation(seen)
        return (h if projection is None else h @ params["projection"]), c

    def apart(params):  # x W and h U are normalized each for itself, and the bias comes after
        return params["kernel"], params["recurrent_kernel"], jnp.zeros(8 * features, params["bias"].dtype)

    weights = apart if normalize else None
    return recurrent("lstm", parameters, cell, {"h": width, "c": features}, return_sequences, stateful, weights)


def _normalized(x: jax.Array, scale: jax.Array) -> jax.Array:
    wide = at_least_float32(x)
    y = (wide - wide.mean(-1, keepdims=True)) * jax.lax.rsqrt(wide.var(-1, keepdims=True) + 1e-5)
    return y.astype(x.dtype) * scale[None]


def gru(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = tanh,
    gate_activation: Callable[[jax.Array], jax.Array] = sigmoid,
    return_sequences: bool = True,
    stateful: bool = False,
    reset_after: bool = True,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """Gated recurrent unit (Cho et al. 2014), the reset gate after the product, as in cuDNN and PyTorch, or before it.

    r = σ(xₜ Wᵣ + hₜ₋₁ Uᵣ + bᵣ);  z = σ(xₜ W_z + hₜ₋₁ U_z + b_z);  n = tanh(xₜ Wₙ + bₙ + r · (hₜ₋₁ Uₙ + aₙ));
    hₜ = (1 − z) n + z hₜ₋₁;  h₀ = 0.

    `reset_after=False` is the paper's own n = tanh(xₜ Wₙ + bₙ + (r · hₜ₋₁) Uₙ), without aₙ.

    Parameters, in the order r, z, n along the last axis: `kernel` W (n_in, 3 · features), `recurrent_kernel` U
    (features, 3 · features), `bias` b (3 · features,), and `recurrent_bias` aₙ (features,); PyTorch has a second bias of r
    and z too, which is added to the first.

    Args:
        features: The length of h.
        activation: In place of tanh.
        gate_activation: In place of σ.
        return_sequences: Whether the output is every hₜ or the last alone.
        stateful: Whether the carry is kept in the state, (batch, features) each, rather than 0 at the start of every call.
        reset_after: Whether r acts on the product with Uₙ or on h.
        kernel_init: Initializer of W.
        recurrent_init: Initializer of U.
        bias_init: Initializer of b and of aₙ.

    Returns:
        A `Layer` from (batch, time, n_in), or `(x, mask)`, to (batch, time, features), with the mask if there was one, or
        to (batch, features).

    Raises:
        ValueError: If the input has not three axes, or other features than the kernel was made for.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.gru(16)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> layer(params, jnp.ones((4, 7, 3))).shape
        (4, 7, 16)
    """

    features = whole("gru", "features", features)

    def parameters(n_in):
        params = gates(3, features, kernel_init, recurrent_init, bias_init)(n_in)
        return params | ({"recurrent_bias": param(bias_init, (features,))} if reset_after else {})

    def cell(params, z, carry):
        (h,) = carry
        n, r, z, *n_h = jnp.split(z, 4 if reset_after else 3, axis=-1)
        r, z = gate_activation(r), gate_activation(z)
        of_h = r * n_h[0] if reset_after else (r * h) @ params["recurrent_kernel"][:, 2 * features :]
        return ((1 - z) * activation(n + of_h) + z * h,)

    def weights(params):  # the columns of n come from x and from h apart: first and last
        kernel, bias = (jnp.roll(params[k], features, axis=-1) for k in ("kernel", "bias"))
        if reset_after:
            return kernel, params["recurrent_kernel"], jnp.concatenate([bias, params["recurrent_bias"]])
        return kernel, params["recurrent_kernel"][:, : 2 * features], bias

    return recurrent("gru", parameters, cell, {"h": features}, return_sequences, stateful, weights)
