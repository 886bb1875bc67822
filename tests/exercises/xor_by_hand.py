"""XOR by hand: weights that one can think of, and others found by gradient descent written out."""

import jax
import jax.numpy as jnp

import jaxnn as nn

x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
y = jnp.array([[0.0], [1.0], [1.0], [0.0]])

# XOR is the number of ones, less two if there are two: x₁ + x₂ − 2 max(0, x₁ + x₂ − 1).
model = nn.serial(hidden=nn.dense(2), relu=nn.relu, output=nn.dense(1))
params = {
    "hidden": {"kernel": jnp.ones((2, 2)), "bias": jnp.array([0.0, -1.0])},
    "output": {"kernel": jnp.array([[1.0], [-2.0]]), "bias": jnp.zeros(1)},
}
assert (model(params, x) == y).all()

# Gradient descent: W ← W − η ∂L/∂W.
model = nn.serial(hidden=nn.dense(8), tanh=nn.tanh, output=nn.dense(1))
params, state = model.init(jax.random.key(0), x)
gradient = jax.jit(jax.grad(lambda params: nn.losses.binary_cross_entropy(model(params, x), y)))
for _ in range(500):
    params = jax.tree.map(lambda weight, slope: weight - 0.5 * slope, params, gradient(params))

probabilities = nn.sigmoid(model(params, x))
print("probability of 1:", probabilities.round(3).ravel())
assert jnp.abs(probabilities - y).max() < 0.1
