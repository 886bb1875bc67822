"""Sequence-to-sequence models: LSTMs with attention, and the transformer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn as nn


def seq2seq(
    source_vocabulary: int, target_vocabulary: int, *, features: int = 1000, layers: int = 4, dropout: float = 0.2
) -> nn.Layer:
    """An LSTM encoder and an LSTM decoder with attention (Bahdanau et al. 2015; Luong et al. 2015).

    The decoder starts from the last state of the encoder. It uses Luong's global attention with the "general" score: with
    encoder outputs s and decoder outputs h, cₜ = Σⱼ softmaxⱼ(hₜᵀ W sⱼ) sⱼ, and the logits are a linear map of
    tanh(C [cₜ; hₜ]). The default size is the paper's, with 217,032,000 parameters for two vocabularies of 50,000.

    Args:
        source_vocabulary: The number of source tokens.
        target_vocabulary: The number of target tokens.
        features: The number of features of the embeddings and of every LSTM.
        layers: The number of LSTMs in the encoder, and in the decoder.
        dropout: The dropout rate before each LSTM.

    Returns:
        A `Layer` from (source, target) to logits (batch, target time, target_vocabulary). Both are integer tokens (batch,
        time); a padded source is passed with its mask, `((tokens, mask), target)`. The target is the decoder's input: a
        start token and all tokens but the last. Padding at its end does not change earlier outputs.

    Raises:
        ValueError: If the input is neither (source, target) nor ((source, mask), target), or a size is less than 1.

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
    attention_dropout: float = 0.0,
) -> nn.Layer:
    """The transformer, encoder and decoder (Vaswani et al. 2017).

    Source, target and output share one embedding E; sinusoidal positions are added to √features · E[x]; the blocks are
    post-norm. The default is the paper's base model: the blocks have 44,138,496 parameters, as those of PyTorch's
    `nn.Transformer` (which has two more norms), and with 37,000 tokens there are 63,082,496 (65 million in the paper). The big
    model has 1024 features, 16 heads and 4096 hidden neurons.

    Args:
        vocabulary: The number of tokens, source and target together.
        features: The number of features of each token.
        layers: The number of blocks of the encoder, and of the decoder; each of the two is one `nn.repeat`.
        heads: The number of heads of each attention layer.
        hidden: The number of hidden neurons of each feed-forward layer.
        dropout: The dropout rate on the embeddings and before each residual sum.
        attention_dropout: The dropout rate of attention weights: 0 as in the paper; PyTorch's `nn.Transformer` drops them
            at the rate `dropout`.

    Returns:
        A `Layer` from (source, target) to logits (batch, target time, vocabulary). Both are integer tokens (batch, time); a
        padded source is passed with its mask, `((tokens, mask), target)`. The target is the decoder's input: a start token
        and all tokens but the last. Padding at its end does not change earlier outputs.

    Raises:
        ValueError: If the input is neither (source, target) nor ((source, mask), target), or a size is less than 1.

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

    attention = partial(nn.attention, features, heads, dropout=attention_dropout)
    return nn.block(
        transformer,
        embedding=nn.embedding(vocabulary, features, embedding_init=nn.initializers.normal(features**-0.5)),
        input=nn.serial(
            scale=nn.positionwise(lambda x: x * math.sqrt(features)),
            positions=nn.sinusoidal_positions(),
            dropout=nn.dropout(dropout),
        ),
        encoder=nn.repeat(block(attention=attention()), layers),
        decoder=nn.repeat(block(attention=attention(is_causal=True), cross=attention()), layers),
    )


def _pair(name: str, pair: Any) -> tuple[Any, jax.Array]:
    """Check a pair and return the source, with its mask if it has one, and the target."""
    target = pair[1] if isinstance(pair, tuple) and len(pair) == 2 else None
    if target is None or isinstance(target, tuple) or target.dtype == jnp.bool_:
        raise ValueError(f"{name} takes (source, target) or ((source, mask), target), where target is tokens (batch, time)")
    return pair[0], target
