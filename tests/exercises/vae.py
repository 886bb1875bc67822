"""A variational autoencoder of handwritten digits, and new digits from it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn

train, test = nn.data.split(nn.data.load("digits"))
images, test_images = train.x.reshape(-1, 64), test.x.reshape(-1, 64)  # from 0 to 1


def negative_elbo(model, params, state, x, key):
    """The cost of the pixels and the divergence of the code from N(0, 1), in nats per image (Kingma & Welling 2014)."""
    (logits, mean, log_variance), state = model.apply(params, state, x, key=key, training=key is not None)
    pixels = nn.losses.binary_cross_entropy(logits, x, reduction="none").sum(-1).mean()
    code = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1).mean()
    return pixels + code, (state, {"pixels": pixels, "code": code})


model = nn.models.vae(64, hidden=128, code=6)
result = nn.fit(
    model,
    images,
    loss=nn.Objective(negative_elbo, terms=("pixels", "code")),
    optimizer=optax.adam(2e-3),
    epochs=40,
    key=jax.random.key(0),
    validation=test_images,
)

average = np.clip(images.mean(0), 1e-3, 1 - 1e-3)
without = -(test_images * np.log(average) + (1 - test_images) * np.log(1 - average)).sum(-1).mean()
print(f"nats per test image: {without:.1f} without a code, {result.history['val_loss'][-1]:.1f} with it")
assert result.history["val_loss"][-1] < without - 1  # the code's own cost included

z = jax.random.normal(jax.random.key(1), (200, 6))
drawn = nn.sigmoid(model.children["decoder"](result.params["decoder"], z))
for row in np.asarray(drawn[:6]).reshape(6, 8, 8).transpose(1, 0, 2):
    print("  ".join("".join(" ░▒▓█"[int(4.99 * pixel)] for pixel in line) for line in row))
assert jnp.abs(drawn.mean(0) - average).mean() < 0.05  # on average like the data, and each one different
assert drawn.std(0).mean() > 0.5 * images.std(0).mean()
