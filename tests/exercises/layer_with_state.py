"""A custom layer with state: it subtracts a running mean of what it has seen in training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn


def center(momentum=0.9):
    def init(key, x):
        features = x.shape[-1]
        return {}, {"mean": jnp.zeros(features), "batches": jnp.zeros((), jnp.int32)}  # parameters, state

    def apply(params, state, x, *, key=None, training=False):
        if training:
            mean = momentum * state["mean"] + (1 - momentum) * x.mean(0)
            state = {"mean": mean, "batches": state["batches"] + 1}
        return x - state["mean"] / (1 - momentum ** jnp.maximum(state["batches"], 1)), state

    return nn.Layer(init, apply, "center")


random = np.random.default_rng(0)
x = random.normal(100.0, 1.0, (1024, 3)).astype(np.float32)  # far from 0
y = (x - 100.0) @ np.array([[1.0], [-2.0], [0.5]], np.float32)

result = nn.fit(
    nn.serial(center(), nn.dense(1)),
    (x, y),
    loss=nn.losses.mse,
    optimizer=optax.adam(0.05),
    epochs=20,
    key=jax.random.key(0),
)
state = result.state["center"]
mean = state["mean"] / (1 - 0.9 ** state["batches"])
print(f"loss {result.history['loss'][-1]:.4f}, mean {mean.round(2)} after {state['batches']} batches")
assert state["batches"] == 20 * 32
assert jnp.abs(mean - 100).max() < 0.3
assert nn.evaluate(result, (x, y))["loss"] < 0.1

_, same = result.model.apply(result.params, result.state, x)  # inference leaves the state as it is
assert jax.tree.all(jax.tree.map(jnp.array_equal, same, result.state))
