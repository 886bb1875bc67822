"""From a search of the learning rate to a run with one cycle of it."""

import jax
import optax

import jaxnn as nn

digits, test = nn.data.split(nn.data.load("digits"))
model = nn.serial(nn.conv(32, 3), nn.relu, nn.max_pool(2), nn.flatten(), nn.dropout(0.2), nn.dense(10))
options = {"loss": nn.losses.cross_entropy, "key": jax.random.key(0)}

found = nn.find_learning_rate(model, digits, optimizer=optax.adam, **options)
print(found)


def one_cycle(step, steps):
    """Up to the peak in the first 30% of the run, and down to almost 0."""
    return nn.schedules.cosine_onecycle_schedule(steps, peak_value=found.suggestion)(step)


result = nn.fit(
    model,
    digits,
    optimizer=optax.adam,
    hyperparameters={"learning_rate": one_cycle},
    epochs=10,
    metrics={"accuracy": nn.metrics.accuracy},
    **options,
)
rates = result.history["learning_rate"]
accuracy = nn.evaluate(result, test)["accuracy"]
print(f"rates {rates[0]:.1e}, {max(rates):.1e}, {rates[-1]:.1e}; test accuracy {accuracy:.1%}")
assert rates.index(max(rates)) in (2, 3)
assert rates[-1] < rates[0] < max(rates) <= found.suggestion
assert accuracy > 0.97
