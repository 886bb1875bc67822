"""Tokens from a language model, one after another, in one compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn import compiled
from jaxnn._jax import is_tracer
from jaxnn.core.checks import check_key, number, whole
from jaxnn.core.layer import Layer
from jaxnn.core.text import array_text
from jaxnn.core.trees import abstract


def generate(
    model: Layer,
    params: Any,
    state: Any,
    prompt: Any,
    steps: int,
    *,
    key: jax.Array | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int | None = None,
    end: int | None = None,
) -> jax.Array:
    """Continue sequences of tokens with a language model.

    With p(v) the probabilities of the next token, softmax of the last logits, the next token is, without a key, the most
    probable one; with a key, a draw from softmax(logits / temperature), restricted to the `top_k` most probable tokens and
    then to the smallest set of them whose probabilities sum to at least `top_p` (nucleus sampling, Holtzman et al. 2020);
    with `beams`, that of the most probable sequence that a beam search finds (Graves 2012): at each step it keeps the
    `beams` most probable continuations, whose score is the sum of log p over their tokens.

    The whole loop is one program over the model's state, compiled once per shape of the prompt and number of steps.

    Args:
        model: A `Layer` from integer tokens (batch, time) to logits (batch, time, vocabulary) whose state carries the tokens
            seen so far, such as `nn.models.gpt2(cache=True)` or `nn.models.lstm_language_model(stateful=True)`. A model
            trained without that option has the same parameters.
        params: The parameters.
        state: The state before the prompt, with the batch size of the prompt; None for that of `init`.
        prompt: The tokens to continue, integers (batch, time), at least one per sequence.
        steps: The number of tokens to add.
        key: The key of the draws; None takes the most probable token.
        temperature: T > 0, by which the logits are divided; only with a key.
        top_k: The number of tokens to draw from; only with a key.
        top_p: The probability of the tokens to draw from, above 0 and at most 1; only with a key.
        beams: The number of sequences that a beam search keeps, at most the vocabulary; not with a key.
        end: A token that ends a sequence: those after it are `end` too.

    Returns:
        The new tokens, int32 (batch, steps), without the prompt. Under `jit`, −1 from where logits are NaN.

    Raises:
        TypeError: If the prompt is not an array of integers.
        ValueError: If the model has no state, a state is of another batch size, options exclude each other or are out of
            range, or the logits are NaN, as they are beyond the length of a cache.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.models.lstm_language_model(7, features=8, stateful=True)
        >>> prompt = jnp.array([[1, 2, 3], [4, 5, 6]])
        >>> params, state = model.init(jax.random.key(0), prompt)
        >>> nn.generate(model, params, state, prompt, steps=4).shape
        (2, 4)
        >>> drawn = nn.generate(model, params, state, prompt, 4, key=jax.random.key(1), temperature=0.8, top_k=3)
        >>> bool(((drawn >= 0) & (drawn < 7)).all())
        True
    """
    prompt, steps = jnp.asarray(prompt), whole("generate", "steps", steps)
    if not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise TypeError(f"generate takes a prompt of integer tokens, got {array_text(prompt)}")
    if prompt.ndim != 2 or 0 in prompt.shape:
        raise ValueError(f"generate takes a prompt of shape (batch, time), none of them 0, got {array_text(prompt)}")
    if key is None and (temperature != 1.0 or top_k is not None or top_p is not None):
        raise ValueError("generate takes temperature, top_k and top_p with a key, from which it draws: pass key=")
    if key is not None and beams is not None:
        raise ValueError("generate takes beams without a key: a beam search draws nothing")
    if key is not None:
        key, temperature = check_key(key), number("generate", "temperature", temperature, 0, above=True)
    top_k = None if top_k is None else whole("generate", "top_k", top_k)
    top_p = None if top_p is None else number("generate", "top_p", top_p, 0, 1, above=True)
    beams = None if beams is None else whole("generate", "beams", beams)
    end = None if end is None else whole("generate", "end", end, 0)
    expected = _state_of(model, prompt)
    if state is None:
        state = jax.jit(lambda: model.init(jax.random.key(0), prompt)[1])()
    elif (given := abstract(state)) != expected:
        raise ValueError(f"generate takes the state that init makes for this prompt, {expected}; got {given}")

    def make() -> Callable:
        if beams is not None:
            return partial(_beam_search, model, steps=steps, beams=beams, end=end)
        return partial(_one_by_one, model, steps=steps, top_k=top_k, end=end)

    arguments = (params, state, prompt) if beams is not None else (params, state, prompt, key, temperature, top_p)
    if any(map(is_tracer, jax.tree.leaves(arguments))):
        return make()(*arguments)
    arguments = jax.tree.map(jnp.asarray, arguments)
    program = compiled.program("generate", make, (model, steps, top_k, beams, end), arguments)
    tokens = program(*arguments)
    if (np.asarray(tokens) < 0).any():
        raise ValueError(
            "generate: logits are NaN: the parameters are, the prompt has tokens that the model does not know, or prompt and "
            f"steps, {prompt.shape[1]} + {steps} tokens, are longer than the model's cache"
        )
    return tokens


def _state_of(model: Layer, prompt: Any) -> Any:
    """The shapes of the state for a prompt.

    Raises:
        ValueError: If there is none.
    """
    _, state = jax.eval_shape(model.init, jax.random.key(0), prompt)
    if not jax.tree.leaves(state):
        raise ValueError(
            "generate needs a model whose state carries the tokens seen so far, such as gpt2(cache=True) or "
            f"lstm_language_model(stateful=True), which have the same parameters; {model.name} has no state"
        )
    return abstract(state)


def _chosen(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """The tokens, and −1 where the logits (…, vocabulary) are NaN."""
    return jnp.where(jnp.isnan(logits).any(-1), -1, tokens).astype(jnp.int32)


def _check_end(end: int | None, logits: jax.Array) -> None:
    if end is not None and end >= logits.shape[-1]:
        raise ValueError(f"generate takes end as one of the model's {logits.shape[-1]} tokens, counted from 0, got {end}")


def _after_end(token: jax.Array, before: jax.Array, end: int | None) -> jax.Array:
    return token if end is None else jnp.where(before == end, jnp.int32(end), token)


def _one_by_one(model, params, state, prompt, key, temperature, top_p, *, steps, top_k, end):
    def pick(logits, i):
        logits = logits.astype(jnp.float32)
        if key is None:
            return _chosen(logits, jnp.argmax(logits, -1))
        drawn = jax.random.categorical(jax.random.fold_in(key, i), _restricted(logits / temperature, top_k, top_p))
        return _chosen(logits, drawn)

    def step(carry, i):
        token, state = carry
        logits, state = model.apply(params, state, jnp.maximum(token, 0)[:, None])
        new = jnp.where(token < 0, -1, _after_end(pick(logits[:, -1], i), token, end))
        return (new, state), new

    logits, state = model.apply(params, state, prompt)
    _check_end(end, logits)
    first = pick(logits[:, -1], 0)
    _, others = lax.scan(step, (first, state), jnp.arange(1, steps))
    return jnp.concatenate([first[None], others]).T


def _restricted(logits: jax.Array, top_k: int | None, top_p: Any) -> jax.Array:
    """The logits, −∞ but for the tokens to draw from."""
    if top_k is not None and top_k < logits.shape[-1]:
        logits = jnp.where(logits < lax.top_k(logits, top_k)[0][..., -1:], -jnp.inf, logits)
    if top_p is not None:
        ordered = jnp.sort(logits, -1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ordered, -1), -1) - jax.nn.softmax(ordered, -1)
        last = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < last, -jnp.inf, logits)
    return logits


def _beam_search(model, params, state, prompt, *, steps, beams, end):
    batch = prompt.shape[0]
    more = jax.ShapeDtypeStruct((batch + 1, prompt.shape[1]), prompt.dtype)
    shapes = zip(*(jax.tree.leaves(_state_of(model, each)) for each in (prompt, more)), strict=True)
    axes = [[i for i, (n, m) in enumerate(zip(a.shape, b.shape, strict=True)) if n != m] for a, b in shapes]

    def of_samples(function: Callable, state: Any) -> Any:
        """A state whose leaves are `function(leaf, axis)` where they have an axis of samples."""
        leaves = zip(jax.tree.leaves(state), axes, strict=True)
        changed = [function(leaf, *axis) if axis else leaf for leaf, axis in leaves]
        return jax.tree.unflatten(jax.tree.structure(state), changed)

    def scored(logits):
        logits = logits[:, -1].astype(jnp.float32)
        return jnp.where(jnp.isnan(logits).any(-1, keepdims=True), jnp.nan, jax.nn.log_softmax(logits, -1))

    def step(carry, i):
        scores, tokens, state = carry  # (batch, beams), (batch, beams, steps)
        last = lax.dynamic_index_in_dim(tokens, i - 1, 2, keepdims=False)
        logits, state = model.apply(params, state, last.reshape(-1, 1))
        added = scored(logits).reshape(batch, beams, -1)
        vocabulary = added.shape[-1]
        if end is not None:  # a sequence that has ended continues in one way, which costs nothing
            only = jnp.where(jnp.arange(vocabulary) == end, 0.0, -jnp.inf)
            added = jnp.where((last == end)[..., None], only, added)
        scores, flat = lax.top_k((scores[..., None] + added).reshape(batch, -1), beams)
        beam = flat // vocabulary
        rows = (jnp.arange(batch, dtype=beam.dtype)[:, None] * beams + beam).reshape(-1)
        state = of_samples(lambda leaf, axis: jnp.take(leaf, rows, axis), state)
        tokens = jnp.take_along_axis(tokens, beam[..., None], 1).at[:, :, i].set((flat % vocabulary).astype(jnp.int32))
        return (scores, tokens, state), None

    logits, state = model.apply(params, state, prompt)
    _check_end(end, logits)
    first = scored(logits)
    if beams > first.shape[-1]:
        raise ValueError(f"generate takes at most as many beams as there are tokens, {first.shape[-1]}, got {beams}")
    scores, token = lax.top_k(first, beams)
    tokens = jnp.zeros((batch, beams, steps), jnp.int32).at[:, :, 0].set(token.astype(jnp.int32))
    state = of_samples(lambda leaf, axis: jnp.repeat(leaf, beams, axis), state)
    (scores, tokens, _), _ = lax.scan(step, (scores, tokens, state), jnp.arange(1, steps))
    best = jnp.argmax(scores, 1)
    return jnp.where(jnp.isnan(scores).any(1)[:, None], -1, jnp.take_along_axis(tokens, best[:, None, None], 1)[:, 0])
