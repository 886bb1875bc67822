"""A row of the conformance table, and the comparison of one case with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import jaxnn as nn

torch = pytest.importorskip("torch")

TOLERANCE = 2e-5  # about 300 roundings of 6e-8; sums have at most a few hundred terms of order one
LOOSE = 1e-3  # where a normalization divides by about 0.01, or softmax scores are in the tens: both magnify rounding


@dataclass(frozen=True, eq=False)
class Case:
    """A layer, its input, and a function that computes the same with PyTorch from tensors in our layout.

    The function is `peer(params, state, x) -> (y, state)`, or `peer(params, x) -> y` for a layer without state. Since it
    takes our layout, PyTorch's gradients have that layout too.
    """

    layer: nn.Layer
    x: Any
    peer: Callable
    training: bool = False


@dataclass(frozen=True, eq=False)
class Row:
    cases: st.SearchStrategy[Case]
    peer: str  # PyTorch's name
    differs: str = ""  # how PyTorch's convention differs; the layer's docstring states it too
    tolerance: float = TOLERANCE


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.abs(normal(*shape, seed=seed)) + np.float32(0.5)


def first(x):
    """Move the channels to the front, where PyTorch has them."""
    return x.movedim(-1, 1).contiguous()


def last(x):
    """Move the channels to the end. PyTorch's `instance_norm` has a wrong gradient for a non-contiguous cotangent."""
    if x.requires_grad:
        x.register_hook(torch.Tensor.contiguous)
    return x.movedim(1, -1)


def compare(case: Case, tolerance: float, dtype=np.float32) -> None:
    """Compare outputs, the next state, and gradients with respect to the input and every parameter.

    The gradients are those of a randomly weighted sum of the outputs. Ours are computed in float32 and PyTorch's in float64
    from the same numbers, so the difference is our rounding error. Where the largest number of an array exceeds one, the
    tolerance is relative to it.
    """
    shapes = jax.eval_shape(case.layer.init, jax.random.key(0), case.x)
    given = *(_filled(tree, draw) for tree, draw in zip(shapes, (normal, positive), strict=True)), case.x
    given = jax.tree.map(lambda a: a.astype(dtype) if a.dtype == np.float32 else a, given)
    params, state, x = theirs = jax.tree.map(_tensor, given)
    expected = case.peer(params, state, x) if state else (case.peer(params, x), {})
    outputs, structure = jax.tree.flatten(expected)
    moves = [t.requires_grad for t in outputs]
    weights = [normal(*t.shape, seed=i).astype(dtype) for i, t in enumerate(outputs)]
    sum((t * torch.tensor(w)).sum() for t, w, m in zip(outputs, weights, moves, strict=True) if m).backward()

    @jax.jit
    def ours(given, weights):
        def weighted(given):
            result = case.layer.apply(*given, training=case.training)
            leaves = zip(jax.tree.leaves(result), weights, moves, strict=True)
            return sum(jnp.sum(a * w) for a, w, m in leaves if m), result

        return jax.grad(weighted, has_aux=True, allow_int=True)(given)

    gradients, result = ours(given, weights)
    assert jax.tree.structure(result) == structure
    pairs = list(zip(jax.tree.leaves(result), outputs, strict=True))
    for name, g, t in zip(("params", "state", "x"), gradients, theirs, strict=True):
        some = list(zip(jax.tree.leaves(g), jax.tree.leaves(t), strict=True))
        pairs += [(a, b.grad) for a, b in some if b.grad is not None]
        assert name == "state" or all(b.grad is not None for _, b in some if b.requires_grad)
    for a, b in pairs:
        b = b.detach().numpy()
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=1))


def _filled(tree, draw):
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [draw(*leaf.shape, seed=i + 1) for i, leaf in enumerate(leaves)])


def _tensor(a):
    return torch.tensor(a, dtype=torch.float64, requires_grad=True) if a.dtype.kind == "f" else torch.tensor(a)
