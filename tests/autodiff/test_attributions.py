"""Attributions, attacks, similarity and geometry: against laws, loops in NumPy, and minimization by SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxnn as nn

ad = nn.autodiff
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
W1, W2 = RNG.normal(size=(12, 5)), RNG.normal(size=5)
X = RNG.normal(size=(3, 2, 2))


def network(x):
    """tanh(x W₁) w₂, and its gradient by the chain rule in NumPy below."""
    return jnp.tanh(x.reshape(-1) @ jnp.asarray(W1, x.dtype)) @ jnp.asarray(W2, x.dtype)


def gradient(x):
    return (W1 @ (W2 / np.cosh(x.ravel() @ W1) ** 2)).reshape(x.shape)


@pytest.mark.slow
def test_attributions(x64):
    x, start = jnp.asarray(X), jnp.asarray(RNG.normal(size=(1, 2, 2)))

    @jax.jit
    def all_of_them(x):
        patches = [ad.occlusion(network, x, size, stride=stride, value=0.5) for size, stride in ((2, 1), ((2, 1), 2))]
        smooth = ad.smooth_grad(network, x, KEY, noise=0.3, samples=4)
        return ad.saliency(network, x), ad.integrated_gradients(network, x, start), network(x), smooth, patches

    saliency, integrated, output, smooth, patches = all_of_them(x)
    np.testing.assert_allclose(saliency, np.abs(gradient(X)), rtol=1e-10)
    base = np.broadcast_to(start, X.shape)
    np.testing.assert_allclose(integrated.sum(), output - network(jnp.asarray(base)), rtol=1e-9)  # completeness
    grid = (np.arange(4000) + 0.5) / 4000
    wanted = (X - base) * np.mean([gradient(base + t * (X - base)) for t in grid], 0)
    np.testing.assert_allclose(integrated, wanted, rtol=1e-5, atol=1e-7)
    draws = [jax.random.normal(key, X.shape) for key in jax.random.split(KEY, 4)]
    np.testing.assert_allclose(smooth, np.mean([gradient(X + 0.3 * np.asarray(d)) for d in draws], 0), rtol=1e-9)
    for found, starts, size in zip(patches, ([(0, 0), (1, 0)], [(i, j) for i in (0, 1) for j in (0, 1)]), (2, 1), strict=True):
        for drop, (i, j) in zip(found.ravel(), starts, strict=True):
            hidden = X.copy()
            hidden[i : i + 2, j : j + size] = 0.5
            wanted = (np.tanh(X.ravel() @ W1) - np.tanh(hidden.ravel() @ W1)) @ W2
            np.testing.assert_allclose(drop, wanted, rtol=1e-9)


def test_grad_cam(x64):
    body = RNG.normal(size=(2, 4))
    features = lambda x: jnp.tanh(x @ body)  # noqa: E731
    head = lambda a: jnp.sum(a**2 * jnp.arange(-1.0, 3.0)[None, None])  # noqa: E731
    a = np.tanh(X @ body)
    weights = (2 * a * np.arange(-1, 3)).mean((0, 1))
    np.testing.assert_allclose(jax.jit(functools.partial(ad.grad_cam, features, head))(X), np.maximum(a @ weights, 0))


@functools.partial(jax.jit, static_argnums=(2, 3))
def one_step(direction, x, norm, bounds):
    """Of a linear loss: the projection of one step to the ball."""
    return ad.pgd(lambda x: jnp.vdot(x, direction), x, 0.4, norm=norm, steps=1, step_size=3.0, bounds=bounds)


@pytest.mark.sample(1)
@pytest.mark.parametrize("norm, bounds", [("l2", (0.0, 1.0)), ("l2", None), ("linf", (0.0, 1.0)), ("linf", None)])
def test_projection_is_the_nearest_point(x64, norm, bounds):
    direction, x = RNG.normal(size=6), RNG.uniform(size=6)
    far = x + 3 * (np.sign(direction) if norm == "linf" else direction / np.linalg.norm(direction))
    got = np.asarray(one_step(jnp.asarray(direction), jnp.asarray(x), norm, bounds))
    low, high = bounds or (-np.inf, np.inf)
    if norm == "linf":
        wanted = np.clip(far, np.maximum(x - 0.4, low), np.minimum(x + 0.4, high))
    else:
        ball = {"type": "ineq", "fun": lambda z: 0.4**2 - np.sum((z - x) ** 2)}
        objective = lambda z: np.sum((z - far) ** 2)  # noqa: E731
        options = {"method": "SLSQP", "constraints": [ball], "bounds": [(low, high)] * 6, "options": {"ftol": 1e-14}}
        wanted = scipy.optimize.minimize(objective, x, **options).x
    np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_find_the_largest_loss_in_the_ball(norm):
    """Of a linear loss, for each input of a batch; and more of a network's than the gradient alone."""
    w, x = jnp.asarray(W2, jnp.float32), jnp.asarray(RNG.uniform(size=(3, 5)), jnp.float32)

    @jax.jit
    def attacked(x):
        linear = jax.vmap(lambda x, key: ad.pgd(lambda x: jnp.vdot(w, x), x, 0.1, norm=norm, key=key))
        return linear(x, jax.random.split(KEY, 3)), jax.vmap(lambda x: ad.fgsm(lambda x: jnp.vdot(w, x), x, 0.1))(x)

    found, signed = attacked(x)
    dual = np.abs(W2).sum() if norm == "linf" else np.linalg.norm(W2)
    np.testing.assert_allclose((found - x) @ w, np.full(3, 0.1 * dual), rtol=1e-4 if norm == "linf" else 0.03)
    np.testing.assert_allclose(signed - x, 0.1 * np.broadcast_to(np.sign(W2), (3, 5)), atol=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("shapes", [((30, 4), (30, 2, 3)), ((5, 40), (5, 30))])
def test_cka(shapes):
    x, y = (1e20 * RNG.normal(size=shape) for shape in shapes)
    n = len(x)
    center = np.eye(n) - 1 / n
    hsic = lambda a, b: np.trace(a @ center @ b @ center)  # noqa: E731
    gram_x, gram_y = (a.reshape(n, -1) @ a.reshape(n, -1).T for a in (x, y))
    wanted = hsic(gram_x, gram_y) / np.sqrt(hsic(gram_x, gram_x)) / np.sqrt(hsic(gram_y, gram_y))
    np.testing.assert_allclose(jax.jit(ad.cka)(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)), wanted, rtol=1e-5)


