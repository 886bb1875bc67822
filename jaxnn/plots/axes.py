"""What all pictures share: colours that can be read on white and on black, axes of their own, a quiet grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, RED, GREEN, PURPLE, GREY = "#2f7fd1", "#e07b00", "#d9403a", "#2e9e5b", "#9a67c7", "#808080"
COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#b07d48", "#d662a5", GREY, "#a3a32a", "#22a7b5")


def ramp() -> Any:
    """A colormap whose every colour can be read on white and on black, as viridis's ends cannot; for lines."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ramp", (BLUE, PURPLE, RED, ORANGE))


@contextmanager
def extra() -> Iterator[None]:
    """Around an import of matplotlib: says what to install if it is missing."""
    try:
        yield
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "jaxnn[demo]"') from error


def axes(ax: Any, width: float = 5.6, height: float = 3.8) -> Axes:
    """`ax`, or the axes of a new figure, which pyplot keeps so that a notebook shows it."""
    if ax is not None:
        return ax
    with extra():
        from matplotlib import pyplot
    return pyplot.figure(figsize=(width, height), layout="constrained").subplots()


def grid(ax: Axes) -> None:
    """Faint lines, and a frame open at the top and on the right."""
    ax.grid(color=GREY, alpha=0.3, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def titled(ax: Axes, title: str, xlabel: str = "", ylabel: str = "") -> Axes:
    """A title on the left and labels."""
    ax.set_title(title, loc="left", fontsize=11)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def bar(ax: Axes, picture: Any) -> None:
    """What the colours of an image mean, beside it and as high as it, whatever room its shape leaves in the axes."""
    ax.figure.colorbar(picture, cax=ax.inset_axes((1.03, 0, 0.04, 1)))


def mosaic(ax: Axes, images: np.ndarray, *, cmap: str, symmetric: bool, columns: int | None = None) -> Any:
    """Draw (n, height, width) images, or (n, height, width, 3) colours in [0, 1], as the tiles of one picture.

    Returns matplotlib's image; values outside the tiles are transparent.
    """
    n, height, width = images.shape[:3]
    columns = columns or int(np.ceil(np.sqrt(n * height / width)))
    rows = -(-n // columns)
    tall, wide = height + max(height // 16, 1), width + max(width // 16, 1)
    color = images.ndim == 4
    whole = np.full((rows * tall - (tall - height), columns * wide - (wide - width), *((4,) if color else ())), np.nan)
    if color:
        whole[...] = 0.0  # transparent
        images = np.concatenate([images, np.ones((*images.shape[:3], 1))], axis=-1)
    for i, image in enumerate(images):
        top, left = i // columns * tall, i % columns * wide
        whole[top : top + height, left : left + width] = image
    limit = np.nanmax(np.abs(whole)) or 1.0
    limits = {"vmin": -limit, "vmax": limit} if symmetric else {}
    picture = ax.imshow(whole, cmap=cmap, interpolation="nearest", **(limits if not color else {}))  # type: ignore[arg-type]
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return picture
