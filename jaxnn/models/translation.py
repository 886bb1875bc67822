"""From one sequence to another: LSTMs with attention, and the transformer."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn as nn


def seq2seq(
    source_vocabulary: int, target_vocabulary: int, *, features: int = 1000, layers: int = 4, dropout: float = 0.2
) -> nn.Layer:
    """An LSTM that reads and one that writes, which looks back by attention (Bahdanau et al. 2015; Luong et al. 2015).

    The decoder h begins with the encoder's last state. Luong's global attention, "general" score: with the encoder's
    outputs s, cₜ = Σⱼ softmaxⱼ(hₜᵀ W sⱼ) sⱼ, and the logits are those of tanh(C [cₜ; hₜ]). By default the paper's size, for
    vocabularies of 50,000 217,032,000 parameters.

    Args:
        source_vocabulary: The number of tokens read.
        target_vocabulary: The number of tokens written.
        features: Of the embeddings and of every LSTM.
        layers: The number of LSTMs in each of the two.
        dropout: The rate before each of them.

    Returns:
        A `Layer` from (source, target) to logits (batch, target time, target_vocabulary). Both are integer tokens (batch,
        time), the source, if padded, with its mask, `((tokens, mask), target)`. The target is what is written so far: a
        start token and all but the last; its padding, at the end, changes nothing before it.

    Raises:
        ValueError: If the input is neither (source, target) nor ((source, mask), target), or a size is no whole number from 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.models.seq2seq(20, 30, features=8, layers=2)
        >>> pair = jnp.zeros((2, 7), jnp.int32), jnp.zeros((2, 5), jnp.int32)
        >>> params, state = model.init(jax.random.key(0), pair)
        >>> model(params, pair).shape
        (2, 5, 30)
    """

    def stack():
        layer = nn.serial(nn.dropout(dropout), nn.lstm(features, stateful=True))
        return nn.carried(nn.repeat(layer, layers))

    def seq2seq(run, pair):
        source, target = _pair("seq2seq", pair)
        carry, memory = run("encoder", (None, run("source_embedding", source)))
        _, h = run("decoder", (carry, run("target_embedding", target)))
        s, mask = memory if isinstance(memory, tuple) else (memory, None)
        allowed = None if mask is None else mask[:, None, None]
        query, s = run("score", h)[:, :, None], s[:, :, None]  # (batch, time, one head, features)
        context = nn.kernels.dot_product_attention(query, s, s, mask=allowed, scale=1.0)[:, :, 0]
        return run("output", nn.tanh(run("combine", nn.concatenate((context, h)))))

    init = nn.initializers.glorot_uniform()
    return nn.block(
        seq2seq,
        source_embedding=nn.embedding(source_vocabulary, features, embedding_init=nn.initializers.uniform(-0.1, 0.1)),
        target_embedding=nn.embedding(target_vocabulary, features, embedding_init=nn.initializers.uniform(-0.1, 0.1)),
        encoder=stack(),
        decoder=stack(),
        score=nn.dense(features, use_bias=False, kernel_init=init),
        combine=nn.dense(features, use_bias=False, kernel_init=init),
        output=nn.dense(target_vocabulary, use_bias=False, kernel_init=init),
    )


def transformer(
    vocabulary: int,
    *,
    features: int = 512,
    layers: int = 6,
    heads: int = 8,
    hidden: int = 2048,
    dropout: float = 0.1,
) -> nn.Layer:
    """The transformer, encoder and decoder (Vaswani et al. 2017).

    One embedding E for source, target and output; sinusoidal positions are added to √features · E[x]; norms come after the
    sums. By default the paper's base model: the blocks have 44,138,496 parameters, as those of PyTorch's `nn.Transformer`
    (which adds two norms), and with 37,000 tokens there are 63,082,496, the paper's 65 million. The big model has 1024
    features, 16 heads and 4096 hidden neurons.

    Args:
        vocabulary: The number of tokens, source and target together.
        features: Of the stream.
        layers: The blocks of the encoder, and of the decoder, one `nn.repeat` each.
        heads: Of each attention.
        hidden: The neurons of each feed-forward layer.
        dropout: The rate on the embeddings and on what the blocks add.

    Returns:
        A `Layer` from (source, target) to logits (batch, target time, vocabulary). Both are integer tokens (batch, time),
        the source, if padded, with its mask, `((tokens, mask), target)`. The target is what is written so far: a start
        token and all but the last; its padding, at the end, changes nothing before it.

    Raises:
        ValueError: If the input is neither (source, target) nor ((source, mask), target), or a size is no whole number from 1.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> pair = jnp.zeros((1, 7), jnp.int32), jnp.zeros((1, 5), jnp.int32)
        >>> params, state = jax.eval_shape(nn.models.transformer(37_000).init, jax.random.key(0), pair)
        >>> nn.trees.count(params)
        63082496
    """

    def block(**options):
        mlp = nn.feed_forward(features, hidden, activation=nn.relu)
        return nn.transformer_block(mlp=mlp, pre_norm=False, dropout=dropout, **options)

    def transformer(run, pair):
        source, target = (run("input", run("embedding", tokens)) for tokens in _pair("transformer", pair))
        y, _ = run("decoder", (target, run("encoder", source)))
        return nn.attend(run.params("embedding"), y)

    causal, cross = nn.attention(features, heads, is_causal=True), nn.attention(features, heads)
    return nn.block(
        transformer,
        embedding=nn.embedding(vocabulary, features, embedding_init=nn.initializers.normal(features**-0.5)),
        input=nn.serial(
            scale=nn.positionwise(lambda x: x * math.sqrt(features)),
            positions=nn.sinusoidal_positions(),
            dropout=nn.dropout(dropout),
        ),
        encoder=nn.repeat(block(attention=nn.attention(features, heads)), layers),
        decoder=nn.repeat(block(attention=causal, cross=cross), layers),
    )


def _pair(name: str, pair: Any) -> tuple[Any, jax.Array]:
    """The source, perhaps with its mask, and the target's tokens."""
    target = pair[1] if isinstance(pair, tuple) and len(pair) == 2 else None
    if target is None or isinstance(target, tuple) or target.dtype == jnp.bool_:
        raise ValueError(f"{name} takes (source, target) or ((source, mask), target), target integer tokens (batch, time)")
    return pair[0], target
