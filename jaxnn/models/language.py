"""Language models: GPT-2 and stacked LSTMs."""

from __future__ import annotations

import math

import jaxnn as nn


def gpt2(
    vocabulary: int = 50257,
    *,
    features: int = 768,
    layers: int = 12,
    heads: int = 12,
    context: int = 1024,
    dropout: float = 0.1,
    attention_dropout: float = 0.0,
    cache: bool = False,
) -> nn.Layer:
    """GPT-2 (Radford et al. 2019): a transformer decoder whose output is tied to its embedding.

    It has learned positions, pre-norm blocks, MLPs with four times the features and the tanh approximation of GELU, a final
    norm, and logits x Eᵀ. Weights are drawn from N(0, 0.02²); the standard deviation of those before a residual sum is
    divided by √(2 · layers). The default is the smallest of the four models, with 124,439,808 parameters as in the published
    weights (the paper says 117 million); the others have (layers, features, heads) = (24, 1024, 16), (36, 1280, 20) and
    (48, 1600, 25).

    Args:
        vocabulary: The number of tokens.
        features: The number of features of each token.
        layers: The number of blocks, which are one `nn.repeat`.
        heads: The number of heads of each attention layer.
        context: The number of positions, the length of the longest input.
        dropout: The dropout rate on the embeddings and before each residual sum.
        attention_dropout: The dropout rate of attention weights; 0.1 in the published model, where it is `attn_pdrop`.
        cache: Whether the state keeps keys and values for decoding; each input then continues the sequence.

    Returns:
        A `Layer` from integer tokens (batch, time) to logits (batch, time, vocabulary).

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> tokens = jnp.zeros((1, 8), jnp.int32)
        >>> params, state = jax.eval_shape(nn.models.gpt2().init, jax.random.key(0), tokens)
        >>> nn.trees.count(params)
        124439808

        A text is continued by `nn.generate`:

        >>> model = nn.models.gpt2(10, features=8, layers=2, heads=2, context=16, cache=True)
        >>> params, state = model.init(jax.random.key(0), tokens)
        >>> nn.generate(model, params, state, tokens, steps=4).shape
        (1, 4)
    """
    init, output_init = nn.initializers.normal(0.02), nn.initializers.normal(0.02 / math.sqrt(2 * layers))
    block = nn.transformer_block(
        nn.attention(
            features,
            heads,
            is_causal=True,
            cache=context if cache else None,
            dropout=attention_dropout,
            kernel_init=init,
            output_init=output_init,
        ),
        nn.feed_forward(features, 4 * features, kernel_init=init, output_init=output_init),
        dropout=dropout,
    )

    def gpt2(run, tokens):
        x = run("dropout", run("positions", run("embedding", tokens)))
        return nn.attend(run.params("embedding"), run("norm", run("blocks", x)))

    return nn.block(
        gpt2,
        embedding=nn.embedding(vocabulary, features, embedding_init=init),
        positions=nn.learned_positions(context, stateful=cache),
        dropout=nn.dropout(dropout),
        blocks=nn.repeat(block, layers),
        norm=nn.layer_norm(),
    )


def lstm_language_model(
    vocabulary: int, *, features: int = 650, layers: int = 2, dropout: float = 0.5, stateful: bool = False
) -> nn.Layer:
    """Stacked LSTMs that predict the next token, with dropout only between layers (Zaremba, Sutskever & Vinyals 2014).

    The default is the paper's medium model, with 19,775,200 parameters for its 10,000 words. The large model has 1500 features
    and dropout 0.65, the small model 200 features and no dropout.

    Args:
        vocabulary: The number of tokens.
        features: The number of features of the embedding and of each LSTM.
        layers: The number of LSTMs.
        dropout: The dropout rate before, between and after the LSTMs.
        stateful: Whether the carry is kept in the state, so that a text can be passed in parts, as in the paper, or continued
            by `nn.generate`.

    Returns:
        A `Layer` from integer tokens (batch, time) to logits (batch, time, vocabulary).

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> tokens = jnp.zeros((1, 8), jnp.int32)
        >>> params, state = jax.eval_shape(nn.models.lstm_language_model(10_000).init, jax.random.key(0), tokens)
        >>> nn.trees.count(params)
        19775200
    """
    layer = nn.serial(nn.dropout(dropout), nn.lstm(features, stateful=stateful))
    return nn.serial(
        nn.embedding(vocabulary, features, embedding_init=nn.initializers.uniform(-0.05, 0.05)),
        nn.repeat(layer, layers),
        nn.dropout(dropout),
        output=nn.dense(vocabulary, kernel_init=nn.initializers.fan_in_uniform()),
    )
