"""Kronecker-factored curvature: against explicit Kronecker products of factors found by hand, and exact where it must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxnn as nn

ad = nn.autodiff
KEY = jax.random.key(0)


def matrix(product, params):
    """The matrix of a product, by its columns, with the axes of the leaves kept apart."""
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jit(jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0]))(jnp.eye(len(flat), dtype=flat.dtype)))


def drawn(model, *shape, dtype=jnp.float32):
    x = jax.random.normal(KEY, shape, dtype)
    params, state = model.init(jax.random.key(1), x)
    moved = jax.tree.map(lambda a: a.astype(dtype) + 0.1 * jax.random.normal(KEY, a.shape, dtype), params)
    y = model.apply(moved, state, x)[0]
    return moved, state, (x, jax.random.normal(jax.random.key(2), y.shape, dtype))


pooled = lambda x: x.mean(1)  # noqa: E731
LINEAR = {
    "dense": (nn.dense(3), "expand", (4, 2)),
    "dense without bias": (nn.dense(3, use_bias=False), "expand", (4, 2)),
    "dense over positions": (nn.dense(3), "expand", (4, 5, 2)),
    "mean over positions": (nn.serial(nn.dense(3), pooled), "reduce", (4, 5, 2)),
    "conv": (nn.conv(2, 2, padding="VALID", strides=2), "expand", (3, 5, 5, 2)),
    "conv in groups": (nn.conv(4, 2, groups=2), "expand", (3, 4, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("name", LINEAR)
def test_it_is_exact_for_one_linear_layer(name, corrected, x64):
    model, sharing, shape = LINEAR[name]
    params, state, data = drawn(model, *shape, dtype=jnp.float64)
    problem = nn.Problem(model, nn.losses.mse)
    make = jax.jit(
        lambda params: ad.kronecker(problem, params, data, state, sharing=sharing, corrected=corrected, batch_size=2)
    )
    factors = make(params)
    exact = matrix(ad.gauss_newton(problem, params, data, state), params)
    np.testing.assert_allclose(matrix(factors.product, params), exact, atol=1e-12)
    damped = exact + 0.1 * np.eye(len(exact))
    inverse = matrix(lambda v: factors.inverse(v, 0.1), params)
    np.testing.assert_allclose(inverse, np.linalg.inv(damped), atol=1e-9)
    np.testing.assert_allclose(factors.log_determinant(0.1), np.linalg.slogdet(damped)[1], rtol=1e-9)


def by_hand(preactivations, outputs, n_taps, data):
    """The factors of layers whose outputs are moved by taps: x and cotangents by explicit Jacobians; loss mse."""
    x, _ = data
    inputs, jacobians = jax.vmap(preactivations)(x), jax.vmap(jax.jacrev(outputs, 1), (0, None))(x, n_taps)
    size = 2 / np.prod(jacobians.shape[1:-2])
    flat = np.asarray(jacobians, np.float64).reshape(len(x), -1, *jacobians.shape[-2:])  # (examples, outputs, taps, features)
    inputs = np.concatenate([inputs, np.ones((*inputs.shape[:-1], 1))], -1).astype(np.float64)
    return inputs, flat * size**0.5


@pytest.mark.slow
def test_copies_of_a_repeat_have_blocks_of_their_own(x64):
    model = nn.repeat(nn.serial(nn.dense(2), nn.tanh), 3)
    params, state, data = drawn(model, 4, 2, dtype=jnp.float64)
    kernel, bias = params["dense"]["kernel"], params["dense"]["bias"]

    def layers(x, taps):
        seen = []
        for i in range(3):
            seen.append(x)
            x = jnp.tanh(x @ kernel[i] + bias[i] + taps[i])
        return x, jnp.stack(seen)

    taps = jnp.zeros((3, 2))
    inputs, g = by_hand(lambda x: layers(x, taps)[1], lambda x, taps: layers(x, taps)[0], taps, data)
    factors = jax.jit(lambda params: ad.kronecker(nn.Problem(model, nn.losses.mse), params, data, state))(params)
    assert factors.layers == (("dense/kernel", "dense/bias"),) and not factors.diagonal
    v = jax.tree.map(lambda a: jax.random.normal(jax.random.key(5), a.shape), params)
    got = factors.product(v)["dense"]
    for i in range(3):
        a = inputs[:, i].T @ inputs[:, i] / 4
        b = np.einsum("nof,nog->fg", g[:, :, i], g[:, :, i]) / 4
        joint = np.concatenate([v["dense"]["kernel"][i], v["dense"]["bias"][i][None]])
        wanted = (np.kron(a, b) @ joint.ravel()).reshape(3, 2)
        np.testing.assert_allclose(got["kernel"][i], wanted[:2], atol=1e-12)
        np.testing.assert_allclose(got["bias"][i], wanted[2], atol=1e-12)


@pytest.mark.slow
def test_the_kernels_of_a_recurrence_are_one_block(x64):
    model = nn.rnn(2)
    params, state, data = drawn(model, 4, 5, 3, dtype=jnp.float64)

    def steps(x, taps):
        h, seen, outputs = jnp.zeros(2), [], []
        for t in range(5):
            seen.append(jnp.concatenate([x[t], h]))
            h = jnp.tanh(x[t] @ params["kernel"] + h @ params["recurrent_kernel"] + params["bias"] + taps[t])
            outputs.append(h)
        return jnp.stack(outputs), jnp.stack(seen)

    taps = jnp.zeros((5, 2))
    inputs, g = by_hand(lambda x: steps(x, taps)[1], lambda x, taps: steps(x, taps)[0], taps, data)
    factors = jax.jit(lambda params: ad.kronecker(nn.Problem(model, nn.losses.mse), params, data, state))(params)
    v = jax.tree.map(lambda a: jax.random.normal(jax.random.key(5), a.shape), params)
    got = factors.product(v)
    a = np.einsum("nti,ntj->ij", inputs, inputs) / 20
    b = np.einsum("notf,notg->fg", g, g) / 4
    n = 5 + ("bias" not in factors.diagonal)
    joint = np.concatenate([v["kernel"], v["recurrent_kernel"], v["bias"][None]])[:n]
    wanted = (np.kron(a[:n, :n], b) @ joint.ravel()).reshape(n, 2)
    np.testing.assert_allclose(got["kernel"], wanted[:3], atol=1e-12)
    np.testing.assert_allclose(got["recurrent_kernel"], wanted[3:5], atol=1e-12)


MODEL = nn.serial(nn.dense(3), nn.tanh, nn.layer_norm(), nn.dense(3))
PROBLEM = nn.Problem(MODEL, nn.losses.cross_entropy)


@pytest.mark.slow
def test_corrected_scales_are_the_exact_diagonal_in_the_eigenvectors(x64):
    """And of parameters that belong to no product, the diagonal is exact; one random vector has the same mean."""
    params, state, (x, _) = drawn(MODEL, 6, 2, dtype=jnp.float64)
    data = (x, jnp.arange(6) % 3)
    exact = ad.gauss_newton(PROBLEM, params, data, state)
    factors = jax.jit(lambda params: ad.kronecker(PROBLEM, params, data, state, corrected=True, batch_size=4))(params)
    assert factors.layers == (("dense/kernel", "dense/bias"), ("dense_2/kernel", "dense_2/bias"))
    zeros = jax.tree.map(jnp.zeros_like, params)
    for name, a, g, scales in zip(("dense", "dense_2"), factors.inputs, factors.outputs, factors.scales, strict=True):
        for i, j in np.ndindex(*scales.shape[1:]):
            joint = jnp.outer(a[0, :, i], g[0, :, j])
            v = {**zeros, name: {"kernel": joint[:-1], "bias": joint[-1]}}
            got = ravel_pytree(exact(v))[0] @ ravel_pytree(v)[0]
            np.testing.assert_allclose(scales[0, i, j], got, atol=1e-12)
    diagonal = nn.trees.paths(exact.exact_diagonal())
    assert list(factors.diagonal) == ["layer_norm/bias", "layer_norm/scale"]
    for name, values in factors.diagonal.items():
        np.testing.assert_allclose(values, diagonal[name], atol=1e-12)

    @jax.jit
    def sampled(keys):
        one = lambda key: ad.kronecker(PROBLEM, params, data, state, key=key, corrected=True).product(params)  # noqa: E731
        return jax.tree.map(lambda a: a.mean(0), jax.lax.map(one, keys))

    found = sampled(jax.random.split(jax.random.key(9), 300))["layer_norm"]["scale"]
    np.testing.assert_allclose(found, factors.product(params)["layer_norm"]["scale"], rtol=0.15, atol=1e-4)


@pytest.mark.slow
def test_a_population_and_parameters_that_do_not_count():
    params, state, (x, _) = drawn(MODEL, 6, 2)
    data = (x, jnp.arange(6) % 3)
    moved = jax.tree.map(lambda a: jnp.stack([a, a + 0.1]), params)

    def made(params):
        factors = ad.kronecker(PROBLEM, params, data, state, where="dense_2/*")
        return factors.inverse(params, 0.1), factors.log_determinant(0.1)

    together, logs = jax.jit(jax.vmap(made))(moved)
    for i in range(2):
        alone, log = jax.jit(made)(jax.tree.map(lambda a: a[i], moved))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), together, alone)
        np.testing.assert_allclose(logs[i], log, rtol=1e-5)
    assert not any(jnp.any(a) for name in ("dense", "layer_norm") for a in jax.tree.leaves(together[name]))


def test_errors():
    params, state, (x, _) = drawn(MODEL, 6, 2)
    data = (x, jnp.arange(6) % 3)
    with pytest.raises(ValueError, match='sharing="expand" or "reduce", got "all"'.replace('"all"', "'all'")):
        ad.kronecker(PROBLEM, params, data, state, sharing="all")
    with pytest.raises(TypeError, match="takes a Problem"):
        ad.kronecker(MODEL, params, data, state)
    factors = ad.Kronecker((), (), (), (), {"a": jnp.ones(2)}, (), (("a", (2,), "float32"),))
    with pytest.raises(ValueError, match="a tree like the parameters"):
        factors.product({"a": jnp.ones(3)})
    with pytest.raises(ValueError, match="damping of at least 0"):
        factors.inverse({"a": jnp.ones(2)}, -1.0)
