"""Linear layers: dense layers over any axes, bilinear layers, and einsums."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import kernels
from jaxnn.core.checks import axes_of, function, whole
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

    It has n_in · n_out + n_out parameters: `kernel` (n_in, n_out) and `bias` (n_out,). With several input axes or several
    numbers of features the kernel has the shape (*n_in, *features) and is initialized as a matrix with n_in and n_out their
    products. PyTorch's weight is (n_out, n_in).

    Args:
        features: The number of neurons n_out; a tuple makes one output axis of each entry, such as (heads, features).
        axis: The axis or axes of the input to sum over; the axes of the features are appended at the end.
        use_bias: Whether to add the bias b.
        kernel_init: Initializer of W, by default He's, which is made for ReLU; `fan_in_uniform()` suits sigmoid and tanh.
        bias_init: Initializer of b.

    Returns:
        A `Layer` from (..., n_in) to (..., features); a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If the sizes of the input's axes are not those of the kernel.

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
    axes = axes_of("dense", "axis", axis)
    if not sizes or not axes:
        raise ValueError(f"dense takes at least one axis and one number of features, got axis={axis} and features={features}")

    def init(key, x):
        if x.ndim < 2 or x.ndim <= len(axes):
            raise ValueError(
                f"dense takes an input of shape (batch, ..., features), got {list(x.shape)}: "
                "use x[None] for a single sample, x[:, None] for a single feature"
            )
        n_in = tuple(x.shape[a] for a in _axes(axes, x))
        params = {"kernel": param(_AsMatrix(kernel_init, math.prod(n_in), math.prod(sizes)), (*n_in, *sizes))}
        return params | ({"bias": param(bias_init, sizes)} if use_bias else {})

    def apply(params, x):
        n_in = params["kernel"].shape[: len(axes)]
        if x.ndim < len(axes) or tuple(x.shape[a] for a in _axes(axes, x)) != n_in:
            expected = n_in[0] if len(n_in) == 1 else list(n_in)
            raise ValueError(
                f"dense was initialized for {expected} input features, got an input of shape {list(x.shape)}: "
                "pass an input like that of init, or initialize the model again for this one"
            )
        x, kernel = promote(x, params["kernel"])
        if axes == (-1,) and len(sizes) == 1:
            return kernels.linear(x, kernel, params.get("bias"))
        x = jnp.moveaxis(x, _axes(axes, x), range(x.ndim - len(axes), x.ndim))
        leading = x.shape[: x.ndim - len(axes)]
        bias = params["bias"].reshape(-1) if use_bias else None
        y = kernels.linear(x.reshape(*leading, math.prod(n_in)), kernel.reshape(math.prod(n_in), -1), bias)
        return y.reshape(*leading, *sizes)

    return positionwise(stateless(init, apply))


def bilinear(features: int, *, use_bias: bool = True, kernel_init=lecun_normal(), bias_init=zeros) -> Layer:
    """A bilinear layer of two inputs: y_o = Σ_ij u_i w_ijo v_j + b_o.

    Parameters: `kernel` (n_u, n_v, features) and `bias` (features,). PyTorch's weight is (features, n_u, n_v).

    Args:
        features: The number of outputs.
        use_bias: Whether to add the bias b.
        kernel_init: Initializer of w, by default with variance 1/(n_u · n_v).
        bias_init: Initializer of b.

    Returns:
        A `Layer` from a pair (u, v), of shapes (..., n_u) and (..., n_v), to (..., features).

    Raises:
        ValueError: If the input is not a pair, or the two differ in their leading axes.

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
            raise ValueError(
                f"bilinear has a kernel for {kernel.shape[:2]} features, got inputs {list(u.shape)}, {list(v.shape)}"
            )
        y = jnp.einsum("...i,ijo,...j->...o", u, kernel, v)
        return y + kernels.spread(params["bias"].astype(y.dtype), y) if use_bias else y

    return stateless(init, apply)


