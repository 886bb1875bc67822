"""Products with the Hessian, the Gauss-Newton and the Fisher matrix of a loss, and the solution of linear systems by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.autodiff.contributions import square_sums
from jaxnn.autodiff.examples import Where, as_examples, counted, outputs_and_losses, scalar, summed
from jaxnn.autodiff.tapped import tapped
from jaxnn.core.checks import check_key, number, whole
from jaxnn.core.text import array_text
from jaxnn.problem.batches import leading_size
from jaxnn.problem.problem import Problem


@dataclass(frozen=True, eq=False)
class Product:
    """A symmetric linear function of trees like the parameters, v ↦ A v. It is its own transpose.

    For operators that can be added and multiplied, hand it to lineax:
    `lineax.FunctionLinearOperator(product, product.like, lineax.symmetric_tag)`. The rows and columns of parameters that are
    left out by `where` are 0.

    Attributes:
        function: The function.
        like: The shapes and dtypes of the trees that it takes.
        exact_diagonal: A function without arguments that returns the diagonal, a tree like the parameters; None if there is
            none but estimates.

    Example:
        See `hessian`, which returns it.
    """

    function: Callable[[Any], Any]
    like: Any
    exact_diagonal: Callable[[], Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n), with n the number of parameters, those that are left out by `where` included."""
        n = sum(leaf.size for leaf in jax.tree.leaves(self.like))
        return n, n

    def __call__(self, v: Any) -> Any:
        """The product with a tree like the parameters.

        Raises:
            ValueError: If the tree has another structure or other shapes.
        """
        shapes = jax.tree.map(lambda a: jnp.shape(a), v, is_leaf=lambda a: a is None)
        if shapes != jax.tree.map(lambda a: a.shape, self.like):
            raise ValueError(f"this product takes a tree like the parameters, {array_text(self.like)}, got {array_text(v)}")
        return self.function(v)


def hessian(f: Callable, params: Any, data: Any, *, where: Where = None, batch_size: int | None = None) -> Product:
    """The Hessian of the mean loss, H = ∂²/∂W² (1/N) Σᵢ fᵢ(W), as a product v ↦ H v.

    A product costs about as much as a gradient and a half (Pearlmutter 1994, "Fast exact multiplication by the Hessian"): the
    gradient is linearized once, and every product is the derivative of the gradient along v.

    Args:
        f: The loss of one example, `f(params, example) -> scalar`; `example_loss` makes one of a `Problem`.
        params: The parameters.
        data: The examples: a pytree of arrays with a leading axis of examples.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all. The rows and
            columns of the others are 0.
        batch_size: The number of examples per batch, to save memory: each product then evaluates the loss again, batch by
            batch.

    Returns:
        A `Product`, a function of trees like the parameters.

    Raises:
        TypeError: If `f` is not a function, or `batch_size` not a whole number.
        ValueError: If `f` does not return one real number, the leaves of `data` differ in length, or a pattern matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: jnp.vdot(params["w"], example) ** 2
        >>> result = nn.autodiff.hessian(f, {"w": jnp.ones(2)}, jnp.array([[1.0, 0.0], [1.0, 2.0]]))
        >>> result.shape, result({"w": jnp.array([1.0, 0.0])})["w"].tolist()
        ((2, 2), [2.0, 2.0])
    """
    loss = scalar("hessian", f)
    data, batch_size = as_examples("hessian", data, batch_size)
    n = leading_size(data)

    def prepare(free: Callable, leaves: list, batch: Any) -> Callable:
        gradient = jax.grad(lambda leaves: jax.vmap(loss, (None, 0))(free(leaves), batch).sum() / n)
        return jax.linearize(gradient, leaves)[1]

    return _product(prepare, params, data, where, batch_size)


