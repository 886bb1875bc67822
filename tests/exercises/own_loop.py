"""A custom training loop with `jax.value_and_grad`, for a model with batch norm and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn

train, test = nn.data.split(nn.data.load("digits"))
model = nn.serial(nn.conv(32, 3), nn.batch_norm(), nn.relu, nn.max_pool(2), nn.flatten(), nn.dropout(0.2), nn.dense(10))
optimizer = optax.adam(1e-3)


def loss(params, state, x, y, key):
    logits, state = model.apply(params, state, x, key=key, training=True)
    return nn.losses.cross_entropy(logits, y), state


@jax.jit
def step(params, state, memory, x, y, key):
    (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params, state, x, y, key)
    updates, memory = optimizer.update(gradient, memory, params)
    return optax.apply_updates(params, updates), state, memory, value


key = jax.random.key(0)
params, state = model.init(key, train.x)
memory = optimizer.init(params)
random, losses = np.random.default_rng(0), []
for epoch in range(10):
    batches = random.permutation(len(train.y))[: len(train.y) // 32 * 32].reshape(-1, 32)
    total = 0.0
    for batch in batches:
        key, dropout = jax.random.split(key)
        params, state, memory, value = step(params, state, memory, train.x[batch], train.y[batch], dropout)
        total += value
    losses.append(float(total) / len(batches))
    print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}")

logits, _ = model.apply(params, state, test.x)  # inference: the running statistics, and no dropout
accuracy = jnp.mean(logits.argmax(-1) == test.y)
print(f"test accuracy {accuracy:.1%}")
assert losses[-1] < 0.2 * losses[0]
assert accuracy > 0.97
assert nn.evaluate((model, params, state), test, metrics={"accuracy": nn.metrics.accuracy})["accuracy"] == accuracy
