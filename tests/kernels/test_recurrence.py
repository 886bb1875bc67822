"""kernels.recurrence: both forms equal a NumPy loop and each other in value and in all derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec as P

from jaxnn.kernels import recurrence

BATCH, TIME, N_IN, FEATURES = 3, 4, 2, 5


def lstm(z, carry):
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def mixing(z, h):
    """A cell that is not elementwise over features."""
    return jax.nn.softmax(z, axis=-1) * jnp.cos(h)


CELLS = {"lstm": (lstm, 4, 2), "mixing": (mixing, 1, 1)}


def operands(blocks, carries, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    width = blocks * FEATURES
    weights = draw(N_IN, width), draw(FEATURES, width) / 2, draw(width)
    carry = tuple(draw(BATCH, FEATURES) for _ in range(carries))
    return draw(BATCH, TIME, N_IN), *weights, carry if carries > 1 else carry[0]


MASK = jnp.array([[True] * 4, [True, False, True, False], [False] * 4])


def assert_close(ours, theirs, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", ["joined", "xla"])
def test_equals_the_formula(x64, form):
    x, w, u, b, carry = jax.tree.map(np.asarray, operands(4, 2))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    (h, c), hs = carry, []
    for t in range(TIME):
        i, f, g, o = np.split(x[:, t] @ w + h @ u + b, 4, axis=-1)
        new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        valid = np.asarray(MASK)[:, t, None]
        h, c = np.where(valid, sigmoid(o) * np.tanh(new_c), h), np.where(valid, new_c, c)
        hs.append(np.where(valid, h, 0))
    ours = jax.jit(lambda *v: recurrence(lstm, *v, MASK, form=form))(x, w, u, b, carry)
    assert_close(ours, ((h, c), np.stack(hs, axis=1)))


def scalar(cell, mask, form, *operands):
    """A scalar that depends on every output, and differently on each of its elements."""
    weigh = lambda v: jnp.sum(v**2 * jnp.cos(jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape))  # noqa: E731
    return sum(map(weigh, jax.tree.leaves(recurrence(cell, *operands, mask, form=form))))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "masked"), [("lstm", True), ("mixing", False)])
def test_forms_agree_in_all_derivatives(x64, name, masked):
    cell, *sizes = CELLS[name]
    at, along = operands(*sizes), operands(*sizes, seed=1)

    @jax.jit
    def everything(at, along):
        results = []
        for form in ("joined", "xla"):
            f = functools.partial(scalar, cell, MASK if masked else None, form)
            gradient = jax.grad(f, range(5))
            slope = lambda *v: jnp.vdot(ravel_pytree(gradient(*v))[0], ravel_pytree(along)[0])  # noqa: E731
            results.append((jax.jvp(f, at, along), jax.jvp(gradient, at, along), jax.grad(slope, range(5))(*at)))
        return results

    assert_close(*everything(at, along))


def test_columns_from_x_or_from_h_only(x64):
    """Equals kernels padded with zeros, in the form that is tested above."""

    def cell(z, h):
        from_x, both, from_h = jnp.split(z, 3, axis=-1)
        return jnp.tanh(from_x * from_h + both) + h / 2

    x, kernel, recurrent, _, h = operands(2, 1)
    bias = jnp.linspace(-1, 1, 3 * FEATURES)

    def padded(x, kernel, recurrent, bias, h):
        kernel = jnp.pad(kernel, [(0, 0), (0, FEATURES)])
        return scalar(cell, MASK, "joined", x, kernel, jnp.pad(recurrent, [(0, 0), (FEATURES, 0)]), bias, h)

    both = [jax.value_and_grad(f, range(5)) for f in (functools.partial(scalar, cell, MASK, None), padded)]
    assert_close(*jax.jit(lambda *v: [f(*v) for f in both])(x, kernel, recurrent, bias, h))
    with pytest.raises(ValueError, match='"joined" needs a kernel and recurrent_kernel as wide as the bias'):
        recurrence(cell, x, kernel, recurrent, bias, h, form="joined")


@pytest.mark.slow
def test_transformations(x64):
    at = operands(4, 2)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), at, operands(4, 2, seed=1))

    @jax.jit
    def everything(at, stacked):
        results = []
        for form in ("joined", "xla"):
            gradient = jax.grad(functools.partial(scalar, lstm, MASK, form), range(5))
            inputs = jax.vmap(gradient, (0, None, None, None, 0))(stacked[0], *at[1:4], stacked[4])
            parameters = jax.vmap(gradient, (None, 0, 0, 0, None))(at[0], *stacked[1:4], at[4])
            remat = jax.grad(jax.checkpoint(functools.partial(scalar, lstm, MASK, form)), 1)(*at)
            in_scan = jax.lax.scan(lambda w, _: (w - 0.1 * gradient(at[0], w, *at[2:])[1], None), at[1], length=2)[0]
            results.append((inputs, parameters, jax.vmap(gradient)(*stacked), remat, in_scan))
        return results

    assert_close(*everything(at, stacked))


def test_a_cell_may_close_over_differentiated_or_mapped_arrays(x64):
    at = operands(1, 1)

    @jax.jit
    def everything(slopes):
        def value(slope, form):
            return recurrence(lambda z, h: jnp.tanh(slope * z), *at, form=form)[1].sum()

        return [jax.vmap(jax.grad(jax.grad(functools.partial(value, form=form))))(slopes) for form in ("joined", "xla")]

    assert_close(*everything(jnp.array([0.5, 1.5])))


def test_shard_map(x64):
    x, *weights, carry = operands(4, 2)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    over_batch = P("data")

    def loss(weights, x):
        h = jnp.zeros((x.shape[0], FEATURES), x.dtype)
        return jax.lax.psum(recurrence(lstm, x, *weights, (h, h), form="joined")[1].sum(), "data")

    mapped = jax.shard_map(loss, mesh=mesh, in_specs=(P(), over_batch), out_specs=P())
    ours = jax.jit(jax.grad(mapped))(weights, x)
    h = jnp.zeros((BATCH, FEATURES))
    assert_close(ours, jax.jit(jax.grad(lambda w: recurrence(lstm, x, *w, (h, h), form="xla")[1].sum()))(weights))


@pytest.mark.parametrize("form", ["joined", "xla"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_summed_in_float32(form, dtype):
    ones = jnp.ones((1, 4096), dtype)  # in bfloat16 256 + 1 is 256, in float16 2048 + 1 is 2048
    kernel, recurrent, bias = jnp.full((4096, 1), 1 / 4096, dtype), jnp.zeros((1, 1), dtype), jnp.zeros(1, dtype)
    run = jax.jit(lambda *operands: recurrence(lambda z, h: z, *operands, form=form))
    last, hs = run(ones[None], kernel, recurrent, bias, jnp.zeros((1, 1), dtype))
    assert last.dtype == hs.dtype == dtype and last.item() == 1


def test_no_steps():
    x, *rest = operands(4, 2, "float32")
    last, hs = jax.jit(functools.partial(recurrence, lstm))(x[:, :0], *rest)
    assert hs.shape == (BATCH, 0, FEATURES)
    assert_close(last, rest[-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: jnp.ones((3, 2))}, r"takes x \(batch, time, n_in\)"),
        ({1: jnp.ones((3, 20))}, r"do not match; expected .*\[2, 20\].*got .*\[3, 20\]"),
        ({3: jnp.ones((20, 1))}, "do not match"),
        ({3: jnp.ones(41)}, r"have \(20, 20\) columns, which cannot cover the 41 of the bias"),
        ({5: jnp.ones((4, 3))}, r"mask must be \(batch, time\), \[3, 4\] here, got \[4, 3\]"),
    ],
)
def test_errors(change, message):
    given = dict(enumerate((*operands(4, 2, "float32"), MASK))) | change
    with pytest.raises(ValueError, match=message):
        recurrence(lstm, *given.values())
    with pytest.raises(ValueError, match='form must be None, "xla" or "joined"'):
        recurrence(lstm, *operands(4, 2, "float32"), form="scan")
