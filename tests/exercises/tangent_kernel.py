"""The tangent kernel of a wide network predicts what gradient descent will make of it (Jacot et al. 2018)."""

import jax
import jax.numpy as jnp

import jaxnn as nn

x = jnp.linspace(-2, 2, 9)[:, None]
y = jnp.sin(2 * x)
x_new = jnp.linspace(-1.9, 1.9, 50)[:, None]

model = nn.models.mlp([512], 1, activation=nn.tanh)
params, state = model.init(jax.random.key(0), x)


def outputs(params, x):
    """The model for one example."""
    return model(params, x[None])[0]


kernel = nn.autodiff.tangent_kernel(outputs, params, x)  # (9, 9, 1, 1)
cross = nn.autodiff.tangent_kernel(outputs, params, x_new, x)  # (50, 9, 1, 1)
predicted = model(params, x_new) + nn.autodiff.kernel_predict(kernel, cross, y - model(params, x))

# The definition: inner products of the gradients of the outputs.
gradients = jax.jacobian(model)(params, x)
rows = jnp.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(gradients)], axis=1)
assert jnp.allclose(kernel[:, :, 0, 0], rows @ rows.T, rtol=1e-4)

# The largest eigenvalue says how large a step of gradient descent may be.
rate = 1 / jnp.linalg.eigvalsh(kernel[:, :, 0, 0])[-1]
slope = jax.grad(lambda params: jnp.sum((model(params, x) - y) ** 2) / 2)
step = lambda _, params: jax.tree.map(lambda w, g: w - rate * g, params, slope(params))  # noqa: E731
trained = jax.jit(lambda params: jax.lax.fori_loop(0, 30_000, step, params))(params)

difference = jnp.abs(model(trained, x_new) - predicted).max()
moved = jnp.abs(model(params, x_new) - predicted).max()
print(f"training changes the outputs by up to {moved:.2f}, and the kernel foretells it up to {difference:.4f}")
assert difference < 0.01 * moved
