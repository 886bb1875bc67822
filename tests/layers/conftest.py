"""A comparison of any layer with PyTorch: values, and gradients of the input and of every parameter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

call = nn.Layer.__call__


@functools.cache
def compiled(layer):
    return jax.jit(lambda params, x: call(layer, params, x))


@pytest.fixture(autouse=True)
def calls_are_one_program(monkeypatch):
    """Compile `layer(params, x)` as one program, not each of its operations; the contract tests that both give the same."""
    monkeypatch.setattr(nn.Layer, "__call__", lambda layer, params, x: compiled(layer)(params, x))


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def equals_pytorch():
    """`equals_pytorch(layer, shape, peer)`: `peer(torch, x, **params)` computes the same from tensors in our layout.

    PyTorch's gradients are then in our layout too. Both compute in float32 with sums in different orders: the tolerance is
    about a hundred roundings of a value of order one.
    """
    torch = pytest.importorskip("torch")

    def compare(layer, shape, peer, training=False, tolerance=3e-5):
        x = random(*shape)
        described = layer.init(jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
        leaves, structure = jax.tree.flatten(described[0])
        params = jax.tree.unflatten(structure, [random(*leaf.shape, seed=i + 1) for i, leaf in enumerate(leaves)])
        state = described[1]

        @jax.jit
        def ours(params, x, g):
            y, back = jax.vjp(lambda p, x: layer.apply(p, state, x, training=training)[0], params, x)
            return y, back(g)

        tensors = jax.tree.map(lambda a: torch.tensor(a, requires_grad=True), params)
        inputs = torch.tensor(x, requires_grad=True)
        expected = peer(torch, inputs, **tensors)
        g = random(*expected.shape, seed=9)
        expected.backward(torch.tensor(g))
        y, (gradients, to_input) = ours(params, x, g)
        wanted = (expected.detach(), jax.tree.map(lambda t: t.grad, tensors), inputs.grad)
        for a, b in zip(jax.tree.leaves((y, gradients, to_input)), jax.tree.leaves(wanted), strict=True):
            assert a.shape == tuple(b.shape)
            np.testing.assert_allclose(a, b.numpy(), rtol=tolerance, atol=tolerance * max(1, float(b.abs().max())))

    return compare
