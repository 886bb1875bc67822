"""The rule that says from a value's name whether smaller or larger is better."""

import inspect

import pytest

from jaxnn.core.direction import better, direction
from jaxnn.functional import losses, metrics

AMBIGUOUS = {"dice", "jaccard", "tversky"}  # the coefficient, or one minus it
SMALLER = {"calibration_error", "log_loss", "mae", "mape", "mse", "perplexity", "rmse"}
NO_SINGLE_NUMBER = {"Metric", "as_metric", "mean", "confusion_matrix"}
ARGUMENTS = {"top_k_accuracy": (5,), "f_beta": (0.5,), "mean_iou": (3,), "spearman": (8,)}


@pytest.mark.parametrize("name", losses.__all__)
def test_every_loss_is_better_when_smaller(name):
    assert better(f"{name}_loss") == better(f"val_{name}_loss_2") == "min"
    if name in AMBIGUOUS:
        assert direction(name) is None
    else:
        assert better(name) == better(f"val_{name}") == better(f"{name}_3") == "min"


@pytest.mark.parametrize("name", sorted({*metrics.__all__} - NO_SINGLE_NUMBER - {"multi_output", "weighted"}))  # of others
def test_every_metric_has_a_direction(name):
    expected = "min" if name in SMALLER else "max"
    assert better(name) == better(f"val_{name}") == expected
    metric = getattr(metrics, name)
    made = metric(*ARGUMENTS.get(name, ())) if inspect.isfunction(metric) else metric
    assert better(made.name) == expected  # such as top_5_accuracy


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("Loss", "min"),
        ("test/loss", "min"),
        ("loss_generator", "min"),
        ("loss2", "min"),
        ("error_rate", "min"),
        ("word_error", "min"),
        ("negative_log_likelihood", "min"),
        ("brier_score", "min"),
        ("accuracy_loss", "min"),
        ("cross_entropy_1", "min"),
        ("cosine_distance", "min"),
        ("fid_score", "min"),
        ("val_acc", "max"),
        ("acc5", "max"),
        ("accuracy@5", "max"),
        ("top_5_accuracy", "max"),
        ("loss_accuracy", "max"),
        ("error_correlation", "max"),
        ("f1_score", "max"),
        ("f_2", "max"),
        ("f_0.5", "max"),
        ("r2", "max"),
        ("dice_score", "max"),
        ("dice_coefficient", "max"),
        ("explained_variance", "max"),
        ("log_likelihood", "max"),
        ("neg_mean_squared_error", "max"),
        ("score", "max"),
        ("map", "max"),
    ],
)
def test_words_of_a_name(name, expected):
    assert better(name) == direction(name) == expected


UNKNOWN = ["x", "", "lossy", "glossary", "account", "heatmap", "learning_rate", "epoch", "seconds", "gradient_norm"]


@pytest.mark.parametrize("name", [*UNKNOWN, "entropy", "variance", "accuracy_std", "loss_scale", "val_dice"])
def test_unknown_names_ask_for_the_mode(name):
    assert direction(name) is None
    with pytest.raises(ValueError, match=f'^which way is better is not known for {name!r}: give mode="min" or mode="max"$'):
        better(name)
    assert better(name, "min") == "min"
    assert better(name, mode="max") == "max"


def test_the_mode_wins_and_is_checked():
    assert better("loss", "max") == "max"
    assert better("accuracy", "min") == "min"
    for mode in ("up", "", "MIN"):
        with pytest.raises(ValueError, match=f'mode is {mode!r}, expected "min" or "max"'):
            better("loss", mode)
