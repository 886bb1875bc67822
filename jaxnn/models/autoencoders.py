"""Encoder-decoder networks: autoencoder, variational autoencoder, U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn as nn


def autoencoder(
    features: int, *, hidden: Sequence[int] = (1000, 500, 250), code: int = 30, activation: Any = nn.sigmoid
) -> nn.Layer:
    """A deep autoencoder (Hinton & Salakhutdinov 2006): an encoder to a linear code, and a decoder of the same layers.

    The output has no activation: it is the logits of data in [0, 1], with `nn.losses.binary_cross_entropy`, or values, with
    `nn.losses.mse`. The defaults are the paper's for MNIST, 784-1000-500-250-30 and back: 2,837,314 parameters.

    Args:
        features: The number of values of a sample, and of the output.
        hidden: The number of neurons of each hidden layer of the encoder; the decoder has them in reverse order.
        code: The size of the code.
        activation: The activation after each hidden layer.

    Returns:
        A `Layer` from (batch, ...) to (batch, features), with the children `encoder` and `decoder`.

    Example:
        >>> import jax, jaxnn as nn
        >>> images = jax.ShapeDtypeStruct((1, 28, 28, 1), "float32")
        >>> model = nn.models.autoencoder(784)
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), images)
        >>> nn.trees.count(params)
        2837314
    """
    init = nn.initializers.glorot_uniform()

    def stack(sizes, last):
        layers = [layer for n in sizes for layer in (nn.dense(n, kernel_init=init), activation)]
        return nn.serial(*layers, output=nn.dense(last, kernel_init=init))

    return nn.serial(nn.flatten(), encoder=stack(hidden, code), decoder=stack(hidden[::-1], features))


def vae(features: int, *, hidden: int = 500, code: int = 20, activation: Any = nn.tanh) -> nn.Layer:
    """A variational autoencoder (Kingma & Welling 2014): z ~ N(μ(x), σ(x)²), and the logits of x from z.

    Encoder and decoder have one hidden layer each, as in the paper. In training z = μ + σ ε with ε ~ N(0, 1), at inference
    z = μ. For MNIST, features=784, it has 815,824 parameters; with hidden=400 it has the 652,824 of PyTorch's example. To draw
    new samples, call the child `decoder`: `model.children["decoder"](params["decoder"], z)`.

    Args:
        features: The number of values of a sample, and of the logits.
        hidden: The number of neurons of the hidden layers.
        code: The size of z.
        activation: The activation after the hidden layers.

    Returns:
        A `Layer` from (batch, ...) to three arrays: logits (batch, features), and μ and log σ² (batch, code).

    Raises:
        ValueError: In training without a key.

    Example:
        Its loss is the negative evidence lower bound: the cross entropy of the logits plus the divergence of z from N(0, 1).

        >>> import jax, jax.numpy as jnp, jaxnn as nn, optax
        >>> def negative_elbo(model, params, state, x, key):
        ...     y, state = model.apply(params, state, x, key=key, training=key is not None)
        ...     logits, mean, log_variance = y
        ...     cost = nn.losses.binary_cross_entropy(logits, x, reduction="none").sum(-1)
        ...     divergence = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1)
        ...     return (cost + divergence).mean(), (state, logits)
        >>> result = nn.fit(
        ...     nn.models.vae(8, hidden=16, code=2), jnp.eye(8), loss=nn.Objective(negative_elbo),
        ...     optimizer=optax.adam(1e-2), epochs=20, key=jax.random.key(0), progress=False)
        >>> result.history["loss"][-1] < result.history["loss"][0]
        True
    """
    init = nn.initializers.glorot_uniform()

    def vae(run, x):
        h = run("encoder", x)
        mean, log_variance = run("mean", h), run("log_variance", h)
        return run("decoder", run("sample", (mean, log_variance))), mean, log_variance

    return nn.block(
        vae,
        encoder=nn.serial(nn.flatten(), nn.dense(hidden, kernel_init=init), activation),
        mean=nn.dense(code, kernel_init=init),
        log_variance=nn.dense(code, kernel_init=init),
        sample=_sample(),
        decoder=nn.serial(nn.dense(hidden, kernel_init=init), activation, output=nn.dense(features, kernel_init=init)),
    )


def unet(outputs: int, *, features: int = 64, depth: int = 4, padding: str = "SAME") -> nn.Layer:
    """A U-Net (Ronneberger, Fischer & Brox 2015): pooling, transposed convolutions, and skip connections between them.

    Each level has two 3×3 convolutions, with twice the features of the level above. With the defaults it has the paper's
    31,030,658 parameters for one channel and two classes; the paper's dropout is left out.

    Args:
        outputs: The number of outputs per pixel.
        features: The number of features of the first level.
        depth: The number of times that the image is halved.
        padding: The padding of the 3×3 convolutions. `"SAME"` keeps the size of the image. `"VALID"` is the paper's: it
            makes 388×388 of 572×572, and crops the skip connections.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, height', width', outputs).

    Raises:
        ValueError: If the image cannot be halved `depth` times.

    Example:
        >>> import jax, jaxnn as nn
        >>> image = jax.ShapeDtypeStruct((1, 572, 572, 1), "float32")
        >>> model = nn.models.unet(2, padding="VALID")
        >>> params, state = jax.eval_shape(model.init, jax.random.key(0), image)
        >>> nn.trees.count(params), jax.eval_shape(model, params, image).shape
        (31030658, (1, 388, 388, 2))
    """

    def convolutions(n):
        return nn.serial(nn.conv(n, (3, 3), padding=padding), nn.relu, nn.conv(n, (3, 3), padding=padding), nn.relu)

    def level(i):
        n = features * 2**i
        if i == depth:
            return convolutions(n)
        below = nn.serial(halved=_halved, inner=level(i + 1), up=nn.conv_transpose(n, 2, strides=2))
        across = nn.branch(skip=nn.identity, below=below)
        return nn.serial(down=convolutions(n), across=across, join=_joined, up=convolutions(n))

    return nn.serial(level(0), output=nn.conv(outputs, 1))


def _halved(x: jax.Array) -> jax.Array:
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(f"unet halves images at each level, which is not possible for {list(x.shape)}: pad or crop the input")
    return nn.kernels.max_pool(x, 2)


def _joined(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The center of the skip connection, concatenated with the output of the level below."""
    skip, below = pair
    top, left = ((skip.shape[i] - below.shape[i]) // 2 for i in (1, 2))
    return nn.concatenate((skip[:, top : top + below.shape[1], left : left + below.shape[2]], below))


def _sample() -> nn.Layer:
    """From (μ, log σ²) to μ + σ ε in training, to μ at inference."""

    def apply(params, state, x, *, key=None, training=False):
        mean, log_variance = x
        if not training:
            return mean, state
        if key is None:
            raise ValueError("vae draws its code in training and got no key: pass key=")
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + jnp.exp(0.5 * log_variance) * noise, state

    return nn.Layer(lambda key, x: ({}, {}), apply, "sample")
