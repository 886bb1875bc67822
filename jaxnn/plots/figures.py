"""Figures of a training run, made with matplotlib's object interface only: no global state, no window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.plots.style import BLUE, GRAY, ORANGE, RED, grid, matplotlib_required, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_TRAINING, _VALIDATION, _WRONG, _RIGHT = BLUE, ORANGE, RED, GRAY
_COLUMNS, _ROWS = 10, 3  # of images

History = Mapping[str, Sequence[float]]


def new_figure(width: float = 10.0, height: float = 8.0) -> Figure:
    """An empty figure of `width` × `height` inches; `figure.savefig(path)` writes it.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        >>> new_figure(4, 3).get_size_inches().tolist()
        [4.0, 3.0]
    """
    with matplotlib_required():
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    return Figure(figsize=(width, height), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))


@style()
def classification_figure(
    history: History,
    x: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    title: str,
    kept: int | None = None,
) -> Figure:
    """Loss and accuracy curves, and below them predictions for images or the confusion matrix for other inputs.

    Args:
        history: Lists with one value per epoch: `loss` and `accuracy`, and optionally `val_loss` and `val_accuracy`.
        x: The inputs of the test set: gray or RGB images `(N, height, width, 1 or 3)`, or anything else.
        predicted: The predicted labels, `(N,)`.
        labels: The true labels, `(N,)`.
        classes: The names of the classes.
        title: The title of the figure.
        kept: The epoch whose parameters were kept, which is marked; none by default.

    Returns:
        The figure.

    Example:
        >>> history = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.9]}
        >>> figure = classification_figure(history, np.zeros((2, 8, 8, 1)), [0, 0], [0, 1], ["a", "b"], title="tiny")
        >>> figure.savefig("tiny.png")  # doctest: +SKIP
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    figure = new_figure()
    figure.suptitle(title)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1, 1.25])
    loss, accuracy = halves[0].subplots(1, 2)
    plot_curves(loss, history, "loss", log=True, kept=kept)
    plot_curves(accuracy, history, "accuracy", kept=kept)
    if x.ndim == 4 and x.shape[-1] in (1, 3):
        plot_predictions(halves[1], x, predicted, labels, classes)
    else:
        plot_confusion(halves[1].subplots(), predicted, labels, classes)
    return figure


@style()
def regression_figure(
    history: History, predicted: np.ndarray, targets: np.ndarray, *, title: str, kept: int | None = None
) -> Figure:
    """The loss curve, and next to it the predictions for the test set over the targets.

    Args:
        history: Lists with one value per epoch: `loss`, and optionally `val_loss`.
        predicted: The predictions, `(N,)` or `(N, 1)`.
        targets: The targets, of the same shape.
        title: The title of the figure.
        kept: The epoch whose parameters were kept, which is marked; none by default.

    Returns:
        The figure.

    Example:
        >>> figure = regression_figure({"loss": [1.0, 0.5]}, np.arange(3.0), np.arange(3.0), title="exact")
        >>> len(figure.axes)
        2
    """
    figure = new_figure(10.0, 4.8)
    figure.suptitle(title)
    loss, scatter = figure.subplots(1, 2)
    plot_curves(loss, history, "loss", kept=kept)
    plot_truth(scatter, predicted, targets)
    return figure


