"""Optimizers by name and by path: each of optax's optimizers trains, and weight decay applies to the right parameters."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.train.optimizers import _factories

PARAMS = {
    "dense": {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.ones(2)},
    "repeat": {"recurrent_bias": jnp.ones((4, 2)), "scale": jnp.ones((4, 2)), "kernel": jnp.ones((4, 3, 2))},
    "embedding": jnp.ones((5, 2)),
    "temperature": jnp.ones(()),
}
CHOSEN = {
    "dense": {"kernel": True, "bias": False},
    "repeat": {"recurrent_bias": False, "scale": False, "kernel": True},
    "embedding": True,
    "temperature": False,
}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def moved(optimizer, gradients=ZERO):
    """Which parameters have a non-zero update, by default for zero gradients, and the updates."""
    with jax.numpy_dtype_promotion("standard"):  # required by optax
        update = jax.jit(lambda gradients: optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[0])
        updates = jax.device_get(update(gradients))
    return jax.tree.map(lambda update: bool((update != 0).any()), updates), updates


def test_decay_mask_chooses_by_name_and_rank():
    assert nn.decay_mask(PARAMS) == CHOSEN
    assert moved(optax.adamw(1.0, mask=nn.decay_mask))[0] == CHOSEN
    model = nn.serial(nn.dense(4), nn.batch_norm(), nn.lstm(3))
    params, _ = model.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 5, 3), jnp.float32))
    chosen = {path for path, decays in nn.trees.paths(nn.decay_mask(params)).items() if decays}
    assert chosen == {"dense/kernel", "lstm/kernel", "lstm/recurrent_kernel"}


@pytest.mark.slow
def test_every_optimizer_of_optax_trains_with_a_traced_learning_rate():
    names = set(_factories())
    assert {"sgd", "adam", "adamw", "lion", "lamb", "lars", "adafactor", "sm3", "rprop", "lbfgs", "noisy_sgd"} <= names
    assert len(names) >= 26 and not any(name.startswith("scale_by") for name in names)
    start = {"kernel": jnp.array([[2.0, -1.0], [0.5, 3.0]])}

    def bowl(params):
        return jnp.sum(params["kernel"] ** 2)

    def after_two_steps(rate, name):
        options = {"key": jax.random.key(0)} if name == "noisy_sgd" else {}
        optimizer = optax.with_extra_args_support(nn.named_optimizer(name, rate, **options))
        params, state = start, optimizer.init(start)
        for _ in range(2):  # the first step of Rprop changes nothing
            value, gradient = jax.value_and_grad(bowl)(params)
            updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=bowl)
            params = optax.apply_updates(params, updates)
        return bowl(params)

    with jax.numpy_dtype_promotion("standard"):
        values = jax.jit(lambda rate: {name: after_two_steps(rate, name) for name in names})(jnp.float32(0.01))
    for name, value in values.items():
        assert value < bowl(start), name


def test_optimizers_with_weight_decay_use_their_own():
    ours = nn.named_optimizer("adamw", 0.1, weight_decay=0.3)
    kinds, updates = moved(ours)
    assert kinds == CHOSEN
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.1 * 0.3 * 2.0, rtol=1e-6)
    _, default = moved(nn.named_optimizer("adamw", 0.1))
    np.testing.assert_allclose(default["dense"]["kernel"], -0.1 * 1e-4 * 2.0, rtol=1e-6)
    assert moved(nn.named_optimizer("adafactor", 0.1, weight_decay=0.3))[0] == CHOSEN
    assert moved(nn.named_optimizer("adamw", 0.1, mask=None))[0] == jax.tree.map(lambda _: True, CHOSEN)


def test_other_optimizers_add_weight_decay_to_the_gradient_like_pytorch():
    torch = pytest.importorskip("torch")
    weight, gradient = np.float32([[1.0, -2.0], [0.5, 3.0]]), np.float32([[0.1, 0.2], [-0.3, 0.4]])
    for name, theirs, options in [
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
        ("adam", torch.optim.Adam, {}),
    ]:
        optimizer = nn.named_optimizer(name, 0.1, weight_decay=0.3, **options)
        params, w = {"kernel": jnp.asarray(weight)}, torch.tensor(weight, requires_grad=True)
        state, reference = optimizer.init(params), theirs([w], lr=0.1, weight_decay=0.3, **options)
        update = jax.jit(optimizer.update)
        for _ in range(3):
            with jax.numpy_dtype_promotion("standard"):
                updates, state = update({"kernel": jnp.asarray(gradient)}, state, params)
            params = optax.apply_updates(params, updates)
            w.grad = torch.tensor(gradient)
            reference.step()
        np.testing.assert_allclose(params["kernel"], w.detach().numpy(), rtol=1e-5)


def test_weight_decay_by_path_with_frozen_parameters():
    optimizer = nn.by_path(
        {"embedding": None, "repeat/*": optax.adamw(0.1, weight_decay=0.5, mask=nn.decay_mask)},
        optax.adamw(0.1, weight_decay=0.0),
    )
    kinds, updates = moved(optimizer)
    assert [path for path, moves in nn.trees.paths(kinds).items() if moves] == ["repeat/kernel"]
    np.testing.assert_allclose(updates["repeat"]["kernel"], -0.05, rtol=1e-6)
    _, updates = moved(optimizer, jax.tree.map(jnp.ones_like, PARAMS))
    assert (updates["embedding"] == 0).all() and (updates["dense"]["bias"] != 0).all()
    # frozen parameters have no optimizer state; all others have the two moments of Adam
    sizes = sum(leaf.size for leaf in jax.tree.leaves(optimizer.init(PARAMS)) if leaf.ndim)
    assert sizes == 2 * (nn.trees.count(PARAMS) - 10 - 1)


def test_errors_of_named_optimizer():
    with pytest.raises(
        ValueError, match="unknown optimizer 'adamW'; did you mean 'adamw'\\? known optimizers: adabelief, .*yogi"
    ):
        nn.named_optimizer("adamW", 0.1)
    with pytest.raises(ValueError, match="lbfgs takes no weight decay"):
        nn.named_optimizer("lbfgs", 0.1, weight_decay=0.1)
    with pytest.raises(TypeError, match="momentum"):
        nn.named_optimizer("adam", 0.1, momentum=0.9)


def test_no_optimizer_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in set(_factories()) - {"noisy_sgd"}:
            nn.named_optimizer(name, 0.1)
