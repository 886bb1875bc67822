"""Augmentation of image batches: pure functions `augment(key, (x, y)) -> (x, y)`, made to run inside the compiled program.

Images are (batch, height, width, channels). Every sample draws for itself; the same key gives the same result. Each factory
returns such a function, `chain` strings them together, and a plain function of your own of that form is one, too.

Where pixels only move, each comes by one index of its image, its row and its column: a single gather, which XLA joins with
the one that picks the batch, without a padded or flipped copy in between. Values are never computed with, so they are exact in
every dtype, and a NaN stays in its pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn._jax import is_tracer

__all__ = ["chain", "cutmix", "cutout", "mixup", "random_crop", "random_flip"]

Augment = Callable[[jax.Array, tuple[Any, Any]], tuple[Any, Any]]
MODES = ("zeros", "edge", "reflect", "symmetric", "wrap")


def random_flip(axis: str = "horizontal", *, probability: float = 0.5) -> Augment:
    """Mirror each image with the given probability: x'[i, j] = x[i, W − 1 − j], or x[H − 1 − i, j].

    Args:
        axis: "horizontal" swaps left and right, "vertical" top and bottom; for both, `chain` two of them.
        probability: Of a flip, in [0, 1].

    Returns:
        `augment(key, (x, y)) -> (x, y)` for images of any dtype; y is passed on as it is.

    Raises:
        ValueError: The axis is neither, the probability lies outside, or x is no batch of images.

    Example:
        >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
        >>> x, y = random_flip(probability=1)(jax.random.key(0), (x, None))
        >>> x.ravel().tolist()
        [2.0, 1.0, 0.0]
    """
    if axis not in ("horizontal", "vertical"):
        raise ValueError(f'random_flip: axis is {axis!r}, expected "horizontal" or "vertical"; for both, chain two flips')
    if not is_tracer(probability) and not 0 <= probability <= 1:
        raise ValueError(f"random_flip: probability is {probability}, expected a number from 0 to 1")

    def augment(key, batch):
        x, y = _images("random_flip", batch)
        n, height, width, _ = x.shape
        flipped = jax.random.bernoulli(key, jnp.asarray(probability, jnp.float32), (n, 1))
        rows, columns = _range(height)[None], _range(width)[None]
        if axis == "horizontal":
            columns = jnp.where(flipped, width - 1 - columns, columns)
        else:
            rows = jnp.where(flipped, height - 1 - rows, rows)
        return _pixels(x, rows, columns), y

    return augment


def random_crop(padding: int = 4, *, size: int | tuple[int, int] | None = None, mode: str = "zeros") -> Augment:
    """Pad each image on all sides and cut out a window at random, all places equally likely (He et al. 2016, § 4.2).

    With padding p and the image's own size, that is one of (2p + 1)² windows: a shift by −p to p pixels each way.

    Args:
        padding: Pixels on each side, from 0 to below the image's size.
        size: Of the window, `(height, width)` or one number for both; the image's own by default.
        mode: What the border holds: "zeros", or the image's own pixels as `numpy.pad` has it: "edge", "reflect", "symmetric"
            or "wrap".

    Returns:
        `augment(key, (x, y)) -> (x, y)` for images of any dtype; y is passed on as it is.

    Raises:
        TypeError: The padding or the size is not made of whole numbers.
        ValueError: They do not fit the image, the mode is unknown, or x is no batch of images.

    Example:
        >>> key, x = jax.random.key(0), jnp.ones((8, 32, 32, 3))
        >>> random_crop(4)(key, (x, None))[0].shape
        (8, 32, 32, 3)
        >>> jax.eval_shape(random_crop(0, size=28), key, (x, None))[0].shape
        (8, 28, 28, 3)
    """
    padding = _whole("random_crop", "padding", padding, 0)
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if size is not None and len(sides) != 2:
        raise ValueError(f"random_crop: size is {size}, expected one number, or (height, width)")
    window = None if size is None else tuple(_whole("random_crop", "size", side, 1) for side in sides)
    if mode not in MODES:
        raise ValueError(f"random_crop: mode is {mode!r}, expected one of {', '.join(MODES)}")

    def augment(key, batch):
        x, y = _images("random_crop", batch)
        n, *image, _ = x.shape
        if padding >= min(image):
            raise ValueError(f"random_crop: a padding of {padding} can push an image of {_spell(x)} out of sight; take less")
        cut = image if window is None else window
        free = [full + 2 * padding - side + 1 for full, side in zip(image, cut, strict=True)]
        if min(free) < 1:
            raise ValueError(f"random_crop: a window of {cut} is larger than images of {_spell(x)} with a padding of {padding}")
        start = _places(key, n, free)
        rows, columns = (_source(*of_axis, padding, mode) for of_axis in zip(start, image, cut, strict=True))
        inside = (rows >= 0)[:, :, None, None] & (columns >= 0)[:, None, :, None]
        moved = _pixels(x, jnp.maximum(rows, 0), jnp.maximum(columns, 0))
        return (jnp.where(inside, moved, jnp.zeros((), x.dtype)) if mode == "zeros" else moved), y

    return augment


def cutout(size: int) -> Augment:
    """Set one square of each image to 0 (DeVries & Taylor 2017).

    The square's middle is any pixel of the image, all equally likely, so a part of it may lie beyond the border and is
    clipped: it covers at least a quarter of size² pixels, up to rounding, and size² at most. It reaches from `size // 2`
    before the middle, and is `size` long, for even and odd sizes. For standardized images 0 is the mean; for others, put
    `cutout` behind what centres them.

    Args:
        size: The square's side in pixels, at most the image's.

    Returns:
        `augment(key, (x, y)) -> (x, y)` for images of any dtype; y is passed on as it is.

    Raises:
        TypeError: The size is no whole number.
        ValueError: It is below 1 or larger than the image, or x is no batch of images.

    Example:
        >>> x, y = cutout(1)(jax.random.key(0), (jnp.ones((1, 4, 4, 1)), None))
        >>> int(x.sum())
        15
    """
    size = _whole("cutout", "size", size, 1)

    def augment(key, batch):
        x, y = _images("cutout", batch)
        n, height, width, _ = x.shape
        if size > min(height, width):
            raise ValueError(f"cutout: a square of {size} × {size} is larger than images of {_spell(x)}; take a smaller size")
        middle = _places(key, n, (height, width))
        rows, columns = _span(middle[0], size, height), _span(middle[1], size, width)
        return jnp.where((rows[:, :, None] & columns[:, None])[..., None], jnp.zeros((), x.dtype), x), y

    return augment


def mixup(alpha: float, classes: int) -> Augment:
    """Blend each image and its label with another of the batch (Zhang et al. 2018).

        x'ᵢ = λᵢ xᵢ + (1 − λᵢ) xⱼ        y'ᵢ = λᵢ yᵢ + (1 − λᵢ) yⱼ        λᵢ ~ Beta(α, α)

    Each sample has its own λ, in float32; it costs nothing more than one for the batch, and batches vary less. The partner is
    j = i + r (mod batch), with one r from 1 to batch − 1 for the whole batch: never the image itself, any other equally likely.
    A batch of one stays as it is. Since E[λ] = ½, the expectation of x' over keys is the mean of the image and the others'
    mean, and likewise for y'; small α leaves most images nearly as they are or nearly replaced.

    Args:
        alpha: α, above 0: 1 draws λ uniformly, 0.1 to 0.4 is usual for ImageNet. It may be traced.
        classes: How many classes there are.

    Returns:
        `augment(key, (x, y)) -> (x, y)` for floating-point images; half precision is blended in float32 and rounded once. y is
        integer labels (batch,) or probabilities (batch, classes), and becomes probabilities (batch, classes), float32 (float64
        for float64 images), which `losses.cross_entropy` takes. A traced label that is no class gives NaN.

    Raises:
        TypeError: The images are not floating-point, or y is neither labels nor probabilities.
        ValueError: α is not above 0, shapes do not fit, or a label is no class.

    Example:
        >>> x, y = jax.jit(mixup(1.0, classes=3))(jax.random.key(0), (jnp.ones((2, 4, 4, 1)), jnp.array([0, 2])))
        >>> x.shape, y.shape, y.sum(1).tolist()
        ((2, 4, 4, 1), (2, 3), [1.0, 1.0])
    """
    _check_mixing("mixup", alpha, classes)

    def augment(key, batch):
        x, y = _images("mixup", batch)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"mixup: x is {_spell(x)}, expected floating-point images; pass x.astype(float) / 255")
        share_key, partner_key = jax.random.split(key)
        y = _probabilities("mixup", x, y, classes)
        share = _symmetric_beta(share_key, alpha, len(x)).astype(y.dtype)[:, None]
        shift, partner = _partner(partner_key, len(x))

        def blend(a, share):
            return share * a + (1 - share) * a.at[partner].get(mode="promise_in_bounds")

        def blended(x):
            return blend(x.astype(share.dtype), share[:, :, None, None]).astype(x.dtype)

        return _if_two(shift, blended, x), blend(y, share)

    return augment


def cutmix(alpha: float, classes: int) -> Augment:
    """Paste a box of another image of the batch into each, and mix the labels by area (Yun et al. 2019).

    The box has sides ⌊H √(1 − λ)⌋ and ⌊W √(1 − λ)⌋ with λ ~ Beta(α, α), and its middle is any pixel, all equally likely; what
    reaches beyond the border is clipped. With A pixels left of it:

        y'ᵢ = (1 − A / HW) yᵢ + (A / HW) yⱼ

    so that a label has exactly its pixels' share (the paper's λ, adjusted as in its authors' code); by the clipping, images
    keep more than half of themselves on average. Each sample has its own box. The partner is as in `mixup`: j = i + r (mod
    batch), one r from 1 to batch − 1 for the whole batch; a batch of one keeps its image.

    Args:
        alpha: α, above 0; 1, which draws λ uniformly, is the paper's. It may be traced.
        classes: How many classes there are.

    Returns:
        `augment(key, (x, y)) -> (x, y)` for images of any dtype; y as in `mixup`.

    Raises:
        TypeError: y is neither labels nor probabilities.
        ValueError: α is not above 0, shapes do not fit, or a label is no class.

    Example:
        >>> images = jnp.zeros((2, 4, 4, 1)).at[1].set(1)
        >>> x, y = jax.jit(cutmix(1.0, classes=2))(jax.random.key(0), (images, jnp.array([0, 1])))
        >>> bool((y[:, 1] == x.mean((1, 2, 3))).all())
        True
    """
    _check_mixing("cutmix", alpha, classes)

    def augment(key, batch):
        x, y = _images("cutmix", batch)
        y = _probabilities("cutmix", x, y, classes)
        n, height, width, _ = x.shape
        share_key, place_key, partner_key = jax.random.split(key, 3)
        side = jnp.sqrt(1 - _symmetric_beta(share_key, alpha, n))
        middle = _places(place_key, n, (height, width))
        rows, columns = (
            _span(at, jnp.floor(length * side).astype(jnp.int32)[:, None], length)
            for at, length in zip(middle, (height, width), strict=True)
        )
        shift, partner = _partner(partner_key, n)

        def pasted(x):
            box = rows[:, :, None] & columns[:, None]
            source = jnp.where(box, partner[:, None, None], _range(n)[:, None, None])
            return _pixels(x, _range(height)[None], _range(width)[None], source)

        area = (rows.sum(1) * columns.sum(1))[:, None]
        own, other = (part.astype(y.dtype) / (height * width) for part in (height * width - area, area))
        return _if_two(shift, pasted, x), own * y + other * y.at[partner].get(mode="promise_in_bounds")

    return augment


def chain(*augments: Augment) -> Augment:
    """One after the other, from left to right, each with a key of its own: the k-th has `fold_in(key, k)`, counted from 0.

    So an augmentation added at the end leaves what the others draw unchanged.

    Args:
        *augments: From this module, or any function `(key, (x, y)) -> (x, y)`.

    Returns:
        `augment(key, (x, y)) -> (x, y)`; of none, the identity.

    Raises:
        TypeError: One is not a function, or returns something else than a pair.

    Example:
        >>> augment = chain(random_flip(), random_crop(4), mixup(0.2, classes=10))
        >>> x, y = jax.jit(augment)(jax.random.key(0), (jnp.ones((8, 32, 32, 3)), jnp.arange(8)))
        >>> x.shape, y.shape
        ((8, 32, 32, 3), (8, 10))
    """
    for k, one in enumerate(augments):
        if not callable(one):
            raise TypeError(f"chain: argument {k} is {one!r}, expected a function (key, (x, y)) -> (x, y)")

    def augment(key, batch):
        for k, one in enumerate(augments):
            batch = one(jax.random.fold_in(key, k), batch)
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                name = getattr(one, "__qualname__", repr(one))
                raise TypeError(f"chain: argument {k}, {name}, returned a {type(batch).__name__}; expected a pair (x, y)")
        return tuple(batch)

    return augment


# What the functions share. Draws are one for each sample; masks and indices run over one axis of the images each.


def _range(n: int) -> jax.Array:
    return jnp.arange(n, dtype=jnp.int32)


def _pixels(x: jax.Array, rows: jax.Array, columns: jax.Array, images: jax.Array | None = None) -> jax.Array:
    """x[images, rows, columns], all of them inside; rows (1 or n, H'), columns (1 or n, W'), images (n, H', W') or own."""
    images = _range(len(x))[:, None, None] if images is None else images
    return x.at[images, rows[:, :, None], columns[:, None]].get(mode="promise_in_bounds")  # (n, H', W', channels)


def _source(start: jax.Array, length: int, cut: int, padding: int, mode: str) -> jax.Array:
    """Where each of `cut` pixels of an axis comes from, for a window at `start` of the padded axis: (n, cut), −1 if nowhere."""
    zeros = mode == "zeros"
    table = np.pad(np.arange(length), padding, **({"constant_values": -1} if zeros else {"mode": mode}))
    place = start[:, None] + _range(cut)[None]
    return jnp.asarray(table, jnp.int32).at[place].get(mode="promise_in_bounds")


def _places(key: jax.Array, n: int, limits: Any) -> jax.Array:
    """For each limit, n whole numbers from 0 to below it, equally likely up to 2⁻²³: (limits, n)."""
    share = jax.random.uniform(key, (len(limits), n), jnp.float32)  # below 1, so that the product is below the limit
    return jnp.floor(share * jnp.asarray(limits, jnp.float32)[:, None]).astype(jnp.int32)


def _span(middle: jax.Array, size: Any, length: int) -> jax.Array:
    """Which of an axis's pixels a box of this size covers, clipped at the border: (n, length), boolean."""
    distance = _range(length)[None] - (middle[:, None] - size // 2)
    return (distance >= 0) & (distance < size)


def _partner(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """How far away in the batch each image's partner is, 1 to n − 1 (0 for a batch of one), and where, (n,)."""
    shift = jax.random.randint(key, (), min(1, n - 1), max(n, 1), jnp.int32)
    return shift, (_range(n) + shift) % n


def _if_two(shift: jax.Array, mix: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """mix(x), if there is another image. XLA stores what a conditional takes; else it would join the mixing with what
    made the batch, and make each pixel of a chain anew wherever it is read."""
    return jax.lax.cond(shift > 0, mix, lambda x: x, x)


def _symmetric_beta(key: jax.Array, alpha: Any, n: int) -> jax.Array:
    """λ ~ Beta(α, α), exactly and without rejection, for any α > 0, to an absolute precision of 2⁻²⁴.

    λ = ½ (1 + T / √(2α + T²)) for T of Student's distribution with 2α degrees of freedom, which Bailey's polar method draws
    from two uniform numbers: T² = 2α (U^(−1/α) − 1) cos² 2πV. Devroye (1996), 'Random variate generation in one line of code'.
    """
    u, v = jax.random.uniform(key, (2, n), jnp.float32)
    cosine = jnp.cos(2 * jnp.pi * v)
    squared = jnp.expm1(-jnp.log1p(-u) / jnp.asarray(alpha, jnp.float32)) * cosine**2  # T² / 2α; it may overflow to ∞
    return (1 + jnp.sign(cosine) / jnp.sqrt(1 + 1 / squared)) / 2


def _probabilities(caller: str, x: jax.Array, y: Any, classes: int) -> jax.Array:
    """Labels (n,) as one-hot rows, NaN for what is no class; probabilities (n, classes) as they are."""
    labels = jnp.asarray(y)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        if labels.shape != (len(x), classes):
            mend = f"{(len(x), classes)} for probabilities; integer labels have the shape {(len(x),)}"
            raise ValueError(f"{caller}: y is {_spell(labels)}, but images are {_spell(x)}; expected the shape {mend}")
        return labels.astype(_wide(x))
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{caller}: y is {_spell(labels)}, expected integer labels; pass y.astype(int)")
    if labels.shape != (len(x),):
        mend = "; if they are one-hot, pass y.astype(float)" if labels.shape == (len(x), classes) else ""
        raise ValueError(f"{caller}: y is {_spell(labels)}, expected integer labels of the shape {(len(x),)}{mend}")
    if len(x) and not is_tracer(y):
        lowest, highest = np.min(y), np.max(y)
        if lowest < 0 or highest >= classes:
            raise ValueError(f"{caller}: labels run from {lowest} to {highest}, expected 0 to {classes - 1}")
    labels = labels.astype(jnp.int32)[:, None]
    right = labels == _range(classes)[None]
    return jnp.where((labels >= 0) & (labels < classes), right.astype(_wide(x)), jnp.nan)


def _wide(x: jax.Array) -> Any:
    """The dtype to mix in: float64 for float64, else float32."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def _images(caller: str, batch: tuple[Any, Any]) -> tuple[jax.Array, Any]:
    x, y = batch
    x = jnp.asarray(x)
    if x.ndim != 4:
        mend = "; add the channels' axis with x[..., None]" if x.ndim == 3 else ""
        raise ValueError(f"{caller}: x is {_spell(x)}, expected images of shape (batch, height, width, channels){mend}")
    return x, y


def _check_mixing(caller: str, alpha: Any, classes: int) -> None:
    if not is_tracer(alpha) and not alpha > 0:
        raise ValueError(f"{caller}: alpha is {alpha}, expected a number above 0; to mix nothing, leave {caller} out")
    _whole(caller, "classes", classes, 1)


def _whole(caller: str, option: str, value: Any, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{caller}: {option} is {value!r}, expected a whole number")
    if value < minimum:
        raise ValueError(f"{caller}: {option} is {value}, expected at least {minimum}")
    return int(value)


def _spell(x: jax.Array) -> str:
    return f"{x.dtype}[{', '.join(map(str, x.shape))}]"