@style()
def history_figure(history: History, names: Sequence[str]) -> Figure:
    """One panel per name with the curves of `plot_curves`.

    Args:
        history: Lists with one value per epoch.
        names: The columns to draw, without the prefix `val_`.

    Returns:
        The figure.

    Example:
        >>> history = {"loss": [1.0, 0.5], "val_loss": [1.0, 0.75], "accuracy": [0.5, 0.75]}
        >>> len(history_figure(history, ["loss", "accuracy"]).axes)
        2
    """
    columns = min(len(names), 3 if len(names) != 4 else 2)
    rows = -(-len(names) // columns)
    figure = new_figure(0.6 + 4.4 * columns, 3.4 * rows)
    for number, name in enumerate(names, 1):
        plot_curves(figure.add_subplot(rows, columns, number), history, name, log=name in ("loss", "learning_rate"))
    return figure


@style()
def plot_curves(axes: Axes, history: History, name: str, *, log: bool = False, kept: int | None = None) -> None:
    """Draw `history[name]` and `history["val_" + name]`, one of which may be missing, over the epochs.

    Missing and non-finite values are skipped. With `log`, the scale is logarithmic if the values span more than two decades.
    `kept` is an epoch to mark.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    drawn = {}
    for key, label, color in ((name, "training", _TRAINING), (f"val_{name}", "validation", _VALIDATION)):
        values = np.asarray(list(history.get(key, ())), float)
        epochs = np.asarray(history.get("epoch", np.arange(1, len(values) + 1)))
        shown = np.isfinite(values)
        if shown.any():
            marker = "o" if shown.sum() <= 10 else None
            axes.plot(epochs[shown], values[shown], color=color, marker=marker, markersize=4, label=label)
            drawn[key] = values[shown]
    both = np.concatenate(list(drawn.values())) if drawn else np.zeros(1)
    if log and both.max() > 100 * both.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if both.max() < 1e4 * both.min() else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title(name if name in drawn else f"val_{name}")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid(axes)
    if kept is not None:
        axes.axvline(kept, color=GRAY, linewidth=1, linestyle="--", label=f"kept: epoch {kept}")
    if len(drawn) == 2 or kept is not None:
        axes.legend()


@style()
def plot_predictions(
    figure: Figure | SubFigure, images: np.ndarray, predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> None:
    """Draw up to 30 images with their classes; wrong predictions come first, framed, and take at most two thirds.

    They take more if there are not enough right predictions to fill the rest.
    """
    wrong, right = np.flatnonzero(labels != predicted), np.flatnonzero(labels == predicted)
    room = _ROWS * _COLUMNS
    shown = [*wrong[: max(2 * room // 3, room - len(right))], *right][:room]
    figure.suptitle(
        f"{len(wrong)} of {len(labels)} test images predicted wrong; those shown are framed", fontsize=11, fontweight="normal"
    )
    low, high = float(images.min()), float(images.max())
    panels: Any = figure.subplots(_ROWS, _COLUMNS)
    for axes, index in zip(panels.flat, shown, strict=False):
        image = (images[index] - low) / max(high - low, 1e-12)
        axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray_r", vmin=0, vmax=1)
        true, prediction = classes[int(labels[index])], classes[int(predicted[index])]
        is_wrong = labels[index] != predicted[index]
        title = f"{true}\npredicted {prediction}" if is_wrong else true
        axes.set_title(title, loc="center", fontsize=7, pad=3, color=_WRONG if is_wrong else _RIGHT)
        for spine in axes.spines.values():
            spine.set(color=_WRONG if is_wrong else "#dddddd", linewidth=2 if is_wrong else 0.8)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()


@style()
def plot_confusion(axes: Axes, predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Draw the number of samples of each true class (rows) predicted as each class (columns), shaded by share of the row."""
    counts = confusion(predicted, labels, len(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_title("confusion matrix of the test set")
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= 20:
        longest = max(map(len, classes))
        rotated: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        is_rotated = longest > 12 or (longest > 2 and len(classes) > 8)
        axes.set_xticks(range(len(classes)), classes, fontsize=8, **(rotated if is_rotated else {}))
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
        for row, column in np.ndindex(counts.shape):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=color)


@style()
def plot_truth(axes: Axes, predicted: np.ndarray, targets: np.ndarray) -> None:
    """Draw predictions over targets, with the line on which both are equal."""
    targets, predicted = np.ravel(targets), np.ravel(predicted)
    ends = [min(targets.min(), predicted.min()), max(targets.max(), predicted.max())]
    axes.plot(ends, ends, color=_RIGHT, linewidth=1, linestyle="--", label="exact")
    axes.scatter(targets, predicted, s=18, alpha=0.6, color=_TRAINING, edgecolors="none")
    axes.set_title("test set")
    axes.set(xlabel="true", ylabel="predicted", aspect="equal")
    grid(axes)
    axes.legend()


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count the samples of each true class (rows) that are predicted as each class (columns).

    Example:
        >>> confusion([0, 1, 1], [0, 0, 1], 2).tolist()
        [[1, 1], [0, 1]]
    """
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (np.asarray(labels), np.asarray(predicted)), 1)
    return counts
