"""Convolution and transposed convolution, with derivatives that stay fast on a CPU."""
