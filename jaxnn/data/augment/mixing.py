"""Augmentations that mix pairs of samples of a batch: mixup and cutmix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn._jax import is_tracer
from jaxnn.data.augment._shared import (
    Augment,
    box_mask,
    check_images,
    check_integer,
    gather_pixels,
    index_range,
    random_positions,
    spell,
)


def mixup(alpha: float, classes: int) -> Augment:
    """Blend each image and its label with another of the batch (Zhang et al. 2018).

        x'ᵢ = λᵢ xᵢ + (1 − λᵢ) xⱼ        y'ᵢ = λᵢ yᵢ + (1 − λᵢ) yⱼ        λᵢ ~ Beta(α, α)

    Each sample has its own λ, in float32; this costs no more than one λ for the batch, and batches vary less. The partner is
    j = i + r (mod batch), with one r from 1 to batch − 1 for the whole batch: never the image itself, every other one equally
    likely. A batch of one is returned unchanged. Since E[λ] = ½, the expectation of x' over keys is the mean of the image and
    the mean of the others, and likewise for y'. For small α most images are nearly unchanged or nearly replaced.

    Args:
        alpha: Parameter α > 0: 1 draws λ uniformly, 0.1 to 0.4 is usual for ImageNet. May be traced.
        classes: Number of classes.

    Returns:
        `augment(key, (x, y)) -> (x, y)` for floating-point images; half precision is blended in float32 and rounded once. y is
        integer labels (batch,) or probabilities (batch, classes), and becomes probabilities (batch, classes), float32 (float64
        for float64 images), which `losses.cross_entropy` accepts. A traced label that is not a class gives NaN.

    Raises:
        TypeError: If the images are not floating-point, or y is neither labels nor probabilities.
        ValueError: If α is not positive, shapes do not match, or a label is not a class.

    Example:
        >>> x, y = jax.jit(mixup(1.0, classes=3))(jax.random.key(0), (jnp.ones((2, 4, 4, 1)), jnp.array([0, 2])))
        >>> x.shape, y.shape, y.sum(1).tolist()
        ((2, 4, 4, 1), (2, 3), [1.0, 1.0])
    """
    _check_options("mixup", alpha, classes)

    def augment(key, batch):
        x, y = check_images("mixup", batch)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"mixup: x is {spell(x)}, expected floating-point images; pass x.astype(float) / 255")
        share_key, partner_key = jax.random.split(key)
        y = _probabilities("mixup", x, y, classes)
        share = symmetric_beta(share_key, alpha, len(x)).astype(y.dtype)[:, None]
        shift, partner = _partner(partner_key, len(x))

        def blend(a, share):
            return share * a + (1 - share) * a.at[partner].get(mode="promise_in_bounds")

        def blended(x):
            return blend(x.astype(share.dtype), share[:, :, None, None]).astype(x.dtype)

        return _if_two(shift, blended, x), blend(y, share)

    return augment


def cutmix(alpha: float, classes: int) -> Augment:
    """Paste a box of another image of the batch into each, and mix the labels by area (Yun et al. 2019).

    The box has sides ⌊H √(1 − λ)⌋ and ⌊W √(1 − λ)⌋ with λ ~ Beta(α, α), and its center is a uniformly random pixel; it is
    clipped at the border. With A pixels after clipping:

        y'ᵢ = (1 − A / HW) yᵢ + (A / HW) yⱼ

    Thus a label has exactly the share of its pixels (the paper's λ, adjusted as in its authors' code); because of the
    clipping, images keep more than half of their pixels on average. Each sample has its own box. The partner is chosen as in
    `mixup`: j = i + r (mod batch), one r from 1 to batch − 1 for the whole batch; a batch of one keeps its image.

    Args:
        alpha: Parameter α > 0; 1, which draws λ uniformly, is the paper's. May be traced.
        classes: Number of classes.

    Returns:
        `augment(key, (x, y)) -> (x, y)` for images of any dtype; y as in `mixup`.

    Raises:
        TypeError: If y is neither labels nor probabilities.
        ValueError: If α is not positive, shapes do not match, or a label is not a class.

    Example:
        >>> images = jnp.zeros((2, 4, 4, 1)).at[1].set(1)
        >>> x, y = jax.jit(cutmix(1.0, classes=2))(jax.random.key(0), (images, jnp.array([0, 1])))
        >>> bool((y[:, 1] == x.mean((1, 2, 3))).all())
        True
    """
    _check_options("cutmix", alpha, classes)

    def augment(key, batch):
        x, y = check_images("cutmix", batch)
        y = _probabilities("cutmix", x, y, classes)
        n, height, width, _ = x.shape
        share_key, center_key, partner_key = jax.random.split(key, 3)
        side = jnp.sqrt(1 - symmetric_beta(share_key, alpha, n))
        center = random_positions(center_key, n, (height, width))
        rows, columns = (
            box_mask(at, jnp.floor(length * side).astype(jnp.int32)[:, None], length)
            for at, length in zip(center, (height, width), strict=True)
        )
        shift, partner = _partner(partner_key, n)

        def pasted(x):
            box = rows[:, :, None] & columns[:, None]
            source = jnp.where(box, partner[:, None, None], index_range(n)[:, None, None])
            return gather_pixels(x, index_range(height)[None], index_range(width)[None], source)

        area = (rows.sum(1) * columns.sum(1))[:, None]
        own, other = (part.astype(y.dtype) / (height * width) for part in (height * width - area, area))
        return _if_two(shift, pasted, x), own * y + other * y.at[partner].get(mode="promise_in_bounds")

    return augment


def symmetric_beta(key: jax.Array, alpha: Any, n: int) -> jax.Array:
    """Draw λ ~ Beta(α, α), exactly and without rejection, for any α > 0, to an absolute precision of 2⁻²⁴.

    λ = ½ (1 + T / √(2α + T²)) for T of Student's distribution with 2α degrees of freedom, which Bailey's polar method draws
    from two uniform numbers: T² = 2α (U^(−1/α) − 1) cos² 2πV. Devroye (1996), 'Random variate generation in one line of code'.

    Args:
        key: A JAX random key.
        alpha: Parameter α > 0; may be traced.
        n: Number of draws.

    Returns:
        The draws, (n,), in float32.
    """
    u, v = jax.random.uniform(key, (2, n), jnp.float32)
    cosine = jnp.cos(2 * jnp.pi * v)
    squared = jnp.expm1(-jnp.log1p(-u) / jnp.asarray(alpha, jnp.float32)) * cosine**2  # T² / 2α; it may overflow to ∞
    return (1 + jnp.sign(cosine) / jnp.sqrt(1 + 1 / squared)) / 2


def _partner(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Return the offset of each image's partner in the batch, 1 to n − 1 (0 for a batch of one), and the partners, (n,)."""
    shift = jax.random.randint(key, (), min(1, n - 1), max(n, 1), jnp.int32)
    return shift, (index_range(n) + shift) % n


