"""Plots of classifiers: confusion matrices, ROC and precision-recall curves, calibration, decision boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.plots.axes import axes, beside, titled
from jaxnn.plots.figures import plot_confusion
from jaxnn.plots.style import BLUE, COLORS, GRAY, grid, of_class, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@style()
def plot_confusion_matrix(predicted: Any, labels: Any, classes: Sequence[str] | int, *, ax: Axes | None = None) -> Axes:
    """Plot the number of samples of each true class (rows) that are predicted as each class (columns).

    Args:
        predicted: The predicted classes, integers `(N,)`; or scores `(N, classes)`, of which the largest counts.
        labels: The true classes, integers `(N,)` from 0.
        classes: The names of the classes, or their number.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. Cells are shaded by their share of the row.

    Raises:
        ValueError: If a label is not a class, or the number of predictions is not the number of labels.

    Example:
        >>> ax = plot_confusion_matrix([0, 1, 1], [0, 0, 1], ["cat", "dog"])
        >>> [text.get_text() for text in ax.texts], ax.images[0].get_array().tolist()
        (['1', '1', '0', '1'], [[0.5, 0.5], [0.0, 1.0]])
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    predicted = predicted.argmax(-1) if predicted.ndim == 2 else predicted
    names = [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
    _check_lengths(predicted, labels)
    for what, values in (("labels", labels), ("predictions", predicted)):
        if values.size and not (values.min() >= 0 and values.max() < len(names)):
            raise ValueError(
                f"plot_confusion_matrix: {what} of {len(names)} classes must be 0 to {len(names) - 1}, "
                f"got {values.min()} to {values.max()}"
            )
    ax = axes(ax, 1.6 + 0.5 * len(names), 1.2 + 0.5 * len(names))
    plot_confusion(ax, predicted, labels, names)
    ax.set_title("confusion matrix")
    return ax


@style()
def plot_roc(scores: Any, labels: Any, *, ax: Axes | None = None) -> Axes:
    """Plot the receiver operating characteristic: the true over the false positive rate as the threshold falls (Fawcett 2006).

    Args:
        scores: Logits or probabilities, higher for label 1, `(N,)`.
        labels: 0 or 1, `(N,)`.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. The legend shows the area under the curve, the probability that a 1 scores higher than a 0.

    Raises:
        ValueError: If the labels are not both 0 and 1, the number of scores is not the number of labels, or a score is not
            finite.

    Example:
        >>> plot_roc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]).lines[0].get_label()
        'area under the curve 0.750'
    """
    hits, false_alarms = _counts_by_threshold(scores, labels)
    true, false = hits / hits[-1], false_alarms / false_alarms[-1]
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    ax = axes(ax, 4.4, 4.2)
    ax.plot(false, true, color=BLUE, label=f"area under the curve {area:.3f}")
    ax.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1, label="chance")
    ax.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.legend(loc="lower right")
    grid(ax)
    return titled(ax, "ROC", "false positive rate", "true positive rate")


@style()
def plot_precision_recall(scores: Any, labels: Any, *, ax: Axes | None = None) -> Axes:
    """Plot precision over recall as the threshold falls, each precision up to the next recall (Davis & Goadrich 2006).

    Args:
        scores: Logits or probabilities, higher for label 1, `(N,)`.
        labels: 0 or 1, `(N,)`.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. The legend shows the average precision Σ (Rₙ − Rₙ₋₁) Pₙ.

    Raises:
        ValueError: As for `plot_roc`.

    Example:
        >>> plot_precision_recall([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]).lines[0].get_label()
        'average precision 0.833'
    """
    hits, false_alarms = _counts_by_threshold(scores, labels)
    recall, precision = hits / hits[-1], hits[1:] / (hits[1:] + false_alarms[1:])
    average = float(np.sum(np.diff(recall) * precision))
    ax = axes(ax, 4.4, 4.2)
    precision = np.concatenate([precision[:1], precision])
    ax.step(recall, precision, where="pre", color=BLUE, label=f"average precision {average:.3f}")
    chance = hits[-1] / (hits[-1] + false_alarms[-1])
    ax.axhline(chance, color=GRAY, linestyle="--", linewidth=1, label=f"chance {chance:.3f}")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    ax.legend(loc="lower left")
    grid(ax)
    return titled(ax, "precision and recall", "recall", "precision")


