"""Images as sequences of patches: the vision transformer and the MLP-Mixer."""

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
) -> nn.Layer:
    """A vision transformer (Dosovitskiy et al. 2021): attention between the patches of an image and a class token.

    Each patch is one vector, by a linear map; a learned token comes before them, learned positions are added, and after
    the blocks, with the norms first, the class is read from that token. By default ViT-S/16 (Touvron et al. 2021): for
    images of 224×224 and 1000 classes 22,050,664 parameters, timm's number. ViT-B/16 has 768 features and 12 heads,
    86,567,656.

    Args:
        outputs: The neurons of the output layer.
        patch_size: The side of a patch in pixels.
        features: Of the stream.
        layers: The number of blocks, which are one `nn.repeat`.
        heads: Of each attention.
        dropout: The rate on the embeddings and on what the blocks add.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs), for the size of images it is initialized with.

    Raises:
        ValueError: If the patches do not fill the image, or the image has another size than that at `init`.

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
        nn.attention(features, heads, kernel_init=init),
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
    """The MLP-Mixer (Tolstikhin et al. 2021): perceptrons over the patches and over the features, in turn.

    U = X + D₁ᵀ φ(U₁ N(X)) along the patches, then U + φ(N(U) U₂) D₂ along the features, biases left out, φ the exact GELU,
    N layer norm. By default Mixer-S/16: for images of 224×224 and 1000 classes 18,528,264 parameters, timm's number and
    the paper's 18 million. Mixer-B/16 has 768 features, 12 layers and hidden layers of 384 and 3072: 59,880,472.

    Args:
        outputs: The neurons of the output layer.
        patch_size: The side of a patch in pixels.
        features: Of each patch.
        layers: The number of blocks, which are one `nn.repeat`.
        token_hidden: The hidden neurons along the patches.
        channel_hidden: Those along the features.

    Returns:
        A `Layer` from (batch, height, width, channels) to (batch, outputs), for the size of images it is initialized with.

    Raises:
        ValueError: If the patches do not fill the image, or the image has another size than that at `init`.

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
    """A layer made for its input's shape."""

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
                f"patches of {size}×{size} pixels fill images (batch, height, width, channels), got {list(x.shape)}"
            )
        y = run("embedding", x)
        return y.reshape(y.shape[0], -1, features)

    init = nn.initializers.lecun_normal()
    return nn.block(patches, embedding=nn.conv(features, (size, size), strides=size, padding="VALID", kernel_init=init))


def _class_token() -> nn.Layer:
    """A learned vector before the others."""

    def init(key, x):
        return {"embedding": nn.param(nn.initializers.zeros, x.shape[-1:])}

    def apply(params, x):
        token = jnp.broadcast_to(params["embedding"].astype(x.dtype)[None, None], (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate([token, x], axis=1)

    return nn.stateless(init, apply, "class_token")


def _positions() -> nn.Layer:
    """A learned vector for each place; unlike in a text, the input always has all of them."""

    def init(key, x):
        return {"embedding": nn.param(nn.initializers.normal(0.02), x.shape[1:])}

    def apply(params, x):
        table: jax.Array = params["embedding"]
        if x.shape[1:] != table.shape:
            raise ValueError(f"the model was made for {table.shape[0]} positions, got an image that makes {x.shape[1]}")
        return x + table.astype(x.dtype)[None]

    return nn.stateless(init, apply, "positions")