def gauss_newton(
    problem: Problem, params: Any, data: Any, state: Any = None, *, where: Where = None, batch_size: int | None = None
) -> Product:
    """The generalized Gauss-Newton matrix of the mean loss, G = (1/N) Σᵢ Jᵢᵀ Hᵢ Jᵢ, as a product v ↦ G v.

    With zᵢ the model's output for one example, Jᵢ = ∂zᵢ/∂W and Hᵢ = ∂²L(zᵢ, yᵢ)/∂zᵢ² (Schraudolph 2002, "Fast curvature
    matrix-vector products for second-order gradient descent"). G is positive semi-definite if the loss is convex in z; for
    cross-entropy it is the Fisher matrix. The factors are those of the loss as it is: `mse` is a mean over outputs of (z − y)²
    without 1/2, so its H is 2 / (number of outputs) times the identity.

    Args:
        problem: A `Problem` whose loss is one of predictions and targets, so that outputs and loss are apart.
        params: The parameters.
        data: `(x, y)`, with a leading axis of examples.
        state: The model's state, which stays fixed: the model is in inference mode, since batch norm in training mode would
            make the outputs depend on each other. By default there is none.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all. The rows and
            columns of the others are 0.
        batch_size: The number of examples per batch, to save memory: each product then evaluates the model again, batch by
            batch.

    Returns:
        A `Product`, a function of trees like the parameters.

    Raises:
        TypeError: If `problem` is not a `Problem`, its loss is an `Objective`, the data are not `(x, y)`, or `batch_size` is
            not a whole number.
        ValueError: If the leaves of `data` differ in length, or a pattern matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> problem = nn.Problem(nn.dense(1, use_bias=False), nn.losses.mse)
        >>> product = nn.autodiff.gauss_newton(problem, {"kernel": jnp.ones((2, 1))}, (jnp.eye(2), jnp.zeros((2, 1))))
        >>> product({"kernel": jnp.array([[1.0], [3.0]])})["kernel"].ravel().tolist()
        [1.0, 3.0]
    """
    outputs, loss = outputs_and_losses("gauss_newton", problem, params, state, data)
    data, batch_size = as_examples("gauss_newton", data, batch_size)

    def curvature(z: jax.Array, y: Any) -> Callable:
        return jax.linearize(jax.grad(lambda z: jax.vmap(loss)(z, y).sum()), z)[1]

    def roots(z: jax.Array, y: Any) -> jax.Array:
        at = lambda z: jax.vmap(jax.hessian(loss))(z, y)  # noqa: E731
        values, vectors = jnp.linalg.eigh(at(z))
        # Where a softmax is saturated, H is much smaller than the numbers whose difference it is; they are as large as H at 0.
        sizes = [jnp.abs(a).max((1, 2)) for a in (values[:, None], at(jnp.zeros_like(z)))]
        sizes[1] = jnp.where(jnp.isfinite(sizes[1]), sizes[1], 0)
        rounding = 1e2 * jnp.finfo(values.dtype).eps * jnp.maximum(*sizes)[:, None]
        lengths = jnp.where(values < -rounding, jnp.nan, jnp.sqrt(jnp.maximum(values, 0)))
        return jnp.moveaxis(vectors * lengths[:, None], 2, 0)

    return _through_outputs(outputs, curvature, roots, params, data, where, batch_size)


