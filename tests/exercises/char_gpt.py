"""A small GPT learns the Zen of Python by heart, character by character, and recites it."""

import codecs
import this

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn

text = codecs.decode(this.s, "rot13")
characters = sorted(set(text))
tokens = np.array([characters.index(character) for character in text])
LENGTH = 64  # of the context
windows = np.lib.stride_tricks.sliding_window_view(tokens, LENGTH + 1)

sizes = {"features": 64, "layers": 2, "heads": 4, "context": LENGTH, "dropout": 0.0}
result = nn.fit(
    nn.models.gpt2(len(characters), **sizes),
    (windows[:, :-1], windows[:, 1:]),
    loss=nn.losses.cross_entropy,
    optimizer=optax.adamw,
    hyperparameters={"learning_rate": lambda step, steps: 1e-2 * jnp.minimum(step / 20, 1 - step / steps)},
    clip_norm=1.0,
    epochs=10,
    key=jax.random.key(0),
    metrics={"perplexity": nn.metrics.perplexity},
)
reader = nn.models.gpt2(len(characters), cache=True, **sizes)  # its state keeps what it has read
read = jax.jit(reader.apply)


def recite(prompt, length):
    """Continue the prompt by the most likely character, again and again."""
    x = jnp.array([[characters.index(character) for character in prompt]])
    _, state = reader.init(jax.random.key(0), x)
    for _ in range(length):
        logits, state = read(result.params, state, x)
        x = logits[:, -1:].argmax(-1)
        prompt += characters[x.item()]
    return prompt


recited = recite("Beautiful is ", LENGTH - 13)
print(recited)
assert recited in text
