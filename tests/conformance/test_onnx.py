"""ONNX's published test vectors of every operator that jaxnn has, run through the corresponding layer or function.

The `onnx` package generates the vectors of single operators and contains models that PyTorch exported, both with inputs and
outputs. Each operator is translated with all its attributes: axes from channels first to channels last, pads to pairs, gates
to another order. `SKIPPED` lists the vectors that cannot be expressed, each with its reason.
"""

import fnmatch
import functools
import math
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

pytestmark = pytest.mark.slow  # each vector has its own shapes, so each compiles its operations

SKIPPED = {  # names of vectors, and why jaxnn cannot compute them
    "test_training_dropout*default*": "ONNX's random generator drops other units",
    "test_training_dropout": "ONNX's random generator drops other units",
    "test_training_dropout_mask": "ONNX's random generator drops other units",
    "test_einsum_*sum*": "an einsum layer has a kernel, these have one operand",
    "test_einsum_transpose*": "an einsum layer has a kernel, these have one operand",
    "test_einsum_batch_diagonal": "an einsum layer has a kernel, these have one operand",
    "test_einsum_scalar": "an einsum layer has a kernel, these have one operand",
    "test_flatten_axis[023]": "the batch axis remains the first",
    "test_flatten_negative_axis[124]": "the batch axis remains the first",
    "test_identity_sequence": "an activation does not take a list",
    "test_identity_opt": "an activation does not take a list",
    "test_mul_*int*": "layers compute with floating-point numbers",
    "test_mul_bcast": "jaxnn does not broadcast here",
    "test_resize_downsample_scales_*": "the scale is not a ratio of two integer sizes",
    "test_resize_upsample_scales_cubic": "jax.image's cubic has a = −1/2 and ignores what is beyond the edge",
    "test_resize_upsample_scales_cubic_al*": "jax.image's cubic has a = −1/2 and ignores what is beyond the edge",
    "test_resize_upsample_scales_cubic_as*": "jaxnn aligns pixels by their areas or their corners only",
    "test_resize_*_sizes_cubic*": "jax.image's cubic has a = −1/2 and ignores what is beyond the edge",
    "test_resize_downsample_sizes_linear_antialias": "jax.image, like PIL, ignores what is beyond the edge; ONNX repeats it",
    "test_resize_*half_pixel_symmetric": "jaxnn aligns pixels by their areas or their corners only",
    "test_resize_*pytorch_half_pixel": "jaxnn aligns pixels by their areas or their corners only",
    "test_resize_tf_crop_and_resize*": "a crop is a separate layer",
    "test_resize_downsample_sizes_nearest*": "of two equally near pixels jax.image takes the later one",
    "test_resize_upsample_sizes_nearest": "of two equally near pixels jax.image takes the later one",
    "test_resize_upsample_sizes_nearest_axes*": "of two equally near pixels jax.image takes the later one",
    "test_resize_upsample_sizes_nearest_not_larger": "of two equally near pixels jax.image takes the later one",
    "test_resize_upsample_sizes_nearest_[cfr]*": "rounds otherwise than to the nearest",
    "test_gather_1": "an embedding is looked up along its first axis",
    "test_gather_2d_indices": "an embedding is looked up along its first axis",
    "test_gather_negative_indices": "a token outside the vocabulary is NaN",
}


def run(layer, x, params=None, state=None, **options):
    return layer.apply(params or {}, state or {}, x, **options)[0]


def last(x):
    """(batch, channels, *space) as (batch, *space, channels)."""
    return jnp.moveaxis(x, 1, -1)


def first(x):
    return jnp.moveaxis(x, -1, 1)


def affine(scale, bias=None):
    return {"scale": scale} | ({} if bias is None else {"bias": bias})


# --- windows -----------------------------------------------------------------------------------------------------------