def fisher(
    problem: Problem,
    params: Any,
    data: Any,
    state: Any = None,
    *,
    kind: str = "exact",
    key: jax.Array | None = None,
    where: Where = None,
    batch_size: int | None = None,
) -> Product:
    """The Fisher information matrix, F = (1/N) Σᵢ E gᵢ(y) gᵢ(y)ᵀ with gᵢ(y) = ∂L(zᵢ, y)/∂W, as a product v ↦ F v.

    The expectation is over labels of the model's own distribution, p(y | zᵢ) = exp(−L(zᵢ, y)) (Amari 1998, "Natural gradient
    works efficiently in learning"). "exact" takes it over all classes, "sampled" draws one label per example. "empirical" takes
    the labels of the data, which is another matrix (Kunstner et al. 2019, arXiv:1905.12558). For the squared error, F is what
    `gauss_newton` returns: L is then −log p up to a constant.

    Args:
        problem: A `Problem` whose loss is one of predictions and targets, so that outputs and loss are apart.
        params: The parameters.
        data: `(x, y)`, with a leading axis of examples. For "exact" and "sampled", y are classes, (examples,) integers, and the
            outputs one logit per class.
        state: The model's state, which stays fixed, as in `gauss_newton`.
        kind: "exact", "sampled" or "empirical".
        key: A random key for "sampled"; every product uses the same labels.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all. The rows and
            columns of the others are 0.
        batch_size: The number of examples per batch, to save memory: each product then evaluates the model again, batch by
            batch.

    Returns:
        A `Product`, positive semi-definite. With a loss that is not −log p of a class, "exact" and "sampled" are NaN.

    Raises:
        TypeError: If `problem` is not a `Problem`, its loss is an `Objective`, the data are not `(x, y)`, y are not classes, or
            `batch_size` is not a whole number.
        ValueError: If `kind` is something else, "sampled" has no key, the leaves of `data` differ in length, or a pattern
            matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> problem = nn.Problem(nn.dense(2, use_bias=False), nn.losses.cross_entropy)
        >>> product = nn.autodiff.fisher(problem, {"kernel": jnp.zeros((1, 2))}, (jnp.ones((3, 1)), jnp.array([0, 1, 1])))
        >>> product({"kernel": jnp.array([[1.0, 0.0]])})["kernel"].round(4)
        Array([[ 0.25, -0.25]], dtype=float32)
    """
    if kind not in ("exact", "sampled", "empirical"):
        raise ValueError(f'fisher takes kind="exact", "sampled" or "empirical", got {kind!r}')
    outputs, loss = outputs_and_losses("fisher", problem, params, state, data)
    (x, y), batch_size = as_examples("fisher", data, batch_size)
    if kind != "empirical" and not (getattr(y, "ndim", 0) == 1 and jnp.issubdtype(y.dtype, jnp.integer)):
        raise TypeError(
            f'fisher(kind="{kind}") takes y as integer classes, (examples,), got {array_text(y)}: for the squared error, '
            "gauss_newton is the Fisher matrix"
        )
    draws = jnp.zeros(leading_size(x))
    if kind == "sampled":
        if key is None:
            raise ValueError('fisher(kind="sampled") draws labels: pass a key, such as key=jax.random.key(0)')
        draws = jax.random.uniform(check_key(key), draws.shape)

    def of_example(z: jax.Array, y: Any, draw: jax.Array) -> jax.Array:
        """The rows of a matrix R with Rᵀ R = E ∂L/∂z (∂L/∂z)ᵀ."""
        if kind == "empirical":
            return jax.grad(loss)(z, y)[None]
        classes = jnp.arange(len(z), dtype=y.dtype)
        losses, gradients = jax.vmap(jax.value_and_grad(loss), (None, 0))(z, classes)
        p = jnp.exp(-losses)
        p = jnp.where(jnp.abs(p.sum() - 1) < 1e-3, p, jnp.nan)
        if kind == "exact":
            return jnp.sqrt(p)[:, None] * gradients
        chosen = jnp.minimum(jnp.sum(jnp.cumsum(p) < draw.astype(p.dtype) * p.sum()), len(z) - 1)
        return jnp.where(jnp.isnan(p[0]), jnp.nan, gradients[chosen])[None]

    def roots(z: jax.Array, y: Any, draws: jax.Array) -> jax.Array:
        return jax.vmap(of_example, out_axes=1)(z, y, draws)

    def curvature(z: jax.Array, y: Any, draws: jax.Array) -> Callable:
        r = roots(z, y, draws)
        return lambda u: jnp.einsum("rnc,rn->nc", r, jnp.einsum("rnc,nc->rn", r, u))

    return _through_outputs(outputs, curvature, roots, params, (x, y, draws), where, batch_size)


