"""A generative adversarial network that learns to draw from a normal distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn

real = np.random.default_rng(0).normal(4.0, 0.5, (4096, 1)).astype(np.float32)


def adversaries(run, x):
    return run("discriminator", run("generator", x))


model = nn.block(
    adversaries,
    generator=nn.models.mlp([16], 1, activation=nn.tanh),
    discriminator=nn.models.mlp([32, 32], 1, activation=nn.leaky_relu),
)


def play(model, params, state, real, key):
    """The losses of both; each takes the other network as it is (Goodfellow et al. 2014)."""
    generator, discriminator = model.children["generator"], model.children["discriminator"]
    fake = generator(params["generator"], jax.random.normal(key, real.shape))
    on_real = discriminator(params["discriminator"], real)
    on_fake = discriminator(params["discriminator"], jax.lax.stop_gradient(fake))
    deceived = discriminator(jax.lax.stop_gradient(params["discriminator"]), fake)
    tell = nn.softplus(-on_real).mean() + nn.softplus(on_fake).mean()  # −log σ(D(x)) − log(1 − σ(D(G(z))))
    deceive = nn.softplus(-deceived).mean()  # −log σ(D(G(z)))
    return tell + deceive, (state, {"tell": tell, "deceive": deceive})


result = nn.fit(
    model,
    real,
    loss=nn.Objective(play, terms=("tell", "deceive")),
    optimizer=optax.adam(1e-3, b1=0.5),
    epochs=40,
    batch_size=64,
    key=jax.random.key(0),
)
noise = jax.random.normal(jax.random.key(1), (2000, 1))
drawn = model.children["generator"](result.params["generator"], noise)
print(f"drawn {drawn.mean():.2f} ± {drawn.std():.2f}, wanted 4.00 ± 0.50")
assert abs(drawn.mean() - 4) < 0.3
assert 0.25 < drawn.std() < 0.8
assert jnp.isfinite(drawn).all()
