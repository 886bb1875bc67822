"""Derivatives of what an iteration returns: through its steps, or by the condition that its result meets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.autodiff.products import solve
from jaxnn.core.checks import called, function, number, whole
from jaxnn.core.text import array_text


def unrolled(step: Callable, steps: int, every: int | None = None) -> Callable:
    """A repeated step, such as a training run, with a reverse mode that keeps few of the carries in between.

    Forward, it is a `scan`. Backward, only the carry before every `every` steps was kept; those in between are computed again,
    and the values inside a step once more. This needs memory for steps / every + every carries and the values of one step,
    least at every = √steps (Chen et al. 2016, arXiv:1604.06174; for hyperparameters, Maclaurin et al. 2015, arXiv:1502.03492).
    For few hyperparameters, forward mode, `jax.jvp` or `jax.jacfwd`, needs constant memory and about one more run per number
    (Franceschi et al. 2017, arXiv:1703.01785).

    Args:
        step: `step(carry, i, *arguments) -> carry`, with i the number of the step from 0.
        steps: The number of steps.
        every: The number of steps between two carries that are kept; by default √steps, rounded up.

    Returns:
        `run(carry, *arguments) -> carry`, pure; derivatives in the carry and all arguments are exact.

    Raises:
        TypeError: If `step` is not a function, or a number not whole; when called, if the step returns another carry than it
            takes.
        ValueError: If a number is less than 1.

    Example:
        Learning a learning rate, by the derivative of the loss after training:

        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> x, y = jnp.linspace(-1, 1, 32).reshape(4, 8, 1), jnp.linspace(-2, 2, 32).reshape(4, 8, 1)  # 4 batches
        >>> step = nn.train_step(
        ...     nn.dense(1), loss=nn.losses.mse, optimizer=optax.sgd, hyperparameters={"learning_rate": 0.01})
        >>> start = nn.init_train_state(
        ...     nn.dense(1), optax.sgd, jax.random.key(0), x[0], hyperparameters={"learning_rate": 0.01})
        >>> run = nn.autodiff.unrolled(lambda state, i: step(state, (x[i % 4], y[i % 4]))[0], 20)
        >>> @jax.jit
        ... @jax.value_and_grad
        ... def final_loss(rate):
        ...     state = run(start._replace(hyperparameters={"learning_rate": rate}))
        ...     return jnp.mean((nn.dense(1)(state.params, x) - y) ** 2)
        >>> rates, losses = [jnp.asarray(0.01)], []
        >>> for _ in range(4):
        ...     loss, slope = final_loss(rates[-1])
        ...     losses, rates = [*losses, loss], [*rates, rates[-1] - 5e-4 * slope]
        >>> bool(losses[-1] < losses[0] / 2)
        True
    """
    function("unrolled", "step", step, "step(carry, i, *arguments) -> carry")
    steps = whole("unrolled", "steps", steps)
    every = math.ceil(math.sqrt(steps)) if every is None else min(whole("unrolled", "every", every), steps)

    def run(carry: Any, *arguments: Any) -> Any:
        def one(carry: Any, i: jax.Array) -> tuple[Any, None]:
            return called(step, "step(carry, i, *arguments) -> carry", carry, i, *arguments), None

        one = jax.checkpoint(one, prevent_cse=False)

        def some(carry: Any, numbers: jax.Array) -> tuple[Any, None]:
            return lax.scan(one, carry, numbers)

        some, numbers = jax.checkpoint(some, prevent_cse=False), jnp.arange(steps)
        whole_steps = steps - steps % every
        carry, _ = lax.scan(some, carry, numbers[:whole_steps].reshape(-1, every))
        return some(carry, numbers[whole_steps:])[0] if steps % every else carry

    return run


def implicit(
    solution: Callable, condition: Callable, *, symmetric: bool = True, damping: Any = 0.0, tolerance: float = 1e-5
) -> Callable:
    """A solution whose derivatives follow from the condition that it meets, not from how it was found.

    If F(x(θ), θ) = 0, then ∂x/∂θ = −(∂F/∂x)⁻¹ ∂F/∂θ, by the implicit function theorem: forward and reverse mode solve one
    linear system by conjugate gradients, whatever the number of steps that found x (Blondel et al. 2022, arXiv:2105.15183).

    Args:
        solution: `solution(*arguments) -> x`, a tree of arrays; it is never differentiated.
        condition: `condition(x, *arguments) -> F`, a tree like x that is 0 at the solution, such as the gradient of the loss
            that x minimizes, or x − g(x) for a fixed point of g.
        symmetric: Whether ∂F/∂x is symmetric and positive definite, as it is at a minimum. Otherwise the system is multiplied
            by its transpose, which squares its condition number.
        damping: λ, added to the diagonal of the system that is solved, at least 0; it may be traced.
        tolerance: The residual's norm over that of the right-hand side at which to stop.

    Returns:
        `x(*arguments)`, with derivatives of any order in all arguments. They are NaN where the residual of the linear system
        stays above 1%, as it does where `symmetric` is not true.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a number is out of range; when called, if the condition is not like the solution.

    Example:
        The derivative of a weight in the penalty of its loss:

        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> loss = lambda w, penalty: (w - 3) ** 2 / 2 + penalty * w**2 / 2
        >>> best = nn.autodiff.implicit(lambda penalty: 3 / (1 + penalty), jax.grad(loss))
        >>> jax.grad(best)(1.0).item()
        -0.75
    """
    function("implicit", "solution", solution, "solution(*arguments) -> x")
    function("implicit", "condition", condition, "condition(x, *arguments) -> F")
    damping, tolerance = number("implicit", "damping", damping, 0), number("implicit", "tolerance", tolerance, 0, above=True)

    def norm(tree: Any) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(tree)))

    def checked(matvec: Callable, b: Any, x: Any) -> Any:
        residual = norm(jax.tree.map(jnp.subtract, matvec(x), b))
        return jax.tree.map(lambda a: jnp.where(residual <= 1e-2 * norm(b), a, jnp.nan), x)

    def by_solve(matvec: Callable, b: Any) -> Any:
        return checked(matvec, b, solve(matvec, b, tolerance=tolerance))

    def by_normal_equations(matvec: Callable, b: Any) -> Any:
        transposed = lambda v: jax.linear_transpose(matvec, b)(v)[0]  # noqa: E731
        x = solve(lambda v: transposed(matvec(v)), transposed(b), tolerance=tolerance)
        return checked(matvec, b, x)

    def tangent(slope: Callable, b: Any) -> Any:
        damped = lambda v: jax.tree.map(lambda a, v: a + jnp.asarray(damping, v.dtype) * v, slope(v), v)  # noqa: E731
        if symmetric:
            return lax.custom_linear_solve(damped, b, by_solve, symmetric=True)
        return lax.custom_linear_solve(damped, b, by_normal_equations, by_normal_equations)

    def x(*arguments: Any) -> Any:
        like = jax.eval_shape(solution, *arguments)
        met = jax.eval_shape(condition, like, *arguments)
        shape = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
        if shape(met) != shape(like):
            raise ValueError(
                "implicit takes a condition with as many equations as unknowns, a tree like the solution, "
                f"{array_text(like)}; got {array_text(met)}"
            )
        guess = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
        return lax.custom_root(lambda x: condition(x, *arguments), guess, lambda *_: solution(*arguments), tangent)

    return x
