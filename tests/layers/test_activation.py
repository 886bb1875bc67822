"""Activations with learned or random slopes, against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

X = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
SLOPES = np.linspace(-0.2, 0.6, 5).astype(np.float32)


def test_prelu_is_torchs():
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    slopes = torch.tensor(SLOPES, requires_grad=True)
    theirs = torch.nn.functional.prelu(x.movedim(-1, 1), slopes).movedim(1, -1)  # PyTorch has channels second
    (theirs**2).sum().backward()
    layer = nn.prelu()
    loss = lambda p, x: jnp.sum(layer(p, x) ** 2)  # noqa: E731
    ours, (of_slope, of_x) = jax.jit(jax.value_and_grad(loss, (0, 1)))({"negative_slope": SLOPES}, X)
    np.testing.assert_allclose(ours, (theirs**2).sum().item(), rtol=1e-5)
    np.testing.assert_allclose(of_slope["negative_slope"], slopes.grad, rtol=1e-5)
    np.testing.assert_allclose(of_x, x.grad, rtol=1e-5)


def test_prelu_starts_at_a_quarter_and_names_another_width():
    params, _ = nn.prelu().init(jax.random.key(0), X)
    np.testing.assert_array_equal(params["negative_slope"], np.full(5, 0.25))
    with pytest.raises(ValueError, match=r"prelu was initialized for 5 features, got an input of shape \[4, 3\]"):
        nn.prelu()(params, X[..., 0])


def test_rrelu_draws_within_its_bounds_and_is_torchs_at_inference():
    torch = pytest.importorskip("torch")
    layer = nn.rrelu(low=0.1, high=0.3)
    np.testing.assert_allclose(layer({}, X), torch.nn.functional.rrelu(torch.tensor(X), 0.1, 0.3), rtol=1e-6)
    y, _ = layer.apply({}, {}, X, key=jax.random.key(0), training=True)
    slopes = np.asarray(y)[X < 0] / X[X < 0]
    assert (slopes >= 0.1 - 1e-6).all() and (slopes < 0.3 + 1e-6).all() and len(set(slopes.tolist())) > 20
    np.testing.assert_array_equal(np.asarray(y)[X > 0], X[X > 0])
    with pytest.raises(ValueError, match="low <= high"):
        nn.rrelu(low=0.3, high=0.1)
