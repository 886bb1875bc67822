"""A convolutional network for Fashion-MNIST, to 92% of the 10,000 test images."""

import jax
import optax

import jaxnn as nn

data = nn.data.load("fashion-mnist")  # 60,000 images for training, and data.test


def convolution(features):
    """A convolution with batch norm, at half the resolution."""
    return nn.serial(nn.conv(features, 3, use_bias=False), nn.max_pool(2), nn.batch_norm(), nn.relu)


model = nn.serial(convolution(32), convolution(64), convolution(128), nn.flatten(), nn.dropout(0.3), nn.dense(10))
print(nn.summary(model, data.x[:128]))

result = nn.fit(
    model,
    data,
    loss=nn.losses.cross_entropy,
    optimizer=optax.adamw,
    hyperparameters={"learning_rate": lambda step, steps: 4e-3 * (1 - step / steps)},
    epochs=6,
    batch_size=128,
    key=jax.random.key(0),
    augment=nn.data.augment.random_flip(),
    metrics={"accuracy": nn.metrics.accuracy},
)
accuracy = nn.evaluate(result, data.test)["accuracy"]
print(f"test accuracy {accuracy:.1%}")
assert accuracy >= 0.92
