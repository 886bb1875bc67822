"""Gradients of single examples: against `vmap(grad)` over the layers of the contract, and laws."""

import functools
import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn

ad = nn.autodiff

_spec = importlib.util.spec_from_file_location("contract", Path(__file__).parents[1] / "test_contract.py")
contract = sys.modules.setdefault("contract", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(contract)

DEFAULT = {"conv in groups, dilated", "repeat", "embedding"}
BATCHED_STATE = ("stateful", "cached")  # layers whose state has an entry per example


def energy(y):
    floating = [a.astype(float) for a in jax.tree.leaves(y) if jnp.issubdtype(a.dtype, jnp.floating)]
    return sum(jnp.sum(jnp.sin(a)) + jnp.sum(a**2) for a in floating)


def example_of(name, dtype):
    """The loss of one example, parameters away from their kinks at 0 and 1, and data."""
    entry = contract.LAYERS[name]
    model = entry.make()
    params, state = model.init(jax.random.key(0), entry.x)
    number = iter(range(1000))

    def moved(a):
        a = a + 0.1 * jax.random.normal(jax.random.key(next(number)), a.shape, a.dtype)
        return a.astype(dtype)

    floating = lambda a: jnp.issubdtype(a.dtype, jnp.floating)  # noqa: E731
    params = jax.tree.map(moved, params)
    cast = functools.partial(jax.tree.map, lambda a: a.astype(dtype) if floating(a) else a)
    state, data = cast(state), cast(entry.x)
    if name.endswith(BATCHED_STATE):
        state = jax.tree.map(lambda a: a[:1] if a.ndim else a, state)

    def loss(params, x):
        return energy(model.apply(params, state, jax.tree.map(lambda a: a[None], x))[0])

    return loss, params, data


def flat(gradients):
    return jnp.concatenate([a.reshape(a.shape[0], -1) for a in jax.tree.leaves(gradients)], 1)


def close(got, wanted, tolerance):
    scale = max(float(jnp.abs(wanted).max()), 1e-3)
    np.testing.assert_allclose(got / scale, wanted / scale, atol=tolerance, rtol=0)


def check(loss, params, data, tolerance):
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, data)
    rows = flat(each)

    @jax.jit
    def computed(params):
        moments = ad.gradient_moments(loss, params, data)
        return (
            *(ad.gradient_norms(loss, params, data, by=by) for by in (None, "leaf")),
            *(moments, ad.gradient_products(loss, params, data)),
        )

    norms, by_leaf, moments, products = computed(params)
    close(norms, jnp.linalg.norm(rows, axis=1), tolerance)
    for path, a in nn.trees.paths(each).items():
        close(by_leaf[path], jnp.linalg.norm(a.reshape(len(a), -1), axis=1), tolerance)
        close(nn.trees.paths(moments.mean)[path], a.mean(0), tolerance)
        close(nn.trees.paths(moments.variance)[path], a.var(0, ddof=1), 10 * tolerance)
    close(products, rows @ rows.T, tolerance)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", sorted(DEFAULT))