def _if_two(shift: jax.Array, mix: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Return mix(x) if there is another image, and x otherwise.

    XLA stores the operands of a conditional. Otherwise it would fuse the mixing with the operations that made the batch, and
    recompute each pixel of a chain wherever it is read.
    """
    return jax.lax.cond(shift > 0, mix, lambda x: x, x)


def _probabilities(caller: str, x: jax.Array, y: Any, classes: int) -> jax.Array:
    """Return labels (n,) as one-hot rows, NaN where they are not a class, and probabilities (n, classes) unchanged."""
    labels = jnp.asarray(y)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        if labels.shape != (len(x), classes):
            hint = f"{(len(x), classes)} for probabilities; integer labels have the shape {(len(x),)}"
            raise ValueError(f"{caller}: y is {spell(labels)}, but images are {spell(x)}; expected the shape {hint}")
        return labels.astype(_mixing_dtype(x))
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{caller}: y is {spell(labels)}, expected integer labels; pass y.astype(int)")
    if labels.shape != (len(x),):
        hint = "; if they are one-hot, pass y.astype(float)" if labels.shape == (len(x), classes) else ""
        raise ValueError(f"{caller}: y is {spell(labels)}, expected integer labels of the shape {(len(x),)}{hint}")
    if len(x) and not is_tracer(y):
        lowest, highest = np.min(y), np.max(y)
        if lowest < 0 or highest >= classes:
            raise ValueError(f"{caller}: labels run from {lowest} to {highest}, expected 0 to {classes - 1}")
    labels = labels.astype(jnp.int32)[:, None]
    one_hot = labels == index_range(classes)[None]
    return jnp.where((labels >= 0) & (labels < classes), one_hot.astype(_mixing_dtype(x)), jnp.nan)


def _mixing_dtype(x: jax.Array) -> Any:
    """Return float64 for float64 images, else float32."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def _check_options(caller: str, alpha: Any, classes: int) -> None:
    if not is_tracer(alpha) and not alpha > 0:
        raise ValueError(f"{caller}: alpha is {alpha}, expected a positive number; to mix nothing, leave {caller} out")
    check_integer(caller, "classes", classes, 1)
