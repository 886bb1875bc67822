"""Derivatives through iterations and solutions, and influence: against loops by hand, formulas in NumPy, and retraining."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

ad = nn.autodiff
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(12, 3)), RNG.normal(size=12)


def descent(w, i, rate, weights):
    """A step of gradient descent on half the weighted squares, on four of the examples at a time."""
    a, b, v = (jax.lax.dynamic_slice_in_dim(jnp.asarray(c, w.dtype), 4 * (i % 3), 4) for c in (A, B, weights))
    return w - rate * a.T @ (v * (a @ w - b))


def by_hand(rate, weights, steps):
    """∂/∂rate and ∂/∂weights of Σ w² after the steps, by NumPy's forward mode."""
    w, of_rate, of_weights = np.ones(3), np.zeros(3), np.zeros((3, 12))
    for i in range(steps):
        s = slice(4 * (i % 3), 4 * (i % 3) + 4)
        residual, hessian = A[s] @ w - B[s], A[s].T @ (weights[s, None] * A[s])
        of_rate = of_rate - rate * hessian @ of_rate - A[s].T @ (weights[s] * residual)
        of_weights = of_weights - rate * hessian @ of_weights
        of_weights[:, s] -= rate * A[s].T * residual
        w = w - rate * A[s].T @ (weights[s] * residual)
    return w @ w, 2 * w @ of_rate, 2 * w @ of_weights


@pytest.mark.sample(1)
@pytest.mark.parametrize("steps, every", [(7, None), (6, 3), (2, 9)])
def test_unrolled(x64, steps, every):
    """Reverse mode in a learning rate and in the weights of the data, with and without a rest; forward mode agrees."""
    weights = RNG.uniform(size=12)
    run = ad.unrolled(descent, steps, every)
    final = lambda rate, weights: jnp.sum(run(jnp.ones(3), rate, weights) ** 2)  # noqa: E731
    value, (of_rate, of_weights) = jax.jit(jax.value_and_grad(final, (0, 1)))(0.05, jnp.asarray(weights))
    for got, wanted in zip((value, of_rate, of_weights), by_hand(0.05, weights, steps), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(final))(0.05, jnp.asarray(weights)), of_rate, rtol=1e-12)


@pytest.mark.slow
def test_memory_grows_with_the_root_of_the_steps():
    def bytes_of(steps):
        run = ad.unrolled(lambda w, i: jnp.tanh(w @ jnp.ones((500, 500)) / 500), steps)
        gradient = jax.jit(jax.grad(lambda w: run(w).sum()))
        return gradient.lower(jnp.ones((4, 500))).compile().memory_analysis().temp_size_in_bytes

    few, many = bytes_of(100), bytes_of(1600)
    assert many < 4.5 * few


@pytest.mark.slow
def test_hypergradient_of_a_training_run():
    """Of `train_step` with its keys and optimizer state, against `train_run`'s own derivative."""
    model = nn.serial(nn.dense(8), nn.tanh, nn.dropout(0.1), nn.dense(3))
    x, y = jnp.asarray(RNG.normal(size=(5, 8, 4)), jnp.float32), jnp.asarray(RNG.integers(0, 3, (5, 8)))
    options = {"loss": nn.losses.cross_entropy, "optimizer": optax.adam, "hyperparameters": {"learning_rate": 0.01}}
    start = nn.init_train_state(model, optax.adam, jax.random.key(0), x[0], hyperparameters={"learning_rate": 0.01})
    step = nn.train_step(model, **options)

    def final(run, rate):
        state = run(start._replace(hyperparameters={"learning_rate": rate}))
        return nn.losses.cross_entropy(model.apply(state.params, state.state, x[0])[0], y[0])

    def plain(state):
        return jax.lax.scan(lambda state, i: (step(state, (x[i % 5], y[i % 5]))[0], None), state, jnp.arange(23))[0]

    run = ad.unrolled(lambda state, i: step(state, (x[i % 5], y[i % 5]))[0], 23)
    wanted = jax.jit(jax.value_and_grad(lambda rate: final(plain, rate)))(0.01)
    got = jax.jit(jax.value_and_grad(lambda rate: final(run, rate)))(0.01)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.slow
def test_implicit_of_a_minimum(x64):
    """First and second derivatives, forward and reverse, of ridge regression in its penalty."""
    penalty, eye = 0.7, np.eye(3)
    inverse = np.linalg.inv(A.T @ A + penalty * eye)
    w = inverse @ A.T @ B
    slope, bend = -inverse @ w, 2 * inverse @ inverse @ w
    a, b = jnp.asarray(A), jnp.asarray(B)

    def loss(params, penalty):
        return jnp.sum((a @ params["w"] - b) ** 2) / 2 + penalty * jnp.sum(params["w"] ** 2) / 2

    def solution(penalty):
        return {"w": jnp.linalg.solve(a.T @ a + penalty * jnp.eye(3), a.T @ b)}

    best = ad.implicit(solution, jax.grad(loss), tolerance=1e-13)

    @jax.jit
    def all_of_them(penalty):
        of = lambda penalty: best(penalty)["w"]  # noqa: E731
        return of(penalty), jax.jacfwd(of)(penalty), jax.jacrev(of)(penalty), jax.jacfwd(jax.jacrev(of))(penalty)

    for got, wanted in zip(all_of_them(penalty), (w, slope, slope, bend), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9)


