"""The plain recurrent layer, LSTM and GRU over (batch, time, features).

A padded sequence is `(x, mask)` with a mask (batch, time) that is true where there is data. At padded positions the carry
does not change and the output is zero, so that the last output is that of the last valid position.

With `stateful=True` the carry is kept in the state, so that a sequence can be passed in parts: the state that is passed in is
the initial carry, and the state that is returned is the final one. `nn.carried` makes both part of the input and output.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnn.core.checks import function, whole
from jaxnn.core.dtypes import at_least_float32
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer
from jaxnn.functional.activations import sigmoid, tanh
from jaxnn.functional.initializers import fan_in_uniform, ones, zeros
from jaxnn.kernels.normalization import centered
from jaxnn.layers.recurrence import gates, recurrent


def rnn(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = tanh,
    return_sequences: bool = True,
    stateful: bool = False,
    use_bias: bool = True,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """The plain recurrent layer: hₜ = φ(xₜ W + hₜ₋₁ U + b), h₀ = 0 (Elman 1990).

    Parameters: `kernel` W (n_in, features), `recurrent_kernel` U (features, features), `bias` b (features,), which is the sum
    of PyTorch's two biases.

    Args:
        features: The size of h.
        activation: The activation φ.
        return_sequences: Whether the output is every hₜ, rather than only the last one.
        stateful: Whether the carry, (batch, features) per entry, is kept in the state, rather than starting at 0 in every call.
        use_bias: Whether to add the bias b.
        kernel_init: Initializer of W.
        recurrent_init: Initializer of U.
        bias_init: Initializer of b.

    Returns:
        A `Layer` from (batch, time, n_in), or `(x, mask)`, to (batch, time, features), with the mask if there is one, or, for
        `return_sequences=False`, to (batch, features).

    Raises:
        ValueError: If the input does not have three axes, or its number of features is not that of the kernel.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.rnn(16, return_sequences=False)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> layer(params, jnp.ones((4, 7, 3))).shape
        (4, 16)
    """

    features = whole("rnn", "features", features)
    function("rnn", "activation", activation, "of an array")

    def cell(params, z, carry):
        return (activation(z),)

    parameters = gates(1, features, kernel_init, recurrent_init, bias_init)
    return recurrent("rnn", parameters, cell, {"h": features}, return_sequences, stateful, use_bias=use_bias)


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
    use_bias: bool = True,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """Long short-term memory (Hochreiter & Schmidhuber 1997; with forget gate, Gers et al. 2000).

    [i, f, g, o] = xₜ W + hₜ₋₁ U + b;  cₜ = σ(f) cₜ₋₁ + σ(i) tanh(g);  hₜ = σ(o) tanh(cₜ);  h₀ = c₀ = 0.

    Parameters, with the gates in this order along the last axis: `kernel` W (n_in, 4 · features), `recurrent_kernel` U
    (features, 4 · features), `bias` b (4 · features,), which is the sum of PyTorch's two biases. The options add parameters:

    - `projection`: hₜ = (σ(o) tanh(cₜ)) P (Sak et al. 2014; PyTorch's `proj_size`), with `projection` P (features,
      projection); U is (projection, 4 · features).
    - `peephole`: pᵢ cₜ₋₁ and p_f cₜ₋₁ are added to i and f, and pₒ cₜ to o (Gers & Schmidhuber 2000), with `peephole`
      (3, features).
    - `normalize`: [i, f, g, o] = N(xₜ W) + N(hₜ₋₁ U) + b and hₜ = σ(o) tanh(N(cₜ)) with a layer norm N (Ba et al. 2016), with
      `kernel_scale`, `recurrent_scale`, `cell_scale` and `cell_bias`.

    Args:
        features: The size of h and of c.
        activation: The activation tanh in the formula.
        gate_activation: The activation σ in the formula.
        return_sequences: Whether the output is every hₜ, rather than only the last one.
        stateful: Whether the carry, (batch, features) per entry, is kept in the state, rather than starting at 0 in every call.
        projection: The size of h, if it differs from that of c.
        peephole: Whether the gates depend on c.
        normalize: Whether the sums and c are layer-normalized.
        use_bias: Whether to add the bias b.
        kernel_init: Initializer of W and of P.
        recurrent_init: Initializer of U.
        bias_init: Initializer of b.

    Returns:
        A `Layer` from (batch, time, n_in), or `(x, mask)`, to (batch, time, features), with the mask if there is one, or, for
        `return_sequences=False`, to (batch, features).

    Raises:
        ValueError: If the input does not have three axes, or its number of features is not that of the kernel.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.lstm(16)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> layer(params, jnp.ones((4, 7, 3))).shape, nn.trees.count(params)
        ((4, 7, 16), 1280)
    """

    features = whole("lstm", "features", features)
    function("lstm", "activation", activation, "of an array")
    function("lstm", "gate_activation", gate_activation, "of an array")
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

    def separate(params):  # x W and h U are normalized separately, and the bias is added in the cell
        return params["kernel"], params["recurrent_kernel"], jnp.zeros(8 * features, params["bias"].dtype)

    weights = separate if normalize else None
    return recurrent("lstm", parameters, cell, {"h": width, "c": features}, return_sequences, stateful, weights, use_bias)


def _normalized(x: jax.Array, scale: jax.Array) -> jax.Array:
    wide = at_least_float32(x)
    difference, var = centered(wide, (wide.ndim - 1,))
    y = difference * jax.lax.rsqrt(var + 1e-5)
    return y.astype(x.dtype) * scale[None]


def gru(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = tanh,
    gate_activation: Callable[[jax.Array], jax.Array] = sigmoid,
    return_sequences: bool = True,
    stateful: bool = False,
    reset_after: bool = True,
    use_bias: bool = True,
    kernel_init=fan_in_uniform(),
    recurrent_init=fan_in_uniform(),
    bias_init=zeros,
) -> Layer:
    """Gated recurrent unit (Cho et al. 2014), with the reset gate after the product, as in cuDNN and PyTorch, or before it.

    r = σ(xₜ Wᵣ + hₜ₋₁ Uᵣ + bᵣ);  z = σ(xₜ W_z + hₜ₋₁ U_z + b_z);  n = tanh(xₜ Wₙ + bₙ + r · (hₜ₋₁ Uₙ + aₙ));
    hₜ = (1 − z) n + z hₜ₋₁;  h₀ = 0.

    With `reset_after=False`, n = tanh(xₜ Wₙ + bₙ + (r · hₜ₋₁) Uₙ) as in the paper, without aₙ.

    Parameters, in the order r, z, n along the last axis: `kernel` W (n_in, 3 · features), `recurrent_kernel` U
    (features, 3 · features), `bias` b (3 · features,), and `recurrent_bias` aₙ (features,). PyTorch also has second biases
    for r and z, which are added to the first ones.

    Args:
        features: The size of h.
        activation: The activation tanh in the formula.
        gate_activation: The activation σ in the formula.
        return_sequences: Whether the output is every hₜ, rather than only the last one.
        stateful: Whether the carry, (batch, features) per entry, is kept in the state, rather than starting at 0 in every call.
        reset_after: Whether r is applied to the product with Uₙ, rather than to h.
        use_bias: Whether to add the biases b and aₙ.
        kernel_init: Initializer of W.
        recurrent_init: Initializer of U.
        bias_init: Initializer of b and of aₙ.

    Returns:
        A `Layer` from (batch, time, n_in), or `(x, mask)`, to (batch, time, features), with the mask if there is one, or, for
        `return_sequences=False`, to (batch, features).

    Raises:
        ValueError: If the input does not have three axes, or its number of features is not that of the kernel.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.gru(16)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 7, 3)))
        >>> layer(params, jnp.ones((4, 7, 3))).shape
        (4, 7, 16)
    """

    features = whole("gru", "features", features)
    function("gru", "activation", activation, "of an array")
    function("gru", "gate_activation", gate_activation, "of an array")

    def parameters(n_in):
        params = gates(3, features, kernel_init, recurrent_init, bias_init)(n_in)
        return params | ({"recurrent_bias": param(bias_init, (features,))} if reset_after else {})

    def cell(params, z, carry):
        (h,) = carry
        n, r, z, *n_h = jnp.split(z, 4 if reset_after else 3, axis=-1)
        r, z = gate_activation(r), gate_activation(z)
        of_h = r * n_h[0] if reset_after else (r * h) @ params["recurrent_kernel"][:, 2 * features :]
        return ((1 - z) * activation(n + of_h) + z * h,)

    def weights(params):  # the columns of n from x come first, those from h last, since the cell needs them separately
        kernel, bias = (jnp.roll(params[k], features, axis=-1) for k in ("kernel", "bias"))
        if reset_after:
            return kernel, params["recurrent_kernel"], jnp.concatenate([bias, params["recurrent_bias"]])
        return kernel, params["recurrent_kernel"][:, : 2 * features], bias

    return recurrent("gru", parameters, cell, {"h": features}, return_sequences, stateful, weights, use_bias)
