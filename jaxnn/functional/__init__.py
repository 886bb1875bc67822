"""Plain jitted functions without parameters: activations, losses, initializers, metrics and schedules."""

from jaxnn.functional import activations, initializers, losses, metrics, schedules

__all__ = ["activations", "initializers", "losses", "metrics", "schedules"]
