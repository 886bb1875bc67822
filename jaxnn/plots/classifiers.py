"""Pictures of classifiers: what is mistaken for what, thresholds, calibration, and where a class begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.plots.axes import BLUE, COLORS, GREY, axes, grid, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_confusion_matrix(labels: Any, predicted: Any, classes: Sequence[str] | int, *, ax: Axes | None = None) -> Axes:
    """How many of each true class (rows) were read as each class (columns), shaded by the share of the row.

    Args:
        labels: the true classes, integers (N,) from 0.
        predicted: the predicted ones, integers (N,), or scores (N, classes), of which the largest counts.
        classes: their names, or how many there are.
        ax: where; new axes by default.

    Returns:
        The axes.

    Raises:
        ValueError: if a label is no class, or there are not as many predictions as labels.

    Example:
        >>> ax = plot_confusion_matrix([0, 0, 1], [0, 1, 1], ["cat", "dog"])
        >>> [text.get_text() for text in ax.texts], ax.images[0].get_array().tolist()
        (['1', '1', '0', '1'], [[0.5, 0.5], [0.0, 1.0]])
    """
    from jaxnn.plots.figures import plot_confusion

    labels, predicted = np.asarray(labels), np.asarray(predicted)
    predicted = predicted.argmax(-1) if predicted.ndim == 2 else predicted
    names = [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
    _check_alike(labels, predicted)
    for what, values in (("labels", labels), ("predictions", predicted)):
        if values.size and not (values.min() >= 0 and values.max() < len(names)):
            raise ValueError(f"{what} run from {values.min()} to {values.max()}, and there are {len(names)} classes from 0 on")
    ax = axes(ax, 1.6 + 0.5 * len(names), 1.2 + 0.5 * len(names))
    plot_confusion(ax, labels, predicted, names)
    ax.set_title("confusion matrix", loc="left", fontsize=11)
    return ax


def plot_roc(labels: Any, scores: Any, *, ax: Axes | None = None) -> Axes:
    """The receiver operating characteristic: true positives over false positives as the threshold falls (Fawcett 2006).

    Args:
        labels: 0 or 1, (N,).
        scores: higher for 1, (N,): logits or probabilities.
        ax: where; new axes by default.

    Returns:
        The axes; the legend says the area under the curve, the probability that a 1 scores higher than a 0.

    Raises:
        ValueError: if labels are not both 0 and 1, or scores are not as many, or not finite.

    Example:
        >>> plot_roc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).lines[0].get_label()
        'area under the curve 0.750'
    """
    hits, alarms = _counts(labels, scores)
    true, false = hits / hits[-1], alarms / alarms[-1]
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    ax = axes(ax, 4.4, 4.2)
    ax.plot(false, true, color=BLUE, label=f"area under the curve {area:.3f}")
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    ax.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.legend(frameon=False, loc="lower right")
    grid(ax)
    return titled(ax, "ROC", "false positive rate", "true positive rate")


def plot_precision_recall(labels: Any, scores: Any, *, ax: Axes | None = None) -> Axes:
    """Precision over recall as the threshold falls, each kept until the next recall (Davis & Goadrich 2006).

    Args:
        labels: 0 or 1, (N,).
        scores: higher for 1, (N,).
        ax: where; new axes by default.

    Returns:
        The axes; the legend says the average precision Σ (Rₙ − Rₙ₋₁) Pₙ.

    Raises:
        ValueError: as `plot_roc`.

    Example:
        >>> plot_precision_recall([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).lines[0].get_label()
        'average precision 0.833'
    """
    hits, alarms = _counts(labels, scores)
    recall, precision = hits / hits[-1], hits[1:] / (hits[1:] + alarms[1:])
    average = float(np.sum(np.diff(recall) * precision))
    ax = axes(ax, 4.4, 4.2)
    precision = np.concatenate([precision[:1], precision])
    ax.step(recall, precision, where="pre", color=BLUE, label=f"average precision {average:.3f}")
    share = hits[-1] / (hits[-1] + alarms[-1])
    ax.axhline(share, color=GREY, linestyle="--", linewidth=1, label=f"chance {share:.3f}")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    ax.legend(frameon=False, loc="lower left")
    grid(ax)
    return titled(ax, "precision and recall", "recall", "precision")


def plot_calibration(labels: Any, probabilities: Any, *, bins: int = 10, ax: Axes | None = None) -> Axes:
    """How often it is true what is said with a probability (Guo et al. 2017): the diagonal is perfect.

    Args:
        labels: 0 or 1, (N,), or classes (N,) from 0.
        probabilities: of 1, (N,), or of each class, (N, classes), of which the largest is looked at.
        bins: how many equal parts [0, 1] is cut into; what lies on a border belongs to the lower one.
        ax: where; new axes by default.

    Returns:
        The axes; dots are as large as their part is full, and the legend says the expected calibration error,
        Σ (nₖ / N) |accuracyₖ − confidenceₖ|.

    Raises:
        ValueError: if shapes do not fit, or a number is no probability.

    Example:
        >>> plot_calibration([0, 1, 1, 1], [0.25, 0.25, 0.9, 0.9]).lines[0].get_label()
        'expected calibration error 0.175'
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, float)
    if probabilities.ndim == 2:
        labels, probabilities = probabilities.argmax(1) == labels, probabilities.max(1)
    _check_alike(labels, probabilities)
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError(
            f"probabilities lie in [0, 1], got {probabilities.min():.3g} to {probabilities.max():.3g}; of logits take the "
            "sigmoid or softmax first"
        )
    part = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probabilities)
    counts = np.bincount(part, minlength=bins)
    full = counts > 0
    confidence = (np.bincount(part, probabilities, bins)[full]) / counts[full]
    accuracy = (np.bincount(part, np.asarray(labels, float), bins)[full]) / counts[full]
    error = float(np.sum(counts[full] * np.abs(accuracy - confidence)) / len(labels))
    ax = axes(ax, 4.4, 4.2)
    ax.plot(confidence, accuracy, color=BLUE, label=f"expected calibration error {error:.3f}")
    ax.scatter(confidence, accuracy, s=12 + 120 * counts[full] / counts.max(), color=BLUE, zorder=3)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
    ax.set(aspect="equal", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.legend(frameon=False, loc="lower right")  # the curve of a network that is too sure runs below, at the left
    grid(ax)
    return titled(ax, "calibration", "predicted probability", "how often it is true")


def plot_decision_boundary(
    predict: Callable[[Any], Any], x: Any, labels: Any, *, points: int = 200, ax: Axes | None = None
) -> Axes:
    """Which class a model sees where, for inputs of two features.

    Args:
        predict: from inputs (n, 2) to logits, (n, classes), or (n,) or (n, 1) of two classes, such as
            `lambda x: model(params, x)`.
        x: the data, (N, 2).
        labels: their classes, integers (N,) from 0.
        points: how many points a side the plane is looked at.
        ax: where; new axes by default.

    Returns:
        The axes; the plane is coloured by class, the stronger the surer.

    Raises:
        ValueError: if the inputs do not have two features.

    Example:
        >>> ax = plot_decision_boundary(lambda x: x[:, 0] - 0.5, [[0.0, 0.0], [1.0, 1.0]], [0, 1], points=5)
        >>> ax.images[0].get_array().shape, len(ax.collections)
        ((5, 5, 4), 2)
    """
    x, labels = check_plane(x, labels)
    ax = axes(ax, 4.8, 4.2)
    extent = plane(x)
    ax.imshow(boundary_image(predict, extent, points), extent=extent, origin="lower", aspect="auto", interpolation="bilinear")
    for label in np.unique(labels):
        mine = labels == label
        color = COLORS[int(label) % len(COLORS)]
        ax.scatter(x[mine, 0], x[mine, 1], s=16, color=color, edgecolors="white", linewidths=0.5, label=str(label))
    ax.set(xlim=extent[:2], ylim=extent[2:])
    ax.legend(frameon=True, fontsize=8, title="class", title_fontsize=8)
    return titled(ax, "decision boundary", "x₀", "x₁")


def check_plane(x: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane and their classes, as arrays."""
    x, labels = np.asarray(x, float), np.asarray(labels)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"a decision boundary is drawn over two features, got inputs of shape {list(x.shape)}")
    _check_alike(labels, x[:, 0])
    return x, labels


def plane(x: np.ndarray) -> tuple[float, float, float, float]:
    """The rectangle around points, (left, right, bottom, top), with a margin."""
    low, high = x.min(0), x.max(0)
    margin = 0.12 * np.where(high > low, high - low, 1.0)
    (left, bottom), (right, top) = low - margin, high + margin
    return float(left), float(right), float(bottom), float(top)


def boundary_image(predict: Callable, extent: tuple[float, float, float, float], points: int) -> np.ndarray:
    """The classes' colours over a rectangle, (points, points, 4), opaque where the model is sure."""
    from matplotlib.colors import to_rgb

    across, up = np.linspace(*extent[:2], points), np.linspace(*extent[2:], points)
    places = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    logits = np.asarray(predict(places.astype(np.float32)), float).reshape(len(places), -1)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    colors = np.array([to_rgb(COLORS[i % len(COLORS)]) for i in range(shares.shape[1])])
    sure = (shares.max(1) - 1 / shares.shape[1]) / (1 - 1 / shares.shape[1])
    image = np.concatenate([colors[shares.argmax(1)], 0.12 + 0.48 * sure[:, None]], axis=1)
    return image.reshape(points, points, 4)


def _counts(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives for each threshold from above all scores downward; equal scores fall together."""
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    _check_alike(labels, scores)
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(f"labels are 0 and 1, and both must occur; got {np.unique(labels)[:5].tolist()}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order] == 1)[last]
    return np.append(0, hits), np.append(0, last + 1 - hits)


def _check_alike(labels: np.ndarray, others: np.ndarray) -> None:
    if labels.ndim != 1 or labels.shape != others.shape or not len(labels):
        raise ValueError(f"labels are (N,) with one prediction each, got shapes {list(labels.shape)} and {list(others.shape)}")
