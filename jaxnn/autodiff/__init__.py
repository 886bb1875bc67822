"""What derivatives are good for: gradients of single examples, curvature, tangent kernels.

A loss is `f(params, example) -> scalar`, `data` a pytree of arrays with a leading axis of examples, and every result a mean
over the data, unless it is per example. `example_loss` makes such a loss of a `Problem`; where outputs and loss must be
apart, functions take the `Problem` itself. All functions are pure: `jax.jit`, `vmap`, `grad` and `shard_map` apply, and inside
`shard_map` a result is that of the local examples. `where=` takes patterns of paths of the parameters that count;
`batch_size=` evaluates the data batch by batch, with the same result up to rounding.
"""

from jaxnn.autodiff.attacks import fgsm, pgd
from jaxnn.autodiff.attributions import grad_cam, integrated_gradients, occlusion, saliency, smooth_grad
from jaxnn.autodiff.clipping import Clipped, clipped_gradient
from jaxnn.autodiff.divergences import divergence, jacobian_trace
from jaxnn.autodiff.estimates import (
    Eigenpairs,
    Estimate,
    Spectrum,
    diagonal,
    eigenpairs,
    log_determinant,
    spectrum,
    trace,
)
from jaxnn.autodiff.examples import example_loss
from jaxnn.autodiff.geometry import Connection, mode_connectivity, sharpness
from jaxnn.autodiff.hypergradients import implicit, unrolled
from jaxnn.autodiff.influences import influence
from jaxnn.autodiff.kernels import kernel_predict, tangent_kernel
from jaxnn.autodiff.kronecker_factors import Kronecker, kronecker
from jaxnn.autodiff.landscapes import Landscape, loss_landscape, path_directions, random_directions
from jaxnn.autodiff.measurements import Instruments, Statistics, layer_statistics
from jaxnn.autodiff.norms import Moments, gradient_moments, gradient_norms, gradient_products
from jaxnn.autodiff.privacy import PoissonBatches, Private, poisson_batches, privacy_spent, private
from jaxnn.autodiff.products import Product, fisher, gauss_newton, hessian, solve
from jaxnn.autodiff.records import Record, Records, records
from jaxnn.autodiff.similarity import cka
from jaxnn.autodiff.uncertainty import Gaussian, Laplace, laplace

__all__ = [
    "Clipped",
    "Connection",
    "Eigenpairs",
    "Estimate",
    "Gaussian",
    "Instruments",
    "Kronecker",
    "Landscape",
    "Laplace",
    "Moments",
    "PoissonBatches",
    "Private",
    "Product",
    "Record",
    "Records",
    "Spectrum",
    "Statistics",
    "cka",
    "clipped_gradient",
    "diagonal",
    "divergence",
    "eigenpairs",
    "example_loss",
    "fgsm",
    "fisher",
    "gauss_newton",
    "grad_cam",
    "gradient_moments",
    "gradient_norms",
    "gradient_products",
    "hessian",
    "implicit",
    "influence",
    "integrated_gradients",
    "jacobian_trace",
    "kernel_predict",
    "kronecker",
    "laplace",
    "layer_statistics",
    "log_determinant",
    "loss_landscape",
    "mode_connectivity",
    "occlusion",
    "path_directions",
    "pgd",
    "poisson_batches",
    "privacy_spent",
    "private",
    "random_directions",
    "records",
    "saliency",
    "sharpness",
    "smooth_grad",
    "solve",
    "spectrum",
    "tangent_kernel",
    "trace",
    "unrolled",
]
