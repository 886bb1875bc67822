"""Fine-tuning: a network that knows the ten digits learns to tell even from odd by five images of each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn

digits, test = nn.data.split(nn.data.load("digits"))
few = np.concatenate([np.flatnonzero(digits.y == digit)[:5] for digit in range(10)])
new, new_test = (digits.x[few], digits.y[few] % 2), (test.x, test.y % 2)
options = {"loss": nn.losses.cross_entropy, "metrics": {"accuracy": nn.metrics.accuracy}, "key": jax.random.key(0)}


def network(classes):
    body = nn.serial(nn.conv(32, 3), nn.relu, nn.max_pool(2), nn.flatten(), nn.dense(64), nn.relu)
    return nn.serial(body=body, head=nn.dense(classes))


old = nn.fit(network(10), digits, optimizer=optax.adam(2e-3), epochs=10, **options)

# The body is kept, with a new head: the convolution is frozen, and the dense layer after it changes slowly.
model = network(2)
params, state = model.init(jax.random.key(1), digits.x)
params["body"] = old.params["body"]
optimizer = nn.by_path({"body/conv/*": None, "body/*": optax.adam(3e-4)}, otherwise=optax.adam(1e-2))
tuned = nn.fit(model, new, optimizer=optimizer, initial=(params, state), epochs=40, batch_size=10, **options)
scratch = nn.fit(model, new, optimizer=optax.adam(1e-3), epochs=40, batch_size=10, **options)

change = jax.tree.map(lambda new, old: jnp.abs(new - old).mean().item(), tuned.params, params)
for path, value in nn.trees.paths(change).items():
    print(f"{path:18} changed by {value:.4f}")
accuracy, without = (nn.evaluate(result, new_test)["accuracy"] for result in (tuned, scratch))
print(f"test accuracy {accuracy:.1%}, from scratch {without:.1%}")
assert change["body"]["conv"]["kernel"] == 0 < change["body"]["dense"]["kernel"] < change["head"]["kernel"]
assert accuracy > 0.9 and accuracy > without
