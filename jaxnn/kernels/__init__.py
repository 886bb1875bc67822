"""The fast lowering of an operation, chosen at trace time by backend and shape."""

from jaxnn.kernels.compiler import compiler_options, jit
from jaxnn.kernels.convolution import conv
from jaxnn.kernels.pooling import avg_pool, max_pool

__all__ = ["avg_pool", "compiler_options", "conv", "jit", "max_pool"]
