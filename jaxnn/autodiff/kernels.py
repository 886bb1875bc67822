"""The tangent kernel of a network, and its prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.autodiff.contributions import inner_products
from jaxnn.autodiff.examples import Where, as_examples, concatenated, counted
from jaxnn.autodiff.tapped import Tapped, tapped
from jaxnn.core.checks import function, number
from jaxnn.core.text import array_text
from jaxnn.problem.batches import leading_size


def tangent_kernel(
    outputs: Callable,
    params: Any,
    x1: Any,
    x2: Any = None,
    *,
    outputs_as: str = "full",
    where: Where = None,
    batch_size: int | None = None,
) -> jax.Array:
    """The empirical neural tangent kernel, K(x, x′) = J(x) J(x′)ᵀ with J = ∂z/∂W (Jacot et al. 2018, arXiv:1806.07572).

    For a weight that meets data in a product, the kernel follows from inputs and cotangents of the layer, without J, where that
    takes fewer operations (Novak et al. 2022, arXiv:2206.08720).

    Args:
        outputs: The model for one example, `outputs(params, x) -> z`, an array; for a model without state,
            `lambda params, x: model(params, x[None])[0]`.
        params: The parameters.
        x1: Examples: a pytree of arrays with a leading axis of examples.
        x2: Other examples; by default x1.
        outputs_as: "full" for the kernel of every pair of outputs, "trace" for its trace, the sum over outputs.
        where: A pattern or several of paths of the parameters that count, as in `nn.trees.mask`; by default all.
        batch_size: The number of examples per batch, to save memory; every pair of batches is then evaluated by itself.

    Returns:
        (N1, N2, outputs, outputs), with z flattened; (N1, N2) for "trace". In at least float32.

    Raises:
        TypeError: If `outputs` is not a function, or `batch_size` not a whole number.
        ValueError: If `outputs` does not return one array of real numbers, the leaves of x1 or x2 differ in length,
            `outputs_as` is something else, or a pattern matches no path.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.dense(2, use_bias=False)
        >>> kernel = nn.autodiff.tangent_kernel(
        ...     lambda params, x: model(params, x[None])[0], {"kernel": jnp.ones((3, 2))}, jnp.eye(3))
        >>> kernel.shape, kernel[0, 0].tolist()
        ((3, 3, 2, 2), [[1.0, 0.0], [0.0, 1.0]])
    """
    function("tangent_kernel", "outputs", outputs, "outputs(params, x) -> z")
    if outputs_as not in ("full", "trace"):
        raise ValueError(f'tangent_kernel takes outputs_as="full" or "trace", got {outputs_as!r}')
    selected = counted(params, where)
    x1, size1 = as_examples("tangent_kernel", x1, batch_size)
    same = x2 is None and size1 == leading_size(x1)
    x2, size2 = (x1, size1) if x2 is None else as_examples("tangent_kernel", x2, batch_size)

    def flat(params: Any, x: Any) -> jax.Array:
        z = outputs(params, x)
        if not (hasattr(z, "dtype") and jnp.issubdtype(z.dtype, jnp.floating)):
            raise ValueError(f"tangent_kernel takes outputs(params, x) -> one array of real numbers, got {array_text(z)}")
        return z.reshape(-1)

    def evaluated(batch: Any) -> tuple[Tapped, jax.Array]:
        run = tapped(flat, params, batch, selected)
        return run, jnp.eye(run.outputs.shape[1], dtype=run.outputs.dtype)

    def cotangents(run: Tapped, units: jax.Array) -> list[tuple]:
        each = lambda unit: run.pullback(jnp.broadcast_to(unit[None], run.outputs.shape))  # noqa: E731
        return jax.vmap(each, out_axes=1)(units)

    def rows(batch: Any) -> jax.Array:
        one = evaluated(batch)

        def columns(batch: Any) -> jax.Array:
            two = one if same else evaluated(batch)
            if outputs_as == "full":
                of_one = cotangents(*one)
                return inner_products(one[0], of_one, two[0], of_one if same else cotangents(*two)).transpose(2, 0, 1, 3)

            def of_output(unit: jax.Array) -> jax.Array:
                of_one = cotangents(one[0], unit[None])
                of_two = of_one if same else cotangents(two[0], unit[None])
                return inner_products(one[0], of_one, two[0], of_two)[:, 0, :, 0].T

            return lax.map(of_output, one[1]).sum(0)

        return concatenated(columns, x2, size2).swapaxes(0, 1)

    return concatenated(rows, x1, size1)


def kernel_predict(kernel: jax.Array, cross: jax.Array, targets: Any, *, ridge: Any = 0.0) -> jax.Array:
    """The prediction of a kernel machine, z(x′) = K(x′, x) (K(x, x) + λ I)⁻¹ y (Jacot et al. 2018, arXiv:1806.07572).

    It is the limit of training the linearized network by gradient descent on squared errors from outputs of 0; from outputs
    z₀, pass y − z₀(x) and add z₀(x′).

    Args:
        kernel: K(x, x) of the training examples, as `tangent_kernel` returns it, (N, N, outputs, outputs) or (N, N).
        cross: K(x′, x) of M other examples with the training examples, (M, N, outputs, outputs) or (M, N).
        targets: y, (N, outputs).
        ridge: λ, at least 0; it may be traced.

    Returns:
        (M, outputs).

    Raises:
        TypeError: If `ridge` is not a number.
        ValueError: If the shapes do not match, or `ridge` is negative.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.autodiff.kernel_predict(2 * jnp.eye(2), jnp.array([[1.0, 1.0]]), jnp.array([[4.0], [2.0]])).round(4)
        Array([[3.]], dtype=float32)
    """
    ridge, targets = number("kernel_predict", "ridge", ridge, 0), jnp.asarray(targets)
    n, c = targets.shape if targets.ndim == 2 else (0, 0)
    full = kernel.ndim == 4
    expected = (n, n, c, c) if full else (n, n)
    if not n or kernel.shape != expected or cross.shape[1:] != expected[1:]:
        raise ValueError(
            "kernel_predict takes kernel (N, N), cross (M, N) and targets (N, outputs), or kernels with two axes of outputs at "
            f"the end; got {list(kernel.shape)}, {list(cross.shape)} and {list(targets.shape)}"
        )
    if full:
        join = lambda k: k.swapaxes(1, 2).reshape(k.shape[0] * c, k.shape[1] * c)  # noqa: E731
        kernel, cross, y = join(kernel), join(cross), targets.reshape(-1, 1)
    else:
        y = targets
    damped = kernel + jnp.asarray(ridge, kernel.dtype) * jnp.eye(len(kernel), dtype=kernel.dtype)
    return (cross @ jax.scipy.linalg.solve(damped, y.astype(kernel.dtype), assume_a="pos")).reshape(-1, c)
