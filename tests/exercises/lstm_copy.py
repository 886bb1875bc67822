"""The copy task: an LSTM reads five symbols and, after a pause, writes them down again."""

import jax
import numpy as np
import optax

import jaxnn as nn

SYMBOLS, LENGTH, PAUSE = 8, 5, 10  # token 0 is the blank, 1 to 8 are the symbols, 9 says "now"

symbols = np.random.default_rng(0).integers(1, SYMBOLS + 1, (4096, LENGTH))
x = np.zeros((len(symbols), LENGTH + PAUSE + LENGTH), int)
x[:, :LENGTH] = symbols
x[:, LENGTH + PAUSE] = SYMBOLS + 1

model = nn.serial(
    nn.embedding(SYMBOLS + 2, 16),
    nn.lstm(64),
    lambda h: h[:, -LENGTH:],  # what it says after "now"
    nn.dense(SYMBOLS + 1),
)
result = nn.fit(
    model,
    (x[:3840], symbols[:3840]),
    loss=nn.losses.cross_entropy,
    optimizer=optax.adam(1e-2),
    clip_norm=1.0,
    epochs=40,
    batch_size=128,
    key=jax.random.key(0),
    validation=(x[3840:], symbols[3840:]),
    metrics={"accuracy": nn.metrics.accuracy},
)

written = nn.predict(result, x[-3:]).argmax(-1)
for given, answer in zip(symbols[-3:], written, strict=True):
    print(given, "->", answer)
assert result.history["val_accuracy"][-1] > 0.95  # guessing is right 1 time in 8
