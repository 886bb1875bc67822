"""The fast lowering of an operation, chosen at trace time by backend and shape."""

from jaxnn.core.primitives import definitions
from jaxnn.kernels.attention import dot_product_attention
from jaxnn.kernels.compiler import compiler_options, jit
from jaxnn.kernels.convolution.public import conv, conv_transpose
from jaxnn.kernels.cross_entropy import linear_cross_entropy
from jaxnn.kernels.dropout import dropout
from jaxnn.kernels.linear import column_sum, linear, spread
from jaxnn.kernels.normalization import batch_norm
from jaxnn.kernels.pooling import avg_pool, lp_pool, max_pool, sum_pool
from jaxnn.kernels.recurrence import recurrence

__all__ = [
    "avg_pool",
    "batch_norm",
    "column_sum",
    "compiler_options",
    "conv",
    "conv_transpose",
    "definitions",
    "dot_product_attention",
    "dropout",
    "jit",
    "linear",
    "linear_cross_entropy",
    "lp_pool",
    "max_pool",
    "recurrence",
    "spread",
    "sum_pool",
]