def _through_outputs(
    outputs: Callable, curvature: Callable, roots: Callable, params: Any, data: tuple, where: Where, batch_size: int
) -> Product:
    """(1/N) Σᵢ Jᵢᵀ Hᵢ Jᵢ.

    Args:
        outputs: `outputs(params, x) -> z`, a vector.
        curvature: `curvature(z, *rest)`, the function u ↦ Hᵢ uᵢ for all examples.
        roots: `roots(z, *rest)`, vectors s with Hᵢ = Σᵣ sᵣᵢ sᵣᵢᵀ, (r, examples, outputs).
        params: The parameters.
        data: `(x, *rest)`.
        where: The parameters that count.
        batch_size: The number of examples per batch.
    """
    n = leading_size(data)

    def prepare(free: Callable, leaves: list, batch: tuple) -> Callable:
        x, *rest = batch
        z, jacobian = jax.linearize(lambda leaves: jax.vmap(outputs, (None, 0))(free(leaves), x), leaves)
        product, transposed = curvature(z, *rest), jax.linear_transpose(jacobian, leaves)
        return lambda v: transposed(product(jacobian(v)) / n)[0]

    def squares(batch: tuple) -> list[jax.Array]:
        x, *rest = batch
        run = tapped(outputs, params, x, counted(params, where))
        found = lax.map(lambda s: square_sums(run, run.pullback(s)), roots(run.outputs, *rest))
        return [a.sum(0) / n for a in found]

    def diagonal() -> Any:
        return jax.tree.unflatten(jax.tree.structure(params), summed(squares, data, batch_size))

    return replace(_product(prepare, params, data, where, batch_size), exact_diagonal=diagonal)


def _product(prepare: Callable, params: Any, data: Any, where: Where, batch_size: int) -> Product:
    """The sum over batches of the products that `prepare(free, leaves, batch)` makes, in the leaves that count."""
    params = jax.tree.map(jnp.asarray, params)
    leaves, tree = jax.tree.flatten(params)
    real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    chosen = [i for i, s in enumerate(counted(params, where)) if s and real[i]]

    def free(parts: list) -> Any:
        given = dict(zip(chosen, parts, strict=True))
        return jax.tree.unflatten(tree, [given.get(i, leaf) for i, leaf in enumerate(leaves)])

    at = [leaves[i] for i in chosen]
    once = prepare(free, at, data) if leading_size(data) <= batch_size else None

    def function(v: Any) -> Any:
        parts = jax.tree.leaves(v)
        mine = [jnp.asarray(parts[i], leaves[i].dtype) for i in chosen]
        product = once(mine) if once else summed(lambda batch: prepare(free, at, batch)(mine), data, batch_size)
        found = dict(zip(chosen, product, strict=True))
        return jax.tree.unflatten(tree, [found.get(i, jnp.zeros_like(leaf)) for i, leaf in enumerate(leaves)])

    return Product(function, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params))


def solve(product: Callable, b: Any, *, damping: Any = 0.0, tolerance: float = 1e-5, max_steps: int | None = None) -> Any:
    """Solve (A + λ I) x = b by conjugate gradients, for a symmetric positive definite A + λ I.

    The method is that of Hestenes & Stiefel (1952), `jax.scipy.sparse.linalg.cg`. Derivatives are implicit: those of x are
    found by another solution, whatever the number of steps.

    Args:
        product: v ↦ A v, such as `gauss_newton` returns.
        b: A tree of arrays.
        damping: λ, at least 0; it may be traced.
        tolerance: The residual's norm over that of b at which to stop.
        max_steps: The largest number of steps; by default ten times the number of unknowns.

    Returns:
        x, a tree like b.

    Raises:
        TypeError: If a number is of another kind.
        ValueError: If a number is out of range, or b does not fit the product.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.solve(lambda v: 2 * v, jnp.array([2.0, 4.0]), damping=2.0).tolist()
        [0.5, 1.0]
    """
    damping = number("solve", "damping", damping, 0)
    tolerance = number("solve", "tolerance", tolerance, 0, above=True)
    max_steps = None if max_steps is None else whole("solve", "max_steps", max_steps)

    def damped(v: Any) -> Any:
        return jax.tree.map(lambda av, v: av + jnp.asarray(damping, v.dtype) * v, product(v), v)

    return jax.scipy.sparse.linalg.cg(damped, b, tol=tolerance, maxiter=max_steps)[0]
