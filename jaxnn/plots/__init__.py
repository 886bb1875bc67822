"""Plots, drawn with matplotlib from plain arrays."""
