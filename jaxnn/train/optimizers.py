"""Optimizers by name and by path: weight decay where it belongs, freezing, and learning rates of a layer's own."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax.numpy as jnp
import optax

from jaxnn.core.trees import map_with_path, mask, paths


def by_path(rules: Mapping[str, Any], otherwise: Any) -> optax.GradientTransformation:
    """An optimizer that treats parameters by their path: some frozen, some with a learning rate of their own.

    Args:
        rules: from a pattern over paths, as `nn.trees.mask` takes it, to an optax transformation, or None to freeze what it
            matches. The first pattern that matches counts.
        otherwise: the transformation for all other parameters, or None.

    Returns:
        An optax transformation. What is frozen has no optimizer state.

    Raises:
        ValueError: at `init`, if a pattern matches nothing.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> optimizer = by_path({"encoder/*": None, "*/bias": optax.sgd(1.0)}, otherwise=optax.sgd(0.1))
        >>> params = {"encoder": {"bias": jnp.ones(1)}, "head": {"bias": jnp.ones(1), "kernel": jnp.ones(1)}}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> jax.tree.map(lambda update: round(update.item(), 1), updates)
        {'encoder': {'bias': 0.0}, 'head': {'bias': -1.0, 'kernel': -0.1}}
    """
    transforms = {str(i): t or optax.set_to_zero() for i, t in enumerate((*rules.values(), otherwise))}

    def labels(params: Any) -> Any:
        matched = [mask(params, pattern) for pattern in rules]  # an error if one matches nothing
        flat = [paths(tree) for tree in matched]

        def label(path: str, _: Any) -> str:
            return str(next((i for i, tree in enumerate(flat) if tree[path]), len(flat)))

        return map_with_path(label, params)

    return optax.partition(transforms, labels)


def decay_mask(params: Any) -> Any:
    """Which parameters weight decay is for: not biases, nor the scales of norms, nor other vectors and numbers.

    To shrink them regularizes nothing, and works against what they are there for. They are told by name, `bias` or `scale` in
    the last part of the path, as those of a `repeat` are stacked to matrices; others by having fewer than two axes.

    Args:
        params: the parameters.

    Returns:
        A tree of booleans, as optax takes it or a function that makes it: `optax.adamw(1e-3, mask=nn.decay_mask)`. For a
        choice of one's own there is `lambda params: nn.trees.mask(params, "encoder/*/kernel")`.

    Example:
        >>> import jax.numpy as jnp
        >>> decay_mask({"dense": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}, "layer_norm": {"scale": jnp.ones(2)}})
        {'dense': {'bias': False, 'kernel': True}, 'layer_norm': {'scale': False}}
    """

    def decays(path: str, leaf: Any) -> bool:
        name = path.rpartition("/")[2]
        return jnp.ndim(leaf) > 1 and "bias" not in name and "scale" not in name

    return map_with_path(decays, params)


def named_optimizer(
    name: str, learning_rate: Any, *, weight_decay: float | None = None, **options: Any
) -> optax.GradientTransformation:
    """One of optax's optimizers by its name, with weight decay that spares biases and norms.

    Args:
        name: as in optax: "sgd", "adam", "adamw", "lion" and all others that take a learning rate.
        learning_rate: η, or a schedule where the optimizer takes one. All do as a hyperparameter of `fit`:
            `optimizer=lambda learning_rate: nn.named_optimizer("sm3", learning_rate)`.
        weight_decay: λ, on what `decay_mask` chooses. Optimizers that have it, such as "adamw", take it as their own, and
            where it is None their default. For the others λW is added to the gradient first, L2 regularization as PyTorch's
            optimizers have it.
        **options: of that optimizer, under optax's names, such as `momentum=0.9` for "sgd".

    Returns:
        The optax transformation.

    Raises:
        ValueError: there is none of that name, or it takes no weight decay.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}
        >>> optimizer = named_optimizer("sgd", 0.5, weight_decay=0.25)
        >>> updates, _ = optimizer.update({"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}, optimizer.init(params), params)
        >>> updates["kernel"].item(), updates["bias"].item()
        (-0.625, -0.5)
    """
    if name not in _factories():
        near = difflib.get_close_matches(str(name).lower(), _factories(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"unknown optimizer {name!r}; {hint}There are {', '.join(_factories())}")
    factory = _factories()[name]
    takes = inspect.signature(factory).parameters
    rate, mask_option = (next(filter(takes.__contains__, names), None) for names in (_RATES, _MASKS))
    if mask_option is not None:
        options = {mask_option: decay_mask} | options
    if weight_decay is None:
        return factory(learning_rate, **options)
    if "linesearch" in takes:
        raise ValueError(
            f"{name} takes no weight decay: it searches for the lowest loss on a line; add the penalty to the loss"
        )
    if rate is not None and mask_option is not None:
        return factory(learning_rate, **{rate: weight_decay}, **options)
    return optax.chain(optax.add_decayed_weights(weight_decay, decay_mask), factory(learning_rate, **options))


_RATES, _MASKS = ("weight_decay", "weight_decay_rate"), ("weight_decay_mask", "mask")


@cache
def _factories() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """optax's optimizers by name: its functions of a learning rate."""
    functions = inspect.getmembers(optax, inspect.isfunction)
    return {
        name: function
        for name, function in functions
        if not name.startswith(("_", "scale_by_"))
        and name != "optimistic_adam"  # which warns that it is to be removed, for its successor
        and "learning_rate" in inspect.signature(function).parameters
    }
