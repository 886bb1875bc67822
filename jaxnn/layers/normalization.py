"""Normalization over the batch, with running statistics for inference, and over the features of each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn import kernels
from jaxnn.core.checks import axes_of, number, whole
from jaxnn.core.combinators import positionwise
from jaxnn.core.dtypes import at_least_float32, promote
from jaxnn.core.initialize import param
from jaxnn.core.layer import Layer, stateless
from jaxnn.core.masks import split_mask, zero_padding
from jaxnn.core.norms import power_norm, power_of_two
from jaxnn.functional.initializers import ones, zeros
from jaxnn.kernels.normalization import centered


def batch_norm(
    *,
    momentum: float | None = 0.9,
    epsilon: float = 1e-5,
    use_scale: bool = True,
    use_bias: bool = True,
    axis_name: str | Sequence[str] | None = None,
) -> Layer:
    """Batch normalization: y = scale · (x − mean) / √(var + ε) + bias, over all axes but the last (Ioffe & Szegedy 2015).

    In training, mean and variance are those of the batch, and the running statistics are updated by running ← m · running +
    (1 − m) · batch, with the unbiased variance, as in the paper and PyTorch (whose `momentum` is 1 − m). At inference the
    running statistics are used. Statistics are computed and stored in at least float32.

    For a padded batch `(x, mask)`, with a mask over any of the leading axes of x, only positions where the mask is true are
    used; the output elsewhere is zero. With fewer than two values per channel, or a batch of no samples, the running statistics
    are not updated.

    Args:
        momentum: The decay m of the running statistics; None for their mean over all batches so far, m = 1 − 1 / count.
        epsilon: The constant ε.
        use_scale: Whether to learn a scale, initially 1.
        use_bias: Whether to learn a bias, initially 0.
        axis_name: The axes of `shard_map` or `vmap` over which the batch is distributed; statistics are then computed over
            all of them. Not needed under `jit` with sharded arrays.

    Returns:
        A `Layer` with state `mean` and `var`, both (channels,), and `count` of the batches for `momentum=None`.

    Raises:
        ValueError: If `momentum` is not in [0, 1] or `epsilon` is negative; in training on a batch with one value per
            channel, which has no variance.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.batch_norm(), jnp.array([[1.0], [3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> y, state = layer.apply(params, state, x, training=True)
        >>> y.round(3).tolist(), state["mean"].round(3).tolist()
        ([[-1.0], [1.0]], [0.20000000298023224])
    """

    momentum, epsilon = _decay("batch_norm", momentum), number("batch_norm", "epsilon", epsilon, 0)

    def init(key, x):
        channels = split_mask(x)[0].shape[-1:]
        return _affine(channels, use_scale, use_bias), _running_statistics(channels, momentum)

    def apply(params, state, x, *, key=None, training=False):
        _check_running("batch_norm", state, momentum)
        x, mask = split_mask(x)
        (x,) = promote(x)  # normalized integers are not integers
        wide = zero_padding(at_least_float32(x), mask)
        if not training or (x.size == 0 and axis_name is None):
            y = _normalized(wide, state["mean"], state["var"], epsilon, params)
        else:
            y, batch, n = _batch_statistics(wide, mask, params, epsilon, axis_name)
            state = _updated(state, batch, momentum, n >= 2)
        if mask is None:
            return y.astype(x.dtype), state
        return (zero_padding(y, mask).astype(x.dtype), mask), state

    return Layer(init, apply, "batch_norm")


def _decay(name: str, momentum: float | None) -> Any:
    return None if momentum is None else number(name, "momentum", momentum, 0, 1)


def _running_statistics(channels: tuple[int, ...], momentum: float | None) -> dict:
    count = {"count": param(zeros, (), jnp.int32)} if momentum is None else {}
    return {"mean": param(zeros, channels), "var": param(ones, channels)} | count


def _check_running(name: str, state: dict, momentum: float | None) -> None:
    if state.keys() != {"mean", "var"} | ({"count"} if momentum is None else set()):
        raise ValueError(
            f"{name} needs its running statistics and got {sorted(state) or 'none'}: call model.apply(params, state, x) with "
            "the state that init or fit returned"
        )


def _updated(state: dict, batch: dict, momentum: float | None, counts: bool | jax.Array = True) -> dict:
    """The running statistics after a batch, or unchanged if it does not count."""
    weight: Any
    if momentum is None:
        count = state["count"] + jnp.asarray(counts, jnp.int32)
        weight = 1 / jnp.maximum(count, 1).astype(state["mean"].dtype)
    else:
        weight = 1 - momentum
    weight = jnp.where(counts, weight, 0) if isinstance(counts, jax.Array) else weight
    after = {k: (1 - weight) * state[k] + weight * batch[k].astype(state[k].dtype) for k in batch}
    return after | ({"count": count} if momentum is None else {})


def _batch_statistics(x, mask, params, epsilon, axis_name):
    """The normalized batch, its mean and unbiased variance, and the number of values per channel, static if possible."""
    n = x.size // max(x.shape[-1], 1)
    if mask is None:
        n = n if axis_name is None else lax.psum(n, axis_name)
        if n < 2:
            raise ValueError(
                f"batch_norm cannot compute a variance from one value per channel (input {list(x.shape)}) in training: "
                "use larger batches, or a batch size that leaves no last batch of one sample"
            )
    if mask is None and axis_name is None:
        scale, bias = params.get("scale", jnp.ones(x.shape[-1:])), params.get("bias", jnp.zeros(x.shape[-1:]))
        y, mean, var = kernels.batch_norm(x, scale.astype(x.dtype), bias.astype(x.dtype), epsilon)
        return y, {"mean": mean, "var": var * (n / (n - 1))}, n

    def total(v):
        return v if axis_name is None else lax.psum(v, axis_name)

    if mask is not None:
        n = total(jnp.sum(mask, dtype=jnp.int32)) * (n // max(mask.size, 1))
        divisor, less_one = (jnp.maximum(m, 1).astype(x.dtype) for m in (n, n - 1))
    else:
        divisor, less_one = n, n - 1
    mean = total(kernels.column_sum(x)) / divisor  # the padding of x is zero
    x = zero_padding(x - kernels.spread(mean, x), mask)
    rounding = lax.stop_gradient(total(kernels.column_sum(x)) / divisor)  # as in `centered`
    x = zero_padding(x - kernels.spread(rounding, x), mask)
    squares = total(kernels.column_sum(x**2))
    y = _normalized(x, None, squares / divisor, epsilon, params)
    return y, {"mean": mean + rounding, "var": squares / less_one}, n


def layer_norm(
    *, axis: int | Sequence[int] = -1, epsilon: float = 1e-5, use_scale: bool = True, use_bias: bool = True
) -> Layer:
    """Layer normalization: y = scale · (x − mean) / √(var + ε) + bias, over the last axis (Ba, Kiros & Hinton 2016).

    Computed in at least float32.

    Args:
        axis: The axis or axes over which mean and variance are computed; scale and bias have their shape.
        epsilon: The constant ε.
        use_scale: Whether to learn a scale, initially 1.
        use_bias: Whether to learn a bias, initially 0.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If the input has no such axis.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.layer_norm(), jnp.array([[1.0, 3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3).tolist()
        [[-1.0, 1.0]]
    """

    axis, epsilon = axes_of("layer_norm", "axis", axis), number("layer_norm", "epsilon", epsilon, 0)

    def init(key, x):
        return _affine(tuple(x.shape[i] for i in _axes("layer_norm", axis, x)), use_scale, use_bias)

    def apply(params, x):
        axes, (x,) = _axes("layer_norm", axis, x), promote(x)
        difference, var = centered(at_least_float32(x), axes)
        return _normalized(difference, None, var, epsilon, params, axes).astype(x.dtype)

    return positionwise(stateless(init, apply))


def rms_norm(*, axis: int | Sequence[int] = -1, epsilon: float = 1e-6, use_scale: bool = True) -> Layer:
    """Root mean square normalization: y = scale · x / √(mean x² + ε), over the last axis (Zhang & Sennrich 2019).

    Computed in at least float32. PyTorch's default ε depends on the dtype.

    Args:
        axis: The axis or axes over which the mean is computed; scale has their shape.
        epsilon: The constant ε.
        use_scale: Whether to learn a scale, initially 1.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If the input has no such axis.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.rms_norm(), jnp.array([[1.0, 7.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3).tolist()
        [[0.20000000298023224, 1.4000000953674316]]
    """

    axis, epsilon = axes_of("rms_norm", "axis", axis), number("rms_norm", "epsilon", epsilon, 0)

    def init(key, x):
        return _affine(tuple(x.shape[i] for i in _axes("rms_norm", axis, x)), use_scale, False)

    def apply(params, x):
        axes, (x,) = _axes("rms_norm", axis, x), promote(x)
        wide = at_least_float32(x)
        squares = jnp.mean(wide**2, axes, keepdims=True)
        return _normalized(wide, None, squares, epsilon, params, axes).astype(x.dtype)

    return positionwise(stateless(init, apply))


def group_norm(groups: int, *, epsilon: float = 1e-5, use_scale: bool = True, use_bias: bool = True) -> Layer:
    """Group normalization: y = scale · (x − mean) / √(var + ε) + bias, over space and groups of channels (Wu & He 2018).

    Each sample and each group of channels is normalized separately. Computed in at least float32.

    Args:
        groups: The number of groups of neighboring channels; 32 in the paper.
        epsilon: The constant ε.
        use_scale: Whether to learn one scale per channel, initially 1.
        use_bias: Whether to learn one bias per channel, initially 0.

    Returns:
        A `Layer` that keeps the shape (batch, ..., channels).

    Raises:
        ValueError: If `groups` does not divide the number of channels.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.group_norm(2), jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """
    groups = whole("group_norm", "groups", groups)
    return _grouped("group_norm", lambda channels: groups, epsilon, use_scale, use_bias)


def instance_norm(
    *,
    epsilon: float = 1e-5,
    use_scale: bool = True,
    use_bias: bool = True,
    track_running_stats: bool = False,
    momentum: float | None = 0.9,
) -> Layer:
    """Instance normalization: y = scale · (x − mean) / √(var + ε) + bias, over space (Ulyanov et al. 2016).

    Each sample and each channel is normalized separately. Computed in at least float32. PyTorch's layer has no scale and
    bias by default.

    Args:
        epsilon: The constant ε.
        use_scale: Whether to learn one scale per channel, initially 1.
        use_bias: Whether to learn one bias per channel, initially 0.
        track_running_stats: Whether inference uses running statistics as in `batch_norm`, updated by the mean over the batch
            of the samples' means and unbiased variances.
        momentum: The decay of the running statistics, as in `batch_norm`.

    Returns:
        A `Layer` that keeps the shape (batch, *space, channels). With running statistics its state is that of `batch_norm`.

    Raises:
        ValueError: If a sample has one value per channel, which has no variance.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> layer, x = nn.instance_norm(), jnp.array([[[1.0], [3.0]]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3).tolist()
        [[[-1.0], [1.0]]]
    """
    momentum = _decay("instance_norm", momentum)
    plain = _grouped("instance_norm", lambda channels: channels, epsilon, use_scale, use_bias)
    if not track_running_stats:
        return plain

    def init(key, x):
        return plain.setup(x).params, _running_statistics(x.shape[-1:], momentum)

    def apply(params, state, x, *, key=None, training=False):
        _check_running("instance_norm", state, momentum)
        (x,) = promote(x)
        wide, space = at_least_float32(x), tuple(range(1, x.ndim - 1))
        if not training or x.size == 0:
            return _normalized(wide, state["mean"], state["var"], epsilon, params).astype(x.dtype), state
        n = math.prod(x.shape[1:-1])
        batch = {"mean": wide.mean((0, *space)), "var": centered(wide, space)[1].mean((0, *space)) * (n / (n - 1))}
        return plain.apply(params, {}, x)[0], _updated(state, batch, momentum)

    return Layer(init, apply, "instance_norm")


def local_response_norm(size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Layer:
    """Local response normalization over channels: y = x / (k + α / size · Σ x²)^β (Krizhevsky et al. 2012).

    The sum is over `size` neighboring channels. As in PyTorch and ONNX it is divided by `size`; in the paper and TensorFlow
    it is not, and in the paper k = 2. For an even size the window has one more channel before the center than after it, as
    in PyTorch; in ONNX it is the other way round. Computed in at least float32.

    Args:
        size: The number of neighboring channels in the window, including the channel itself.
        alpha: The factor α.
        beta: The exponent β.
        k: The constant k, which prevents division by zero.

    Returns:
        A `Layer` that keeps the shape (batch, ..., channels).

    Raises:
        ValueError: If `size` < 1, or `alpha` or `k` is negative.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.local_response_norm(1, alpha=1.0, beta=0.5)({}, jnp.array([[0.75]])).round(3).item()
        0.6000000238418579
    """
    size = whole("local_response_norm", "size", size)
    alpha, beta = number("local_response_norm", "alpha", alpha, 0), number("local_response_norm", "beta", beta)
    k = number("local_response_norm", "k", k, 0)

    def apply(params, x):
        (x,) = promote(x)
        wide = at_least_float32(x)
        channels = x.shape[-1]
        around = [(0, 0)] * (x.ndim - 1) + [(size // 2, (size - 1) // 2)]
        squares = jnp.pad(wide**2, around)
        total = sum(lax.slice_in_dim(squares, i, i + channels, axis=-1) for i in range(size))
        return (wide / (k + alpha / size * total) ** beta).astype(x.dtype)

    return stateless(lambda key, x: {}, apply)


def unit_norm(*, axis: int | Sequence[int] = -1, p: float = 2.0, epsilon: float = 1e-12) -> Layer:
    """Scale vectors to length 1: y = x / max(‖x‖ₚ, ε), as for cosine similarities. Computed in at least float32.

    Keras's `UnitNormalization`, PyTorch's `functional.normalize`. A zero vector stays zero, with a finite gradient.

    Args:
        axis: The axis or axes along which the norm is computed.
        p: The order of the norm, at least 1; `math.inf` for the largest absolute value.
        epsilon: The constant ε.

    Returns:
        A `Layer` that keeps the shape; a padded sequence `(x, mask)` keeps its mask.

    Raises:
        ValueError: If the input has no such axis, or `p` < 1.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.unit_norm()({}, jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    axis, epsilon = axes_of("unit_norm", "axis", axis), number("unit_norm", "epsilon", epsilon, 0)
    p = norm_order("unit_norm", p)

    def apply(params, x):
        axes, (x,) = _axes("unit_norm", axis, x), promote(x)
        wide = at_least_float32(x)
        scale = power_of_two(wide, axes)
        wide = wide / scale
        length = jnp.maximum(power_norm(wide, axes, p), epsilon / scale)
        return (wide / jnp.where(length == 0, 1, length)).astype(x.dtype)

    return positionwise(stateless(lambda key, x: {}, apply, "unit_norm"))


def norm_order(name: str, p: float) -> float:
    """The order of a norm, a number of at least 1 or ∞."""
    return p if isinstance(p, float) and p == math.inf else number(name, "p", p, 1)


def _grouped(name: str, groups_of, epsilon: float, use_scale: bool, use_bias: bool) -> Layer:
    epsilon = number(name, "epsilon", epsilon, 0)

    def init(key, x):
        _affine(x.shape[-1:], use_scale, use_bias)  # raises an error for a scalar
        groups = groups_of(x.shape[-1])
        if x.ndim < 2 or x.shape[-1] % groups:
            raise ValueError(f"{name} takes (batch, ..., channels) with channels divisible by {groups}, got {list(x.shape)}")
        if math.prod(x.shape[1:]) == groups:
            raise ValueError(f"{name} cannot compute a variance from one value per group (input {list(x.shape)})")
        return _affine(x.shape[-1:], use_scale, use_bias)

    def apply(params, x):
        groups, (x,) = groups_of(x.shape[-1]), promote(x)
        wide = at_least_float32(x).reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        difference, var = centered(wide, (*range(1, x.ndim - 1), x.ndim))
        y = (difference * lax.rsqrt(var + epsilon)).reshape(x.shape)
        y = y * kernels.spread(params["scale"].astype(y.dtype), y) if "scale" in params else y
        return (y + kernels.spread(params["bias"].astype(y.dtype), y) if "bias" in params else y).astype(x.dtype)

    return stateless(init, apply, name)


def _axes(name: str, axes: tuple[int, ...], x) -> tuple[int, ...]:
    """The axes of `x` to normalize over, counted from its first, in order."""
    if not axes or any(not -x.ndim <= i < x.ndim for i in axes):
        raise ValueError(f"{name} normalizes over the axes {axes}, got an input of shape {list(x.shape)}")
    return tuple(sorted({i % x.ndim for i in axes}))


def _affine(channels: tuple[int, ...], use_scale: bool, use_bias: bool) -> dict:
    if not channels:
        raise ValueError("normalization takes an input of shape (batch, ..., features), got a scalar")
    return ({"scale": param(ones, channels)} if use_scale else {}) | ({"bias": param(zeros, channels)} if use_bias else {})


def _normalized(
    x: jax.Array, mean: jax.Array | None, var: jax.Array, epsilon: float, params: dict, axes: tuple[int, ...] | None = None
) -> jax.Array:
    """scale · (x − mean) / √(var + ε) + bias, with parameters along `axes`, by default the last axis; None is a mean of 0."""

    def along(v):
        if v.ndim == x.ndim:
            return v.astype(x.dtype)
        if axes in (None, (x.ndim - 1,)):
            return kernels.spread(v.astype(x.dtype), x)
        return lax.broadcast_in_dim(v.astype(x.dtype), x.shape, axes)

    factor = jax.lax.rsqrt(along(var) + epsilon)
    if "scale" in params:
        factor = factor * along(params["scale"])
    y = (x if mean is None else x - along(mean)) * factor
    return y + along(params["bias"]) if "bias" in params else y