def test_every_layer_agrees_with_vmap_of_grad(name):
    loss, params, data = example_of(name, jnp.float32)
    if params:
        check(loss, params, data, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", contract.LAYERS)
def test_every_layer_agrees_with_vmap_of_grad_in_float64(name, x64):
    loss, params, data = example_of(name, jnp.float64)
    if params:
        check(loss, params, data, 1e-5 if name in ("dtype_policy", "carried") else 1e-9)  # these two round to float32


def tied(run, tokens):
    x = run("tokens", tokens)
    return nn.attend(run.params("tokens"), x)


def test_records_hold_what_gradients_are_made_of():
    model = nn.serial(embed=nn.embedding(7, 4), body=nn.repeat(nn.serial(nn.dense(4), nn.tanh), 3), head=nn.dense(2))
    tokens = jax.random.randint(jax.random.key(0), (5, 3), 0, 7)
    params, state = model.init(jax.random.key(1), tokens)
    loss = ad.example_loss(nn.Problem(model, nn.losses.cross_entropy), state)
    labels = jax.random.randint(jax.random.key(2), (5, 3), 0, 2)
    losses, layers = jax.jit(ad.records, static_argnums=0)(loss, params, (tokens, labels))
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, (tokens, labels))
    np.testing.assert_allclose(losses, jax.vmap(loss, (None, 0))(params, (tokens, labels)), rtol=1e-6)
    assert set(layers) == {"embed", "body/dense", "head"}
    [rows], [product, bias] = layers["embed"], layers["body/dense"]
    assert rows.primitive == "gather" and rows.cotangents[0].shape == (5, 1, 3, 4)
    assert product.primitive == "dot_general" and product.loops == (3,) and product.params == ("body/dense/kernel",)
    assert product.inputs[0].shape == product.cotangents[0].shape == (5, 3, 3, 4)  # (example, copy, time, features)
    made = jnp.einsum("bcti,bcto->bcio", product.inputs[0], product.cotangents[0])
    np.testing.assert_allclose(made, each["body"]["dense"]["kernel"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(bias.cotangents[0].sum((2, 3)), each["body"]["dense"]["bias"], rtol=1e-5, atol=1e-7)


def test_a_weight_is_recorded_wherever_it_is_used():
    model = nn.block(tied, tokens=nn.embedding(7, 4))
    tokens = jnp.array([[1, 2, 2], [6, 1, 1]])
    params, state = model.init(jax.random.key(0), tokens)
    loss = ad.example_loss(nn.Problem(model, nn.losses.cross_entropy), state)
    points = ad.records(loss, params, (tokens, tokens)).layers["tokens"]
    assert [point.primitive for point in points] == ["gather", "dot_general"]
    check(loss, params, (tokens, tokens), 1e-5)


def test_custom_rules_loops_and_branches_are_points():
    """A rule that a user has defined is kept, even one that is not the derivative of its program; so are weights that are
    carried, made inside a loop, or that are the result."""

    @jax.custom_vjp
    def rounded(w, x):
        return jnp.round(w) * x

    rounded.defvjp(lambda w, x: (rounded(w, x), x), lambda x, g: (g * x, jnp.zeros_like(x)))

    def loss(params, x):
        y = rounded(params["straight"], x)
        y, _ = jax.lax.scan(lambda c, s: (jnp.tanh(c * y + s**2), None), params["start"], params["steps"])
        y = jax.lax.cond(x.sum() > 0, lambda w: w * y, lambda w: y - w, params["branch"])
        return y.sum() + (params["branch"] ** 2).sum() + jnp.sum(y[params["order"]][0])

    params = {name: jax.random.normal(jax.random.key(i), (3,)) for i, name in enumerate(("straight", "start", "branch"))}
    params |= {"steps": jax.random.normal(jax.random.key(4), (4, 3)), "order": jnp.array([2, 0, 1])}
    real = {name: a for name, a in params.items() if name != "order"}
    of_real = lambda p, x: loss({**p, "order": params["order"]}, x)  # noqa: E731
    data = jax.random.normal(jax.random.key(5), (4, 3))
    check(of_real, real, data, 1e-5)
    each = jax.jit(jax.vmap(jax.grad(of_real), (None, 0)))(real, data)
    norms = jax.jit(ad.gradient_norms, static_argnums=0)(loss, params, data)
    np.testing.assert_allclose(norms, jnp.linalg.norm(flat(each), axis=1), rtol=1e-5)


MLP = nn.serial(nn.dense(4), nn.tanh, nn.dense(3))
X = jax.random.normal(jax.random.key(3), (7, 5))
Y = jnp.arange(7) % 3
PARAMS, STATE = MLP.init(jax.random.key(4), X)
LOSS = ad.example_loss(nn.Problem(MLP, nn.losses.cross_entropy), STATE)
EACH = jax.jit(jax.vmap(jax.grad(LOSS), (None, 0)))(PARAMS, (X, Y))


def clipped_by_hand(rows, clip, weights):
    return ((weights * jnp.minimum(1, clip / jnp.linalg.norm(rows, axis=1)))[:, None] * rows).sum(0)


def test_clipped_gradient():
    rows, weights = flat(EACH), jnp.linspace(0.0, 2.0, 7)
    clip = float(jnp.median(jnp.linalg.norm(rows, axis=1)))
    clipped = jax.jit(lambda params, clip: ad.clipped_gradient(LOSS, params, (X, Y), clip, weights))(PARAMS, clip)
    total = flat(jax.tree.map(lambda a: a[None], clipped.gradient))[0]
    np.testing.assert_allclose(total, clipped_by_hand(rows, clip, weights), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(clipped.norms, jnp.linalg.norm(rows, axis=1), rtol=1e-5)
    assert clipped.nonfinite == 0


def test_an_example_whose_gradient_is_not_finite_is_left_out():
    bad = X.at[2].set(jnp.nan).at[4].set(jnp.inf)
    clipped = jax.jit(lambda x: ad.clipped_gradient(LOSS, PARAMS, (x, Y), 0.5))(bad)
    kept = jnp.ones(7).at[jnp.array([2, 4])].set(0)
    total = flat(jax.tree.map(lambda a: a[None], clipped.gradient))[0]
    np.testing.assert_allclose(total, clipped_by_hand(flat(EACH), 0.5, kept), rtol=1e-5, atol=1e-6)
    assert clipped.nonfinite == 2


@functools.partial(jax.jit, static_argnums=0)
def all_verbs(batch_size):
    verbs = ad.gradient_norms, ad.gradient_products, ad.gradient_moments, functools.partial(ad.clipped_gradient, clip=0.3)
    return [verb(LOSS, PARAMS, (X, Y), batch_size=batch_size) for verb in verbs]


@pytest.mark.slow
@settings(max_examples=2)
@given(batch_size=st.integers(1, 8))
def test_batches_give_the_same_as_all_at_once(batch_size):
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(same, all_verbs(batch_size), all_verbs(None))


def test_where_selects_parameters():
    kernels = jax.tree.map(lambda g, keep: g if keep else 0 * g, EACH, nn.trees.mask(EACH, "*/kernel"))
    rows = flat(kernels)

    @jax.jit
    def computed(params):
        arguments, where = (LOSS, params, (X, Y)), "*/kernel"
        assert list(ad.gradient_norms(*arguments, where="dense/*", by="layer")) == ["dense"]
        assert list(ad.records(*arguments, where="dense_2/bias").layers) == ["dense_2"]
        norms, products = ad.gradient_norms(*arguments, where=where), ad.gradient_products(*arguments, where=[where])
        return norms, products, ad.gradient_moments(*arguments, where=where).mean

    norms, products, mean = computed(PARAMS)
    np.testing.assert_allclose(norms, jnp.linalg.norm(rows, axis=1), rtol=1e-5)
    np.testing.assert_allclose(products, rows @ rows.T, rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.mean(0), rtol=1e-5, atol=1e-7), mean, kernels)


def test_noise_scale_is_that_of_the_definition():
    data = X + 0.5, jnp.zeros_like(Y)  # examples that agree, but for a part
    rows = np.asarray(flat(jax.jit(jax.vmap(jax.grad(LOSS), (None, 0)))(PARAMS, data)), np.float64)
    moments = jax.jit(lambda params: ad.gradient_moments(LOSS, params, data))(PARAMS)
    trace = np.trace(np.cov(rows.T))
    np.testing.assert_allclose(moments.noise_scale, trace / (np.sum(rows.mean(0) ** 2) - trace / len(rows)), rtol=1e-4)
    ratio = np.abs(rows.mean(0)) / rows.std(0, ddof=1)
    np.testing.assert_allclose(flat(jax.tree.map(lambda a: a[None], moments.signal_to_noise))[0], ratio, rtol=1e-3)


def test_transformations_apply():
    """`jit`, `vmap` over parameters, as in a population, and `grad`."""
    both = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), PARAMS)
    norms = jax.jit(jax.vmap(lambda params: ad.gradient_norms(LOSS, params, (X, Y))))(both)
    np.testing.assert_allclose(norms[0], jnp.linalg.norm(flat(EACH), axis=1), rtol=1e-5)
    slow = lambda params: jnp.sum(flat(jax.vmap(jax.grad(LOSS), (None, 0))(params, (X, Y))) ** 2)  # noqa: E731
    fast = lambda params: jnp.sum(ad.gradient_norms(LOSS, params, (X, Y)) ** 2)  # noqa: E731
    wanted, got = jax.jit(jax.grad(slow))(PARAMS), jax.jit(jax.grad(fast))(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), wanted, got)