@pytest.mark.slow
def test_sharpness_and_connection_of_a_quadratic_loss():
    matrix = jnp.asarray(W1.T @ W1, jnp.float32)
    loss = lambda p: p["w"] @ matrix @ p["w"] / 2  # noqa: E731

    @jax.jit
    def values(params):
        ends = {"w": jnp.asarray(W2, jnp.float32)}, {"w": jnp.asarray(-2 * W2, jnp.float32)}
        return ad.sharpness(loss, params, 0.5, KEY, steps=60), ad.mode_connectivity(loss, *ends, points=4)

    sharpness, line = values({"w": jnp.zeros(5)})
    np.testing.assert_allclose(sharpness, 0.125 * np.linalg.eigvalsh(W1.T @ W1).max(), rtol=1e-2)
    wanted = (1 - 3 * np.linspace(0, 1, 4)) ** 2 * (W2 @ W1.T @ W1 @ W2) / 2
    np.testing.assert_allclose(line.losses, wanted, rtol=1e-5, atol=1e-4)
    assert line.barrier == 0  # a convex loss has none


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ad.saliency(lambda x: x, jnp.ones(2)), ValueError, "one real number"),
        (lambda: ad.saliency(network, jnp.arange(3)), TypeError, "real numbers"),
        (lambda: ad.grad_cam(lambda x: x.sum(), lambda a: a, jnp.ones(2)), ValueError, "channels"),
        (lambda: ad.occlusion(network, jnp.ones((3, 1)), 4), ValueError, "a window that fits"),
        (lambda: ad.pgd(network, jnp.ones(12), 0.1, norm="l1"), ValueError, "linf"),
        (lambda: ad.pgd(network, jnp.ones(12), -0.1), ValueError, "epsilon"),
        (lambda: ad.fgsm(network, jnp.ones(12), 0.1, bounds=(1.0, 0.0)), ValueError, "increase"),
        (lambda: ad.cka(jnp.ones((3, 1)), jnp.ones((4, 1))), ValueError, "same examples"),
        (lambda: ad.mode_connectivity(network, jnp.ones(2), jnp.ones(3)), ValueError, "one shape"),
        (lambda: ad.mode_connectivity(network, jnp.ones(2), jnp.ones(2), steps=1), ValueError, "pass a key"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
