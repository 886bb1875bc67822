"""Convolutions: one primitive, and its fast forms on a CPU."""