def test_examples_may_be_spread_over_a_mesh():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    norms = jax.shard_map(
        lambda params, data: ad.gradient_norms(LOSS, params, data),
        mesh=mesh,
        in_specs=(jax.sharding.PartitionSpec(), spec),
        out_specs=spec,
    )
    np.testing.assert_allclose(jax.jit(norms)(PARAMS, (X, Y)), jnp.linalg.norm(flat(EACH), axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ad.gradient_norms(LOSS, PARAMS, (X, Y[:3])), ValueError, "one length"),
        (lambda: ad.gradient_norms(LOSS, PARAMS, ()), ValueError, "leading axis"),
        (lambda: ad.gradient_norms(LOSS, PARAMS, (X, Y), by="row"), ValueError, 'by=None, "leaf" or "layer"'),
        (lambda: ad.gradient_norms(LOSS, PARAMS, (X, Y), where="*/weight"), ValueError, "matches no path"),
        (lambda: ad.gradient_norms(LOSS, PARAMS, (X, Y), batch_size=0), ValueError, "batch_size"),
        (lambda: ad.records(lambda p, x: x[0], PARAMS, (X, Y)), ValueError, "one real number"),
        (lambda: ad.records("loss", PARAMS, (X, Y)), TypeError, "f as a function"),
        (lambda: ad.gradient_moments(LOSS, PARAMS, (X[:1], Y[:1])), ValueError, "at least 2 examples"),
        (lambda: ad.example_loss(MLP), TypeError, "Problem"),
        (lambda: ad.clipped_gradient(LOSS, PARAMS, (X, Y), 0.0), ValueError, "clip above 0"),
        (lambda: ad.clipped_gradient(LOSS, PARAMS, (X, Y), 1.0, jnp.ones(3)), ValueError, "one weight per example"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("batch_size", [None, 7])
def test_variances_of_gradients_whose_noise_is_small(batch_size):
    """A mean 10,000 times as large as the deviations leaves their digits."""
    rng = np.random.default_rng(0)
    x, g = 1 + 1e-4 * rng.normal(size=(20, 3)), 2 + 1e-4 * rng.normal(size=(20, 2))
    token = np.array([0] * 19 + [1])
    params = {"dense": jnp.ones((3, 2)), "table": jnp.ones((3, 2))}
    f = lambda p, e: jnp.vdot(e[0] @ p["dense"] + p["table"][e[2]], e[1])  # noqa: E731
    data = jnp.asarray(x, jnp.float32), jnp.asarray(g, jnp.float32), jnp.asarray(token)
    variance = ad.gradient_moments(f, params, data, batch_size=batch_size).variance
    x, g = np.float64(data[0]), np.float64(data[1])
    np.testing.assert_allclose(variance["dense"], (x[:, :, None] * g[:, None]).var(0, ddof=1), rtol=2e-3)
    np.testing.assert_allclose(variance["table"], (np.eye(3)[token][:, :, None] * g[:, None]).var(0, ddof=1), rtol=2e-3)


def test_squares_of_narrow_gradients_do_not_overflow():
    f = lambda p, x: jnp.vdot(p["w"], x)  # noqa: E731
    x = jnp.array([[300.0, 1.0], [900.0, 2.0]], jnp.float16)
    moments = ad.gradient_moments(f, {"w": jnp.ones(2, jnp.float16)}, x)
    np.testing.assert_allclose(moments.variance["w"], np.float64(x).var(0, ddof=1), rtol=2e-3)


def test_a_gradient_whose_positions_cancel_has_the_norm_0():
    x = jax.random.normal(jax.random.key(0), (50, 1, 40))
    g = jax.random.normal(jax.random.key(1), (50, 1, 30))
    f = lambda p, e: jnp.vdot(jnp.broadcast_to(e[0], (3, 40)) @ p["w"], e[1])  # noqa: E731
    clipped = ad.clipped_gradient(f, {"w": jnp.ones((40, 30))}, (x, jnp.concatenate([0.3 * g, 0.6 * g, -0.9 * g], 1)), 1.0)
    assert clipped.nonfinite == 0
    np.testing.assert_allclose(clipped.norms, 0, atol=0.1)
