"""What products with a symmetric matrix tell about it: trace, diagonal, determinant, eigenvalues and their density."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.autodiff.products import Product
from jaxnn.core.checks import check_key, number, whole


class Estimate(NamedTuple):
    """The mean over random vectors, and its standard error.

    Attributes:
        value: The estimate.
        error: Its standard error, of the same structure; NaN for a single sample.

    Example:
        See `trace`, which returns it.
    """

    value: Any
    error: Any


class Eigenpairs(NamedTuple):
    """Eigenvalues and eigenvectors.

    Attributes:
        values: The eigenvalues, those of largest magnitude first, (k,).
        vectors: The eigenvectors, of norm 1: a tree like the parameters with a leading axis k.
        residuals: ‖A v − λ v‖ of each, which bounds the distance of λ to an eigenvalue, (k,).

    Example:
        See `eigenpairs`, which returns it.
    """

    values: jax.Array
    vectors: Any
    residuals: jax.Array


class Spectrum(NamedTuple):
    """The density of eigenvalues.

    Attributes:
        grid: Positions, (points,).
        density: The density at each position, whose integral is 1, (points,).
        error: Its standard error over the random vectors, (points,).

    Example:
        See `spectrum`, which returns it.
    """

    grid: jax.Array
    density: jax.Array
    error: jax.Array


def trace(product: Product, key: jax.Array, *, samples: int = 32) -> Estimate:
    """An estimate of the trace, tr A = E vᵀA v over vectors of random signs (Hutchinson 1990).

    Args:
        product: v ↦ A v, as `hessian` and `gauss_newton` return it.
        key: A random key.
        samples: The number of random vectors.

    Returns:
        An `Estimate`, of which the error is 0 for a diagonal matrix.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `samples` is less than 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: jnp.vdot(params["w"] ** 2, example)
        >>> product = nn.autodiff.hessian(f, {"w": jnp.ones(2)}, jnp.array([[1.0, 2.0]]))
        >>> result = nn.autodiff.trace(product, jax.random.key(0))
        >>> result.value.item()
        6.0
    """
    flat = _Flat("trace", product)
    probes = jax.random.split(check_key(key), whole("trace", "samples", samples))

    def one(key: jax.Array) -> jax.Array:
        v = flat.signs(key)
        return jnp.vdot(v, flat(v))

    return estimate_of(lax.map(one, probes))


def diagonal(product: Product, key: jax.Array | None = None, *, samples: int = 32) -> Estimate:
    """The diagonal: exact for `gauss_newton` and `fisher`, else an estimate.

    The estimate is diag A = E v ∘ A v over vectors of random signs (Bekas et al. 2007). The exact diagonal is
    (1/N) Σᵢ Σ_c (Jᵢᵀ sᵢ_c)², with Hᵢ = Σ_c sᵢ_c sᵢ_cᵀ, from the inputs and cotangents of the layers (Dangel et al. 2020,
    arXiv:1912.10985): one backward pass per output. That of `gauss_newton` is NaN if the loss is not convex
    in the outputs.

    Args:
        product: v ↦ A v, as `hessian` and `gauss_newton` return it.
        key: A random key for the estimate; the exact diagonal needs none.
        samples: The number of random vectors of the estimate.

    Returns:
        An `Estimate` of trees like the parameters; the error of an exact diagonal is 0.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `samples` is less than 1, or an estimate has no key.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: jnp.vdot(params["w"] ** 2, example)
        >>> product = nn.autodiff.hessian(f, {"w": jnp.ones(2)}, jnp.array([[1.0, 2.0]]))
        >>> nn.autodiff.diagonal(product, jax.random.key(0)).value["w"].tolist()
        [2.0, 4.0]
    """
    flat, samples = _Flat("diagonal", product), whole("diagonal", "samples", samples)
    if product.exact_diagonal is not None:
        exact = product.exact_diagonal()
        return Estimate(exact, jax.tree.map(jnp.zeros_like, exact))
    if key is None:
        raise ValueError(
            "this diagonal is an estimate from random vectors: pass a key, such as diagonal(product, jax.random.key(0))"
        )

    def one(key: jax.Array) -> jax.Array:
        v = flat.signs(key)
        return v * flat(v)

    found = estimate_of(lax.map(one, jax.random.split(check_key(key), samples)))
    return Estimate(*map(flat.tree, found))


def eigenpairs(product: Product, k: int, key: jax.Array, *, steps: int | None = None) -> Eigenpairs:
    """The k eigenvalues of largest magnitude and their eigenvectors, by Lanczos' method with full reorthogonalization.

    After m steps from a random vector, the eigenvalues of an m × m tridiagonal matrix approximate those of A, the extreme ones
    first (Lanczos 1950; Golub & Van Loan, "Matrix Computations", chapter 10). The residuals say how well.

    Args:
        product: v ↦ A v, as `hessian` and `gauss_newton` return it.
        k: The number of eigenpairs.
        key: A random key.
        steps: m, the number of products, at least k; by default 3 k + 20, and at most the number of parameters. That many
            vectors are held in memory.

    Returns:
        An `Eigenpairs`: values, vectors, residuals.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `k` or `steps` is less than 1, or there are fewer steps or parameters than eigenpairs.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: jnp.vdot(params["w"] ** 2, example)
        >>> product = nn.autodiff.hessian(f, {"w": jnp.ones(3)}, jnp.array([[1.0, 2.0, -4.0]]))
        >>> result = nn.autodiff.eigenpairs(product, 2, jax.random.key(0))
        >>> result.values.round(3)
        Array([-8.,  4.], dtype=float32)
    """
    flat, k = _Flat("eigenpairs", product), whole("eigenpairs", "k", k)
    steps = min(3 * k + 20 if steps is None else whole("eigenpairs", "steps", steps), flat.n)
    if steps < k:
        raise ValueError(f"eigenpairs needs at least as many steps and parameters as eigenpairs, got k={k} and {steps} of them")
    alphas, betas, basis = _lanczos(flat, flat.normals(key), jax.random.fold_in(key, 1), steps)
    values, vectors = _eigh(alphas, betas)
    first = jnp.argsort(-jnp.abs(values))[:k]
    vectors = vectors[:, first].T
    return Eigenpairs(values[first], jax.vmap(flat.tree)(vectors @ basis), jnp.abs(betas[-1] * vectors[:, -1]))


def spectrum(
    product: Product, key: jax.Array, *, steps: int = 64, samples: int = 8, points: int = 256, width: Any = None
) -> Spectrum:
    """The density of the eigenvalues, by stochastic Lanczos quadrature.

    φ(t) = (1/n) Σₖ N(t; λₖ, σ²), estimated as the mean over random vectors of Σⱼ wⱼ N(t; θⱼ, σ²), with θⱼ the eigenvalues of
    Lanczos' matrix and wⱼ the squared first entries of its eigenvectors (Lin, Saad & Yang 2016, arXiv:1308.5467; Ghorbani et
    al. 2019, arXiv:1901.10159).

    Args:
        product: v ↦ A v, as `hessian` and `gauss_newton` return it.
        key: A random key.
        steps: The number of products per random vector; that many vectors are held in memory.
        samples: The number of random vectors.
        points: The number of positions.
        width: σ; by default a hundredth of the range of the θⱼ.

    Returns:
        A `Spectrum`: positions, density and its standard error.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a number is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: jnp.vdot(params["w"] ** 2, example)
        >>> product = nn.autodiff.hessian(f, {"w": jnp.ones(3)}, jnp.array([[1.0, 2.0, -4.0]]))
        >>> result = nn.autodiff.spectrum(product, jax.random.key(0), width=0.5)
        >>> (result.density.sum() * (result.grid[1] - result.grid[0])).round(3)
        Array(1., dtype=float32)
    """
    points = whole("spectrum", "points", points, 2)
    values, weights = _quadrature("spectrum", product, key, steps, samples)
    low, high = values.min(), values.max()
    sigma = (high - low) / 100 if width is None else number("spectrum", "width", width, 0, above=True)
    sigma = jnp.maximum(jnp.asarray(sigma, values.dtype), jnp.finfo(values.dtype).tiny)
    grid = jnp.linspace(low - 5 * sigma, high + 5 * sigma, points)
    bells = jax.scipy.stats.norm.pdf(grid[None, :, None], values[:, None], sigma)
    return Spectrum(grid, *estimate_of(jnp.einsum("sj,stj->st", weights, bells)))


def log_determinant(product: Product, key: jax.Array, *, damping: Any = 0.0, steps: int = 64, samples: int = 8) -> Estimate:
    """An estimate of log det(A + λ I), for a positive definite A + λ I, by stochastic Lanczos quadrature.

    It is the mean over random vectors of n Σⱼ wⱼ log(θⱼ + λ), see `spectrum` (Ubaru, Chen & Saad 2017, "Fast estimation of
    tr(f(A)) via stochastic Lanczos quadrature"). For gradients through the estimate, use matfree, whose Lanczos iteration is
    differentiable.

    Args:
        product: v ↦ A v, as `hessian` and `gauss_newton` return it.
        key: A random key.
        damping: λ, at least 0; it may be traced.
        steps: The number of products per random vector; that many vectors are held in memory.
        samples: The number of random vectors.

    Returns:
        An `Estimate`; NaN if a θⱼ + λ is negative.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a number is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> f = lambda params, example: jnp.vdot(params["w"] ** 2, example)
        >>> product = nn.autodiff.hessian(f, {"w": jnp.ones(2)}, jnp.array([[1.0, 2.0]]))
        >>> nn.autodiff.log_determinant(product, jax.random.key(0)).value.round(4)  # log(2 · 4)
        Array(2.0794, dtype=float32)
    """
    damping = number("log_determinant", "damping", damping, 0)
    values, weights = _quadrature("log_determinant", product, key, steps, samples, signs=True)
    logs = jnp.where(weights > 0, jnp.log(values + jnp.asarray(damping, values.dtype)), 0)
    return estimate_of(product.shape[0] * jnp.sum(weights * logs, 1))


def estimate_of(each: jax.Array) -> Estimate:
    """The mean over the leading axis, and its standard error."""
    n = len(each)
    return Estimate(each.mean(0), each.std(0, ddof=1) / n**0.5 if n > 1 else jnp.full_like(each[0], jnp.nan))


class _Flat:
    """A product as a function of vectors of the floating-point parameters, one after another."""

    def __init__(self, caller: str, product: Any):
        if not isinstance(product, Product):
            raise TypeError(f"{caller} takes a product, as hessian and gauss_newton return it, got {product!r}")
        self.product = product
        self.leaves, self.structure = jax.tree.flatten(product.like)
        self.real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in self.leaves]
        sizes = [leaf.size for leaf, real in zip(self.leaves, self.real, strict=True) if real]
        self.n, self.ends = sum(sizes), [sum(sizes[: i + 1]) for i in range(len(sizes))]
        kinds = [leaf.dtype for leaf, real in zip(self.leaves, self.real, strict=True) if real]
        self.dtype = jnp.dtype(jnp.float64) if jnp.dtype(jnp.float64) in kinds else jnp.dtype(jnp.float32)

    def tree(self, v: jax.Array) -> Any:
        parts = iter(jnp.split(v, self.ends[:-1]))
        made = [
            next(parts).reshape(leaf.shape).astype(leaf.dtype) if real else jnp.zeros(leaf.shape, leaf.dtype)
            for leaf, real in zip(self.leaves, self.real, strict=True)
        ]
        return jax.tree.unflatten(self.structure, made)

    def __call__(self, v: jax.Array) -> jax.Array:
        leaves = jax.tree.leaves(self.product(self.tree(v)))
        chosen = [leaf.ravel().astype(self.dtype) for leaf, real in zip(leaves, self.real, strict=True) if real]
        return jnp.concatenate(chosen)

    def signs(self, key: jax.Array) -> jax.Array:
        return jax.random.rademacher(key, (self.n,), self.dtype)

    def normals(self, key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (self.n,), self.dtype)


def _lanczos(product: _Flat, start: jax.Array, key: jax.Array, steps: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The diagonal, the off-diagonal (with the one after the last step) and the basis, (steps, n).

    Where the space of powers of A is exhausted, the next vector is random and orthogonal to it, and its off-diagonal 0.
    """
    basis = jnp.zeros((steps, product.n), product.dtype)
    epsilon = jnp.finfo(product.dtype).eps

    def orthogonal(v: jax.Array, basis: jax.Array) -> jax.Array:
        for _ in range(2):  # "twice is enough"
            v = v - (basis @ v) @ basis
        return v

    def step(carry: tuple, i: jax.Array) -> tuple[tuple, tuple]:
        basis, q, scale = carry
        basis = basis.at[i].set(q)
        image = product(q)
        alpha = jnp.vdot(q, image)
        rest = orthogonal(image, basis)
        beta = jnp.linalg.norm(rest)
        scale = jnp.maximum(scale, jnp.abs(alpha) + beta)
        exhausted = beta <= 100 * epsilon * scale
        rest = jnp.where(exhausted, orthogonal(product.normals(jax.random.fold_in(key, i)), basis), rest)
        length = jnp.linalg.norm(rest)
        q = rest / jnp.where(length == 0, 1, length)
        return (basis, q, scale), (alpha, jnp.where(exhausted, 0, beta))

    carry: Any = basis, start / jnp.linalg.norm(start), jnp.zeros((), product.dtype)
    (basis, *_), (alphas, betas) = lax.scan(step, carry, jnp.arange(steps))
    return alphas, betas, basis


def _eigh(alphas: jax.Array, betas: jax.Array) -> tuple[jax.Array, jax.Array]:
    between = betas[:-1]
    return jnp.linalg.eigh(jnp.diag(alphas) + jnp.diag(between, 1) + jnp.diag(between, -1))


def _quadrature(
    caller: str, product: Product, key: jax.Array, steps: int, samples: int, signs: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The eigenvalues of Lanczos' matrices and their weights, (samples, steps)."""
    flat = _Flat(caller, product)
    steps, samples = min(whole(caller, "steps", steps), flat.n), whole(caller, "samples", samples)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start = flat.signs(key) if signs else flat.normals(key)
        alphas, betas, _ = _lanczos(flat, start, jax.random.fold_in(key, 1), steps)
        values, vectors = _eigh(alphas, betas)
        return values, vectors[0] ** 2

    return lax.map(one, jax.random.split(check_key(key), samples))
