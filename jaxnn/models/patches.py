"""Models of images as sequences of patches: the vision transformer and the MLP-Mixer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn as nn

_exact_gelu = partial(nn.gelu, approximate=False)


def vit(
    outputs: int,
    *,
    patch_size: int = 16,
    features: int = 384,
    layers: int = 12,
    heads: int = 6,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> nn.Layer:
    """A vision transformer (Dosovitskiy et al. 2021): attention between the patches of an image and a class token.

    A linear map turns each patch into a vector; a learned class token is prepended, learned positions are added, and the
    output is computed from the class token after a stack of pre-norm blocks. The default is ViT-S/16 (Touvron et al. 2021),
    with 22,050,664 parameters for images of 224×224 and 1000 classes, as in timm. ViT-B/16 has 768 features, 12 heads and
    86,567,656 parameters.

    Args:
        outputs: The number of neurons of the output layer.
        patch_size: The side of a patch in pixels.
        features: The number of features of each patch.
        layers: The number of blocks, which are one `nn.repeat`.
        heads: The number of heads of each attention layer.
        dropout: The dropout rate on the embeddings and before each residual sum.
        attention_dropout: The dropout rate of attention weights; torchvision's `attention_dropout`.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs), for images of the size given at `init`.

    Raises:
        ValueError: If `patch_size` does not divide the sides of the image, or the image's size is not that of `init`.

    Example:
        >>> import jax, jaxnn as nn
        >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
        >>> params, state = jax.eval_shape(nn.models.vit(1000).init, jax.random.key(0), images)
        >>> nn.trees.count(params)
        22050664
    """
    init = nn.initializers.glorot_uniform()
    norm = partial(nn.layer_norm, epsilon=1e-6)
    block = nn.transformer_block(
        nn.attention(features, heads, dropout=attention_dropout, kernel_init=init),
        nn.feed_forward(features, 4 * features, activation=_exact_gelu, kernel_init=init),
        norm=norm,
        dropout=dropout,
    )
    return nn.serial(
        patches=_patches(patch_size, features),
        class_token=_class_token(),
        positions=_positions(),
        dropout=nn.dropout(dropout),
        blocks=nn.repeat(block, layers),
        norm=norm(),
        first=lambda x: x[:, 0],
        output=nn.dense(outputs, kernel_init=nn.initializers.zeros),
    )


def mlp_mixer(
    outputs: int,
    *,
    patch_size: int = 16,
    features: int = 512,
    layers: int = 8,
    token_hidden: int = 256,
    channel_hidden: int = 2048,
) -> nn.Layer:
    """The MLP-Mixer (Tolstikhin et al. 2021): MLPs over the patches and over the features, alternately.

    A block is U = X + D₁ᵀ φ(U₁ N(X)) along the patches, then U + φ(N(U) U₂) D₂ along the features, without the biases, with the
    exact GELU φ and layer norm N. The default is Mixer-S/16, with 18,528,264 parameters for images of 224×224 and 1000
    classes, as in timm (the paper's 18 million). Mixer-B/16 has 768 features, 12 layers, hidden layers of 384 and 3072
    neurons, and 59,880,472 parameters.

    Args:
        outputs: The number of neurons of the output layer.
        patch_size: The side of a patch in pixels.
        features: The number of features of each patch.
        layers: The number of blocks, which are one `nn.repeat`.
        token_hidden: The number of hidden neurons of the MLP along the patches.
        channel_hidden: The number of hidden neurons of the MLP along the features.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs), for images of the size given at `init`.

    Raises:
        ValueError: If `patch_size` does not divide the sides of the image, or the image's size is not that of `init`.

    Example:
        >>> import jax, jaxnn as nn
        >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
        >>> params, state = jax.eval_shape(nn.models.mlp_mixer(1000).init, jax.random.key(0), images)
        >>> nn.trees.count(params)
        18528264
    """
    norm = partial(nn.layer_norm, epsilon=1e-6)

    def along_patches(run, x):
        y = _exact_gelu(run("up", x.swapaxes(1, 2)))  # (batch, features, hidden)
        return run("down", y).swapaxes(1, 2)

    def block(patches):
        init = nn.initializers.glorot_uniform()
        tokens = {"up": nn.dense(token_hidden, kernel_init=init), "down": nn.dense(patches, kernel_init=init)}
        return nn.serial(
            tokens=nn.residual(norm=norm(), mlp=nn.block(along_patches, **tokens)),
            channels=nn.residual(norm=norm(), mlp=nn.feed_forward(features, channel_hidden, activation=_exact_gelu)),
        )

    return nn.serial(
        patches=_patches(patch_size, features),
        blocks=_sized(lambda x: nn.repeat(block(x.shape[1]), layers)),
        norm=norm(),
        mean=lambda x: x.mean(1),
        output=nn.dense(outputs, kernel_init=nn.initializers.zeros),
    )


def _sized(make: Callable[[Any], nn.Layer]) -> nn.Layer:
    """The layer that `make` returns for the shape of the input."""

    def init(key, x):
        return make(x).init(key, x)

    def apply(params, state, x, *, key=None, training=False):
        return make(x).apply(params, state, x, key=key, training=training)

    return nn.Layer(init, apply, "sized", setup=lambda x: make(x).setup(x))


def _patches(size: int, features: int) -> nn.Layer:
    """(batch, height, width, channels) to (batch, patches, features)."""

    def patches(run, x):
        if x.ndim != 4 or x.shape[1] % size or x.shape[2] % size:
            raise ValueError(
                f"expected images (batch, height, width, channels) with sides divisible by {size}, got {list(x.shape)}"
            )
        y = run("embedding", x)
        return y.reshape(y.shape[0], -1, features)

    init = nn.initializers.lecun_normal()
    return nn.block(patches, embedding=nn.conv(features, (size, size), strides=size, padding="VALID", kernel_init=init))


def _class_token() -> nn.Layer:
    """A learned vector that is prepended to the sequence."""

    def init(key, x):
        return {"embedding": nn.param(nn.initializers.zeros, x.shape[-1:])}

    def apply(params, x):
        token = jnp.broadcast_to(params["embedding"].astype(x.dtype)[None, None], (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate([token, x], axis=1)

    return nn.stateless(init, apply, "class_token")


def _positions() -> nn.Layer:
    """One learned vector per patch; unlike in `nn.learned_positions`, the number of patches is fixed."""

    def init(key, x):
        return {"embedding": nn.param(nn.initializers.normal(0.02), x.shape[1:])}

    def apply(params, x):
        table: jax.Array = params["embedding"]
        if x.shape[1:] != table.shape:
            raise ValueError(f"the model was initialized for {table.shape[0]} positions, got an image with {x.shape[1]}")
        return x + table.astype(x.dtype)[None]

    return nn.stateless(init, apply, "positions")
