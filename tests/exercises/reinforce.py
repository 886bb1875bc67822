"""REINFORCE: a policy learns to walk to the end of a corridor, from rewards alone (Williams 1992)."""

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn

CELLS, STEPS, EPISODES = 8, 20, 64  # an episode begins in the middle and earns 1 for each step spent in the last cell

policy = nn.dense(2, kernel_init=nn.initializers.zeros)  # the logits of left and right, for a one-hot cell
see = lambda cell: jax.nn.one_hot(cell, CELLS)  # noqa: E731


def play(params, key):
    """Walk all episodes at once, and return (cells, actions, rewards), each (time, episode)."""

    def step(cell, key):
        action = jax.random.categorical(key, policy(params, see(cell)))
        following = jnp.clip(cell + 2 * action - 1, 0, CELLS - 1)
        return following, (cell, action, (following == CELLS - 1).astype(float))

    begin = jnp.full(EPISODES, CELLS // 2)
    return jax.lax.scan(step, begin, jax.random.split(key, STEPS))[1]


def loss(params, cells, actions, rewards):
    """−Σₜ log π(aₜ | sₜ) (Rₜ − b), with the returns Rₜ = Σ rₛ over s ≥ t and their mean b over the episodes."""
    returns = jnp.cumsum(rewards[::-1], axis=0)[::-1]
    advantages = returns - returns.mean(axis=1, keepdims=True)
    surprise = nn.losses.cross_entropy(policy(params, see(cells)), actions, reduction="none")  # −log π
    return (surprise * advantages).sum(axis=0).mean()


@jax.jit
def update(params, memory, key):
    cells, actions, rewards = play(params, key)
    gradient = jax.grad(loss)(params, cells, actions, rewards)
    updates, memory = optimizer.update(gradient, memory)
    return optax.apply_updates(params, updates), memory, rewards.sum(axis=0).mean()


optimizer = optax.adam(0.05)
params, _ = policy.init(jax.random.key(0), see(jnp.arange(CELLS)))
memory, earned = optimizer.init(params), []
for key in jax.random.split(jax.random.key(1), 150):
    params, memory, reward = update(params, memory, key)
    earned.append(float(reward))

best = STEPS - (CELLS - 1 - CELLS // 2) + 1  # straight on, and stay
print(f"earned by chance {earned[0]:.1f}, learned {earned[-1]:.1f}, possible {best}")
assert earned[-1] > 0.95 * best > 3 * earned[0]
assert (policy(params, see(jnp.arange(CELLS // 2, CELLS))).argmax(-1) == 1).all()  # to the right
