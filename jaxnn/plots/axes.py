"""What all plots share: new axes, a light grid, images as tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.plots.style import matplotlib_required

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes(ax: Any, width: float = 5.6, height: float = 3.8) -> Axes:
    """`ax`, or if it is None, the axes of a new figure of pyplot, which a notebook shows."""
    if ax is not None:
        return ax
    with matplotlib_required():
        from matplotlib import pyplot
    return pyplot.figure(figsize=(width, height), layout="constrained").subplots()


def titled(ax: Axes, title: str, xlabel: str = "", ylabel: str = "") -> Axes:
    """Set the title, on the left, and the labels of the axes."""
    ax.set_title(title)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def beside(entries: int) -> dict[str, Any]:
    """Options of a legend: next to the axes if it has so many entries that it would cover what is drawn."""
    return {"loc": "center left", "bbox_to_anchor": (1, 0.5), "ncols": -(-entries // 12)} if entries > 4 else {}


def colorbar(ax: Axes, image: Any) -> None:
    """Add a colorbar next to an image, as high as the image whatever its shape."""
    ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.04, 1)))


def mosaic(ax: Axes, images: np.ndarray, *, cmap: str, symmetric: bool, columns: int | None = None) -> Any:
    """Draw images as the tiles of one image.

    Args:
        ax: The axes to draw on.
        images: Images `(n, height, width)`, or `(n, height, width, 3)` with colors in [0, 1].
        cmap: The name of the colormap.
        symmetric: Whether the color scale is symmetric about 0.
        columns: The number of tiles per row.

    Returns:
        Matplotlib's image; it is transparent between the tiles.
    """
    n, height, width = images.shape[:3]
    columns = columns or int(np.ceil(np.sqrt(n * height / width)))
    rows = -(-n // columns)
    row_step, column_step = height + max(height // 16, 1), width + max(width // 16, 1)
    is_colored = images.ndim == 4
    shape = rows * row_step - (row_step - height), columns * column_step - (column_step - width)
    whole = np.full((*shape, *((4,) if is_colored else ())), np.nan)
    if is_colored:
        whole[...] = 0.0  # transparent
        images = np.concatenate([images, np.ones((*images.shape[:3], 1))], axis=-1)
    for i, image in enumerate(images):
        top, left = i // columns * row_step, i % columns * column_step
        whole[top : top + height, left : left + width] = image
    limit = np.nanmax(np.abs(whole)) or 1.0
    limits = {"vmin": -limit, "vmax": limit} if symmetric and not is_colored else {}
    drawn = ax.imshow(whole, cmap=cmap, interpolation="nearest", **limits)  # type: ignore[arg-type]
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return drawn
