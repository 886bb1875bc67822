"""The one style of all pictures: matplotlib's parameters while they are drawn, and colors for white and for black paper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, RED, PURPLE, GRAY = "#2f7fd1", "#e07b00", "#d9403a", "#9a67c7", "#808080"

# Classes. Found by a search that maximized the least distance in Oklab between two of them, as seen with normal vision and
# with protanopia and deuteranopia (Machado et al. 2009), among colors that stand out from white and from black.
COLORS = (
    *(BLUE, ORANGE, "#036a06", "#a9086d", "#7ab1f9"),
    *("#fb84b6", "#7140b1", "#65a974", "#9e6c8f", "#163fff"),
)
MARKERS = "osDv"

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "figure.titlesize": 13.0,
    "figure.titleweight": "bold",
    "grid.alpha": 0.3,
    "grid.color": GRAY,
    "grid.linewidth": 0.6,
    "image.cmap": "viridis",
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
}
"""Parameters of matplotlib. Colors of text and paper are not among them, so that pictures follow a dark style."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of jaxnn inside the block, or in the function that it decorates; the parameters are restored.

    Example:
        >>> from matplotlib import rcParams
        >>> with style():
        ...     rcParams["axes.titlelocation"]
        'left'
        >>> rcParams["axes.titlelocation"]
        'center'
    """
    with matplotlib_required():
        from matplotlib import rc_context
    with rc_context(STYLE):
        yield


def line_colormap() -> Any:
    """A colormap for lines: each of its colors can be read on white and on black, unlike the ends of viridis."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("lines", (BLUE, PURPLE, RED, ORANGE))


def of_class(i: int) -> dict[str, Any]:
    """The color and the marker of class i: ten colors, and further markers beyond ten classes.

    Example:
        >>> of_class(1) == {"color": ORANGE, "marker": "o"}, of_class(11) == {"color": ORANGE, "marker": "s"}
        (True, True)
    """
    return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i // len(COLORS) % len(MARKERS)]}


def grid(ax: Axes) -> None:
    """Draw faint grid lines, and remove the frame at the top and on the right."""
    ax.grid(color=STYLE["grid.color"], alpha=STYLE["grid.alpha"], linewidth=STYLE["grid.linewidth"])
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


@contextmanager
def matplotlib_required() -> Iterator[None]:
    """Around an import of matplotlib: say what to install if it is missing."""
    try:
        yield
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install matplotlib") from error
