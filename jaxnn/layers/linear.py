"""Products with a matrix: the dense layer over any axes, the bilinear one, and any other as an einsum."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.checks import whole
from jaxnn.core.combinators import positionwise
from jaxnn.core.dtypes import promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, stateless
from jaxnn.functional.initializers import he_normal, lecun_normal, zeros


def dense(
    features: int | Sequence[int],
    *,
    axis: int | Sequence[int] = -1,
    use_bias: bool = True,
    kernel_init=he_normal(),
    bias_init=zeros,
) -> Layer:
    """A fully connected layer: z = x W + b, that is zⱼ = Σᵢ xᵢ wᵢⱼ + bⱼ.

    The teaching notes' layer of neurons. It has n_in · n_out + n_out parameters: `kernel` (n_in, n_out) and `bias`
    (n_out,). Where the input has several axes, or the features are several numbers, the kernel has them all: (*n_in,
    *features), and is drawn as the matrix between them. PyTorch's weight is (n_out, n_in).

    Args:
        features: n_out, the number of neurons; a tuple makes as many axes of them, such as (heads, features).
        axis: The axis, or axes, of the input that are summed over; they are replaced by the features, at the end.
        use_bias: Whether b is there.
        kernel_init: Initializer of W; He's by default, for ReLU. `fan_in_uniform()` suits sigmoid and tanh.
        bias_init: Initializer of b.

    Returns:
        A `Layer` from (..., n_in) to (..., features); a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If the input's axes are not those the kernel was made for.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.dense(10)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((32, 784)))
        >>> layer(params, jnp.ones((32, 784))).shape, nn.trees.count(params)
        ((32, 10), 7850)
        >>> heads = nn.dense((8, 16), axis=(-2, -1))
        >>> heads.init(jax.random.key(0), jnp.ones((32, 5, 3)))[0]["kernel"].shape
        (5, 3, 8, 16)
    """
    sizes = tuple(whole("dense", "features", f) for f in (features if isinstance(features, Sequence) else (features,)))
    axes = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if not sizes or not axes:
        raise ValueError(f"dense takes at least one axis and one number of features, got axis={axis} and {features}")

    def init(key, x):
        if x.ndim < 2 or x.ndim <= len(axes):
            raise ValueError(
                f"dense is made for an input of shape (batch, ..., features), got {list(x.shape)}: "
                "a single sample is x[None], a single feature x[:, None]"
            )
        n_in = tuple(x.shape[a] for a in _places(axes, x))
        params = {"kernel": param(_AsMatrix(kernel_init, math.prod(n_in), math.prod(sizes)), (*n_in, *sizes))}
        return params | ({"bias": param(bias_init, sizes)} if use_bias else {})

    def apply(params, x):
        n_in = params["kernel"].shape[: len(axes)]
        if x.ndim < len(axes) or tuple(x.shape[a] for a in _places(axes, x)) != n_in:
            made = n_in[0] if len(n_in) == 1 else list(n_in)
            raise ValueError(
                f"dense was made for {made} input features, got an input of shape {list(x.shape)}: "
                "give it what init was given, or init the model anew for this input"
            )
        x, kernel = promote(x, params["kernel"])
        if axes == (-1,) and len(sizes) == 1:
            return kernels.linear(x, kernel, params.get("bias"))
        x = jnp.moveaxis(x, _places(axes, x), range(x.ndim - len(axes), x.ndim))
        leading = x.shape[: x.ndim - len(axes)]
        bias = params["bias"].reshape(-1) if use_bias else None
        y = kernels.linear(x.reshape(*leading, math.prod(n_in)), kernel.reshape(math.prod(n_in), -1), bias)
        return y.reshape(*leading, *sizes)

    return positionwise(stateless(init, apply))


def bilinear(features: int, *, use_bias: bool = True, kernel_init=lecun_normal(), bias_init=zeros) -> Layer:
    """A form in two inputs: y_o = Σ_ij u_i w_ijo v_j + b_o.

    Parameters: `kernel` (n_u, n_v, features) and `bias` (features,). PyTorch's weight is (features, n_u, n_v).

    Args:
        features: How many forms there are.
        use_bias: Whether b is there.
        kernel_init: Initializer of w, by default of variance 1/(n_u · n_v).
        bias_init: Initializer of b.

    Returns:
        A `Layer` from a pair (u, v), of shapes (..., n_u) and (..., n_v), to (..., features).

    Raises:
        ValueError: If the input is no pair, or the two differ in their leading axes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, pair = nn.bilinear(3), (jnp.ones((2, 4)), jnp.ones((2, 5)))
        >>> params, state = layer.init(jax.random.key(0), pair)
        >>> layer(params, pair).shape
        (2, 3)
    """
    features = whole("bilinear", "features", features)

    def init(key, x):
        u, v = _pair(x)
        n_u, n_v = u.shape[-1], v.shape[-1]
        params = {"kernel": param(_AsMatrix(kernel_init, n_u * n_v, features), (n_u, n_v, features))}
        return params | ({"bias": param(bias_init, (features,))} if use_bias else {})

    def apply(params, x):
        u, v, kernel = promote(*_pair(x), params["kernel"])
        if (u.shape[-1], v.shape[-1]) != kernel.shape[:2]:
            raise ValueError(f"bilinear was made for {list(kernel.shape[:2])} features, got {list(u.shape)}, {list(v.shape)}")
        y = jnp.einsum("...i,ijo,...j->...o", u, kernel, v)
        return y + kernels.spread(params["bias"].astype(y.dtype), y) if use_bias else y

    return stateless(init, apply)


def einsum(equation: str, *, use_bias: bool = True, kernel_init=lecun_normal(), bias_init=zeros, **sizes: int) -> Layer:
    """A product of the input with a kernel in Einstein's sum convention, by `jax.numpy.einsum`.

    `"bti,iho->btho"`, with h and o given, is y[b, t, h, o] = Σᵢ x[b, t, i] w[i, h, o] + bias[h, o].

    The kernel's axes that the input lacks are the features, and the bias has those; what is summed over is the fan-in.

    Args:
        equation: `"input,kernel->output"`, in small letters; the input may begin with `...`, and then the output does.
        use_bias: Whether there is a bias.
        kernel_init: Initializer of the kernel, for the matrix from what is summed over to the features.
        bias_init: Initializer of the bias.
        **sizes: The length of each axis that the input lacks.

    Returns:
        A `Layer` with the parameters `kernel` and `bias`.

    Raises:
        ValueError: If the equation is not of this form, the sizes are not those it needs, or the input does not fit.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.einsum("bti,iho->btho", h=2, o=3)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((4, 5, 6)))
        >>> layer(params, jnp.ones((4, 5, 6))).shape, params["kernel"].shape, params["bias"].shape
        ((4, 5, 2, 3), (6, 2, 3), (2, 3))
    """
    parts = equation.replace(" ", "").replace("->", ",").split(",")
    plain = [part.removeprefix("...") for part in parts]
    if len(parts) != 3 or "->" not in equation or parts[1] != plain[1] or set("".join(plain)) - set(string.ascii_lowercase):
        raise ValueError(f"einsum takes an equation such as 'bti,io->bto', got {equation!r}")
    inputs, kernel_axes, outputs = plain
    new = [a for a in kernel_axes if a not in inputs]
    if set(new) != set(sizes) or any(a not in outputs for a in new):
        raise ValueError(f"einsum {equation!r} needs the sizes of {new}, which the output must have, and got {sizes}")
    features = {a: whole("einsum", a, sizes[a]) for a in outputs if a in new}

    def known(x):
        if x.ndim != len(inputs) and not (parts[0] != inputs and x.ndim > len(inputs)):
            raise ValueError(f"einsum {equation!r} got an input of shape {list(x.shape)}")
        return dict(zip(inputs, x.shape[x.ndim - len(inputs) :], strict=True)) | features

    def init(key, x):
        size = known(x)
        n_in = math.prod(size[a] for a in kernel_axes if a not in outputs)
        shape = tuple(size[a] for a in kernel_axes)
        params = {"kernel": param(_AsMatrix(kernel_init, n_in, math.prod(features.values())), shape)}
        return params | ({"bias": param(bias_init, tuple(features.values()))} if use_bias else {})

    def apply(params, x):
        size = known(x)
        if params["kernel"].shape != tuple(size[a] for a in kernel_axes):
            raise ValueError(f"einsum {equation!r} was made for a kernel {list(params['kernel'].shape)}, got {list(x.shape)}")
        x, kernel = promote(x, params["kernel"])
        y = jnp.einsum(equation, x, kernel)
        if not use_bias:
            return y
        own = [size[a] if a in features else 1 for a in outputs]
        return y + params["bias"].astype(y.dtype).reshape((1,) * (y.ndim - len(own)) + tuple(own))

    return stateless(init, apply)


def _places(axes: Sequence[int], x: Any) -> tuple[int, ...]:
    places = tuple(a % x.ndim if -x.ndim <= a < x.ndim else -1 for a in axes)
    if -1 in places or len(set(places)) < len(places) or (0 in places and x.ndim > 1):
        raise ValueError(f"axis={tuple(axes)} must name different axes of the input {list(x.shape)}, and not the batch")
    return places


def _pair(x: Any) -> tuple[Any, Any]:
    if not isinstance(x, (tuple, list)) or len(x) != 2 or x[0].shape[:-1] != x[1].shape[:-1]:
        shapes = [list(part.shape) for part in x] if isinstance(x, (tuple, list)) else list(x.shape)
        raise ValueError(f"bilinear takes a pair of inputs that differ in their last axis only, got {shapes}")
    return x[0], x[1]


class _AsMatrix:
    """The initializer of a kernel of any shape, drawn as the matrix (n_in, n_out) that it is."""

    def __init__(self, initializer: Callable, n_in: int, n_out: int):
        self._initializer, self._matrix = initializer, (n_in, n_out)
        if hasattr(initializer, "describe"):
            self.describe = lambda shape: initializer.describe(self._matrix)

    def __call__(self, key, shape, dtype):
        n_in, n_out = self._matrix
        copies = math.prod(shape) // max(n_in * n_out, 1)
        drawn = self._initializer(key, (n_in, n_out * copies), dtype)
        return drawn.reshape(shape) if drawn.shape == (n_in, n_out * copies) else drawn  # refused where it is drawn
