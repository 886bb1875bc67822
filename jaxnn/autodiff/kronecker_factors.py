"""Kronecker-factored curvature of layers: products, inverses and determinants by the eigenvectors of small matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn._jax import is_tracer
from jaxnn.autodiff.blocks import Block, blocks_of
from jaxnn.autodiff.contributions import square_sums
from jaxnn.autodiff.examples import Where, as_examples, counted, outputs_and_losses, summed
from jaxnn.autodiff.tapped import tapped
from jaxnn.core.checks import check_key, number
from jaxnn.core.dtypes import at_least_float32 as wide
from jaxnn.core.text import array_text
from jaxnn.core.trees import paths
from jaxnn.problem.batches import leading_size
from jaxnn.problem.problem import Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Kronecker:
    """A block-diagonal, positive semi-definite matrix, U diag(S) Uᵀ with U = Uᴬ ⊗ Uᴳ for each layer; a pytree.

    Attributes:
        inputs: Uᴬ of each layer, (s, n, n): the eigenvectors of A, which are those of its inputs.
        outputs: Uᴳ of each layer, (s, m, m): the eigenvectors of G, which are those of the cotangents of its outputs.
        scales: S of each layer, (s, n, m).
        indices: For each entry of a layer's matrices, its number in the layer's parameters one after another.
        diagonal: The diagonal of the matrix in the other parameters, trees of which are like these, by path.
        layers: The paths of the parameters of each layer.
        like: The shapes and dtypes of the parameters, by path.

    Example:
        See `kronecker`, which returns it.
    """

    inputs: tuple[jax.Array, ...]
    outputs: tuple[jax.Array, ...]
    scales: tuple[jax.Array, ...]
    indices: tuple[jax.Array, ...]
    diagonal: dict[str, jax.Array]
    layers: tuple[tuple[str, ...], ...] = field(metadata={"static": True})
    like: tuple[tuple[str, tuple[int, ...], str], ...] = field(metadata={"static": True})

    def product(self, v: Any) -> Any:
        """The product A v with a tree like the parameters.

        Args:
            v: A tree like the parameters.

        Returns:
            A tree like the parameters; 0 for those that do not count.

        Raises:
            ValueError: If v is of another form.
        """
        return self._mapped(v, lambda scales: scales)

    def inverse(self, v: Any, damping: Any = 0.0) -> Any:
        """The solution x of (A + λ I) x = v.

        Args:
            v: A tree like the parameters.
            damping: λ, at least 0, and above it where A is singular; it may be traced.

        Returns:
            A tree like the parameters; 0 for those that do not count.

        Raises:
            ValueError: If v is of another form, λ is negative, or A + λ I is singular, where its values are known.
        """
        damping = number("inverse", "damping", damping, 0)
        known = (*self.scales, *self.diagonal.values())
        if not any(map(is_tracer, (*known, damping))) and any((np.asarray(scale) + damping <= 0).any() for scale in known):
            raise ValueError(f"inverse takes a damping above 0 here, as the matrix is singular, got {damping}")
        return self._mapped(v, lambda scales: 1 / (scales + damping))

    def log_determinant(self, damping: Any = 0.0) -> jax.Array:
        """log det(A + λ I), over the parameters that count.

        Args:
            damping: λ, at least 0; it may be traced.

        Returns:
            A number; −∞ if A + λ I is singular.

        Raises:
            ValueError: If λ is negative.
        """
        damping = number("log_determinant", "damping", damping, 0)
        return sum((jnp.log(s + damping).sum() for s in (*self.scales, *self.diagonal.values())), jnp.zeros(()))

    def _mapped(self, v: Any, function: Callable[[jax.Array], jax.Array]) -> Any:
        given, shapes = paths(v), {name: shape for name, shape, _ in self.like}
        if {name: jnp.shape(a) for name, a in given.items()} != shapes:
            raise ValueError(f"Kronecker takes a tree like the parameters, {shapes}, got {array_text(v)}")
        made = {name: wide(given[name]) * function(scales) for name, scales in self.diagonal.items()}
        for names, a, g, scales, index in zip(self.layers, self.inputs, self.outputs, self.scales, self.indices, strict=True):
            flat = jnp.concatenate([wide(given[name]).reshape(-1) for name in names])
            rotated = jnp.einsum("sni,snm,smj->sij", a, flat[index], g) * function(scales)
            flat = jnp.zeros_like(flat).at[index].set(jnp.einsum("sni,sij,smj->snm", a, rotated, g))
            ends = np.cumsum([given[name].size for name in names])[:-1]
            made |= {name: part.reshape(shapes[name]) for name, part in zip(names, jnp.split(flat, ends), strict=True)}
        leaves = [made[name].astype(a.dtype) if name in made else jnp.zeros_like(a) for name, a in given.items()]
        return jax.tree.unflatten(jax.tree.structure(v), leaves)


def kronecker(
    problem: Problem,
    params: Any,
    data: Any,
    state: Any = None,
    *,
    sharing: str = "expand",
    corrected: bool = False,
    key: jax.Array | None = None,
    where: Where = None,
    batch_size: int | None = None,
) -> Kronecker:
    """The Gauss-Newton matrix of the mean loss, approximated by a Kronecker product for each layer: K-FAC.

    The block of a layer with inputs xₜ and cotangents hₜ at its positions t is approximated by A ⊗ G (Martens & Grosse 2015,
    arXiv:1503.05671). With "expand", A = (1/NT) Σᵢₜ xₜ xₜᵀ and G = (1/N) Σᵢₜᵣ hₜ hₜᵀ; with "reduce", A and G are those of the
    mean of xₜ and the sum of hₜ over the positions (Eschenhagen et al. 2023, arXiv:2311.00636). h are the cotangents of
    vectors r with Σᵣ r rᵀ = ∂²L/∂z², as in `gauss_newton`. In a single linear layer without positions, the block is exact if
    ∂²L/∂z² is the same for all examples, as for `mse`.

    With `corrected`, the eigenvalues of A ⊗ G are replaced by the diagonal of the Gauss-Newton matrix in its eigenvectors
    (EK-FAC, George et al. 2018, arXiv:1806.03884), which never is a worse approximation, for twice the work.

    Layers are found in the program: kernels that meet data in a product or a convolution, with the bias that is added; the two
    kernels of a recurrence together; the copies of a `repeat` and the groups of a convolution apart. Of other parameters, such
    as those of normalizations and embeddings, and weights that are tied, the exact diagonal is taken.

    Args:
        problem: A `Problem` whose loss is one of predictions and targets, so that outputs and loss are apart.
        params: The parameters.
        data: `(x, y)`, with a leading axis of examples.
        state: The model's state, which stays fixed; the model is in inference mode. By default there is none.
        sharing: "expand" or "reduce": what positions that share weights, such as time steps and those of a convolution, are.
        corrected: Whether the eigenvalues are corrected.
        key: A random key, with which each example has one random vector r instead of one per output: as good on average, and
            much cheaper with many outputs.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all. The rows and
            columns of the others are 0.
        batch_size: The number of examples per batch, to save memory; by default all at once.

    Returns:
        A `Kronecker`: its `product`, `inverse` and `log_determinant`.

    Raises:
        TypeError: If `problem` is not a `Problem`, its loss is an `Objective`, the data are not `(x, y)`, or `batch_size` is
            not a whole number.
        ValueError: If `sharing` is something else, the leaves of `data` differ in length, or a pattern matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> problem = nn.Problem(nn.dense(1, use_bias=False), nn.losses.mse)
        >>> params = {"kernel": jnp.ones((2, 1))}
        >>> result = nn.autodiff.kronecker(problem, params, (jnp.eye(2), jnp.zeros((2, 1))))
        >>> result.product({"kernel": jnp.array([[1.0], [3.0]])})["kernel"].ravel().round(4)
        Array([1., 3.], dtype=float32)
        >>> result.inverse(params, damping=1.0)["kernel"].ravel().round(4)
        Array([0.5, 0.5], dtype=float32)
    """
    factored = Factored.of("kronecker", problem, params, data, state, sharing, where)
    data, batch_size = as_examples("kronecker", data, batch_size)
    keys = jnp.zeros(leading_size(data)) if key is None else jax.random.split(check_key(key), leading_size(data))
    data, n = (*data, keys), leading_size(data)
    factors = jax.tree.map(
        lambda a: a / n, summed(lambda batch: factored.factors(params, batch, key is not None), data, batch_size)
    )
    vectors, scales = decomposed(factors)
    if corrected:
        squares = summed(lambda batch: factored.squares(params, batch, vectors, key is not None), data, batch_size)
        scales = [a / n for a in squares]
    return factored.kronecker(vectors, scales, factors.diagonal)


class Matrices(NamedTuple):
    """Sums over examples, by layer.

    Attributes:
        inputs: A, (s, n, n).
        outputs: G, (s, m, m).
        diagonal: The diagonal of the other parameters.
    """

    inputs: list[jax.Array]
    outputs: list[jax.Array]
    diagonal: list[jax.Array]


@dataclass(frozen=True, eq=False)
class Factored:
    """A problem's curvature by layers.

    Attributes:
        outputs: `outputs(params, x) -> z`, of one example.
        loss: `loss(z, y)`, likewise.
        blocks: The layers.
        others: The numbers of the other parameters that count.
        selected: For each parameter, whether it counts.
        sharing: "expand" or "reduce".
        like: Path, shape and dtype of each parameter.
    """

    outputs: Callable
    loss: Callable
    blocks: list[Block]
    others: list[int]
    selected: list[bool]
    sharing: str
    like: tuple[tuple[str, tuple[int, ...], str], ...]

    @classmethod
    def of(cls, caller: str, problem: Any, params: Any, data: Any, state: Any, sharing: str, where: Where = None) -> Factored:
        """Find the layers in the program of a problem; the data may be shapes."""
        if sharing not in ("expand", "reduce"):
            raise ValueError(f'{caller} takes sharing="expand" or "reduce", got {sharing!r}')
        outputs, loss = outputs_and_losses(caller, problem, params, state, data)
        selected, found = counted(params, where), []

        def trace(params: Any, x: Any) -> Any:
            run = tapped(outputs, params, x, selected)
            found.extend(blocks_of(run))
            return run.outputs

        one = jax.eval_shape(lambda x: jax.tree.map(lambda a: jnp.asarray(a)[:1], x), data[0])
        jax.eval_shape(trace, params, one)
        leaves = jax.tree.leaves(params)
        inside = {i for block in found for i in block.leaves}
        real = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]
        others = [i for i in range(len(leaves)) if selected[i] and real[i] and i not in inside]
        like = tuple((name, jnp.shape(a), str(jnp.result_type(a))) for name, a in paths(params).items())
        return cls(outputs, loss, found, others, selected, sharing, like)

    def factors(self, params: Any, batch: tuple, sampled: bool) -> Matrices:
        """The sums over a batch `(x, y, keys)`."""
        run = tapped(self.outputs, params, batch[0], self.selected)
        inputs = [self._positions(block.inputs(run), mean=True) for block in self.blocks]
        weights = [1 / x.shape[2] for x in inputs]

        def of_vector(r: jax.Array) -> tuple:
            cotangents = run.pullback(r)
            g = [self._positions(block.cotangents(run, cotangents), mean=False) for block in self.blocks]
            squares = square_sums(run, cotangents) if self.others else []
            return [_gram(h) for h in g], [squares[i] for i in self.others]

        made = lax.map(of_vector, self._roots(run.outputs, batch[1:], sampled))
        g, squares = jax.tree.map(lambda a: a.sum(0), made)
        return Matrices([_gram(x) * w for x, w in zip(inputs, weights, strict=True)], g, squares)

    def squares(self, params: Any, batch: tuple, vectors: Sequence[tuple], sampled: bool) -> list[jax.Array]:
        """The sums over a batch of the squared gradients of the examples, in the eigenvectors."""
        run = tapped(self.outputs, params, batch[0], self.selected)
        inputs = [block.inputs(run) @ a[None] for block, (a, _) in zip(self.blocks, vectors, strict=True)]

        def of_vector(r: jax.Array) -> list[jax.Array]:
            cotangents, sums = run.pullback(r), []
            for block, x, (_, u) in zip(self.blocks, inputs, vectors, strict=True):
                h = block.cotangents(run, cotangents) @ u[None]
                one = x.shape[2] == 1
                sums.append(jnp.einsum("bsi,bsj->sij", x[:, :, 0] ** 2, h[:, :, 0] ** 2) if one else _squared(x, h))
            return sums

        return [a.sum(0) for a in lax.map(of_vector, self._roots(run.outputs, batch[1:], sampled))]

    def kronecker(self, vectors: Sequence[tuple], scales: Sequence[jax.Array], diagonal: Sequence[jax.Array]) -> Kronecker:
        """The matrix of these eigenvectors and eigenvalues."""
        names = [name for name, _, _ in self.like]
        return Kronecker(
            tuple(a for a, _ in vectors),
            tuple(g for _, g in vectors),
            tuple(scales),
            tuple(jnp.asarray(block.index, jnp.int32) for block in self.blocks),
            {names[i]: a for i, a in zip(self.others, diagonal, strict=True)},
            tuple(tuple(names[i] for i in block.leaves) for block in self.blocks),
            self.like,
        )

    def _positions(self, a: jax.Array, mean: bool) -> jax.Array:
        if self.sharing == "expand":
            return a
        return a.mean(2, keepdims=True) if mean else a.sum(2, keepdims=True)

    def _roots(self, z: jax.Array, batch: tuple, sampled: bool) -> jax.Array:
        """Vectors r with Σᵣ r rᵀ = ∂²L/∂z² for each example, or one with this mean, (r, examples, outputs)."""
        y, keys = batch
        hessians = jax.vmap(jax.hessian(self.loss))(z, y)
        if sampled:
            return jax.vmap(_sampled)(hessians, keys)[None]
        values, vectors = jnp.linalg.eigh(hessians)
        rounding = 1e2 * jnp.finfo(values.dtype).eps * jnp.abs(values).max(1, keepdims=True)
        sizes = jnp.where(values < -rounding, jnp.nan, jnp.sqrt(jnp.maximum(values, 0)))
        return jnp.moveaxis(vectors * sizes[:, None], 2, 0)


def decomposed(factors: Matrices) -> tuple[list[tuple[jax.Array, jax.Array]], list[jax.Array]]:
    """The eigenvectors (Uᴬ, Uᴳ) of each layer, and the eigenvalues (s, n, m) of A ⊗ G."""
    vectors, scales = [], []
    for a, g in zip(factors.inputs, factors.outputs, strict=True):
        (a_values, a_vectors), (g_values, g_vectors) = jnp.linalg.eigh(a), jnp.linalg.eigh(g)
        vectors.append((a_vectors, g_vectors))
        scales.append(jnp.maximum(a_values, 0)[:, :, None] * jnp.maximum(g_values, 0)[:, None])
    return vectors, scales


def _gram(x: jax.Array) -> jax.Array:
    """Σᵢₜ xᵢₜ xᵢₜᵀ, (s, n, n), from (batch, s, t, n)."""
    rows = jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1, x.shape[3])
    return jnp.einsum("sri,srj->sij", rows, rows)


def _squared(x: jax.Array, h: jax.Array) -> jax.Array:
    """Σᵢ (Σₜ xᵢₜ hᵢₜᵀ)² of every entry, (s, n, m), example by example."""
    add = lambda total, pair: (total + jnp.einsum("sti,stj->sij", *pair) ** 2, None)  # noqa: E731
    return lax.scan(add, jnp.zeros((x.shape[1], x.shape[3], h.shape[3]), h.dtype), (x, h))[0]


def _sampled(hessian: jax.Array, key: jax.Array) -> jax.Array:
    """A random vector r with E r rᵀ = H, up to rounding; where rounding leaves H no root, its diagonal is H's."""
    signs = jax.random.rademacher(key, hessian.shape[:1], hessian.dtype)
    diagonal = jnp.diagonal(hessian)
    least = len(diagonal) * jnp.finfo(hessian.dtype).eps * jnp.abs(diagonal).max() + jnp.finfo(hessian.dtype).tiny
    root = jnp.linalg.cholesky(hessian + least * jnp.eye(len(diagonal), dtype=hessian.dtype)) @ signs
    return jnp.where(jnp.isfinite(root).all(), root, jnp.sqrt(jnp.maximum(diagonal, 0)) * signs)
