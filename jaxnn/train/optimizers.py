"""Optimizers by path: freezing, and learning rates of a layer's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
