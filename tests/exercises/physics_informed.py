"""A physics-informed network: the motion of a damped spring from its equation, without one measurement."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn

# u″ + u′/2 + 4u = 0 with u(0) = 1 and u′(0) = 0, for times from 0 to 4
model = nn.models.mlp([32, 32], 1, activation=nn.tanh, kernel_init=nn.initializers.glorot_uniform())


def equation(model, params, state, times, key):
    """The mean squared residual at the times (batch, 1), of the equation."""

    def u(t):  # this begins as it should, whatever the network says
        return 1 + jnp.tanh(t) ** 2 * model(params, t[None, None])[0, 0]

    t = times[:, 0]
    value, speed, acceleration = (jax.vmap(f)(t) for f in (u, jax.grad(u), jax.grad(jax.grad(u))))
    return jnp.mean((acceleration + speed / 2 + 4 * value) ** 2), (state, None)


result = nn.fit(
    model,
    np.linspace(0, 4, 256, dtype=np.float32)[:, None],
    loss=nn.Objective(equation),
    optimizer=optax.adam,
    hyperparameters={"learning_rate": lambda step, steps: 1e-2 * (1 - step / steps)},
    epochs=1000,
    batch_size=64,
    key=jax.random.key(0),
    progress=False,
)

t = np.linspace(0, 4, 101)
predicted = 1 + np.tanh(t) ** 2 * nn.predict(result, t[:, None].astype(np.float32))[:, 0]
omega = np.sqrt(4 - 1 / 16)
exact = np.exp(-t / 4) * (np.cos(omega * t) + np.sin(omega * t) / (4 * omega))
print(f"residual {result.history['loss'][-1]:.1e}, largest error {np.abs(predicted - exact).max():.1e}")
assert np.abs(predicted - exact).max() < 0.02