def einsum(equation: str, *, use_bias: bool = True, kernel_init=lecun_normal(), bias_init=zeros, **sizes: int) -> Layer:
    """A product of the input and a kernel in Einstein's summation convention, by `jax.numpy.einsum`.

    For example, `"bti,iho->btho"` is y[b, t, h, o] = Σᵢ x[b, t, i] w[i, h, o] + bias[h, o]. The axes of the kernel that the
    input lacks, here h and o, are the features, which are also the axes of the bias. The axes summed over are the fan-in.

    Args:
        equation: `"input,kernel->output"` in lowercase letters; input and output may both begin with `...`.
        use_bias: Whether to add a bias.
        kernel_init: Initializer of the kernel as a matrix (fan-in, features), whose axes are in the order of the input and of
            the output; of one matrix for each index of an axis that input, kernel and output share.
        bias_init: Initializer of the bias.
        **sizes: The size of each axis of the kernel that the input lacks.

    Returns:
        A `Layer` with the parameters `kernel` and `bias`.

    Raises:
        ValueError: If the equation does not have this form, a size is missing or unknown, or the input does not fit.

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
        raise ValueError(f"einsum takes an equation 'input,kernel->output' such as 'bti,io->bto', got {equation!r}")
    inputs, kernel_axes, outputs = plain
    new = [a for a in kernel_axes if a not in inputs]
    if set(new) != set(sizes) or any(a not in outputs for a in new):
        raise ValueError(f"einsum {equation!r} takes the sizes of {new}, which must be axes of the output, got {sizes}")
    features = {a: whole("einsum", a, sizes[a]) for a in outputs if a in new}

    def known(x):
        if x.ndim != len(inputs) and not (parts[0] != inputs and x.ndim > len(inputs)):
            raise ValueError(f"einsum {equation!r} takes an input with {len(inputs)} axes, got one of shape {list(x.shape)}")
        return dict(zip(inputs, x.shape[x.ndim - len(inputs) :], strict=True)) | features

    def init(key, x):
        size = known(x)
        summed = [a for a in dict.fromkeys(inputs) if a in kernel_axes and a not in outputs]
        order = [a for a in kernel_axes if a in inputs and a in outputs] + summed + list(features)

        def arrange(matrices):
            return matrices.reshape([size[a] for a in order]).transpose([order.index(a) for a in kernel_axes])

        n_in, n_out = math.prod(size[a] for a in summed), math.prod(features.values())
        shape = tuple(size[a] for a in kernel_axes)
        params = {"kernel": param(_AsMatrix(kernel_init, n_in, n_out, arrange), shape)}
        return params | ({"bias": param(bias_init, tuple(features.values()))} if use_bias else {})

    def apply(params, x):
        size = known(x)
        if params["kernel"].shape != tuple(size[a] for a in kernel_axes):
            raise ValueError(f"einsum {equation!r} has a kernel {list(params['kernel'].shape)}, got an input {list(x.shape)}")
        x, kernel = promote(x, params["kernel"])
        y = jnp.einsum(equation, x, kernel)
        if not use_bias:
            return y
        shape = [size[a] if a in features else 1 for a in outputs]
        return y + params["bias"].astype(y.dtype).reshape((1,) * (y.ndim - len(shape)) + tuple(shape))

    return stateless(init, apply)


def _axes(axes: Sequence[int], x: Any) -> tuple[int, ...]:
    """The axes of `x`, counted from its first."""
    counted = tuple(a % x.ndim if -x.ndim <= a < x.ndim else -1 for a in axes)
    if -1 in counted or len(set(counted)) < len(counted) or (0 in counted and x.ndim > 1):
        raise ValueError(f"dense takes different axes of its input {list(x.shape)}, not the batch axis, got axis={tuple(axes)}")
    return counted


def _pair(x: Any) -> tuple[Any, Any]:
    if not isinstance(x, (tuple, list)) or len(x) != 2 or x[0].shape[:-1] != x[1].shape[:-1]:
        shapes = [list(part.shape) for part in x] if isinstance(x, (tuple, list)) else list(x.shape)
        raise ValueError(f"bilinear takes a pair of inputs that differ only in their last axis, got {shapes}")
    return x[0], x[1]


class _AsMatrix:
    """The initializer of a kernel of any shape that is a matrix (n_in, n_out), or one for each index of some axes.

    `arrange` turns the matrices (copies, n_in, n_out) into the kernel; by default they are reshaped.
    """

    def __init__(self, initializer: Callable, n_in: int, n_out: int, arrange: Callable | None = None):
        function("this layer", "kernel_init", initializer, "(key, shape, dtype) -> array")
        self._initializer, self._matrix, self._arrange = initializer, (n_in, n_out), arrange
        if hasattr(initializer, "describe"):
            self.describe = lambda shape: initializer.describe(self._matrix)

    def __call__(self, key, shape, dtype):
        n_in, n_out = self._matrix
        copies = math.prod(shape) // max(n_in * n_out, 1)
        if hasattr(self, "describe"):  # independent entries may be drawn in any order
            return self._initializer(key, (n_in, n_out * copies), dtype).reshape(shape)
        if copies == 1:
            drawn = self._initializer(key, (n_in, n_out), dtype)[None]
        else:
            drawn = jax.vmap(lambda key: self._initializer(key, (n_in, n_out), dtype))(jax.random.split(key, copies))
        if drawn.shape != (copies, n_in, n_out):
            return drawn[0]  # an error in `draw`
        return drawn.reshape(shape) if self._arrange is None else self._arrange(drawn)