def window(at, space, size):
    """Strides, padding and dilation."""
    strides, dilation = (tuple(at.get(name, [1] * len(space))) for name in ("strides", "dilations"))
    padding = {"SAME_UPPER": "SAME", "VALID": "VALID"}.get(at.get("auto_pad"))
    if at.get("auto_pad") == "SAME_LOWER":  # the larger half first
        reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
        totals = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(space, strides, reach, strict=True)]
        padding = tuple((total - total // 2, total // 2) for total in totals)
    elif padding is None:
        padding = pairs(at.get("pads", [0, 0] * len(space)))
    return {"strides": strides, "padding": padding, "dilation": dilation}


def pairs(pads):
    return tuple(zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True))


def conv(at, x, kernel, bias=None):
    size = kernel.shape[2:]
    options = window(at, x.shape[2:], size) | {"groups": at.get("group", 1), "use_bias": bias is not None}
    params = {"kernel": jnp.moveaxis(kernel, (0, 1), (-1, -2))} | ({} if bias is None else {"bias": bias})
    return first(run(nn.conv(kernel.shape[0], size, **options), last(x), params))


def conv_transpose(at, x, kernel, bias=None):
    size, space, groups = kernel.shape[2:], x.shape[2:], at.get("group", 1)
    options = window({k: v for k, v in at.items() if k != "auto_pad"}, space, size)
    strides, dilation = options["strides"], options["dilation"]
    extra, auto = at.get("output_padding", [0] * len(space)), at.get("auto_pad", "NOTSET")
    wanted = at.get("output_shape") or ([n * s for n, s in zip(space, strides, strict=True)] if "SAME" in auto else None)
    if wanted is not None:  # the excess is cut off, one more at the start for an odd number unless SAME_UPPER
        rows = zip(space, strides, extra, size, dilation, wanted, strict=True)
        totals = [s * (n - 1) + e + (k - 1) * d + 1 - m for n, s, e, k, d, m in rows]
        low = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals]
        options["padding"] = [(p, t - p) for p, t in zip(low, totals, strict=True)]
    options["padding"] = tuple((p, q - e) for (p, q), e in zip(options["padding"], extra, strict=True))
    features = kernel.shape[1] * groups
    of_groups = kernel.reshape(groups, -1, *kernel.shape[1:])  # (groups, channels, features, *size), features of a group
    weights = jnp.moveaxis(of_groups, (0, 1, 2), (-2, -3, -1)).reshape(*size, kernel.shape[0] // groups, features)
    params = {"kernel": weights} | ({} if bias is None else {"bias": bias})
    return first(run(nn.conv_transpose(features, size, groups=groups, use_bias=bias is not None, **options), last(x), params))


def causal_conv(at, x, kernel, bias=None, past=None):
    width = kernel.shape[2] - 1
    seen = jnp.concatenate([jnp.zeros((*x.shape[:2], width), x.dtype) if past is None else past, x], -1)
    layer = nn.depthwise_conv(kernel.shape[2], padding="CAUSAL" if past is None else "VALID", use_bias=bias is not None)
    params = {"kernel": jnp.moveaxis(kernel, (0, 1), (-1, -2))} | ({} if bias is None else {"bias": bias})
    y = first(run(layer, last(x if past is None else seen), params))
    return y if at.get("activation", "none") == "none" else nn.silu(y), seen[..., seen.shape[-1] - width :]


def pool(make, *names):
    def translate(at, x):
        size = tuple(at["kernel_shape"])
        options = window(at, x.shape[2:], size) | {name: at[name] for name in names if name in at}
        if "ceil_mode" in names:
            options["ceil_mode"] = bool(at.get("ceil_mode", 0))
        return first(run(make(size, **options), last(x)))

    return translate


def average_pool(at, x):
    count = bool(at.get("count_include_pad", 0))
    return pool(functools.partial(nn.avg_pool, count_include_pad=count), "ceil_mode")(at, x)


def global_pool(make):
    return lambda at, x: run(make(), last(x))[(..., *[None] * (x.ndim - 2))]


def pad(at, x, pads=None, value=None, axes=None):
    axes = range(x.ndim) if axes is None else [int(a) % x.ndim for a in axes]
    margins = dict(zip(axes, pairs([int(p) for p in (at["pads"] if pads is None else pads)]), strict=True))
    assert all(margins.get(axis, (0, 0)) == (0, 0) for axis in (0, 1))
    space = tuple(margins.get(axis, (0, 0)) for axis in range(2, x.ndim))
    value = at.get("value", 0.0) if value is None else value
    return first(run(nn.pad(space, mode=at.get("mode", "constant"), value=value), last(x)))


def resize(at, x, roi=None, scales=None, sizes=None):
    axes = [a % x.ndim for a in at.get("axes", range(x.ndim))]
    shape = list(x.shape)
    for i, axis in enumerate(axes):
        shape[axis] = int(sizes[i]) if scales is None else math.floor(x.shape[axis] * float(scales[i]))
    if at.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        choose = {"not_larger": min, "not_smaller": max}[at["keep_aspect_ratio_policy"]]
        scale = choose(int(sizes[i]) / x.shape[axis] for i, axis in enumerate(axes))
        for axis in axes:
            shape[axis] = math.floor(scale * x.shape[axis] + 0.5)
    assert shape[:2] == list(x.shape[:2])
    corners = at.get("coordinate_transformation_mode") == "align_corners"
    options = {"antialias": bool(at.get("antialias", 0)), "align_corners": corners}
    return first(run(nn.resize(shape[2:], method=at.get("mode", "nearest"), **options), last(x)))


def upsample(at, x, scales):
    whole = [int(s) for s in scales[2:]]
    assert whole == [float(s) for s in scales[2:]] and [float(s) for s in scales[:2]] == [1, 1]
    return first(run(nn.upsample(whole, method=at.get("mode", "nearest")), last(x)))


def depth_to_space(at, x):
    r = at["blocksize"]
    if at.get("mode", "DCR") == "DCR":  # ONNX has the block before the channels; jaxnn and PyTorch have it after
        x = x.reshape(x.shape[0], r * r, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
    return first(run(nn.pixel_shuffle(r), last(x)))


def space_to_depth(at, x):
    r = at["blocksize"]
    y = first(run(nn.pixel_unshuffle(r), last(x)))
    if at.get("mode", "DCR") == "DCR":
        y = y.reshape(y.shape[0], -1, r * r, *y.shape[2:]).swapaxes(1, 2).reshape(y.shape)
    return y


# --- norms -------------------------------------------------------------------------------------------------------------


def batch_norm(at, x, scale, bias, mean, var):
    """In training ONNX's running variance moves towards the batch's variance, ours towards n / (n − 1) times it."""
    training, momentum = bool(at.get("training_mode", 0)), at.get("momentum", 0.9)
    layer = nn.batch_norm(momentum=momentum, epsilon=at.get("epsilon", 1e-5))
    y, state = layer.apply(affine(scale, bias), {"mean": mean, "var": var}, last(x), training=training)
    n = x.size / x.shape[1]
    kept = momentum * var
    return (first(y), state["mean"], kept + (state["var"] - kept) * (n - 1) / n) if training else first(y)


def trailing_norm(make):
    def translate(at, x, scale, bias=None):
        axes = tuple(range(at.get("axis", -1) % x.ndim, x.ndim))
        bias_option = {"use_bias": bias is not None} if make is nn.layer_norm else {}
        return run(make(axis=axes, epsilon=at.get("epsilon", 1e-5), **bias_option), x, affine(scale, bias))

    return translate


def group_norm(at, x, scale, bias):
    return first(run(nn.group_norm(at["num_groups"], epsilon=at.get("epsilon", 1e-5)), last(x), affine(scale, bias)))


def instance_norm(at, x, scale, bias):
    return first(run(nn.instance_norm(epsilon=at.get("epsilon", 1e-5)), last(x), affine(scale, bias)))


def local_response_norm(at, x):
    """A window of even size has one more channel behind in ONNX and before in jaxnn, so the channels are reversed."""
    options = {"alpha": at.get("alpha", 1e-4), "beta": at.get("beta", 0.75), "k": at.get("bias", 1.0)}
    return first(run(nn.local_response_norm(at["size"], **options), last(x)[..., ::-1])[..., ::-1])


def unit_norm(at, x):
    return run(nn.unit_norm(axis=at.get("axis", -1), p=float(at.get("p", 2))), x)


# --- recurrence --------------------------------------------------------------------------------------------------------


def blocks(order, own):
    """Turn rows of gates in ONNX's order into columns in jaxnn's order."""
    return lambda w: jnp.concatenate([jnp.split(w, len(order))[order.index(gate)] for gate in own]).T


def rnn_params(at, w, u, b, p):
    return {"kernel": w.T, "recurrent_kernel": u.T, "bias": sum(jnp.split(b, 2))}


def lstm_params(at, w, u, b, p):
    own = blocks("iofc", "ifco")
    params = {"kernel": own(w), "recurrent_kernel": own(u), "bias": own(sum(jnp.split(b, 2)))}
    return params if p is None else params | {"peephole": jnp.stack([jnp.split(p, 3)[i] for i in (0, 2, 1)])}


def gru_params(at, w, u, b, p):
    own, (of_x, of_h) = blocks("zrh", "rzh"), jnp.split(b, 2)
    params = {"kernel": own(w), "recurrent_kernel": own(u)}
    if not at.get("linear_before_reset", 0):
        return params | {"bias": own(of_x + of_h)}
    inside = jnp.split(of_h, 3)[2]
    return params | {"bias": own(of_x + of_h.at[-len(inside) :].set(0)), "recurrent_bias": inside}


ACTIVATIONS = {"Tanh": nn.tanh, "Sigmoid": nn.sigmoid, "Relu": nn.relu, "Softsign": nn.soft_sign, "Softplus": nn.softplus}


def recurrent(make, parameters, n_activations):
    def translate(at, x, w, u, b=None, lengths=None, h=None, c=None, p=None):
        directions, features, swap = w.shape[0], u.shape[2], at.get("layout", 0)
        x, h, c = (v if v is None or swap else v.swapaxes(0, 1) for v in (x, h, c))  # batch first
        batch, time, _ = x.shape
        b = jnp.zeros((directions, 2 * w.shape[1]), x.dtype) if b is None else b
        options = {} if p is None else {"peephole": True}
        if make is nn.gru:
            options["reset_after"] = bool(at.get("linear_before_reset", 0))
        names = at.get("activations", [])[:n_activations]
        assert names == at.get("activations", [])[-n_activations:]  # both directions use the same
        if names:
            options["activation"] = ACTIVATIONS[names[-1]]
            assert n_activations < 3 or names[1] == names[2]
        if len(names) > 1:
            options["gate_activation"] = ACTIVATIONS[names[0]]
        layer = make(features, stateful=True, **options)
        params = [parameters(at, *(v[d] for v in (w, u, b)), None if p is None else p[d]) for d in range(directions)]
        zero = jnp.zeros((batch, directions, features), x.dtype)
        carry = {"h": h, "c": c} if make is nn.lstm else {"h": h}
        states = [{k: (zero if v is None else v)[:, d] for k, v in carry.items()} for d in range(directions)]
        mask = None if lengths is None else jnp.arange(time)[None] < lengths[:, None].astype(int)
        direction = at.get("direction", "forward")
        if direction == "bidirectional":
            ways = "forward", "backward"
            layer = nn.bidirectional(layer)
            params, states = (dict(zip(ways, v, strict=True)) for v in (params, states))
        else:
            params, states, ways = params[0], states[0], None
        turn = (lambda v: jnp.flip(v, 1)) if direction == "reverse" else (lambda v: v)
        given = turn(x) if mask is None else (turn(x), turn(mask))
        y, after = layer.apply(params, states, given)
        y = turn(y if mask is None else y[0]).reshape(batch, time, directions, features)
        after = [after[way] for way in ways] if ways else [after]
        carry = tuple(jnp.stack([state[k] for state in after], 1) for k in carry)  # (batch, directions, features)
        return (y, *carry) if swap else (y.transpose(1, 2, 0, 3), *(v.swapaxes(0, 1) for v in carry))

    return translate


# --- attention ---------------------------------------------------------------------------------------------------------


def attention(at, q, k, v, mask=None, past_k=None, past_v=None, lengths=None):
    flat = q.ndim == 3
    if flat:  # (batch, time, heads · d)
        heads = at["q_num_heads"], at["kv_num_heads"], at["kv_num_heads"]
        q, k, v = (x.reshape(*x.shape[:2], n, -1) for x, n in zip((q, k, v), heads, strict=True))
    else:
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    if past_k is not None:
        k, v = (jnp.concatenate([past.swapaxes(1, 2), x], 1) for past, x in ((past_k, k), (past_v, v)))
    queries, keys = q.shape[1], k.shape[1]
    offset = jnp.zeros((1, 1, 1, 1), int) if past_k is None else jnp.full((1, 1, 1, 1), past_k.shape[2])
    if lengths is not None:
        offset = (lengths - queries)[:, None, None, None]
    i, j = jnp.arange(queries)[None, None, :, None] + offset, jnp.arange(keys)[None, None, None]
    causal = bool(at.get("is_causal", 0))
    options = {"scale": at.get("scale"), "softcap": at.get("softcap") or None}
    left, right = at.get("left_window_size", -1), at.get("right_window_size", -1)
    seen = []
    if causal and queries == keys and past_k is None and lengths is None:
        options["is_causal"] = True
    elif causal:
        seen.append(j <= i)
    seen += [] if left < 0 else [j >= i - left]
    seen += [] if right < 0 else [j <= i + right]
    seen += [] if lengths is None else [j < lengths[:, None, None, None]]
    if mask is not None:
        short = keys - mask.shape[-1]
        mask = jnp.pad(
            mask, [(0, 0)] * (mask.ndim - 1) + [(0, short)], constant_values=False if mask.dtype == bool else -jnp.inf
        )
        mask = mask[(None,) * (4 - mask.ndim)]
        if mask.dtype == bool:
            seen.append(mask)
        else:  # the mask says what is hidden
            seen.append(mask > -jnp.inf)
            options["bias"] = jnp.where(mask > -jnp.inf, mask, 0)
    allowed = functools.reduce(jnp.logical_and, seen) if seen else None
    y = nn.kernels.dot_product_attention(q, k, v, mask=allowed, **options)
    y = y.reshape(*y.shape[:2], -1) if flat else y.swapaxes(1, 2)
    return y, k.swapaxes(1, 2), v.swapaxes(1, 2)


def rotary(at, x, cos, sin, positions=None):
    shape = x.shape
    x = x.reshape(*shape[:2], at["num_heads"], -1) if x.ndim == 3 else x.swapaxes(1, 2)
    cos, sin = (v if positions is None else v[positions] for v in (cos, sin))
    y = nn.apply_rotary(x, cos, sin, interleaved=bool(at.get("interleaved", 0)))
    return y.reshape(shape) if len(shape) == 3 else y.swapaxes(1, 2)


# --- losses, products, activations -------------------------------------------------------------------------------------


def cross_entropy(scores, targets, class_weights, at, **options):
    ignored = at.get("ignore_index")
    where = None if ignored is None else targets != ignored
    weights = None if class_weights is None else jnp.take(class_weights, targets, mode="clip")
    reduction = at.get("reduction", "mean")
    return nn.losses.cross_entropy(last(scores), targets, where=where, weights=weights, reduction=reduction, **options)


def softmax_loss(at, scores, targets, weights=None):
    return cross_entropy(scores, targets, weights, at), nn.log_softmax(scores, 1)


def negative_log_likelihood(at, logs, targets, weights=None):
    """The log-probabilities need not be normalized: the loss of given probabilities takes them unchanged."""
    return cross_entropy(jnp.exp(logs), targets, weights, at, from_logits=False)


def gemm(at, a, b, c=None):
    a, b = a.T if at.get("transA") else a, b.T if at.get("transB") else b
    params, beta = {"kernel": at.get("alpha", 1.0) * b}, at.get("beta", 1.0)
    a_row = c is not None and (c.ndim < 2 or c.shape[0] == 1)
    if a_row:
        params["bias"] = jnp.broadcast_to(beta * c, (1, b.shape[1]))[0]
    y = run(nn.dense(b.shape[1], use_bias=a_row), a, params)
    return y if c is None or a_row else nn.add((y, jnp.broadcast_to(beta * c, y.shape)))


def einsum(at, x, kernel):
    left, right, *out = at["equation"].replace(" ", "").replace("->", ",").split(",")
    out = out[0] if out else "".join(sorted(a for a in left + right if (left + right).count(a) == 1))
    sizes = {axis: n for axis, n in zip(right, kernel.shape, strict=True) if axis not in left}
    return run(nn.einsum(f"{left},{right}->{out}", use_bias=False, **sizes), x, {"kernel": kernel})


def gather(at, table, tokens):
    layer = nn.embedding(table.shape[0], math.prod(table.shape[1:]))
    y = run(layer, tokens, {"embedding": table.reshape(table.shape[0], -1)})
    return y.reshape(*tokens.shape, *table.shape[1:])


def flatten(at, x):
    assert at.get("axis", 1) in (1, 1 - x.ndim)
    return run(nn.flatten(), x)


def dropout(at, x, ratio=None, training=None):
    training = training is not None and bool(training)
    rate = float(at.get("ratio", 0.5) if ratio is None else ratio)
    return run(nn.dropout(rate), x, training=training, key=jax.random.key(0))


def softmax(function):
    def translate(at, x):
        if at["opset"] >= 13:
            return function(x, axis=at.get("axis", -1))
        axis = at.get("axis", 1) % x.ndim  # over this axis and all after it
        return function(x.reshape(*x.shape[:axis], -1)).reshape(x.shape)

    return translate


def prelu(at, x, slope):
    if slope.size == x.shape[1] and x.ndim > 1 and (slope.ndim == 1 or slope.shape[0] == x.shape[1]) and at["opset"] < 7:
        return first(run(nn.prelu(), last(x), {"negative_slope": slope.ravel()}))  # one per channel, as in that version
    return nn.leaky_relu(x, jnp.broadcast_to(slope, x.shape))


def shrink(at, x):
    bias, threshold = at.get("bias", 0.0), at.get("lambd", 0.5)
    assert bias in (0.0, threshold)
    return (nn.soft_shrink if bias else nn.hard_shrink)(x, threshold)


def selu(at, x):
    return at["gamma"] * nn.elu(x, at["alpha"]) if {"alpha", "gamma"} <= set(at) else nn.selu(x)


def swish(at, x):
    alpha = at.get("alpha", 1.0)
    return nn.silu(alpha * x) / alpha


def plain(function, **defaults):
    """An activation of x whose options are the attributes with ONNX's names and defaults."""
    return lambda at, x: function(x, **{own: at.get(name, value) for own, (name, value) in defaults.items()})


OPERATORS = {
    "Attention": attention,
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "CausalConvWithState": causal_conv,
    "Celu": plain(nn.celu, alpha=("alpha", 1.0)),
    "Concat": lambda at, *xs: nn.concatenate(xs, axis=at["axis"]),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Dropout": dropout,
    "Einsum": einsum,
    "Elu": plain(nn.elu, alpha=("alpha", 1.0)),
    "Exp": plain(nn.exponential),
    "Flatten": flatten,
    "GRU": recurrent(nn.gru, gru_params, 2),
    "Gather": gather,
    "Gelu": lambda at, x: nn.gelu(x, approximate=at.get("approximate", "none") == "tanh"),
    "Gemm": gemm,
    "GlobalAveragePool": global_pool(nn.global_avg_pool),
    "GlobalMaxPool": global_pool(nn.global_max_pool),
    "GroupNormalization": group_norm,
    "HardSigmoid": lambda at, x: nn.hard_sigmoid(6 * (at.get("alpha", 0.2) * x + at.get("beta", 0.5)) - 3),
    "HardSwish": plain(nn.hard_swish),
    "Identity": plain(nn.identity),
    "InstanceNormalization": instance_norm,
    "LRN": local_response_norm,
    "LSTM": recurrent(nn.lstm, lstm_params, 3),
    "LayerNormalization": trailing_norm(nn.layer_norm),
    "LeakyRelu": plain(nn.leaky_relu, negative_slope=("alpha", 0.01)),
    "LogSoftmax": softmax(nn.log_softmax),
    "LpNormalization": unit_norm,
    "LpPool": lambda at, x: pool(functools.partial(nn.lp_pool, p=float(at.get("p", 2))), "ceil_mode")(at, x),
    "MaxPool": pool(nn.max_pool, "ceil_mode"),
    "Mish": plain(nn.mish),
    "Mul": lambda at, *xs: nn.multiply(xs),
    "NegativeLogLikelihoodLoss": negative_log_likelihood,
    "PRelu": prelu,
    "Pad": pad,
    "RMSNormalization": trailing_norm(nn.rms_norm),
    "RNN": recurrent(nn.rnn, rnn_params, 1),
    "Relu": plain(nn.relu),
    "Resize": resize,
    "RotaryEmbedding": rotary,
    "Selu": selu,
    "Shrink": shrink,
    "Sigmoid": plain(nn.sigmoid),
    "Softmax": softmax(nn.softmax),
    "SoftmaxCrossEntropyLoss": softmax_loss,
    "Softplus": plain(nn.softplus),
    "Softsign": plain(nn.soft_sign),
    "SpaceToDepth": space_to_depth,
    "Sum": lambda at, *xs: nn.add(xs),
    "SwiGLU": lambda at, gate, x: nn.multiply((swish(at, gate), x)),
    "Swish": swish,
    "Tanh": plain(nn.tanh),
    "ThresholdedRelu": lambda at, x: nn.threshold(x, at.get("alpha", 1.0), 0.0),
    "Upsample": upsample,
}


# --- the vectors -------------------------------------------------------------------------------------------------------


@functools.cache
def vectors():
    """Vectors by operator: (name, attributes, inputs, outputs)."""
    onnx = pytest.importorskip("onnx")
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # some vectors test overflows
        cases = [(case.name, case.model, case.data_sets[0]) for case in collect_testcases()]
    folder = Path(onnx.__file__).parent / "backend/test/data"
    for path in sorted(folder.glob("pytorch-*/*/model.onnx")):
        tensors = {
            kind: [
                onnx.numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))
                for file in sorted((path.parent / "test_data_set_0").glob(f"{kind}_*.pb"))
            ]
            for kind in ("input", "output")
        }
        cases.append((path.parent.name, onnx.load(path), (tensors["input"], tensors["output"])))
    found = {operator: [] for operator in OPERATORS}
    for name, model, (inputs, outputs) in cases:
        nodes = model.graph.node
        if len(nodes) != 1 or nodes[0].op_type not in found:
            continue
        (node,) = nodes
        given = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
        names = [value.name for value in model.graph.input if value.name not in given]
        given |= dict(zip(names, inputs, strict=True)) | {"": None}
        attributes = {a.name: plain_value(onnx, onnx.helper.get_attribute_value(a)) for a in node.attribute}
        attributes["opset"] = next(o.version for o in model.opset_import if o.domain == "")
        expected = dict(zip([value.name for value in model.graph.output], outputs, strict=True))
        found[node.op_type].append(
            (name, attributes, [given[n] for n in node.input], [expected.get(n) if n else None for n in node.output])
        )
    return found


