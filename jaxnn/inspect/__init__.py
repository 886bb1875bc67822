"""Looking inside a model without running it, and pictures of networks and of runs.

What draws needs matplotlib, takes `ax=`, and returns the axes it drew on.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from jaxnn.inspect.summary import Row, Summary, summary

if TYPE_CHECKING:
    from jaxnn.inspect.drawing import Diagram, diagram
    from jaxnn.inspect.landscapes import (
        Landscape,
        around,
        loss_landscape,
        path_directions,
        plot_landscape,
        random_directions,
    )
    from jaxnn.inspect.layer_outputs import activations
    from jaxnn.inspect.nonfinite import NonFinite, find_nonfinite, first_nonfinite_path
    from jaxnn.plots.animations import (
        Movie,
        animate_activations,
        animate_boundary,
        animate_functions,
        animate_landscape,
        animate_losses,
    )
    from jaxnn.plots.classifiers import (
        plot_calibration,
        plot_confusion_matrix,
        plot_decision_boundary,
        plot_precision_recall,
        plot_roc,
    )
    from jaxnn.plots.networks import (
        activation_statistics,
        plot_activations,
        plot_attention,
        plot_embeddings,
        plot_feature_maps,
        plot_filters,
        plot_histograms,
        plot_spectrum,
    )
    from jaxnn.plots.training import (
        plot_learning_curves,
        plot_learning_rates,
        plot_parallel_coordinates,
        plot_sweep,
    )

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

_ROOMS = {  # imported when first used; a module is not called like what is in it
    "activations": "inspect.layer_outputs",
    **dict.fromkeys(("Diagram", "diagram"), "inspect.drawing"),
    **dict.fromkeys(("NonFinite", "find_nonfinite", "first_nonfinite_path"), "inspect.nonfinite"),
    **dict.fromkeys(("Landscape", "around", "loss_landscape", "path_directions", "random_directions"), "inspect.landscapes"),
    "plot_landscape": "inspect.landscapes",
    "Movie": "plots.animations",
    "activation_statistics": "plots.networks",
    **dict.fromkeys(("plot_learning_curves", "plot_learning_rates"), "plots.training"),
    **dict.fromkeys(("plot_parallel_coordinates", "plot_sweep"), "plots.training"),
    **dict.fromkeys(("plot_calibration", "plot_confusion_matrix", "plot_decision_boundary"), "plots.classifiers"),
    **dict.fromkeys(("plot_precision_recall", "plot_roc"), "plots.classifiers"),
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'jaxnn.inspect' has no attribute {name!r}")
    room = _ROOMS.get(name, "plots.animations" if name.startswith("animate_") else "plots.networks")
    return getattr(_import_module(f"jaxnn.{room}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
