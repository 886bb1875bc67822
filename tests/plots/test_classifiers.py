"""Plots of classifiers against scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot

import jaxnn as nn

sklearn_metrics = pytest.importorskip("sklearn.metrics")
LABELS = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0])
SCORES = np.array([0.1, 0.9, 0.4, 0.35, 0.8, 0.4, 0.2, 0.7, 0.95, 0.6, 0.3, 0.05])  # with a tie


def test_roc():
    ax = nn.inspect.plot_roc(SCORES, LABELS)
    false, true, _ = sklearn_metrics.roc_curve(LABELS, SCORES, drop_intermediate=False)
    np.testing.assert_allclose(ax.lines[0].get_data(), (false, true), atol=1e-12)
    assert ax.lines[0].get_label() == f"area under the curve {sklearn_metrics.roc_auc_score(LABELS, SCORES):.3f}"


def test_precision_and_recall():
    ax = nn.inspect.plot_precision_recall(jnp.asarray(SCORES), jnp.asarray(LABELS))
    precision, recall, _ = sklearn_metrics.precision_recall_curve(LABELS, SCORES)
    drawn_recall, drawn_precision = ax.lines[0].get_data()
    np.testing.assert_allclose(drawn_recall, recall[::-1], atol=1e-7)
    np.testing.assert_allclose(drawn_precision[1:], precision[::-1][1:], atol=1e-7)
    average = sklearn_metrics.average_precision_score(LABELS, np.float32(SCORES))
    assert ax.lines[0].get_label() == f"average precision {average:.3f}"


def test_calibration():
    from sklearn.calibration import calibration_curve

    ax = nn.inspect.plot_calibration(SCORES, LABELS, bins=5)
    true, predicted = calibration_curve(LABELS, SCORES, n_bins=5)
    np.testing.assert_allclose(ax.lines[0].get_data(), (predicted, true), atol=1e-12)
    of_classes = nn.inspect.plot_calibration([[0.75, 0.25], [0.25, 0.75], [0.75, 0.25]], [0, 1, 1], bins=4)
    np.testing.assert_allclose(of_classes.lines[0].get_data(), ([0.75], [2 / 3]))
    with pytest.raises(ValueError, match="sigmoid or softmax"):
        nn.inspect.plot_calibration([-1.0, 3.0], [0, 1])


def test_confusion_matrix_of_scores():
    scores = np.eye(3)[[0, 1, 2, 2, 1, 0]]
    labels = [0, 1, 2, 1, 1, 2]
    _, given = pyplot.subplots()
    ax = nn.inspect.plot_confusion_matrix(scores, labels, 3, ax=given)
    assert ax is given
    expected = sklearn_metrics.confusion_matrix(labels, scores.argmax(1))
    assert [int(text.get_text()) for text in ax.texts] == expected.ravel().tolist()
    np.testing.assert_allclose(
        ax.images[0].get_array(), sklearn_metrics.confusion_matrix(labels, scores.argmax(1), normalize="true")
    )
    with pytest.raises(ValueError, match="2 classes must be 0 to 1, got 0 to 2"):
        nn.inspect.plot_confusion_matrix(scores, labels, ["a", "b"])


def test_the_decision_boundary_lies_where_the_logit_is_zero():
    x, labels = [[0.0, 0.0], [1.0, 1.0]], [0, 1]
    for predict in (lambda x: 40 * (x[:, 0] - 0.25), lambda x: np.stack([0 * x[:, 0], 40 * (x[:, 0] - 0.25)], axis=1)):
        ax = nn.inspect.plot_decision_boundary(predict, x, labels, points=63)
        image = ax.images[0]
        left, right, _, _ = image.get_extent()
        colors = np.asarray(image.get_array())[10]
        change = np.flatnonzero((np.diff(colors[:, :3], axis=0) != 0).any(1))
        assert len(change) == 1
        assert abs(np.linspace(left, right, 63)[change[0]] - 0.25) < (right - left) / 60
        assert colors[:, 3].min() < 0.25 < 0.55 < colors[:, 3].max()
    with pytest.raises(ValueError, match="two features"):
        nn.inspect.plot_decision_boundary(predict, np.ones((2, 3)), labels)


@pytest.mark.parametrize("labels, scores, match", [
    ([0, 0], [0.1, 0.2], "both must occur"), ([0, 1], [0.1], "one prediction each"), ([0, 1], [0.1, np.nan], "1 of 2 scores"),
])  # fmt: skip
def test_invalid_inputs_raise(labels, scores, match):
    for plot in (nn.inspect.plot_roc, nn.inspect.plot_precision_recall):
        with pytest.raises(ValueError, match=match):
            plot(scores, labels)
