"""Dense layers over any axes, bilinear layers, einsums and LoRA, against NumPy in float64 and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn

KEY = jax.random.key(0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn(layer, x):
    params, _ = layer.init(KEY, x)
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [jnp.asarray(random(*leaf.shape, seed=i)) for i, leaf in enumerate(leaves)])


@settings(max_examples=8)
@given(st.permutations([1, 2, 3]), st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=2))
def test_dense_sums_over_the_given_axes(places, n, features):
    axes = tuple(places[:n])
    x = random(2, 3, 4, 5)
    layer = nn.dense(tuple(features), axis=tuple(a - 4 for a in axes))
    params = drawn(layer, x)
    assert params["kernel"].shape == (*(x.shape[a] for a in axes), *features)
    expected = np.tensordot(np.float64(x), np.float64(params["kernel"]), (axes, range(n))) + np.float64(params["bias"])
    np.testing.assert_allclose(layer(params, x), expected, rtol=1e-4, atol=1e-4)


def test_a_kernel_with_many_axes_is_drawn_as_a_matrix():
    x = jnp.ones((1, 20, 50))
    for layer in (
        nn.dense((40, 5), axis=(1, 2)),
        nn.einsum("bij,ijkl->bkl", kernel_init=nn.initializers.he_normal(), k=40, l=5),
    ):
        kernel = layer.init(KEY, x)[0]["kernel"]
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / 1000), rtol=0.02)
    orthogonal = nn.dense((4, 2), axis=(1, 2), kernel_init=nn.initializers.orthogonal())
    matrix = orthogonal.init(KEY, jnp.ones((1, 2, 4)))[0]["kernel"].reshape(8, 8)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-5)


def test_bilinear_against_pytorch():
    torch = pytest.importorskip("torch")
    u, v = random(3, 4), random(3, 5, seed=1)
    peer = torch.nn.Bilinear(4, 5, 6)
    params = {"kernel": peer.weight.detach().numpy().transpose(1, 2, 0), "bias": peer.bias.detach().numpy()}
    a, b = (torch.tensor(x, requires_grad=True) for x in (u, v))
    expected = peer(a, b)
    layer = nn.bilinear(6)
    np.testing.assert_allclose(layer(params, (u, v)), expected.detach(), rtol=1e-4, atol=1e-5)
    (expected**2).sum().backward()
    pair = (jnp.asarray(u), jnp.asarray(v))
    gradients, to_inputs = jax.grad(lambda p, x: (layer(p, x) ** 2).sum(), (0, 1))(jax.tree.map(jnp.asarray, params), pair)
    np.testing.assert_allclose(gradients["kernel"], peer.weight.grad.numpy().transpose(1, 2, 0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gradients["bias"], peer.bias.grad, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(to_inputs, (a, b), strict=True):
        np.testing.assert_allclose(ours, theirs.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("equation", "sizes"),
    [("...i,io->...o", {"o": 3}), ("bgi,gio->bgo", {"o": 3}), ("bti,iho->bhto", {"h": 2, "o": 3})],
)
def test_einsum_is_numpys(equation, sizes):
    x, layer = random(2, 5, 4), nn.einsum(equation, **sizes)
    params = drawn(layer, x)
    bias = np.float64(params["bias"])
    bias = bias[:, None, :] if equation.endswith("bhto") else bias
    expected = np.einsum(equation, np.float64(x), np.float64(params["kernel"])) + bias
    np.testing.assert_allclose(layer(params, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("equation", "sizes"),
    [
        ("bi,io->bo", {"o": 3}),
        ("bti,oi->bto", {"o": 7}),
        ("bti,oi->bto", {"o": 3}),
        ("bti,iot->bto", {"o": 4}),
        ("bti,tio->bto", {"o": 4}),
        ("bti,otip->bpo", {"o": 4, "p": 2}),
    ],
)
def test_structured_kernels_of_einsum_are_the_matrix_of_the_equation(equation, sizes):
    x = random(2, 5, 4)[:, 0] if equation.startswith("bi") else random(2, 5, 4)
    inputs, kernel_axes, outputs = equation.replace("->", ",").split(",")
    shared = [a for a in kernel_axes if a in inputs and a in outputs]
    summed = [a for a in inputs if a in kernel_axes and a not in outputs]
    order = "".join(shared + summed + [a for a in outputs if a in sizes])

    def matrices(initializer):
        kernel = nn.einsum(equation, kernel_init=initializer, use_bias=False, **sizes).init(KEY, x)[0]["kernel"]
        kernel = np.einsum(f"{kernel_axes}->{order}", np.float64(kernel))
        n_in = np.prod([kernel.shape[order.index(a)] for a in summed])
        return kernel.reshape(-1, n_in, np.prod(list(sizes.values())))

    for matrix in matrices(nn.initializers.identity()):
        np.testing.assert_array_equal(matrix, np.eye(*matrix.shape))
    orthogonal = matrices(nn.initializers.orthogonal())
    for q in orthogonal:
        product = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
        np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5)
    assert len(orthogonal) == 1 or (orthogonal[0] != orthogonal[1]).any()
    for matrix in matrices(nn.initializers.sparse(0.5)):
        assert ((matrix == 0).sum(0) == -(-len(matrix) // 2)).all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("layer", [nn.dense(5), nn.conv(5, 3)], ids=["dense", "conv"])
def test_lora_adds_a_product_of_low_rank_and_merges(layer):
    x = random(2, 6, 4)
    adapted = nn.serial(f=nn.lora(layer, 2, alpha=8.0))
    params = drawn(adapted, x)
    merged = nn.merge_lora(params, alpha=8.0)
    np.testing.assert_allclose(nn.serial(f=layer)(merged, x), adapted(params, x), rtol=1e-5, atol=1e-5)
    lora = params["f"]
    change = 4 * np.float64(lora["down"]) @ np.float64(lora["up"])
    expected = np.float64(lora["base"]["kernel"]) + change.reshape(lora["base"]["kernel"].shape)
    np.testing.assert_allclose(merged["f"]["kernel"], expected, rtol=1e-4, atol=1e-4)
    optimizer = nn.by_path({"*/base/*": None}, otherwise=optax.sgd(0.1))
    gradients = jax.grad(lambda p: (adapted(p, x) ** 2).sum())(params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    moved = {path: bool((u != 0).any()) for path, u in nn.trees.paths(updates).items()}
    assert moved == {"f/base/bias": False, "f/base/kernel": False, "f/down": True, "f/up": True}


def test_wrong_options_and_inputs_are_errors():
    x = jnp.ones((2, 3, 4))
    for make, text in [
        (lambda: nn.dense(5, axis=0).init(KEY, x), "not the batch"),
        (lambda: nn.bilinear(3).init(KEY, x), "pair"),
        (lambda: nn.einsum("bti,io->bto"), "takes the sizes"),
        (lambda: nn.einsum("bi,io->bo", o=3).init(KEY, x), "2 axes, got one"),
        (lambda: nn.lora(nn.relu, 2).init(KEY, x), "kernel"),
        (lambda: nn.add((x, x[:1])), "one shape"),
        (lambda: nn.multiply(x), "tuple"),
    ]:
        with pytest.raises(ValueError, match=text):
            make()


def test_a_u_net_and_a_siamese_net():
    def siamese(run, pair):
        return nn.add((run("tower", pair[0]), run("tower", pair[1])))

    model = nn.block(siamese, tower=nn.dense(3))
    pair = (random(2, 4), random(2, 4, seed=1))
    params, _ = model.init(KEY, pair)
    w, b = np.float64(params["tower"]["kernel"]), np.float64(params["tower"]["bias"])
    np.testing.assert_allclose(model(params, pair), np.float64(pair[0] + pair[1]) @ w + 2 * b, rtol=1e-4, atol=1e-5)
    inner = nn.serial(nn.max_pool(2), nn.conv(4, 3), nn.conv_transpose(2, 2, strides=2))
    u_net = nn.serial(nn.branch(nn.identity, inner), nn.concatenate, nn.conv(1, 1))
    x = random(2, 8, 8, 3)
    params, _ = u_net.init(KEY, x)
    assert u_net(params, x).shape == (2, 8, 8, 1)
    assert params["conv"]["kernel"].shape == (1, 1, 5, 1)
    rows = nn.serial(nn.branch(nn.identity, nn.relu), functools.partial(nn.concatenate, axis=1), lambda x: nn.multiply((x, x)))
    np.testing.assert_allclose(rows({}, pair[0]), np.concatenate([pair[0], np.maximum(pair[0], 0)], 1) ** 2, rtol=1e-6)
