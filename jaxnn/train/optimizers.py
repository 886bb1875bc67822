"""Optimizers by name, and optimizers per path: masked weight decay, frozen parameters, a learning rate for each layer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax.numpy as jnp
import optax

from jaxnn.core.checks import number
from jaxnn.core.text import did_you_mean, listed
from jaxnn.core.trees import map_with_path, mask, paths


def by_path(rules: Mapping[str, Any], otherwise: Any) -> optax.GradientTransformation:
    """An optimizer that selects a transformation by the parameter's path, for example to freeze some layers.

    Args:
        rules: A dict from patterns over paths, as in `nn.trees.mask`, to optax transformations, or to None to freeze the
            parameters that match. The first pattern that matches applies.
        otherwise: The transformation for all other parameters, or None to freeze them.

    Returns:
        An optax transformation. Frozen parameters have no optimizer state.

    Raises:
        TypeError: If a rule is not a transformation.
        ValueError: At `init`, if a pattern matches no parameter.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> optimizer = by_path({"encoder/*": None, "*/bias": optax.sgd(1.0)}, otherwise=optax.sgd(0.1))
        >>> params = {"encoder": {"bias": jnp.ones(1)}, "head": {"bias": jnp.ones(1), "kernel": jnp.ones(1)}}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> jax.tree.map(lambda update: round(update.item(), 1), updates)
        {'encoder': {'bias': 0.0}, 'head': {'bias': -1.0, 'kernel': -0.1}}
    """
    for pattern, rule in {**rules, "otherwise": otherwise}.items():
        if rule is not None and not (hasattr(rule, "init") and hasattr(rule, "update")):
            raise TypeError(
                f"by_path takes optax transformations, such as optax.sgd(0.1), or None to freeze; got {rule!r} for {pattern!r}"
            )
    transforms = {str(i): t or optax.set_to_zero() for i, t in enumerate((*rules.values(), otherwise))}

    def labels(params: Any) -> Any:
        matched = [mask(params, pattern) for pattern in rules]  # raises an error if a pattern matches nothing
        flat = [paths(tree) for tree in matched]

        def label(path: str, _: Any) -> str:
            return str(next((i for i, tree in enumerate(flat) if tree[path]), len(flat)))

        return map_with_path(label, params)

    return optax.partition(transforms, labels)


def decay_mask(params: Any) -> Any:
    """Select the parameters to which weight decay applies: all but biases, scales, and other vectors and scalars.

    Shrinking a bias or a normalization's scale toward 0 does not regularize the model. Excluded are parameters with `bias` or
    `scale` in the last part of their path, since those of a `repeat` are stacked to matrices, and parameters with fewer than
    two axes.

    Args:
        params: The parameters.

    Returns:
        A tree of booleans for optax, which also takes the function itself: `optax.adamw(1e-3, mask=nn.decay_mask)`. A custom
        selection is `lambda params: nn.trees.mask(params, "encoder/*/kernel")`.

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
    """Create one of optax's optimizers by name, with weight decay that leaves out biases and normalization scales.

    Args:
        name: The name in optax: "sgd", "adam", "adamw", "lion" or any other that takes a learning rate.
        learning_rate: η, or a schedule if the optimizer takes one. As a hyperparameter of `fit`, a schedule works for all:
            `optimizer=lambda learning_rate: nn.named_optimizer("sm3", learning_rate)`.
        weight_decay: λ, for the parameters that `decay_mask` selects. An optimizer with its own weight decay, such as
            "adamw", uses λ in it, or its own default if λ is None. For others, λW is added to the gradient first: L2
            regularization, as in PyTorch's optimizers.
        **options: Further options of the optimizer, under optax's names, such as `momentum=0.9` for "sgd".

    Returns:
        The optax transformation.

    Raises:
        TypeError: If the learning rate or the weight decay is not a number.
        ValueError: If the name is unknown, a number is negative, or the optimizer cannot have weight decay.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}
        >>> optimizer = named_optimizer("sgd", 0.5, weight_decay=0.25)
        >>> updates, _ = optimizer.update({"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}, optimizer.init(params), params)
        >>> updates["kernel"].item(), updates["bias"].item()
        (-0.625, -0.5)
    """
    if name not in _factories():
        hint = did_you_mean(name, _factories())
        raise ValueError(f"unknown optimizer {name!r}; {hint}{' ' if hint else ''}known optimizers: {listed(_factories())}")
    if not callable(learning_rate):
        number("named_optimizer", "learning_rate", learning_rate, 0)
    if weight_decay is not None:
        number("named_optimizer", "weight_decay", weight_decay, 0)
    factory = _factories()[name]
    parameters = inspect.signature(factory).parameters
    decay_option, mask_option = (next(filter(parameters.__contains__, names), None) for names in (_RATES, _MASKS))
    if mask_option is not None:
        options = {mask_option: decay_mask} | options
    if weight_decay is None:
        return factory(learning_rate, **options)
    if "linesearch" in parameters:
        raise ValueError(
            f"{name} takes no weight decay, since its line search minimizes the loss alone; add the penalty to the loss"
        )
    if decay_option is not None and mask_option is not None:
        return factory(learning_rate, **{decay_option: weight_decay}, **options)
    return optax.chain(optax.add_decayed_weights(weight_decay, decay_mask), factory(learning_rate, **options))


_RATES, _MASKS = ("weight_decay", "weight_decay_rate"), ("weight_decay_mask", "mask")


@cache
def _factories() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The optimizers of optax by name: its functions that take a learning rate."""
    functions = inspect.getmembers(optax, inspect.isfunction)
    return {
        name: function
        for name, function in functions
        if not name.startswith(("_", "scale_by_"))
        and name != "optimistic_adam"  # deprecated: it warns that its successor should be used
        and "learning_rate" in inspect.signature(function).parameters
    }
