"""Embeddings and positions, against PyTorch and their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KEY = jax.random.key(0)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("padding_index", [None, 2])
def test_embedding_against_pytorch(padding_index):
    torch = pytest.importorskip("torch")
    peer = torch.nn.Embedding(6, 4, padding_idx=padding_index)
    tokens = np.array([[0, 2, 5], [2, 2, 1]])
    params = {"embedding": jnp.asarray(peer.weight.detach().numpy())}
    layer = nn.embedding(6, 4, padding_index=padding_index)
    expected = peer(torch.tensor(tokens))
    np.testing.assert_allclose(layer(params, jnp.asarray(tokens)), expected.detach(), rtol=1e-6)
    ((expected + 1) ** 2).sum().backward()
    gradient = jax.grad(lambda p: ((layer(p, jnp.asarray(tokens)) + 1) ** 2).sum())(params)
    np.testing.assert_allclose(gradient["embedding"], peer.weight.grad, rtol=1e-5)


def test_a_tied_output_is_the_product_with_the_table():
    def tied(run, x):
        x = run("e", x)
        return nn.attend(run.params("e"), x)

    model = nn.block(tied, e=nn.embedding(6, 4))
    tokens = jnp.array([[1, 3]])
    params, _ = model.init(KEY, tokens)
    table = np.float64(params["e"]["embedding"])
    np.testing.assert_allclose(model(params, tokens), (table @ table.T)[np.asarray(tokens)], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"input \(\.\.\., 4\) for an embedding"):
        nn.attend(params["e"], jnp.ones((2, 3)))


@pytest.mark.parametrize("d", [4, 5])
def test_sinusoidal_positions_are_the_papers(d):
    y = nn.sinusoidal_positions(base=100.0)({}, jnp.zeros((1, 7, d)))[0]
    t, i = np.arange(7)[:, None], np.arange(d)[None]
    angle = t / 100.0 ** (2 * (i // 2) / d)
    np.testing.assert_allclose(y, np.where(i % 2, np.cos(angle), np.sin(angle)), rtol=1e-5, atol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("make", [lambda s: nn.learned_positions(7, stateful=s), lambda s: nn.sinusoidal_positions(stateful=s)])
def test_positions_of_a_sequence_in_parts_equal_one_pass(make):
    x = jnp.asarray(random(2, 7, 4))
    params, state = make(True).init(KEY, x)
    first, state = make(True).apply(params, state, x[:, :3])
    rest, state = make(True).apply(params, state, x[:, 3:])
    whole = make(False)(params, x)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), whole, rtol=1e-6)
    assert int(state["seen"]) == 7
    if params:
        np.testing.assert_allclose(whole, x + params["embedding"][None], rtol=1e-6)
        assert bool(jnp.isnan(make(True).apply(params, state, x[:, :1])[0]).all())
        with pytest.raises(ValueError, match="7 positions"):
            make(False).init(KEY, jnp.ones((1, 8, 4)))


def test_products_of_rotated_vectors_depend_only_on_distances():
    q, k = jnp.asarray(random(1, 5, 2, 6)), jnp.asarray(random(1, 5, 2, 6, seed=1))

    def products(shift):
        at = jnp.arange(5) + shift
        return jnp.einsum("bqhd,bkhd->bhqk", nn.rotary(q, at), nn.rotary(k, at))

    np.testing.assert_allclose(products(0), products(40), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(nn.rotary(q), axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5)
    z = np.float64(q[..., :3]) + 1j * np.float64(q[..., 3:])
    turned = z * np.exp(1j * np.arange(5)[:, None] / 10000.0 ** (np.arange(3) / 3))[None, :, None]
    np.testing.assert_allclose(nn.rotary(q), np.concatenate([turned.real, turned.imag], -1), rtol=1e-4, atol=1e-5)


def test_rotary_of_some_features_in_neighboring_pairs_of_packed_sequences():
    x, at = random(2, 5, 3, 8), np.array([[0, 1, 2, 0, 1], [3, 4, 5, 6, 7]])
    z = np.float64(x[..., 0:6:2]) + 1j * np.float64(x[..., 1:6:2])
    z = z * np.exp(1j * at[..., None] / 100.0 ** (np.arange(3) / 3))[:, :, None]
    expected = np.concatenate([np.stack([z.real, z.imag], -1).reshape(2, 5, 3, 6), x[..., 6:]], -1)
    y = nn.rotary(jnp.asarray(x), jnp.asarray(at), base=100.0, features=6, interleaved=True)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="an even number of which it rotates, got .* and 5"):
        nn.rotary(jnp.asarray(x), features=5)
    with pytest.raises(ValueError, match=r"2n features, got \[2, 5, 3, 8\], cos \[4, 3\]"):
        nn.apply_rotary(jnp.asarray(x), jnp.ones((4, 3)), jnp.ones((4, 3)))


@pytest.mark.slow
def test_alibi_has_the_slopes_of_the_paper():
    at = jnp.arange(4)
    for heads in (2, 8, 12):
        slopes = -nn.alibi(heads, at, at)[:, 0, 1]
        power = 2 ** int(np.log2(heads))
        expected = [2.0 ** (-8 * (h + 1) / power) for h in range(power)]
        expected += [2.0 ** (-8 * (h + 1) / (2 * power)) for h in range(2 * power)][::2][: heads - power]
        np.testing.assert_allclose(slopes, expected, rtol=1e-6)
