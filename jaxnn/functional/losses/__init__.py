"""Losses, called as `loss(predictions, targets, *, where=None, weights=None, reduction="mean")`.

All losses follow these rules:

- Different shapes raise an error that names both: nothing is broadcast.
- `where` is a boolean mask with exactly the shape of the unreduced loss. Masked elements count neither in the sum nor in
  the mean's denominator, and a NaN among them reaches neither the value nor the gradient.
- `weights` are nonnegative numbers of the same shape; each multiplies its loss. The mean is Σ wᵢ lᵢ / Σ wᵢ, so a weight of
  2 is equivalent to a duplicated sample, and a sample of weight 0 is absent, even if its loss is infinite or NaN. Keras's
  default, the weighted sum over n, is `reduction="sum"` divided by n. Cross-entropies also take `class_weights`, PyTorch's
  `weight=`.
- `reduction` is `"mean"` over the unmasked elements (0 if there are none), `"sum"`, or `"none"`, which returns the
  unreduced loss, weighted, with 0 where `where` is False.
- Under `where` or `weights`, what trains and evaluates takes means over batches, and over the parts of `accumulate`, that
  are weighted by the denominator, so they are the means over all unmasked elements. It finds the denominator in the program
  of any function that calls one such loss; a function that adds several of them, or computes such a mean itself, says what
  counts by returning `(sum, weight)` in place of the mean.
- Sums are computed and returned in the predictions' precision, but at least in float32.
- Invalid targets, such as a label that is not a class, raise a ValueError. Under `jit` or `vmap` their values are not
  known and nothing can be raised: the loss *and its gradient* are NaN for these samples.

Names in other libraries: PyTorch's `nll_loss` and optax's `ranking_softmax_loss` and `safe_softmax_cross_entropy` are
`cross_entropy`, which also accepts logarithms of probabilities, relevances and excluded classes; a triplet loss with any
distance is `margin_ranking`; optax's `l2_loss` is half of `mse`, and its divergences of unnormalized distributions are
`poisson_nll` plus a constant.

Some losses take arrays other than predictions and targets, such as `triplet_margin(anchors, positives, negatives)`; their
docstrings state the shape of the unreduced loss.
"""

from jaxnn.core.foreign_names import no_attribute
from jaxnn.functional.losses.classification import (
    binary_cross_entropy,
    cross_entropy,
    multilabel_soft_margin,
)
from jaxnn.functional.losses.embeddings import circle, info_nce, nt_xent
from jaxnn.functional.losses.focusing import (
    binary_focal,
    binary_sparsemax,
    focal,
    generalized_cross_entropy,
    poly_cross_entropy,
    sparsemax,
)
from jaxnn.functional.losses.likelihood import gaussian_nll, kl_divergence, poisson_nll
from jaxnn.functional.losses.margins import (
    hinge,
    hinge_embedding,
    perceptron,
    soft_margin,
    squared_hinge,
)
from jaxnn.functional.losses.multiclass_margins import (
    categorical_hinge,
    multi_margin,
    multiclass_hinge,
    multiclass_perceptron,
    multilabel_margin,
)
from jaxnn.functional.losses.ranking import (
    contrastive,
    cosine_distance,
    cosine_embedding,
    margin_ranking,
    triplet_margin,
)
from jaxnn.functional.losses.regression import (
    huber,
    log_cosh,
    mae,
    mape,
    mse,
    msle,
    quantile,
    smooth_l1,
)
from jaxnn.functional.losses.segmentation import dice, jaccard, tversky
from jaxnn.functional.losses.sequence import ctc

__all__ = [
    "binary_cross_entropy",
    "binary_focal",
    "binary_sparsemax",
    "categorical_hinge",
    "circle",
    "contrastive",
    "cosine_distance",
    "cosine_embedding",
    "cross_entropy",
    "ctc",
    "dice",
    "focal",
    "gaussian_nll",
    "generalized_cross_entropy",
    "hinge",
    "hinge_embedding",
    "huber",
    "info_nce",
    "jaccard",
    "kl_divergence",
    "log_cosh",
    "mae",
    "mape",
    "margin_ranking",
    "mse",
    "msle",
    "multi_margin",
    "multiclass_hinge",
    "multiclass_perceptron",
    "multilabel_margin",
    "multilabel_soft_margin",
    "nt_xent",
    "perceptron",
    "poisson_nll",
    "poly_cross_entropy",
    "quantile",
    "smooth_l1",
    "soft_margin",
    "sparsemax",
    "squared_hinge",
    "triplet_margin",
    "tversky",
]


def __getattr__(name: str):
    raise no_attribute("nn.losses", name, __all__)
