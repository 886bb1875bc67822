"""Right numbers at the edges: narrow dtypes, values far from 0 or out of range, garbage that must not spread, wrong options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KEY = jax.random.key(0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint32], ids=lambda d: d.__name__)
def test_tokens_of_narrow_types_are_rows_or_nan(dtype):
    table = random(300, 2)
    layer, params = nn.embedding(300, 2, padding_index=200), {"embedding": jnp.asarray(table)}
    tokens = np.array([[0, 100, 127]])
    np.testing.assert_array_equal(layer(params, jnp.asarray(tokens, dtype)), table[tokens])
    outside = {jnp.uint8: [], jnp.uint32: [300, 2**32 - 1]}.get(dtype, [-1, -100])
    assert np.isnan(layer(params, jnp.asarray([outside], dtype))).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_gradients_that_are_sums_are_accumulated_in_float32(dtype):
    def gradient(layer, x):
        params, state = layer.init(KEY, x)
        wide = jax.tree.map(lambda a: jnp.asarray(a, dtype), params)

        @jax.jit
        def of(params, x):
            y, back = jax.vjp(lambda p, x: layer.apply(p, state, x)[0], params, x)
            return back(jnp.ones_like(y))

        return of(wide, x)

    tokens = jnp.zeros((64, 64), jnp.int8)
    assert gradient(nn.embedding(2, 1), tokens)[0]["embedding"].tolist() == [[4096.0], [0.0]]
    positions = gradient(nn.learned_positions(2), jnp.zeros((4096, 2, 1), dtype))
    assert positions[0]["embedding"].tolist() == [[4096.0], [4096.0]]
    edge = gradient(nn.pad(((4095, 0),), mode="edge"), jnp.zeros((1, 2, 1), dtype))[1]
    assert edge.ravel().tolist() == [4096.0, 1.0]


@pytest.mark.slow
def test_gradients_over_many_steps_are_accumulated_in_float32():
    layer, x = nn.gru(2, stateful=False), jnp.ones((2, 1500, 1))
    params, _ = layer.init(KEY, x)
    gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(layer(p, x).astype(jnp.float32))))
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    for a, b in zip(*map(jax.tree.leaves, (gradient(narrow, x.astype(jnp.bfloat16)), gradient(params, x))), strict=True):
        np.testing.assert_allclose(np.float64(a), b, rtol=0.05, atol=0.02 * np.abs(b).max())


NORMS = {
    "layer_norm": (nn.layer_norm(), (2,)),
    "layer_norm of two axes": (nn.layer_norm(axis=(1, 2)), (1, 2)),
    "group_norm": (nn.group_norm(1), (1, 2)),
    "instance_norm": (nn.instance_norm(), (1,)),
    "batch_norm": (nn.batch_norm(), (0, 1)),
    "batch_norm of a padded batch": (nn.batch_norm(), (0, 1)),
    "standardize": (nn.as_layer(nn.standardize), (2,)),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalization_of_values_far_from_zero(name):
    layer, axes = NORMS[name]
    near = random(4, 25, 6)
    given = [1e4 + near, -11 + 2e-6 * near, np.full_like(near, 12345.678)]
    pair = (lambda x: (x, jnp.ones(x.shape[:2], bool))) if "padded" in name else lambda x: x
    params, state = layer.init(KEY, pair(near))
    apply = jax.jit(lambda x: layer.apply(params, state, pair(x), training=True)[0])
    for x in map(np.float32, given):
        y = apply(x)
        wide = np.float64(x)
        expected = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-5)
        np.testing.assert_allclose(y[0] if "padded" in name else y, expected, atol=2e-3)


def test_standardize_with_a_mask_and_given_moments():
    x = random(3, 5)
    where = x > -0.5
    total = jax.value_and_grad(lambda x: jnp.where(where, nn.standardize(x, where=where), 0).sum())
    values, grad = total(jnp.where(where, x, jnp.nan))
    expected = [(row[w] - row[w].mean()) / np.sqrt(row[w].var() + 1e-5) for row, w in zip(np.float64(x), where, strict=True)]
    np.testing.assert_allclose(values, sum(e.sum() for e in expected), atol=1e-4)
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(nn.standardize(x, mean=1.0, variance=4.0, epsilon=0.0), (x - 1) / 2, rtol=1e-5)


@pytest.mark.sample(2)
@pytest.mark.parametrize("p", [1, 2.0, 3.5, 1000.0, math.inf])
def test_norms_of_any_order_at_any_scale(p):
    x = random(4, 6, 2)
    unit = jax.jit(jax.value_and_grad(lambda x: (nn.unit_norm(axis=1, p=p, epsilon=0.0)({}, x) ** 2).sum()))
    pooled = jax.jit(nn.lp_pool(3, p=p, strides=2, padding=((1, 1),)).apply)
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (0, 0)))
    windows = np.stack([padded[:, i : i + 3] for i in (0, 2, 4)], 1)
    expected, lengths = (
        size.max(axis) * np.linalg.norm(size / size.max(axis, keepdims=True), p, axis)
        for size, axis in ((np.abs(windows), 2), (np.abs(np.float64(x)), 1))
    )
    for scale in (2.0**-100, 1.0, 2.0**100):
        total, gradient = unit(np.float32(x * scale))
        np.testing.assert_allclose(total, (np.float64(x) ** 2 / lengths[:, None] ** 2).sum(), rtol=1e-5)
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(pooled({}, {}, np.float32(x * scale))[0] / scale, expected, rtol=1e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("wrap", [nn.weight_norm, nn.spectral_norm, nn.weight_standardization], ids=lambda w: w.__name__)
def test_reparametrized_kernels_of_zeros(wrap):
    layer, x = wrap(nn.dense(4)), jnp.ones((2, 3))
    params, state = layer.init(KEY, x)

    @jax.jit
    def step(params, state):
        def value(p):
            y, after = layer.apply(p, state, x, training=True)
            return y.sum(), (y, after)

        return jax.value_and_grad(value, has_aux=True)(params)

    (_, (before, _)), _ = step(params, state)
    for zeroed in (jnp.zeros((3, 4)), params["kernel"].at[:, 0].set(0.0)):
        (_, (y, after)), gradient = step({**params, "kernel": zeroed}, state)
        np.testing.assert_allclose(y[:, 0], 0, atol=1e-6)
        assert all(np.isfinite(leaf).all() and np.abs(leaf).max() < 1e4 for leaf in jax.tree.leaves((gradient, after)))
    _, after = step({**params, "kernel": jnp.zeros((3, 4))}, state)[0][1]
    for _ in range(30):
        (_, (y, after)), _ = step(params, after)
    np.testing.assert_allclose(y, before, rtol=1e-3, atol=1e-3)


WINDOWS = {
    "adaptive_avg_pool": nn.adaptive_avg_pool(4),
    "adaptive_max_pool": nn.adaptive_max_pool(4),
    "resize": nn.resize(13),
    "resize to fewer": nn.resize(4),
    "resize to fewer, cubic": nn.resize(3, method="cubic", antialias=False),
    "upsample, aligned": nn.upsample(2, method="linear", align_corners=True),
    "upsample, nearest": nn.upsample(2),
    "avg_pool": nn.avg_pool(3, strides=2, padding="SAME"),
    "lp_pool": nn.lp_pool(3, strides=2),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", WINDOWS)
def test_infinities_stay_in_their_windows(name):
    x, apply = jnp.arange(1.0, 10).reshape(1, 9, 1), jax.jit(lambda x: WINDOWS[name]({}, x).ravel())
    if name == "adaptive_max_pool":  # the windows of the mean
        weights = jax.jacobian(lambda x: WINDOWS["adaptive_avg_pool"]({}, x).ravel())(x).reshape(-1, 9)
    else:
        weights = jax.jacobian(apply)(x).reshape(-1, 9)
    clean = apply(x)
    for j, bad in ((0, jnp.inf), (4, jnp.nan)):
        y = apply(x.at[0, j].set(bad))
        seen = np.asarray(weights[:, j]) != 0
        assert (np.isfinite(y) == ~seen).all()
        np.testing.assert_array_equal(np.asarray(y)[~seen], np.asarray(clean)[~seen])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "method", ["nearest", "linear", "cubic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lanczos3", "lanczos5"))]
)
def test_resize_has_the_weights_of_jax_image(method):
    x = random(2, 8, 7, 1)
    for size, antialias in (((16, 7), True), ((3, 5), True), ((3, 9), False)):
        layer = nn.resize(size, method=method, antialias=antialias)

        def both(x, layer=layer, size=size, antialias=antialias):
            peers = (lambda x: layer({}, x), lambda x: jax.image.resize(x, (2, *size, 1), method, antialias))
            return [(y, back(y)) for y, back in (jax.vjp(f, x) for f in peers)]

        ours, other = jax.jit(both)(x)
        for a, b in zip(*map(jax.tree.leaves, (ours, other)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_masked_keys_values_and_queries_are_not_used():
    q, k, v = (jnp.asarray(random(2, 5, 2, 3, seed=i)) for i in range(3))
    mask = jnp.arange(5)[None] < jnp.array([[3], [5]])

    @jax.jit
    def run(q, k, v):
        pairs = mask[:, None, None] & mask[:, None, :, None]
        return jax.value_and_grad(lambda *a: (nn.kernels.dot_product_attention(*a, mask=pairs) ** 2).sum(), (0, 1, 2))(q, k, v)

    bad = (jnp.where(mask[..., None, None], a, jnp.nan) for a in (q, k, v))
    for a, b in zip(*map(jax.tree.leaves, (run(q, k, v), run(*bad))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_global_pooling_of_a_padded_sequence():
    x, mask = random(3, 5, 2), np.arange(5)[None] < np.array([[3], [5], [0]])
    given = jnp.where(mask[..., None], x, jnp.nan), jnp.asarray(mask)
    for layer, of in ((nn.global_avg_pool(), np.mean), (nn.global_max_pool(), np.max)):
        expected = np.stack([of(row[m], 0) if m.any() else np.zeros(2) for row, m in zip(x, mask, strict=True)])
        np.testing.assert_allclose(layer({}, given), expected, rtol=1e-6)


def test_activations_take_padded_sequences_and_functions_say_how():
    x, mask = jnp.array([[[1.0], [jnp.nan]]]), jnp.array([[True, False]])
    y, same = nn.as_layer(nn.tanh)({}, (x, mask))
    np.testing.assert_array_equal(same, mask)
    assert y.ravel().tolist() == [np.tanh(np.float32(1)), 0.0]
    with pytest.raises(TypeError) as raised:
        nn.as_layer(jnp.tanh)({}, (x, mask))
    assert any("nn.positionwise(tanh)" in note for note in raised.value.__notes__)


def test_an_empty_batch_changes_no_running_statistics():
    layer, x = nn.batch_norm(), jnp.ones((0, 3, 2))
    params, state = layer.init(KEY, x)
    y, after = layer.apply(params, state, x, training=True)
    assert y.shape == x.shape
    assert after == state


def test_complex_numbers_where_a_linear_layer_takes_them():
    x = jnp.asarray(random(1, 6, 2) + 1j * random(1, 6, 2, seed=1))
    np.testing.assert_allclose(nn.global_avg_pool()({}, x), np.asarray(x).mean(1), rtol=1e-5)
    for layer in (nn.adaptive_avg_pool(2), nn.resize(9), nn.upsample(2)):
        y = layer({}, x)
        np.testing.assert_allclose(y, jax.lax.complex(layer({}, x.real), layer({}, x.imag)), rtol=1e-5)
    with pytest.raises(TypeError, match="expected real numbers, got complex64"):
        nn.unit_norm()({}, x)


def test_positions_in_float64(x64):
    t, d, far = np.arange(5), 8, 10**6
    angle = (far + t)[:, None] / 1e4 ** (2 * np.arange(d // 2) / d)
    x = np.random.default_rng(0).normal(size=(1, 5, 1, d))
    a, b, c, s = x[0, :, 0, :4], x[0, :, 0, 4:], np.cos(angle), np.sin(angle)
    turned = jax.jit(nn.rotary)(jnp.asarray(x), jnp.asarray(far + t, jnp.uint32))
    np.testing.assert_allclose(turned[0, :, 0], np.concatenate([a * c - b * s, b * c + a * s], -1), atol=1e-9)
    y = nn.sinusoidal_positions()({}, jnp.zeros((1, 5, d)))[0]
    np.testing.assert_allclose(y[:, ::2], np.sin(t[:, None] / 1e4 ** (2 * np.arange(d // 2) / d)), atol=1e-12)
    bias = nn.alibi(16, jnp.arange(3, dtype=jnp.uint8), jnp.arange(3, dtype=jnp.uint8))
    np.testing.assert_allclose(bias[0], -np.abs(t[:3, None] - t[:3]) * 2**-0.5, rtol=1e-15)


def test_fans_of_a_convolution_in_groups_are_those_of_one_group():
    init = nn.initializers.variance_scaling(1.0, "fan_out", "normal")
    params, _ = nn.conv(512, 3, groups=8, kernel_init=init).init(KEY, jnp.ones((1, 4, 64)))
    np.testing.assert_allclose(params["kernel"].std(), (3 * 512 / 8) ** -0.5, rtol=0.05)


WRONG = {
    "batch_norm momentum": lambda: nn.batch_norm(momentum=2),
    "batch_norm epsilon": lambda: nn.batch_norm(epsilon=-1e-5),
    "layer_norm epsilon": lambda: nn.layer_norm(epsilon=math.nan),
    "layer_norm axis": lambda: nn.layer_norm(axis=1.5),
    "rms_norm axis": lambda: nn.rms_norm(axis="x"),
    "group_norm epsilon": lambda: nn.group_norm(2, epsilon=math.inf),
    "unit_norm p": lambda: nn.unit_norm(p=0.5),
    "lp_pool p": lambda: nn.lp_pool(2, p=math.nan),
    "local_response_norm k": lambda: nn.local_response_norm(k=-1.0),
    "weight_standardization epsilon": lambda: nn.weight_standardization(nn.dense(2), epsilon=-1.0),
    "conv kernel_size": lambda: nn.conv(3, 2.5),
    "conv strides": lambda: nn.conv(3, 2, strides=0),
    "conv_transpose dilation": lambda: nn.conv_transpose(3, 2, dilation=(1, 0)),
    "depthwise_conv kernel_size": lambda: nn.depthwise_conv(0),
    "max_pool kernel_size": lambda: nn.max_pool(2.0),
    "avg_pool strides": lambda: nn.avg_pool(2, strides=-1),
    "adaptive_avg_pool size": lambda: nn.adaptive_avg_pool(0),
    "resize size": lambda: nn.resize(2.5),
    "upsample scale": lambda: nn.upsample(0),
    "dense axis": lambda: nn.dense(3, axis=0.5),
    "dropout rate": lambda: nn.dropout(math.nan),
    "dropout broadcast_axes": lambda: nn.dropout(0.5, broadcast_axes=(1.5,)),
    "gaussian_noise stddev": lambda: nn.gaussian_noise(math.inf),
    "rrelu high": lambda: nn.rrelu(high=math.nan),
    "lora alpha": lambda: nn.lora(nn.dense(3), 2, alpha=math.inf),
    "moe capacity_factor": lambda: nn.moe(nn.dense(3), 2, capacity_factor=0.0),
    "attention softcap": lambda: nn.attention(4, 2, softcap=0.0),
    "attention scale": lambda: nn.attention(4, 2, scale=math.nan),
    "attention window": lambda: nn.attention(4, 2, window=(1, 2, 3)),
    "sinusoidal_positions base": lambda: nn.sinusoidal_positions(base=0.0),
    "permute axis": lambda: nn.permute(2.0, 1.0),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_numbers_are_refused_by_name(name):
    layer, option = name.split()
    with pytest.raises((TypeError, ValueError), match=rf"{layer} (takes|has).*{option}"):
        WRONG[name]()


OF_INTEGERS = {
    "layer_norm": nn.layer_norm(),
    "batch_norm": nn.batch_norm(),
    "global_avg_pool": nn.global_avg_pool(),
    "group_norm": nn.group_norm(2),
    "instance_norm": nn.instance_norm(),
    "instance_norm, running": nn.instance_norm(track_running_stats=True),
    "local_response_norm": nn.local_response_norm(3),
    "resize": nn.resize(5),
    "rms_norm": nn.rms_norm(),
    "unit_norm": nn.unit_norm(),
    "upsample": nn.upsample(2, method="pytorch_cubic"),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", OF_INTEGERS)
@pytest.mark.parametrize("training", [False, True])
def test_integers_are_numbers(name, training):
    """Pixels and counts give what they give as floats, and nothing is cut off or wraps around."""
    layer, x = OF_INTEGERS[name], np.random.default_rng(0).integers(0, 255, (2, 4, 4)).astype(np.uint8)
    params, state = layer.init(jax.random.key(0), x.astype(np.float32))
    apply = jax.jit(lambda x: layer.apply(params, state, x, training=training)[0])
    np.testing.assert_array_equal(apply(x), apply(x.astype(np.float32)))


@pytest.mark.slow
def test_integers_that_no_float_holds_are_copied():
    x = jnp.array([2**24 + 1, 2**30 + 3]).reshape(1, 2, 1)
    for method in ("nearest", "pytorch_nearest"):
        np.testing.assert_array_equal(nn.upsample(2, method=method)({}, x).ravel(), np.repeat(x, 2))
    heads, turn = jnp.arange(4).reshape(1, 1, 1, 4), jnp.full((1, 2), 0.5)
    turned = nn.apply_rotary(heads, turn, turn)
    np.testing.assert_array_equal(turned, nn.apply_rotary(heads.astype(jnp.float32), turn, turn))


@pytest.mark.parametrize("layer", [nn.gaussian_noise(0.5), nn.alpha_dropout(0.5), nn.dropout(0.5, broadcast_axes=(1,))])
def test_noise_on_integers_is_refused(layer):
    with pytest.raises(TypeError, match="takes floating-point numbers, got int32"):
        layer.apply({}, {}, jnp.ones((2, 3), jnp.int32), key=jax.random.key(0), training=True)
