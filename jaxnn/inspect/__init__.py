"""Reports on models without running them, and plots of networks, classifiers and training runs.

The plots need matplotlib, take `ax=`, and return the axes that they drew on.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from jaxnn.inspect.summary import Row, Summary, summary

if TYPE_CHECKING:
    from jaxnn.autodiff.landscapes import Landscape, around, loss_landscape, path_directions, random_directions
    from jaxnn.inspect.animations import animate_activations, animate_functions, animate_losses
    from jaxnn.inspect.boundaries import animate_boundary, plot_decision_boundary
    from jaxnn.inspect.drawing import Diagram, diagram
    from jaxnn.inspect.layer_outputs import activation_statistics, activations, plot_activations
    from jaxnn.inspect.nonfinite import NonFinite, find_nonfinite, first_nonfinite_path
    from jaxnn.plots.animations import Movie, animate_landscape
    from jaxnn.plots.classifiers import plot_calibration, plot_confusion_matrix, plot_precision_recall, plot_roc
    from jaxnn.plots.landscapes import plot_landscape
    from jaxnn.plots.networks import (
        plot_attention,
        plot_embeddings,
        plot_feature_maps,
        plot_filters,
        plot_histograms,
        plot_spectrum,
    )
    from jaxnn.plots.sweeps import plot_parallel_coordinates, plot_sweep
    from jaxnn.plots.training import plot_learning_curves, plot_learning_rates

__all__ = [
    "Diagram",
    "Landscape",
    "Movie",
    "NonFinite",
    "Row",
    "Summary",
    "activation_statistics",
    "activations",
    "animate_activations",
    "animate_boundary",
    "animate_functions",
    "animate_landscape",
    "animate_losses",
    "around",
    "diagram",
    "find_nonfinite",
    "first_nonfinite_path",
    "loss_landscape",
    "path_directions",
    "plot_activations",
    "plot_attention",
    "plot_calibration",
    "plot_confusion_matrix",
    "plot_decision_boundary",
    "plot_embeddings",
    "plot_feature_maps",
    "plot_filters",
    "plot_histograms",
    "plot_landscape",
    "plot_learning_curves",
    "plot_learning_rates",
    "plot_parallel_coordinates",
    "plot_precision_recall",
    "plot_roc",
    "plot_spectrum",
    "plot_sweep",
    "random_directions",
    "summary",
]

_MODULES = {  # imported at first use; no module has the name of a function in it
    "inspect.animations": ("animate_activations", "animate_functions", "animate_losses"),
    "inspect.boundaries": ("animate_boundary", "plot_decision_boundary"),
    "inspect.drawing": ("Diagram", "diagram"),
    "autodiff.landscapes": ("Landscape", "around", "loss_landscape", "path_directions", "random_directions"),
    "inspect.layer_outputs": ("activation_statistics", "activations", "plot_activations"),
    "inspect.nonfinite": ("NonFinite", "find_nonfinite", "first_nonfinite_path"),
    "plots.animations": ("Movie", "animate_landscape"),
    "plots.classifiers": ("plot_calibration", "plot_confusion_matrix", "plot_precision_recall", "plot_roc"),
    "plots.landscapes": ("plot_landscape",),
    "plots.networks": (
        "plot_attention", "plot_embeddings", "plot_feature_maps", "plot_filters", "plot_histograms", "plot_spectrum",
    ),
    "plots.sweeps": ("plot_parallel_coordinates", "plot_sweep"),
    "plots.training": ("plot_learning_curves", "plot_learning_rates"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'jaxnn.inspect' has no attribute {name!r}")
    return getattr(_import_module(f"jaxnn.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
