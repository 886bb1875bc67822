"""Models: parameter counts of the papers or reference implementations, and one small training step of each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.core.primitives import definitions

M = nn.models


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


IMAGE, SMALL = floats(2, 224, 224, 3), floats(2, 32, 32, 3)
TOKENS, PAIR = integers(2, 16), (integers(2, 7), integers(2, 5))
BOTTLENECKS = 25_557_032
LSTM, ATTENTION, MLP = 2 * 4 * 1000 * 1000 + 4 * 1000, 4 * (512 * 512 + 512), 2 * 512 * 2048 + 2048 + 512

# (model, input, shape of the output, parameters): numbers of torchvision and timm where those of the papers are rounded
PUBLISHED = {
    "lenet5": (M.lenet5(10), floats(2, 32, 32, 1), (2, 10), 156 + 2_416 + 48_120 + 10_164 + 850),
    "alexnet_small, Zhang et al. 2017": (M.alexnet_small(10), floats(2, 28, 28, 3), (2, 10), 1_387_786),
    "vgg11, torchvision": (M.vgg(11, 1000), IMAGE, (2, 1000), 132_863_336),
    "vgg13, torchvision": (M.vgg(13, 1000), IMAGE, (2, 1000), 133_047_848),
    "vgg16, torchvision": (M.vgg(16, 1000), IMAGE, (2, 1000), 138_357_544),
    "vgg19, torchvision": (M.vgg(19, 1000), IMAGE, (2, 1000), 143_667_240),
    "resnet18, torchvision": (M.resnet(18, 1000), IMAGE, (2, 1000), 11_689_512),
    "resnet34, torchvision": (M.resnet(34, 1000), IMAGE, (2, 1000), 21_797_672),
    "resnet50, torchvision": (M.resnet(50, 1000), IMAGE, (2, 1000), BOTTLENECKS),
    "resnet101, torchvision": (M.resnet(101, 1000), IMAGE, (2, 1000), 44_549_160),
    "resnet152, torchvision": (M.resnet(152, 1000), IMAGE, (2, 1000), 60_192_808),
    # without the norms after the shortcuts (4 · 2 · features); the norm after each block comes before the next one
    "resnet50 v2, timm": (M.resnet(50, 1000, pre_activation=True), IMAGE, (2, 1000), 25_549_352),
    "resnet18 for CIFAR, kuangliu": (M.resnet(18, 10, small_images=True), SMALL, (2, 10), 11_173_962),
    "wide_resnet 28-10": (M.wide_resnet(28, 10, 10), SMALL, (2, 10), 36_479_194),
    "wide_resnet 40-4": (M.wide_resnet(40, 4, 10), SMALL, (2, 10), 8_949_210),
    "mobilenet_v2, torchvision": (M.mobilenet_v2(1000), IMAGE, (2, 1000), 3_504_872),
    "convnext tiny, torchvision": (M.convnext(1000), IMAGE, (2, 1000), 28_589_128),
    "convnext small, torchvision": (M.convnext(1000, blocks=(3, 3, 27, 3)), IMAGE, (2, 1000), 50_223_688),
    "unet, same": (M.unet(2), floats(2, 64, 64, 1), (2, 64, 64, 2), 31_030_658),
    "unet, the paper's": (M.unet(2, padding="VALID"), floats(1, 572, 572, 1), (1, 388, 388, 2), 31_030_658),
    "autoencoder": (M.autoencoder(784), floats(2, 28, 28, 1), (2, 784), 2_837_314),
    "gpt2": (M.gpt2(), TOKENS, (2, 16, 50257), 124_439_808),
    "gpt2 medium": (M.gpt2(features=1024, layers=24, heads=16), TOKENS, (2, 16, 50257), 354_823_168),
    "lstm_language_model": (
        M.lstm_language_model(10_000), TOKENS, (2, 16, 10_000),
        10_000 * 650 + 2 * (2 * 4 * 650 * 650 + 4 * 650) + 651 * 10_000,
    ),
    "seq2seq": (
        M.seq2seq(50_000, 50_000), PAIR, (2, 5, 50_000),
        3 * 50_000 * 1000 + 2 * 4 * LSTM + 1000 * 1000 + 2000 * 1000,
    ),
    "transformer base": (
        M.transformer(37_000), PAIR, (2, 5, 37_000),
        37_000 * 512 + 6 * (ATTENTION + MLP + 2 * 1024) + 6 * (2 * ATTENTION + MLP + 3 * 1024),
    ),
    "vit-s/16, timm": (M.vit(1000), IMAGE, (2, 1000), 22_050_664),
    "vit-b/16, timm": (M.vit(1000, features=768, heads=12), IMAGE, (2, 1000), 86_567_656),
    "mixer-s/16, timm": (M.mlp_mixer(1000), IMAGE, (2, 1000), 18_528_264),
    "mixer-b/16, timm": (
        M.mlp_mixer(1000, features=768, layers=12, token_hidden=384, channel_hidden=3072), IMAGE, (2, 1000), 59_880_472
    ),
}  # fmt: skip


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_and_output_shapes(name):
    model, x, shape, parameters = PUBLISHED[name]
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    y, after = jax.eval_shape(model.apply, params, state, x)
    assert nn.trees.count(params) == parameters
    assert y.shape == shape
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_a_variational_autoencoder_gives_logits_mean_and_log_variance():
    for hidden, parameters in ((400, 652_824), (500, 815_824)):  # PyTorch's example, the paper's
        model, x = M.vae(784, hidden=hidden), floats(2, 28, 28, 1)
        params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
        assert nn.trees.count(params) == parameters
        assert [y.shape for y in jax.eval_shape(model, params, x)] == [(2, 784), (2, 20), (2, 20)]


def test_the_transformers_blocks_are_pytorchs():
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        peer = torch.nn.Transformer(batch_first=True)
    count = sum(p.numel() for p in peer.parameters())
    params, _ = jax.eval_shape(M.transformer(9).init, jax.random.key(0), PAIR)
    assert nn.trees.count(params) - 9 * 512 == count - 2 * 1024  # its norms at the end of encoder and decoder


TINY = {
    "alexnet_small": (lambda: M.alexnet_small(3, features=4, hidden=(6, 5)), floats(3, 8, 8, 3)),
    "autoencoder": (lambda: M.autoencoder(12, hidden=(8, 6), code=3), floats(3, 12)),
    "cnn": (lambda: M.cnn(3, features=(2,), hidden=4), floats(3, 4, 4, 1)),
    "convnext": (lambda: M.convnext(3, blocks=(1, 2), features=(4, 8), drop_path=0.1), floats(3, 16, 16, 3)),
    "gpt2": (lambda: M.gpt2(11, features=8, layers=2, heads=2, context=6), integers(2, 6)),
    "lenet5": (lambda: M.lenet5(3), floats(2, 16, 16, 1)),
    "lstm_language_model": (lambda: M.lstm_language_model(11, features=6), integers(2, 5)),
    "mlp": (lambda: M.mlp([5], 3), floats(3, 4)),
    "mlp_mixer": (
        lambda: M.mlp_mixer(3, patch_size=4, features=8, layers=2, token_hidden=5, channel_hidden=6), floats(2, 8, 8, 3)
    ),
    "mobilenet_v2": (lambda: M.mobilenet_v2(3, stages=((1, 8, 1, 1), (2, 16, 3, 2)), width=0.5), floats(3, 16, 16, 3)),
    "resnet": (lambda: M.resnet(18, 3, features=4, small_images=True), floats(3, 16, 16, 3)),
    "rnn": (lambda: M.rnn(4, 3), floats(2, 4, 4)),
    "seq2seq": (lambda: M.seq2seq(7, 9, features=6, layers=2, dropout=0.0), (integers(2, 5), integers(2, 4))),
    "transformer": (
        lambda: M.transformer(11, features=8, layers=2, heads=2, hidden=12, dropout=0.0), (integers(2, 5), integers(2, 4))
    ),
    "unet": (lambda: M.unet(2, features=2, depth=2), floats(2, 8, 8, 1)),
    "vae": (lambda: M.vae(12, hidden=8, code=3), floats(3, 12)),
    "vgg": (lambda: M.vgg(11, 3, features=2, hidden=6), floats(3, 32, 32, 3)),
    "vit": (lambda: M.vit(3, patch_size=4, features=8, layers=2, heads=2), floats(2, 8, 8, 3)),
    "wide_resnet": (lambda: M.wide_resnet(10, 1, 3, dropout=0.1), floats(3, 8, 8, 3)),
}  # fmt: skip


def drawn(tree, seed=0):
    """Random parameters without zeros, which some initializers draw; tokens from 0 to 6 for integers."""
    rng = np.random.default_rng(seed)

    def leaf(a):
        if jnp.issubdtype(a.dtype, jnp.integer):
            return rng.integers(0, 7, a.shape).astype(a.dtype)
        return (0.5 * rng.normal(size=a.shape)).astype(np.float32)

    return jax.tree.map(leaf, tree)


def compiled(function, *values):
    """The function compiled quickly for the shapes of these values; fast kernels are tested elsewhere."""
    with definitions():
        lowered = jax.jit(function).lower(*values)
    return lowered.compile({"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


def test_the_table_has_every_model():
    assert set(TINY) == set(M.__all__)


QUICK = ("mlp", "cnn", "rnn", "vae", "lenet5", "autoencoder", "vit", "gpt2", "unet")


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TINY])
def test_one_step_reaches_every_parameter(name):
    make, x = TINY[name]
    model = make()
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)

    def loss(params, state, x, key):
        y, state = model.apply(params, state, x, key=key, training=True)
        return sum(jnp.mean(jnp.sin(part)) for part in jax.tree.leaves(y)), state

    values = drawn(params), jax.tree.map(lambda a: np.ones(a.shape, a.dtype), state), drawn(x), jax.random.key(0, impl="rbg")
    (value, after), gradients = compiled(jax.value_and_grad(loss, has_aux=True), *values)(*values)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, gradients)))
    still = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(gradients) if not np.any(g)]
    assert not still


def test_gpt2_is_causal_and_decoding_equals_the_full_pass():
    whole, cached = (M.gpt2(11, features=8, layers=2, heads=2, context=6, cache=cache) for cache in (False, True))
    tokens = np.array([[1, 5, 2, 6, 0, 3]], np.int32)
    params, state = jax.eval_shape(cached.init, jax.random.key(0), tokens)
    params, state = drawn(params), jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), state)
    run, step = compiled(whole, params, tokens), compiled(cached.apply, params, state, tokens[:, :1])
    logits, changed = run(params, tokens), run(params, np.where(np.arange(6) == 3, 9, tokens).astype(np.int32))
    np.testing.assert_allclose(changed[:, :3], logits[:, :3], rtol=1e-6)
    assert (np.abs(changed[:, 3:] - logits[:, 3:]).max(-1) > 1e-4).all()
    for t in range(6):
        y, state = step(params, state, tokens[:, t : t + 1])
        np.testing.assert_allclose(y[:, 0], logits[:, t], atol=1e-5)


def test_gpt2_draws_smaller_weights_before_residual_sums():
    params, _ = M.gpt2(11, features=32, layers=8, heads=2, context=6).init(jax.random.key(0), integers(1, 6))
    blocks = params["blocks"]
    for inner, outer in (("query", "output"), ("up", "down")):
        inside = blocks["attention" if inner == "query" else "mlp"]
        assert inside[inner]["kernel"].std() == pytest.approx(0.02, rel=0.05)
        assert inside[outer]["kernel"].std() == pytest.approx(0.02 / 4, rel=0.05)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["seq2seq", "transformer"])
def test_padding_of_the_source_and_later_targets_do_not_change_outputs(name):
    make, (source, target) = TINY[name]
    model, source, target = make(), drawn(source), drawn(target)
    params = drawn(jax.eval_shape(model.init, jax.random.key(0), (source, target))[0])
    mask = np.arange(5)[None, :] < np.array([3, 5])[:, None]
    run = compiled(model, params, ((source, mask), target))
    y = run(params, ((source, mask), target))
    other = run(params, ((np.where(mask, source, 6 - source), mask), target))
    np.testing.assert_allclose(other, y, rtol=1e-5, atol=1e-6)
    target[:, 2] = 6 - target[:, 2] + (target[:, 2] == 3)
    later = run(params, ((source, mask), target))
    np.testing.assert_allclose(later[:, :2], y[:, :2], rtol=1e-5, atol=1e-6)
    assert (np.abs(later[:, 2:] - y[:, 2:]).max(-1) > 1e-4).all()


def test_an_lstm_language_model_on_a_text_in_parts_equals_one_pass():
    whole, stateful_model = (M.lstm_language_model(11, features=6, stateful=stateful) for stateful in (False, True))
    tokens = drawn(integers(2, 6))
    params, state = jax.eval_shape(stateful_model.init, jax.random.key(0), tokens)
    params, state = drawn(params), jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), state)
    step = compiled(stateful_model.apply, params, state, tokens[:, :3])
    first, state = step(params, state, tokens[:, :3])
    second, _ = step(params, state, tokens[:, 3:])
    at_once = compiled(whole, params, tokens)(params, tokens)
    np.testing.assert_allclose(np.concatenate([first, second], 1), at_once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make, x, says",
    [
        (lambda: M.resnet(20, 10), SMALL, r"depths \[18, 34, 50, 101, 152\], got 20"),
        (lambda: M.wide_resnet(27, 10, 10), SMALL, "depth 6 n"),
        (lambda: M.vgg(12, 10), SMALL, r"depths \[11, 13, 16, 19\], got 12"),
        (lambda: M.convnext(10, blocks=(3, 3)), SMALL, "as many blocks as features"),
        (lambda: M.vit(10), floats(1, 30, 32, 3), "divisible by 16"),
        (lambda: M.unet(2), floats(1, 30, 32, 3), "pad or crop"),
        (lambda: M.transformer(9), integers(1, 3), "takes .source, target."),
        (lambda: M.seq2seq(9, 9), (integers(1, 3), (integers(1, 3), integers(1, 3))), "takes .source, target."),
    ],
)
def test_wrong_options_and_inputs_are_errors(make, x, says):
    with pytest.raises(ValueError, match=says):
        make().setup(x)


def test_a_vision_transformer_is_for_one_size_of_images():
    model = M.vit(3, patch_size=4, features=8, layers=1, heads=2)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), floats(1, 8, 8, 3))
    with pytest.raises(ValueError, match="initialized for 5 positions"):
        jax.eval_shape(model, params, floats(1, 8, 12, 3))


def test_a_vae_draws_in_training_only():
    model, x = M.vae(4, hidden=3, code=2), np.ones((2, 4), np.float32)
    params = drawn(jax.eval_shape(model.init, jax.random.key(0), x)[0])
    with pytest.raises(ValueError, match="pass key="):
        model.apply(params, {}, x, training=True)
    step = compiled(lambda key: model.apply(params, {}, x, key=key, training=True)[0], jax.random.key(1))
    (a, mean, _), (b, same, _) = step(jax.random.key(1)), step(jax.random.key(2))
    assert (np.asarray(a) != b).any() and (np.asarray(mean) == same).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "vit", "transformer"])
def test_dropout_of_attention_weights_acts_in_training_only(name):
    make, x = {
        "gpt2": (partial(M.gpt2, 11, features=8, layers=1, heads=2, context=6, dropout=0.0), integers(2, 6)),
        "vit": (partial(M.vit, 3, patch_size=4, features=8, layers=1, heads=2), floats(2, 8, 8, 3)),
        "transformer": (
            partial(M.transformer, 11, features=8, layers=1, heads=2, hidden=12, dropout=0.0),
            (integers(2, 5), integers(2, 4)),
        ),
    }[name]
    plain, dropped = make(), make(attention_dropout=0.5)
    x = drawn(x)
    params, state = drawn(jax.eval_shape(plain.init, jax.random.key(0), x))
    run = lambda model, training: model.apply(params, state, x, key=jax.random.key(1), training=training)[0]  # noqa: E731
    np.testing.assert_array_equal(run(dropped, False), run(plain, False))
    np.testing.assert_allclose(run(plain, True), run(plain, False), rtol=1e-6)
    assert jnp.abs(run(dropped, True) - run(plain, True)).max() > 1e-4
