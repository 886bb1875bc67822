"""Plain jitted functions without parameters: activations, losses, initializers, metrics and schedules."""
