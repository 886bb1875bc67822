"""`laplace`: the uncertainty of a trained network, from the curvature of its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxnn.autodiff.estimates import diagonal, eigenpairs
from jaxnn.autodiff.examples import Where, as_examples, counted, outputs_and_losses, summed
from jaxnn.autodiff.products import gauss_newton
from jaxnn.core.checks import check_key, number, whole
from jaxnn.core.text import array_text
from jaxnn.core.trees import paths
from jaxnn.problem.batches import leading_size
from jaxnn.problem.problem import Problem
from jaxnn.programs.points import PointProgram

STRUCTURES = ("diagonal", "full", "last_layer", "low_rank")
DECADES = (-4.0, 8.0)
ENTRIES = 2**24  # of the Jacobians that are held at once


class Gaussian(NamedTuple):
    """A normal distribution of the outputs for each example.

    Attributes:
        mean: The outputs of the network, (examples, *outputs).
        covariance: That of the flattened outputs, (examples, outputs, outputs).

    Example:
        See `laplace`, the `predict` of whose result returns it.
    """

    mean: jax.Array
    covariance: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Basis:
    """Orthonormal vectors in which the curvature is diagonal, with the curvature of the whole loss along them.

    Another structure needs these three functions of vectors of the parameters that count.

    Attributes:
        values: The curvature along each vector, (vectors,).
        vectors: The vectors, (parameters, vectors); None for the parameters' own axes.

    Example:
        See `laplace`, whose result has one.
    """

    values: jax.Array
    vectors: jax.Array | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there are as many vectors as parameters; along all others, the curvature is 0."""
        return self.vectors is None or self.vectors.shape[0] == self.vectors.shape[1]

    def along(self, v: jax.Array) -> jax.Array:
        """The coordinates of vectors, (..., parameters), along the basis, (..., vectors)."""
        return v if self.vectors is None else v @ self.vectors

    def back(self, coordinates: jax.Array) -> jax.Array:
        """The vectors of coordinates, (..., vectors)."""
        return coordinates if self.vectors is None else coordinates @ self.vectors.T


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Laplace:
    """A normal distribution of the parameters, N(W, (N G + λ I)⁻¹): a pytree, with the functions that use it.

    Attributes:
        params: W, the mean.
        state: The model's state.
        prior: λ, the precision of the prior N(0, I / λ).
        basis: The curvature N G.
        log_likelihood: −Σᵢ L(zᵢ, yᵢ) at W.
        problem: The problem.
        chosen: The numbers of the leaves that vary.

    Example:
        See `laplace`, which returns it.
    """

    params: Any
    state: Any
    prior: jax.Array
    basis: Basis
    log_likelihood: jax.Array
    problem: Problem = field(metadata={"static": True})
    chosen: tuple[int, ...] = field(metadata={"static": True})

    def log_marginal_likelihood(self, prior: Any = None) -> jax.Array:
        """The evidence, log p(D | λ) ≈ −Σᵢ L(zᵢ, yᵢ) − λ/2 ‖W‖² + ½ log det λ I − ½ log det(N G + λ I).

        Args:
            prior: λ, by default that of the distribution; it may be traced, and differentiated.

        Returns:
            A scalar.
        """
        flat, _ = _flattened(self.params, self.chosen)
        prior = jnp.asarray(self.prior if prior is None else prior, flat.dtype)
        occam = jnp.sum(jnp.log1p(self.basis.values / prior)) / 2
        return self.log_likelihood - prior / 2 * jnp.sum(flat**2) - occam

    def sample(self, key: jax.Array, samples: int = 1) -> Any:
        """Draw parameters.

        Args:
            key: A random key.
            samples: The number of draws.

        Returns:
            A tree like the parameters with a leading axis of draws. Leaves that do not vary are repeated.

        Raises:
            TypeError: If the key or `samples` is of another type.
        """
        flat, rebuild = _flattened(self.params, self.chosen)

        def one(key: jax.Array) -> Any:
            noise = jax.random.normal(key, flat.shape, flat.dtype)
            inside = self.basis.along(noise)
            change = self.basis.back(inside / jnp.sqrt(self.basis.values + self.prior))
            if not self.basis.is_complete:
                change += (noise - self.basis.back(inside)) / jnp.sqrt(self.prior)
            return rebuild(flat + change)

        return jax.vmap(one)(jax.random.split(check_key(key), whole("sample", "samples", samples)))

    def predict(self, x: Any, kind: str = "probit", *, key: jax.Array | None = None, samples: int = 64) -> Any:
        """Predict with the network that is linearized in its parameters, z(x) + J (W′ − W), whose outputs are normal.

        Args:
            x: Inputs, with a leading axis of examples.
            kind: "linearized" for the distribution of the outputs N(z, J (N G + λ I)⁻¹ Jᵀ); "sampled" for the mean of the
                class probabilities over draws from it; "probit" for the approximation of this mean by the probabilities
                of z / √(1 + π/8 Var z) (MacKay 1992), which needs the variances only.
            key: A random key for "sampled".
            samples: The number of draws for "sampled".

        Returns:
            A `Gaussian` for "linearized"; else probabilities, of the shape of the outputs: a softmax over their last axis, or
            a sigmoid if it has length 1.

        Raises:
            ValueError: If `kind` is something else, "sampled" has no key, or the model returns several arrays.
        """
        if kind not in ("probit", "sampled", "linearized"):
            raise ValueError(f'predict takes kind="probit", "sampled" or "linearized", got {kind!r}')
        mean, moments = self._moments(x, (lambda rows: rows @ rows.T) if kind != "probit" else None)
        if kind == "linearized":
            return Gaussian(mean, moments)
        if kind == "probit":
            return _probabilities(mean / jnp.sqrt(1 + jnp.pi / 8 * moments.reshape(mean.shape)))
        if key is None:
            raise ValueError('predict(kind="sampled") draws outputs: pass a key, such as key=jax.random.key(0)')
        values, vectors = jnp.linalg.eigh(moments)
        roots = vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None]  # a Cholesky factor fails where a variance is 0

        def draw(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            noise = jax.random.normal(key, values.shape, values.dtype)
            return total + _probabilities(mean + jnp.einsum("nab,nb->na", roots, noise).reshape(mean.shape)), None

        samples = whole("predict", "samples", samples)
        return lax.scan(draw, jnp.zeros_like(mean), jax.random.split(check_key(key), samples))[0] / samples

    def _moments(self, x: Any, function: Callable | None, priors: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The outputs, and the variances or the covariance of each example's flattened outputs; for each prior if given."""
        x, _ = as_examples("predict", x)
        outputs, _ = outputs_and_losses("predict", self.problem, self.params, self.state, (x, None))
        flat, rebuild = _flattened(self.params, self.chosen)
        shape = jax.eval_shape(lambda x: self.problem.at().layer.apply(self.params, self.state, x, training=False)[0], x)
        if not hasattr(shape, "shape"):
            raise ValueError(f"predict takes a model that returns one array, got {array_text(shape)}")

        def of_example(x: Any) -> tuple[jax.Array, jax.Array]:
            z, back = jax.vjp(lambda w: outputs(rebuild(w), x).astype(w.dtype), flat)
            rows = jax.vmap(lambda unit: back(unit)[0])(jnp.eye(z.size, dtype=z.dtype))
            inside = self.basis.along(rows)
            outside = None if self.basis.is_complete else rows - self.basis.back(inside)

            def moments(prior: jax.Array) -> jax.Array:
                scaled = inside / jnp.sqrt(self.basis.values + prior)[None]
                of = function or (lambda rows: jnp.sum(rows**2, 1))
                return of(scaled) if outside is None else of(scaled) + of(outside) / prior

            return z, moments(self.prior) if priors is None else lax.map(moments, priors)

        count = max(1, ENTRIES // (flat.size * max(1, shape.size // shape.shape[0])))
        z, found = lax.map(of_example, x, batch_size=min(count, leading_size(x)))
        return z.reshape(shape.shape), found


def laplace(
    problem: Problem,
    params: Any,
    data: Any,
    state: Any = None,
    *,
    structure: str = "diagonal",
    prior: Any = "marginal",
    validation: Any = None,
    rank: int = 20,
    key: jax.Array | None = None,
    where: Where = None,
    batch_size: int | None = None,
) -> Laplace:
    """Laplace's approximation of the posterior of trained parameters, N(W, (N G + λ I)⁻¹).

    G is the `gauss_newton` matrix of the mean loss over the N examples, and the loss is taken as −log p(y | z), which
    cross-entropy is; for a squared error with noise σ, give the problem the loss Σ (z − y)² / (2 σ²). λ is the precision of a
    normal prior (MacKay 1992, "A practical Bayesian framework for backpropagation networks"; Daxberger et al. 2021,
    arXiv:2106.14806). Predictions are those of the linearized network, to which the Gauss-Newton matrix belongs (Immer et al.
    2021, arXiv:2008.08400).

    Args:
        problem: A `Problem` whose loss is one of predictions and targets, so that outputs and loss are apart.
        params: The trained parameters.
        data: `(x, y)`, with a leading axis of examples.
        state: The model's state, which stays fixed: the model is in inference mode, batch norm included.
        structure: What is kept of G: "diagonal"; "full", the matrix of all parameters that vary; "last_layer", the full matrix
            of the parameters of the last layer, the others being fixed; "low_rank", the largest eigenvalues.
        prior: λ, above 0; "marginal" for the λ of the largest marginal likelihood, which says how likely the data are, not how
            well calibrated the predictions; "validation" for the λ of the smallest loss of the probit prediction on the
            validation data. Both search from 10⁻⁴ to 10⁸.
        validation: `(x, y)` for "validation", y integer classes.
        rank: The number of eigenvalues of "low_rank".
        key: A random key for the eigenvalues of "low_rank".
        where: A pattern or several of paths of the parameters that vary, as in `nn.trees.mask`; by default all.
        batch_size: The number of examples per batch, to save memory; by default all at once.

    Returns:
        A `Laplace`, with `predict`, `sample` and `log_marginal_likelihood`. Its curvature is NaN if the loss is not convex in
        the outputs.

    Raises:
        TypeError: If `problem` is not a `Problem`, its loss is an `Objective`, data are not `(x, y)`, a number is of another
            kind, or the validation targets are not integers.
        ValueError: If `structure` or `prior` is something else, a number is out of range, a key or validation data are missing,
            or a pattern matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> problem = nn.Problem(nn.dense(2, use_bias=False), nn.losses.cross_entropy)
        >>> data = jnp.array([[-1.0], [1.0]]), jnp.array([0, 1])
        >>> result = nn.autodiff.laplace(
        ...     problem, {"kernel": jnp.array([[-1.0, 1.0]])}, data, structure="full", prior=1.0)
        >>> near, far = result.predict(jnp.array([[1.0], [20.0]]))[:, 1]
        >>> round(near.item(), 2), round(far.item(), 2)  # 0.88 and 1.0 without uncertainty
        (0.85, 0.97)
    """
    if structure not in STRUCTURES:
        raise ValueError(f"laplace takes structure as one of {', '.join(map(repr, STRUCTURES))}, got {structure!r}")
    if isinstance(prior, str) and prior not in ("marginal", "validation"):
        raise ValueError(f'laplace takes prior="marginal", "validation" or a number, got {prior!r}')
    if not isinstance(prior, str):
        number("laplace", "prior", prior, 0, above=True)
    if prior == "validation":
        if not isinstance(validation, tuple) or len(validation) != 2:
            raise ValueError('laplace(prior="validation") takes validation=(x, y), data that were not trained on')
        if not jnp.issubdtype(jnp.asarray(validation[1]).dtype, jnp.integer):
            raise TypeError(
                f'laplace(prior="validation") takes integer classes, got {array_text(validation[1])}: for other targets, use '
                'prior="marginal" or a number'
            )
    outputs, loss = outputs_and_losses("laplace", problem, params, state, data)
    data, batch_size = as_examples("laplace", data, batch_size)
    params, state, n = jax.tree.map(jnp.asarray, params), {} if state is None else state, leading_size(data)
    names, leaves = list(paths(params)), jax.tree.leaves(params)
    chosen = [i for i, s in enumerate(counted(params, where)) if s and jnp.issubdtype(leaves[i].dtype, jnp.floating)]
    if structure == "last_layer":
        layer = _last_layer(outputs, params, jax.tree.map(lambda a: a[0], data[0]), names)
        chosen = [i for i in chosen if names[i].rpartition("/")[0] == layer]
    here = [names[i] for i in chosen]
    if not here:
        among = f" of the last layer, {layer!r}" if structure == "last_layer" else ""
        raise ValueError(f"laplace takes a model and where= that leave parameters to vary; none{among} is in where={where!r}")

    if structure == "diagonal":
        product = gauss_newton(problem, params, data, state, where=here, batch_size=batch_size)
        basis = Basis(n * _flattened(diagonal(product).value, chosen)[0])
    elif structure == "low_rank":
        if key is None:
            raise ValueError(
                'laplace(structure="low_rank") starts from a random vector: pass a key, such as key=jax.random.key(0)'
            )
        product = gauss_newton(problem, params, data, state, where=here, batch_size=batch_size)
        pairs = eigenpairs(product, whole("laplace", "rank", rank), key)
        vectors = jax.vmap(lambda v: _flattened(v, chosen)[0])(pairs.vectors)
        basis = Basis(_nonnegative(n * pairs.values), vectors.T)
    else:
        basis = Basis(*_eigh(_matrix(outputs, loss, params, chosen, data, batch_size)))

    losses = lambda batch: jnp.sum(jax.vmap(lambda x, y: loss(outputs(params, x), y))(*batch))  # noqa: E731
    flat, _ = _flattened(params, chosen)
    log_likelihood = -summed(losses, data, batch_size).astype(flat.dtype)
    given = jnp.asarray(1.0 if isinstance(prior, str) else prior, flat.dtype)
    found = Laplace(params, state, given, basis, log_likelihood, problem, tuple(chosen))
    if prior == "marginal":
        return replace(found, prior=_least(lambda priors: -jax.vmap(found.log_marginal_likelihood)(priors), flat.dtype))
    if prior == "validation":

        def scores(priors: jax.Array) -> jax.Array:
            z, variances = found._moments(validation[0], None, priors)
            scaled = z.reshape(len(z), 1, -1) / jnp.sqrt(1 + jnp.pi / 8 * variances)
            each = jax.vmap(lambda z, y: jax.vmap(lambda z: loss(z.astype(leaves[0].dtype), y))(z))
            return each(scaled, jnp.asarray(validation[1])).mean(0)

        return replace(found, prior=_least(scores, flat.dtype))
    return found


def _flattened(params: Any, chosen: tuple[int, ...] | list[int]) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """The chosen leaves as one vector, in at least float32, and the function back to a tree."""
    leaves, tree = jax.tree.flatten(params)
    dtype = jnp.float64 if any(leaves[i].dtype == jnp.float64 for i in chosen) else jnp.float32
    flat, unravel = ravel_pytree([leaves[i].astype(dtype) for i in chosen])

    def rebuild(flat: jax.Array) -> Any:
        parts = dict(zip(chosen, unravel(flat), strict=True))
        return jax.tree.unflatten(tree, [parts.get(i, leaf).astype(leaf.dtype) for i, leaf in enumerate(leaves)])

    return flat, rebuild


def _last_layer(outputs: Callable, params: Any, example: Any, names: list[str]) -> str:
    """The path of the layer whose parameters meet data last."""
    points = PointProgram(outputs, params, example, [True] * len(names)).points
    return names[min(frozenset().union(*points[-1].leaves))].rpartition("/")[0]


def _matrix(outputs: Callable, loss: Callable, params: Any, chosen: list[int], data: Any, batch_size: int) -> jax.Array:
    """Σᵢ Jᵢᵀ Hᵢ Jᵢ, in parts whose Jacobians are of bounded size."""
    flat, rebuild = _flattened(params, chosen)

    def total(batch: tuple) -> jax.Array:
        def rows(x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
            of = lambda w: outputs(rebuild(w), x).astype(w.dtype)  # noqa: E731
            curvature = jax.hessian(lambda z: loss(z, y))(outputs(params, x))
            return jax.jacrev(of)(flat), curvature.astype(flat.dtype)

        jacobians, curvatures = jax.vmap(rows)(*batch)
        weighted = jnp.einsum("nab,nbp->nap", curvatures, jacobians)
        return jnp.tensordot(jacobians, weighted, ((0, 1), (0, 1)))

    size = jax.eval_shape(lambda x: outputs(params, jax.tree.map(lambda a: a[0], x)), data[0]).size
    return summed(total, data, max(1, min(batch_size, ENTRIES // (flat.size * size))))


def _eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    return _nonnegative(values), vectors


def _nonnegative(values: jax.Array) -> jax.Array:
    """Eigenvalues of a positive semi-definite matrix, without rounding errors; NaN if one is negative beyond them."""
    rounding = 1e3 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    return jnp.where(jnp.min(values) < -rounding, jnp.nan, jnp.maximum(values, 0))


def _least(scores: Callable[[jax.Array], jax.Array], dtype: Any) -> jax.Array:
    """The number between 10⁻⁴ and 10⁸ of the smallest score, on a grid of its logarithm and a finer one around the best."""
    low, high = DECADES
    coarse = jnp.linspace(low, high, 61, dtype=dtype)
    middle = coarse[jnp.argmin(scores(10**coarse))]
    width = (high - low) / 60
    fine = jnp.clip(middle + jnp.linspace(-width, width, 21, dtype=dtype), low, high)
    return 10 ** fine[jnp.argmin(scores(10**fine))]


def _probabilities(z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(z) if z.ndim < 2 or z.shape[-1] == 1 else jax.nn.softmax(z)
