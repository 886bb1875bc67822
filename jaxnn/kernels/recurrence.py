"""A recurrence over time with one affine map per step: the core of an RNN, LSTM or GRU.

Differentiated step by step, a scan adds to the gradient of the whole kernel, and sums that of the bias over the batch, at
every step. Here the derivative is defined for the recurrence as a whole: the tangents of kernel, bias and input act on all
steps in one product, before a linear scan that does not depend on them. Its transpose is a backward scan, followed by one
product for all weights.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxnn._jax import vary_alike
from jaxnn.kernels.forms import form_scope, widen

Cell = Callable[[jax.Array, Any], Any]


def recurrence(
    cell: Cell,
    x: ArrayLike,
    kernel: ArrayLike,
    recurrent_kernel: ArrayLike,
    bias: ArrayLike,
    carry: Any,
    mask: ArrayLike | None = None,
    *,
    form: str | None = None,
) -> tuple[Any, jax.Array]:
    """Run a cell over the time axis of x, after an affine map of the input and the previous output.

    At each step, with h the first array of the carry:

        z[t] = [x[t] W, 0] + [0, h[t−1] U] + b;  carry[t] = cell(z[t], carry[t−1])

    W acts on the first columns of z and U on the last; usually both act on all. Then, on a CPU, each step computes one
    product of x and h together, and the gradients of W, U and b are one product over all steps. The cell's sigmoids and
    tanhs are kept for the backward pass, which computes the rest of the cell again. If only W or only
    U acts on some columns, as in a GRU, this was measured to be slower than a plain scan. Every transformation of JAX applies.

    Args:
        cell: A function of z, (batch, width), and the carry that returns the next carry. It may close over traced arrays.
        x: The input, (batch, time, n_in).
        kernel: W, (n_in, at most width).
        recurrent_kernel: U, (features, at most width); each column of z belongs to W, to U or to both.
        bias: b, (width,).
        carry: The carry before the first step: one array h, (batch, features), or a tuple of arrays whose first is h.
        mask: (batch, time), true where there is data. Elsewhere x is not used, the carry is unchanged and the output is zero.
            None is true everywhere.
        form: None lets the backend and the widths decide, "joined" forces the form described above, "xla" a plain scan.

    Returns:
        The last carry and all h, (batch, time, features), in the dtype of x; half precision is summed in float32.

    Raises:
        ValueError: If the shapes do not match each other or the form.

    Example:
        >>> import jax.numpy as jnp
        >>> weights = jnp.ones((1, 1)), jnp.full((1, 1), 0.5), jnp.zeros(1)
        >>> x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
        >>> last, h = recurrence(lambda z, carry: z, x, *weights, jnp.zeros((1, 1)))
        >>> h.ravel()
        Array([1.  , 2.5 , 4.25], dtype=float32)
    """
    arrays: Any = jax.tree.map(jnp.asarray, (x, kernel, recurrent_kernel, bias, carry))
    mask = None if mask is None else jnp.asarray(mask, bool)
    _check(*arrays, mask=mask)
    joined = arrays[1].shape[-1] == arrays[2].shape[-1] == len(arrays[3])
    with form_scope("recurrence", "xla" if form is None and not joined else form, "joined", *jax.tree.leaves(arrays)) as form:
        if form == "joined" and not joined:
            raise ValueError('form="joined" needs a kernel and recurrent_kernel as wide as the bias; use form="xla"')
        return _time_first(cell, form, *vary_alike((*arrays, mask)))


def _check(x, kernel, recurrent_kernel, bias, carry, *, mask) -> None:
    h = jax.tree.leaves(carry)[0]
    shapes = [list(v.shape) for v in (x, kernel, recurrent_kernel, bias, h)]
    if x.ndim != 3 or h.ndim != 2:
        raise ValueError(f"recurrence takes x (batch, time, n_in) and h (batch, features), got {shapes[0]} and {shapes[-1]}")
    widths = kernel.shape[-1], recurrent_kernel.shape[-1]
    expected = [[*x.shape], [x.shape[-1], widths[0]], [h.shape[-1], widths[1]], [*bias.shape], [x.shape[0], h.shape[-1]]]
    if shapes != expected or bias.ndim != 1:
        names = "x, kernel, recurrent_kernel, bias and h"
        raise ValueError(f"recurrence: the shapes of {names} do not match; expected {expected}, got {shapes}")
    if not max(widths) <= len(bias) <= sum(widths):
        raise ValueError(f"kernel and recurrent_kernel have {widths} columns, which cannot cover the {len(bias)} of the bias")
    if mask is not None and mask.shape != x.shape[:2]:
        raise ValueError(f"mask must be (batch, time), {list(x.shape[:2])} here, got {list(mask.shape)}")


def _time_first(cell: Cell, form: str, x, kernel, recurrent_kernel, bias, carry, mask) -> tuple[Any, jax.Array]:
    xs = x.swapaxes(0, 1)  # (time, batch, n_in)
    valid = None if mask is None else mask.T[..., None]
    # in the gradient of W, a NaN in the padding would be multiplied by 0
    xs = xs if valid is None else jnp.where(valid, xs, jnp.zeros((), xs.dtype))
    run = _plain_scan if form == "xla" or not len(xs) else _one_product_for_all_steps
    last, carries = run(cell, kernel, recurrent_kernel, bias, xs, valid, carry)
    hs = jax.tree.leaves(carries)[0]
    hs = hs if valid is None else jnp.where(valid, hs, jnp.zeros_like(hs))
    return last, hs.swapaxes(0, 1)


def _where(valid: jax.Array | None, new: Any, old: Any) -> Any:
    return new if valid is None else jax.tree.map(functools.partial(jnp.where, valid), new, old)


def _plain_scan(cell: Cell, kernel, recurrent_kernel, bias, xs, valid, carry):
    product = functools.partial(jnp.matmul, preferred_element_type=widen(bias).dtype)
    x_only = len(bias) - recurrent_kernel.shape[-1]  # the number of columns that only W acts on
    both = kernel.shape[-1] - x_only
    wide = widen(kernel), widen(recurrent_kernel)  # cast in each step, so that gradients are summed over time in float32
    bias = widen(bias)

    def step(carry, inputs):
        x, valid = inputs
        of_x, of_h = (w.astype(x.dtype) for w in wide)
        from_x, from_h = product(x, of_x), product(jax.tree.leaves(carry)[0], of_h)
        sums = from_x[:, x_only:] + from_h[:, :both]
        z = jnp.concatenate([from_x[:, :x_only], sums, from_h[:, both:]], -1) + bias[None]
        carry = _where(valid, cell(z.astype(x.dtype), carry), carry)
        return carry, carry

    return lax.scan(step, carry, (xs, valid))


# The joined form


def _one_product_for_all_steps(cell: Cell, kernel, recurrent_kernel, bias, xs, valid, carry):
    given = carry
    kernel, recurrent_kernel, bias, xs, carry = jax.tree.map(widen, (kernel, recurrent_kernel, bias, xs, carry))
    weights = jnp.concatenate([kernel, recurrent_kernel, bias[None]])  # the weights of x, h and 1
    cell, closed_over = jax.closure_convert(cell, xs[0] @ kernel, carry)  # only the type of this z is used
    last, carries = _run(cell, weights, xs, valid, carry, tuple(closed_over))
    return tuple(jax.tree.map(lambda v, like: v.astype(like.dtype), tree, given) for tree in (last, carries))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _run(cell, weights, xs, valid, carry, closed_over):
    """Return the last carry and all carries."""
    affine = _affine(weights)

    def step(carry, inputs):
        x, valid = inputs
        carry = _where(valid, cell(affine(x, carry), carry, *closed_over), carry)
        return carry, carry

    return lax.scan(step, carry, (xs, valid))


@_run.defjvp
def _run_jvp(cell, primals, tangents):
    weights, xs, valid, carry, closed_over = primals
    d_weights, d_xs, _, d_carry, d_closed_over = tangents
    affine, n_in = _affine(weights), xs.shape[-1]
    of_x, of_h = weights[:n_in], weights[n_in:-1]

    def linearized(carry, inputs):
        x, valid = inputs
        advance = lambda z, carry, *rest: _where(valid, cell(z, carry, *rest), carry)  # noqa: E731
        advance = jax.checkpoint(advance, prevent_cse=False, policy=_keep_transcendental)
        carry, slope = jax.linearize(advance, affine(x, carry), carry, *closed_over)
        return carry, (carry, slope)

    def tangent(d_carry, inputs):
        slope, d_z = inputs
        d_z = d_z + jax.tree.leaves(d_carry)[0] @ of_h
        d_carry = slope(d_z, d_carry, *d_closed_over)
        return d_carry, d_carry

    last, (carries, slopes) = lax.scan(linearized, carry, (xs, valid))
    h, hs = jax.tree.leaves(carry)[0], jax.tree.leaves(carries)[0]
    d_zs = _from_weights(xs, jnp.concatenate([h[None], hs[:-1]]), d_weights) + d_xs @ of_x
    return (last, carries), lax.scan(tangent, d_carry, (slopes, d_zs))


def _affine(weights: jax.Array) -> Callable[[jax.Array, Any], jax.Array]:
    kernels, bias = weights[:-1], weights[-1:]  # split outside of the loop: inside, XLA copies them at every step
    return lambda x, carry: jnp.concatenate([x, jax.tree.leaves(carry)[0]], -1) @ kernels + bias


def _keep_transcendental(primitive, *_, **__) -> bool:
    """Which results of a cell to keep for the backward pass; computing the others again costs less than memory traffic."""
    return primitive.name in ("tanh", "logistic")


def _from_weights(xs: jax.Array, hs: jax.Array, d_weights: jax.Array) -> jax.Array:
    """The contribution of the weights' tangent to all z, (time, batch, width), in a form whose transpose is fast.

    The transpose contracts time and batch. XLA's product of a transposed matrix with a row-major one is several times
    slower than that of two row-major ones, and its sum over rows is slower still: hence the copy, and ones for the bias.
    """
    inputs = jnp.concatenate([xs, hs, jnp.ones_like(xs[..., :1])], -1)
    transposed = lax.optimization_barrier(lax.collapse(inputs, 0, 2).T)  # (n_in + features + 1, time · batch)
    return (d_weights.T @ transposed).T.reshape(*xs.shape[:2], d_weights.shape[-1])
