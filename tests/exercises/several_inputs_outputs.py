"""Two inputs and two outputs: from both halves of a digit, which digit it is and how much ink it took."""

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn

train, test = nn.data.split(nn.data.load("digits"))


def halves(data):
    """Inputs and targets, both dicts of arrays."""
    x = {"upper": data.x[:, :4], "lower": data.x[:, 4:]}
    return x, {"digit": data.y, "ink": data.x.mean(axis=(1, 2, 3))}


def forward(run, x):
    parts = [run("upper", x["upper"]), run("lower", x["lower"])]
    h = run("joint", jnp.concatenate(parts, axis=-1))
    return {"digit": run("digit", h), "ink": run("ink", h)[:, 0]}


model = nn.block(
    forward,
    upper=nn.serial(nn.conv(16, 3), nn.relu, nn.flatten()),
    lower=nn.serial(nn.conv(16, 3), nn.relu, nn.flatten()),
    joint=nn.serial(nn.dense(64), nn.relu),
    digit=nn.dense(10),
    ink=nn.dense(1),
)


def loss(predictions, y):
    return nn.losses.cross_entropy(predictions["digit"], y["digit"]) + 100 * nn.losses.mse(predictions["ink"], y["ink"])


result = nn.fit(
    model,
    halves(train),
    loss=loss,
    optimizer=optax.adam(1e-3),
    epochs=20,
    key=jax.random.key(0),
    metrics={
        "accuracy": lambda predictions, y: nn.metrics.accuracy(predictions["digit"], y["digit"]),
        "ink_error": lambda predictions, y: nn.losses.mae(predictions["ink"], y["ink"]),
    },
)
scores = nn.evaluate(result, halves(test))
print(scores)
assert scores["accuracy"] > 0.95
assert scores["ink_error"] < 0.4 * test.x.mean(axis=(1, 2, 3)).std()

x, y = halves(test)
predicted = nn.predict(result, x)
assert predicted["digit"].shape == (len(y["digit"]), 10) and predicted["ink"].shape == y["ink"].shape
