"""Private training: against clipping by hand in NumPy float64, and privacy against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn

ad = nn.autodiff
MODEL = nn.serial(nn.dense(3), nn.tanh, nn.dense(2))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 4)).astype(np.float32), np.arange(8) % 2
OPTIONS = {"loss": nn.losses.cross_entropy, "optimizer": optax.sgd(1.0)}


def gradient_of(gradient, batch):
    """The parameters' change in one step of gradient descent at rate 1, and the loss and the number of skipped examples."""
    init, step, *_ = nn.training(MODEL, gradient=gradient, **OPTIONS)
    state = init(jax.random.key(0), batch[0])
    after, loss, predictions = jax.jit(step)(state, batch)
    assert predictions.shape == (8, 2)
    return state.params, jax.tree.map(lambda a, b: a - b, state.params, after.params), loss, int(after.skipped)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_without_noise(accumulate):
    """Weights scale the loss, weight 0 leaves out, and an example that is not finite is left out and counted."""
    weights = np.array([1, 0, 1, 2, 1, 1, 0, 0.5], np.float32)
    x = X.copy()
    x[4], x[6] = np.nan, np.inf  # the second one has weight 0
    params, got, loss, skipped = gradient_of(ad.private(0.3, 0.0, 5, accumulate=accumulate), (x, Y, weights))
    f = lambda params, x, y: nn.losses.cross_entropy(MODEL(params, x[None]), y[None])  # noqa: E731
    values, each = jax.jit(jax.vmap(jax.value_and_grad(f), (None, 0, 0)))(params, X, Y)
    scaled = jax.tree.map(lambda a: np.asarray(a, np.float64) * weights.reshape(-1, *[1] * (a.ndim - 1)), each)
    norms = np.sqrt(sum((a.reshape(8, -1) ** 2).sum(1) for a in jax.tree.leaves(scaled)))
    factors = np.minimum(1, 0.3 / np.where(norms == 0, 1, norms)) * (np.arange(8) != 4)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(scaled), strict=True):
        np.testing.assert_allclose(a, np.tensordot(factors, b, 1) / 5, atol=1e-6)
    used = weights * (np.arange(8) != 4)
    np.testing.assert_allclose(loss, np.sum(used * np.asarray(values)) / used.sum(), rtol=1e-5)
    assert skipped == 1


@pytest.mark.slow
def test_noise():
    """It has the deviation σ C / B, differs between leaves and steps, and leaves alone the parameters that are not trained."""
    gradient = ad.private(0.5, 3.0, 10, where="dense_2/*")
    params = MODEL.init(jax.random.key(0), X)[0]
    objective = nn.Problem(MODEL, nn.losses.cross_entropy).at().weighted

    @jax.jit
    def drawn(keys):
        one = lambda gradient, key: gradient(objective, params, {}, (X, Y), key)[0]  # noqa: E731
        mean = one(ad.private(0.5, 0.0, 10, where="dense_2/*"), keys[0])
        return jax.tree.map(lambda a, b: a - b[None], jax.lax.map(lambda key: one(gradient, key), keys), mean)

    noise = drawn(jax.random.split(jax.random.key(1), 4000))
    assert not any(jnp.any(a) for a in jax.tree.leaves(noise["dense"]))
    rows = np.concatenate([np.asarray(a).reshape(4000, -1) for a in jax.tree.leaves(noise["dense_2"])], 1)
    np.testing.assert_allclose(np.cov(rows.T) / 0.15**2, np.eye(rows.shape[1]), atol=0.11)  # 5 standard errors
    np.testing.assert_allclose(rows.mean(0), 0, atol=5 * 0.15 / 4000**0.5)


@pytest.mark.slow
def test_without_any_finite_example_the_loss_is_not_finite():
    assert np.isnan(gradient_of(ad.private(1.0, 1.0, 8), (X * np.nan, Y))[2])
    assert gradient_of(ad.private(1.0, 1.0, 8), (X, Y, np.zeros(8, np.float32)))[2] == 0


@pytest.mark.parametrize("option", ["accumulate", "sam_radius", "loss_scaling", "skip_nonfinite"])
def test_options_that_would_break_it_are_refused(option):
    with pytest.raises(ValueError, match=option if option != "skip_nonfinite" else 'on_nonfinite="skip"'):
        nn.training(MODEL, gradient=ad.private(1.0, 1.0, 8), **OPTIONS, **{option: 2})


def test_other_errors():
    with pytest.raises(TypeError, match="gradient as a function"):
        nn.training(MODEL, gradient=1.0, **OPTIONS)
    for given, error in (((0.0, 1.0, 8), "clip"), ((1.0, -1.0, 8), "noise"), ((1.0, 1.0, 0), "batch_size")):
        with pytest.raises(ValueError, match=error):
            ad.private(*given)
    model = nn.serial(nn.dense(3), nn.batch_norm(), nn.dense(2))
    init, step, *_ = nn.training(model, gradient=ad.private(1.0, 1.0, 8), **OPTIONS)
    with pytest.raises(ValueError, match="without state"):
        jax.eval_shape(step, init(jax.random.key(0), X), (X, Y))
    searched = {**OPTIONS, "optimizer": optax.lbfgs()}
    init, step, *_ = nn.training(MODEL, gradient=ad.private(1.0, 1.0, 8), **searched)
    with pytest.raises(TypeError, match="value"):
        jax.eval_shape(step, init(jax.random.key(0), X), (X, Y))
    for given, error in (((X, Y, Y), "weights"), ((X, Y[:3]), "one entry per sample")):
        with pytest.raises(ValueError, match=error):
            ad.poisson_batches(given, 2, jax.random.key(0))
    with pytest.raises(ValueError, match="at most the number of samples, 8"):
        ad.poisson_batches((X, Y), 9, jax.random.key(0))
    with pytest.raises(ValueError, match="at most the number of samples, 8"):
        ad.privacy_spent(1.0, batch_size=9, samples=8, steps=1, delta=1e-5)


