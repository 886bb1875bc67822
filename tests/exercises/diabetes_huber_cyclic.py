"""Regression on the diabetes data with the Huber loss and a learning rate that goes up and down."""

import jax
import optax

import jaxnn as nn

train, test = nn.data.standardize(*nn.data.split(nn.data.load("diabetes")))
mean, std = nn.data.moments(train.y)  # the progression of the disease, a number from 25 to 346


def cycle(step, steps_per_epoch):
    """Up for four epochs, and down for four."""
    return nn.schedules.cyclic(1e-4, 5e-3, half_cycle=4 * steps_per_epoch)(step)


result = nn.fit(
    nn.models.mlp([32], 1, activation=nn.tanh, dropout=0.2),
    (train.x, (train.y - mean) / std),
    loss=nn.losses.huber,  # of the standardized targets: beyond one standard deviation the loss is linear
    optimizer=optax.adam,
    hyperparameters={"learning_rate": cycle},
    epochs=40,
    key=jax.random.key(0),
    metrics={"r2": nn.metrics.r2},
    validation=(test.x, (test.y - mean) / std),
)

rates = result.history["learning_rate"]
predicted = nn.predict(result, test.x) * std + mean
error = nn.losses.mae(predicted, test.y)
print(f"R² {result.history['val_r2'][-1]:.2f}, mean absolute error {error:.0f}, rates {min(rates):.4f} to {max(rates):.4f}")
assert result.history["val_r2"][-1] > 0.4
assert error < 0.75 * nn.losses.mae(mean + 0 * test.y, test.y)  # predicting the mean
assert rates[3] == max(rates) and rates[7] == min(rates)
