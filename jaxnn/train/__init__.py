"""Training: pure steps, epochs and runs, and the host's loop around them."""