def test_implicit_of_a_fixed_point(x64):
    """The system is not symmetric: right with symmetric=False, and NaN rather than wrong without."""
    m = np.array([[0.1, 0.8, 0.0], [-0.7, 0.2, 0.3], [0.0, 0.5, -0.4]])
    inverse = np.linalg.inv(np.eye(3) - m)

    def derivative(symmetric):
        options = {"symmetric": symmetric, "tolerance": 1e-13}
        x = ad.implicit(lambda c: inverse @ c, lambda x, c: x - (m @ x + c), **options)
        return jax.jacrev(x)(c) if symmetric else (jax.jacrev(x)(c), jax.jacfwd(x)(c))

    c = jnp.array([1.0, -2.0, 0.5])
    general, wrong = jax.jit(lambda: (derivative(False), derivative(True)))()
    for got in general:
        np.testing.assert_allclose(got, inverse, rtol=1e-9)
    assert np.all(np.isnan(wrong) | (np.abs(wrong - inverse) < 0.05))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ad.unrolled(3, 2), TypeError, "as a function step"),
        (lambda: ad.unrolled(descent, 0), ValueError, "at least 1"),
        (lambda: ad.unrolled(lambda w: w, 2)(1.0), TypeError, "define it as step"),
        (lambda: ad.implicit(lambda t: jnp.ones(2), lambda x, t: x[0])(1.0), ValueError, "as many equations"),
        (
            lambda: ad.influence(lambda p, e: e, {"w": jnp.ones(())}, jnp.ones((3, 2)), jnp.ones(3)),
            ValueError,
            "one real number",
        ),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def logistic(params, example):
    a, b = example
    z = jnp.vdot(a, params["w"]) + params["b"]
    return jax.nn.softplus(z) - b * z


def minimum(data, penalty, weights):
    """Newton's method on Σᵢ wᵢ fᵢ + λ/2 ‖W‖²."""
    tree = lambda w: {"w": w[:3], "b": w[3]}  # noqa: E731
    loss = lambda w: weights @ jax.vmap(logistic, (None, 0))(tree(w), data) + penalty * jnp.sum(w**2) / 2  # noqa: E731
    newton = lambda w, _: (w - jnp.linalg.solve(jax.hessian(loss)(w), jax.grad(loss)(w)), None)  # noqa: E731
    return tree(jax.lax.scan(newton, jnp.zeros(4), None, 12)[0])


@pytest.mark.slow
def test_influence_is_the_change_by_training_again(x64):
    n, penalty = 60, 0.1
    a = RNG.normal(size=(n + 3, 3))
    b = (a[:, 0] + RNG.normal(size=n + 3) > 0).astype(float)
    data, others = ((jnp.asarray(a[s]), jnp.asarray(b[s])) for s in (slice(n), slice(n, None)))

    @jax.jit
    def values():
        params = minimum(data, penalty, jnp.full(n, 1 / n))
        losses = lambda params: jax.vmap(logistic, (None, 0))(params, others)  # noqa: E731
        without = jax.vmap(lambda i: losses(minimum(data, penalty, jnp.full(n, 1 / n).at[i].set(0.0))))(jnp.arange(n))
        flat = lambda tree: jnp.concatenate([tree["w"], tree["b"][..., None]], -1)  # noqa: E731
        gradients = [flat(jax.vmap(jax.grad(logistic), (None, 0))(params, d)) for d in (others, data)]
        product = ad.hessian(logistic, params, data)
        columns = jax.vmap(lambda v: flat(product({"w": v[:3], "b": v[3]})))(jnp.eye(4))
        got = [ad.influence(logistic, params, data, others, damping=penalty, batch_size=k, tolerance=1e-12) for k in (None, 16)]
        return (without - losses(params)[None]).T, gradients, columns, got

    changes, (of_others, of_data), hessian, got = values()
    formula = of_others @ np.linalg.inv(hessian + penalty * np.eye(4)) @ of_data.T / n
    for found in got:
        np.testing.assert_allclose(found, formula, rtol=1e-8, atol=1e-12)
    assert np.corrcoef(got[0].ravel(), changes.ravel())[0, 1] > 0.99
    np.testing.assert_allclose(got[0], changes, atol=0.15 * np.abs(changes).max())
