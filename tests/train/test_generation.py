"""Generation of tokens, against models that read the whole sequence again, and searches written out in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
PROMPT = jnp.array([[1, 2, 0], [3, 4, 1]])
SIZES = {"features": 8, "layers": 2, "dropout": 0.0}


def models(name, vocabulary=5):
    """A model that carries the tokens seen so far, and one with the same parameters that reads whole sequences."""
    if name == "gpt2":
        pair = [nn.models.gpt2(vocabulary, heads=2, context=12, cache=cache, **SIZES) for cache in (True, False)]
    else:
        pair = [nn.models.lstm_language_model(vocabulary, stateful=stateful, **SIZES) for stateful in (True, False)]
    params, state = pair[0].init(KEY, PROMPT)
    params = jax.tree.map(lambda w: 8 * w, params)  # so that the probabilities differ
    return pair[0], params, state, jax.jit(lambda tokens: jax.nn.log_softmax(pair[1](params, tokens), -1))


def of_fixed_logits(logits):
    """A model whose logits are the same for every token."""

    def init(key, x):
        return {}, {"seen": nn.param(nn.initializers.zeros, (), jnp.int32)}

    def apply(params, state, x, *, key=None, training=False):
        return jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (*x.shape, len(logits))), {"seen": state["seen"] + 1}

    return nn.Layer(init, apply, "fixed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "lstm_language_model"])
def test_the_most_probable_token_is_that_of_the_whole_sequence(name):
    model, params, state, whole = models(name)
    tokens = np.asarray(nn.generate(model, params, state, PROMPT, 6))
    read = np.asarray(PROMPT)
    for i in range(6):
        new = np.asarray(whole(read)[:, -1]).argmax(-1)
        np.testing.assert_array_equal(tokens[:, i], new)
        read = np.concatenate([read, new[:, None]], 1)
    np.testing.assert_array_equal(tokens, nn.generate(model, params, None, PROMPT, 6))
    np.testing.assert_array_equal(tokens, jax.jit(lambda p: nn.generate(model, params, state, p, 6))(PROMPT))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "lstm_language_model"])
@pytest.mark.parametrize("end", [None, 2])
def test_a_beam_search_is_that_of_numpy(name, end):
    model, params, state, whole = models(name)
    beams, steps = 3, 5
    tokens = np.asarray(nn.generate(model, params, state, PROMPT, steps, beams=beams, end=end))
    for row, prompt in enumerate(np.asarray(PROMPT)):
        kept = [(0.0, ())]
        for _ in range(steps):
            more = []
            for score, path in kept:
                if end is not None and path[-1:] == (end,):
                    more.append((score, (*path, end)))
                    continue
                log_p = np.asarray(whole(np.array([[*prompt, *path]])))[0, -1]
                more += [(score + log_p[token], (*path, token)) for token in range(5)]
            kept = sorted(more, reverse=True)[:beams]
        assert tuple(tokens[row]) == kept[0][1]


@pytest.mark.slow
def test_as_many_beams_as_tokens_find_the_most_probable_pair():
    model, params, state, whole = models("lstm_language_model")
    tokens = np.asarray(nn.generate(model, params, state, PROMPT, 2, beams=5))
    for row, prompt in enumerate(np.asarray(PROMPT)):
        pairs = list(itertools.product(range(5), repeat=2))
        log_p = np.asarray(whole(np.array([[*prompt, *pair] for pair in pairs])))
        best = max(range(25), key=lambda i: log_p[i, 2, pairs[i][0]] + log_p[i, 3, pairs[i][1]])
        assert tuple(tokens[row]) == pairs[best]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, 5), ({"temperature": 2.0}, 5), ({"top_k": 2}, 2), ({"top_p": 0.7}, 2), ({"top_p": 0.71}, 3), ({"top_k": 9}, 5)],
)
def test_draws_follow_the_restricted_distribution(options, kept):
    p = np.array([0.2, 0.4, 0.06, 0.3, 0.04])
    expected = p ** (1 / options.get("temperature", 1.0))
    expected[np.argsort(-p)[kept:]] = 0
    expected /= expected.sum()
    tokens = nn.generate(of_fixed_logits(np.log(p)), {}, None, jnp.zeros((2000, 1), int), 10, key=KEY, **options)
    counts = np.bincount(np.asarray(tokens).ravel(), minlength=5)
    assert (counts[expected == 0] == 0).all()
    np.testing.assert_allclose(counts / 20_000, expected, atol=0.015)
    assert len({tuple(row) for row in np.asarray(tokens).T}) == 10  # each step draws anew


def test_a_sequence_that_has_ended_stays_ended():
    model = of_fixed_logits(np.log([0.3, 0.4, 0.3]))
    tokens = np.asarray(nn.generate(model, {}, None, jnp.zeros((200, 1), int), 8, key=KEY, end=1))
    ended = np.cumsum(tokens == 1, 1) > 0
    assert (tokens[ended] == 1).all()
    assert 20 < (tokens[:, 0] == 1).sum() < 180


@pytest.mark.slow
def test_errors_and_logits_that_are_nan():
    model, params, state, _ = models("gpt2")
    run = lambda prompt=PROMPT, steps=4, state=state, **options: nn.generate(model, params, state, prompt, steps, **options)  # noqa: E731
    for error, match, call in [
        (TypeError, "integer tokens", lambda: run(prompt=PROMPT.astype(float))),
        (ValueError, "shape", lambda: run(prompt=PROMPT[0])),
        (ValueError, "none of them 0", lambda: run(prompt=PROMPT[:, :0])),
        (ValueError, "pass key=", lambda: run(temperature=0.5)),
        (ValueError, "without a key", lambda: run(key=KEY, beams=2)),
        (ValueError, "top_p", lambda: run(key=KEY, top_p=1.5)),
        (ValueError, "temperature", lambda: run(key=KEY, temperature=0.0)),
        (ValueError, "at most as many beams", lambda: run(beams=6)),
        (ValueError, "one of the model's 5 tokens", lambda: run(end=5)),
        (ValueError, "one of the model's 5 tokens", lambda: run(end=5, beams=2)),
        (ValueError, "for this prompt", lambda: run(prompt=PROMPT[:1])),
        (ValueError, "longer than the model's cache", lambda: run(steps=11)),
        (ValueError, "the state carries|has no state", lambda: nn.generate(nn.dense(2), {}, {}, PROMPT, 2)),
    ]:
        with pytest.raises(error, match=match):
            call()
    jitted = np.asarray(jax.jit(lambda p: nn.generate(model, params, state, p, 11))(PROMPT))
    assert (jitted[:, :10] >= 0).all() and (jitted[:, 10] == -1).all()