def test_poisson_batches():
    """Each sample enters each batch with probability q, independently, and none is left out when there are too many rows."""
    n, q = 50, 0.2
    batches = ad.poisson_batches((np.arange(n)[:, None], np.arange(n)), 10, jax.random.key(0))
    drawn = np.zeros((4000, n))
    for row, (x, y, weights) in zip(drawn, (b for epoch in range(1, 801) for b in batches(epoch)), strict=True):
        assert len(x) % batches.rows == 0 and (x[:, 0] == y).all()
        np.add.at(row, y, weights)
    assert set(np.unique(drawn)) == {0, 1}
    np.testing.assert_allclose(drawn.mean(0), q, atol=5 * (q * (1 - q) / 4000) ** 0.5)
    np.testing.assert_allclose(drawn.sum(1).var(), n * q * (1 - q), rtol=0.12)
    few = ad.PoissonBatches(batches.data, 10, 4, batches.seed)
    for (x, _, weights), (_, _, same) in zip(few(1), batches(1), strict=True):
        assert weights.sum() == same.sum() and len(x) % 4 == 0 and len(x) < weights.sum() + 4
    again = ad.poisson_batches((X, Y), 4, jax.random.key(7))
    assert all(jax.tree.all(jax.tree.map(np.array_equal, a, b)) for a, b in zip(again(2), again(2), strict=True))


@pytest.mark.slow
def test_a_run_continues_to_the_same_bits(tmp_path):
    def run(epochs, folder):
        return nn.fit(
            *(MODEL, ad.poisson_batches((X, Y), 4, jax.random.key(3))),
            **OPTIONS,
            epochs=epochs,
            key=jax.random.key(0),
            gradient=ad.private(1.0, 1.0, 4),
            clip_norm=2.0,
            callbacks=[nn.callbacks.ema(0.9)],
            metrics={"accuracy": nn.metrics.accuracy},
            checkpoints=folder,
            progress=False,
        )

    pytest.importorskip("orbax.checkpoint")
    whole, _, continued = run(4, tmp_path / "a"), run(2, tmp_path / "b"), run(4, tmp_path / "b")
    assert jax.tree.all(jax.tree.map(np.array_equal, whole.params, continued.params))
    assert whole.history["skipped"] == [0.0] * 4
    with pytest.raises(ValueError, match="gradient"):
        nn.fit(
            *(MODEL, ad.poisson_batches((X, Y), 4, jax.random.key(3))),
            **OPTIONS,
            epochs=4,
            key=jax.random.key(0),
            clip_norm=2.0,
            callbacks=[nn.callbacks.ema(0.9)],
            metrics={"accuracy": nn.metrics.accuracy},
            checkpoints=tmp_path / "b",
            progress=False,
        )


@pytest.mark.slow
def test_a_member_of_a_sweep_is_the_run_alone():
    """The bound and the noise may be hyperparameters."""

    def gradient(objective, params, state, batch, key, clip):
        return ad.private(clip, 1.0, 4)(objective, params, state, batch, key)

    options = {**OPTIONS, "epochs": 3, "batch_size": 4, "gradient": gradient, "progress": False}
    table = nn.sweep(MODEL, (X, Y), {"clip": [0.5, 1.0]}, seeds=2, key=jax.random.key(0), **options)
    member = table.member(3)
    key = jax.random.fold_in(jax.random.key(0), member.seed)
    alone = nn.fit(MODEL, (X, Y), hyperparameters={"clip": 1.0}, key=key, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), member.params, alone.params)
    with pytest.raises(ValueError, match="nothing takes the hyperparameter"):
        nn.fit(MODEL, (X, Y), hyperparameters={"bound": 1.0}, key=key, **{**options, "gradient": ad.private(1.0, 1.0, 4)})


@pytest.mark.slow
def test_privacy_spent():
    """One step and steps without sampling have closed forms: the hockey-stick divergence of Gaussians (Balle & Wang 2018)."""
    stats = pytest.importorskip("scipy.stats")
    pytest.importorskip("dp_accounting")
    phi = stats.norm.cdf

    def delta(epsilon, noise):
        return phi(0.5 / noise - epsilon * noise) - np.exp(epsilon) * phi(-0.5 / noise - epsilon * noise)

    for noise, steps in ((1.0, 1), (4.0, 9)):
        epsilon = ad.privacy_spent(noise, batch_size=7, samples=7, steps=steps, delta=1e-5)
        np.testing.assert_allclose(delta(epsilon, noise / steps**0.5), 1e-5, rtol=5e-3)
    q, noise = 0.1, 1.0
    epsilon = ad.privacy_spent(noise, batch_size=10, samples=100, steps=1, delta=1e-4)
    grid = np.linspace(-12, 13, 200_001)
    one = (1 - q) * stats.norm.pdf(grid, 0, noise) + q * stats.norm.pdf(grid, 1, noise)
    excess = np.maximum(one - np.exp(epsilon) * stats.norm.pdf(grid, 0, noise), 0)
    np.testing.assert_allclose(excess.sum() * (grid[1] - grid[0]), 1e-4, rtol=5e-3)
    spent = [ad.privacy_spent(4.0, batch_size=10, samples=1000, steps=steps, delta=1e-5) for steps in (0, 100, 10_000)]
    assert 0 == spent[0] < spent[1] < spent[2] < 1.26  # the moments accountant's (Abadi et al. 2016, section 3)
    assert ad.privacy_spent(0.0, batch_size=1, samples=2, steps=1, delta=1e-5) == float("inf")