@style()
def plot_calibration(probabilities: Any, labels: Any, *, bins: int = 10, ax: Axes | None = None) -> Axes:
    """Plot the accuracy over the predicted probability (Guo et al. 2017); a calibrated model lies on the diagonal.

    Args:
        probabilities: The probability of 1, `(N,)`; or of each class, `(N, classes)`, of which the largest counts.
        labels: 0 or 1, `(N,)`; or classes `(N,)` from 0.
        bins: The number of equal bins of [0, 1]. A value on a boundary belongs to the lower bin.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. The area of a dot grows with the number of samples in its bin. The legend shows the expected calibration
        error, Σ (nₖ / N) |accuracyₖ − confidenceₖ|.

    Raises:
        ValueError: If shapes do not match, or a number is not a probability.

    Example:
        >>> plot_calibration([0.25, 0.25, 0.9, 0.9], [0, 1, 1, 1]).lines[0].get_label()
        'expected calibration error 0.175'
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, float)
    if probabilities.ndim == 2:
        labels, probabilities = probabilities.argmax(1) == labels, probabilities.max(1)
    _check_lengths(probabilities, labels)
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError(
            f"plot_calibration: probabilities must lie in [0, 1], got {probabilities.min():.3g} to "
            f"{probabilities.max():.3g}; apply the sigmoid or softmax to logits first"
        )
    bin_of_sample = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probabilities)
    counts = np.bincount(bin_of_sample, minlength=bins)
    filled = counts > 0
    confidence = (np.bincount(bin_of_sample, probabilities, bins)[filled]) / counts[filled]
    accuracy = (np.bincount(bin_of_sample, np.asarray(labels, float), bins)[filled]) / counts[filled]
    error = float(np.sum(counts[filled] * np.abs(accuracy - confidence)) / len(labels))
    ax = axes(ax, 4.4, 4.2)
    ax.plot(confidence, accuracy, color=BLUE, label=f"expected calibration error {error:.3f}")
    ax.scatter(confidence, accuracy, s=12 + 120 * counts[filled] / counts.max(), color=BLUE, zorder=3)
    ax.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1, label="calibrated")
    ax.set(aspect="equal", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.legend(loc="lower right")  # the curve of an overconfident network lies below the diagonal, at the left
    grid(ax)
    return titled(ax, "calibration", "predicted probability", "observed frequency")


@style()
def plot_class_regions(
    image: np.ndarray, extent: tuple[float, float, float, float], x: np.ndarray, labels: np.ndarray, *, ax: Axes | None = None
) -> Axes:
    """Plot the colors of the predicted classes over the plane, and the samples.

    Args:
        image: The colors, as `class_colors` returns them for a grid, `(points, points, 4)`.
        extent: The rectangle of the grid, `(left, right, bottom, top)`.
        x: The samples, `(N, 2)`.
        labels: Their classes, integers `(N,)` from 0.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes.

    Example:
        >>> image, x = class_colors(np.zeros((2, 2, 3))), np.array([[0.0, 0.0], [1.0, 1.0]])
        >>> len(plot_class_regions(image, (0, 1, 0, 1), x, np.array([0, 1])).collections)
        2
    """
    ax = axes(ax, 4.8, 4.2)
    ax.imshow(image, extent=extent, origin="lower", aspect="auto", interpolation="bilinear")
    for label in np.unique(labels):
        chosen, look = x[labels == label], of_class(int(label))
        ax.scatter(chosen[:, 0], chosen[:, 1], s=16, edgecolors="white", linewidths=0.5, label=str(label), **look)
    ax.set(xlim=extent[:2], ylim=extent[2:])
    ax.legend(frameon=True, title="class", **beside(len(np.unique(labels))))
    return titled(ax, "decision boundary", "x₀", "x₁")


def class_colors(logits: np.ndarray) -> np.ndarray:
    """The color of the most probable class, the more opaque the higher its probability.

    Args:
        logits: Logits `(..., classes)`.

    Returns:
        Colors with opacity, `(..., 4)`.

    Example:
        >>> class_colors(np.array([[0.0, 0.0], [100.0, 0.0]]))[:, 3].tolist()
        [0.12, 0.6]
    """
    from matplotlib.colors import to_rgb

    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    classes = shares.shape[-1]
    colors = np.array([to_rgb(COLORS[i % len(COLORS)]) for i in range(classes)])
    certainty = (shares.max(-1) - 1 / classes) / (1 - 1 / classes)
    return np.concatenate([colors[shares.argmax(-1)], 0.12 + 0.48 * certainty[..., None]], axis=-1)


def _counts_by_threshold(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives for each threshold, from above all scores downward; equal scores share a threshold."""
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    _check_lengths(scores, labels)
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(f"labels must be 0 and 1, and both must occur; got {np.unique(labels)[:5].tolist()}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite; {int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order] == 1)[last]
    return np.append(0, hits), np.append(0, last + 1 - hits)


def _check_lengths(predictions: np.ndarray, labels: np.ndarray) -> None:
    if labels.ndim != 1 or labels.shape != predictions.shape or not len(labels):
        shapes = f"{list(labels.shape)} and {list(predictions.shape)}"
        raise ValueError(f"labels must have shape (N,), with one prediction each, got shapes {shapes}")