def plain_value(onnx, value):
    if isinstance(value, list):
        return [plain_value(onnx, v) for v in value]
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value.decode() if isinstance(value, bytes) else value


def why_skipped(name):
    return next((reason for pattern, reason in SKIPPED.items() if fnmatch.fnmatch(name, pattern)), None)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_published_vector(operator):
    ran, wrong = 0, []
    with jax.enable_x64(True):
        for name, attributes, inputs, expected in vectors()[operator]:
            if why_skipped(name):
                continue
            ran += 1
            try:
                check(OPERATORS[operator](attributes, *(None if v is None else jnp.asarray(v) for v in inputs)), expected)
            except Exception as error:
                wrong.append(f"{name} {attributes}: {type(error).__name__}: {str(error).strip()[:600]}")
    assert not wrong, "\n".join([f"{len(wrong)} of {ran}", *wrong])
    assert ran


def check(found, expected):
    found = found if isinstance(found, tuple) else (found,)
    for ours, theirs in zip(found, expected, strict=False):  # jaxnn does not return the last outputs of some operators
        if theirs is None:
            continue
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, (
            f"{ours.dtype}{ours.shape} {theirs.dtype}{theirs.shape}"
        )
        rtol, atol = 1e-3, 1e-7  # the tolerances of ONNX's own runner
        if ours.dtype.itemsize == 2:  # ONNX's reference rounds after every operation
            rtol = atol = 4 * float(jnp.finfo(ours.dtype).eps)
        np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), rtol=rtol, atol=atol)


def test_the_table_of_what_is_skipped_has_no_stale_entries():
    names = [name for cases in vectors().values() for name, *_ in cases]
    for pattern in SKIPPED:
        assert fnmatch.filter(names, pattern), pattern
