"""A siamese network: one encoder sees two digits, and learns from "same" or "different" alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn

train, test = nn.data.split(nn.data.load("digits"))


def pairs(data, n, seed):
    """n pairs of images, half of them of the same digit, and whether they are."""
    random = np.random.default_rng(seed)
    first = random.integers(len(data.y), size=n)
    second = np.array([random.choice(np.flatnonzero((data.y == data.y[i]) == (k % 2 == 0))) for k, i in enumerate(first)])
    return (data.x[first], data.x[second]), (data.y[first] == data.y[second]).astype(np.int32)


def distance(run, x):
    a, b = run("encoder", x[0]), run("encoder", x[1])  # the same child twice shares its weights
    return jnp.sqrt(jnp.sum((a - b) ** 2, axis=-1) + 1e-6)


encoder = nn.serial(nn.conv(16, 3), nn.relu, nn.max_pool(2), nn.flatten(), nn.dense(64), nn.relu, nn.dense(8))
result = nn.fit(
    nn.block(distance, encoder=encoder),
    pairs(train, 8000, seed=0),
    loss=nn.losses.contrastive,
    optimizer=optax.adam(1e-3),
    epochs=10,
    batch_size=64,
    key=jax.random.key(0),
)

x, same = pairs(test, 1000, seed=1)
apart = nn.predict(result, x)
correct = ((apart < 0.5) == same).mean()
near, far = apart[same == 1].mean(), apart[same == 0].mean()
print(f"mean distance {near:.2f} of the same digit, {far:.2f} of different ones; {correct:.1%} told apart")
assert correct > 0.95

# The encoder was told no digit, and still its nearest neighbors are of the same one.
codes, known = (encoder(result.params["encoder"], part.x) for part in (test, train))
nearest = jnp.argmin(jnp.sum((codes[:, None] - known) ** 2, axis=-1), axis=1)
assert (train.y[nearest] == test.y).mean() > 0.95
