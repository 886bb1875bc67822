"""kernels.linear, spread, column_sum and batch_norm equal the plain formulas in value and in all derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnn.kernels import batch_norm, column_sum, linear, spread

EPSILON = 1e-3


def normal(shape, dtype="float64", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def plain_linear(x, kernel, bias):
    return jnp.einsum("...i,ij->...j", x, kernel) + jnp.broadcast_to(bias, (*x.shape[:-1], bias.size))


def plain_batch_norm(x, scale, bias):
    rows = x.reshape(-1, x.shape[-1])
    mean, var = jnp.mean(rows, 0), jnp.var(rows, 0)
    y = scale[None] * (rows - mean[None]) / jnp.sqrt(var + EPSILON)[None] + bias[None]
    return y.reshape(x.shape), mean, var


CASES = {
    "linear": (lambda *a: linear(*a, form="matrix"), plain_linear, ((2, 3, 4), (4, 5), (5,))),
    "linear, one leading axis": (lambda *a: linear(*a, form="matrix"), plain_linear, ((3, 4), (4, 5), (5,))),
    "spread": (
        lambda v, x: spread(v, x, form="matrix") * x,
        lambda v, x: jnp.broadcast_to(v, x.shape) * x,
        ((3,), (2, 4, 5, 3)),
    ),
    "column_sum": (lambda x: column_sum(x**2, form="matrix"), lambda x: (x**2).sum((0, 1, 2)), ((2, 4, 5, 3),)),
    "batch_norm": (lambda *a: batch_norm(*a, EPSILON), plain_batch_norm, ((3, 4, 2, 5), (5,), (5,))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_transformation(name, x64):
    ours, plain, shapes = CASES[name]
    args = tuple(normal(shape, seed=i) for i, shape in enumerate(shapes))
    directions = tuple(normal(shape, seed=10 + i) for i, shape in enumerate(shapes))

    def everything(f):
        loss = lambda *args: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(f(*args)))  # noqa: E731
        gradient = jax.grad(loss, tuple(range(len(args))))
        vector = lambda *args: sum(jnp.sum(jnp.cos(leaf)) for leaf in gradient(*args))  # noqa: E731
        stacked = tuple(jnp.asarray(np.stack([x, 2 * x])) for x in jax.device_get(args))
        return jax.jit(
            lambda args: {
                "value": f(*args),
                "forward over reverse": jax.jvp(gradient, args, directions),
                "reverse over reverse": jax.grad(vector, tuple(range(len(args))))(*args),
                "vmap": jax.vmap(gradient)(*stacked),
                "vmap of the first": jax.vmap(gradient, (0, *(None for _ in args[1:])))(stacked[0], *args[1:]),
                "remat in scan": jax.lax.scan(lambda c, x: (c, jax.grad(jax.checkpoint(loss))(x, *args[1:])), 0, stacked[0]),
            }
        )(args)

    for a, b in zip(*(jax.tree.leaves(everything(f)) for f in (ours, plain)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_gradients_of_batch_norm_equal_pytorch(x64):
    torch = pytest.importorskip("torch")
    x, scale, bias, g = (normal(shape, seed=i) for i, shape in enumerate([(3, 4, 2, 5), (5,), (5,), (3, 4, 2, 5)]))

    @jax.jit
    def value_and_gradients(g, *operands):
        y, back = jax.vjp(lambda *a: batch_norm(*a, EPSILON)[0], *operands)
        return y, back(g)

    y, ours = value_and_gradients(g, x, scale, bias)
    theirs = [torch.tensor(np.asarray(a)).requires_grad_() for a in (x, scale, bias)]
    z = torch.nn.functional.batch_norm(theirs[0].movedim(-1, 1), None, None, *theirs[1:], training=True, eps=EPSILON)
    np.testing.assert_allclose(y, z.movedim(1, -1).detach().numpy(), atol=1e-12)
    gradients = torch.autograd.grad(z, theirs, torch.tensor(np.asarray(g)).movedim(-1, 1))
    for a, b in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-12)


def test_gradients_of_batch_norm_are_sums_by_products():
    args = jnp.ones((3, 4, 2, 5)), jnp.ones(5), jnp.ones(5)
    y, pullback = jax.vjp(lambda *args: batch_norm(*args, EPSILON)[0], *args)
    backward = str(jax.make_jaxpr(pullback)(y))
    assert backward.count("dot_general") == 2
    assert "axes=(0, 1, 2)" not in backward


def test_sums_are_precise():
    x = normal((64, 32, 32, 8), "float32")  # 65,536 summands of size 1: pairwise blocks keep the error near 1e-4
    np.testing.assert_allclose(column_sum(x, form="matrix"), np.asarray(x, np.float64).sum((0, 1, 2)), atol=5e-4)


def test_errors():
    with pytest.raises(ValueError, match="as long as like's last axis"):
        spread(jnp.ones(3), jnp.ones((2, 2, 4)))
    with pytest.raises(ValueError, match="form must be"):
        column_sum(jnp.ones((2, 3, 4)), form="tree")


@pytest.mark.parametrize("name", ["linear", "batch_norm"])
def test_shard_map_checks_varying_axes(name):
    # x varies over the mesh and the weights do not, so their gradients must be summed over it.
    ours, _, shapes = CASES[name]
    args = tuple(normal(shape, "float32", i) for i, shape in enumerate(shapes))
    loss = lambda *args: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(ours(*args)))  # noqa: E731
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))
    specs = P("batch"), P(), P()
    sharded = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=True))
    for a, b in zip(sharded(*args), gradient(*args), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
