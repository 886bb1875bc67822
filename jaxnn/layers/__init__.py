"""Layers, each two short functions over `functional` and `kernels`."""
