"""Paths, masks and counts of trees."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnn as nn

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    model = nn.serial(nn.dense(3), encoder=nn.serial(nn.dense(4), nn.layer_norm()))
    return model.init(KEY, jnp.ones((1, 2)))[0]


def test_paths_are_names_joined_by_slashes(params):
    assert list(nn.trees.paths(params)) == [
        "dense/bias",
        "dense/kernel",
        "encoder/dense/bias",
        "encoder/dense/kernel",
        "encoder/layer_norm/bias",
        "encoder/layer_norm/scale",
    ]


def test_masks_by_pattern(params):
    chosen = [path for path, on in nn.trees.paths(nn.trees.mask(params, "*/kernel")).items() if on]
    assert chosen == ["dense/kernel", "encoder/dense/kernel"]
    chosen = [path for path, on in nn.trees.paths(nn.trees.mask(params, "encoder/*", "dense/bias")).items() if on]
    assert chosen == ["dense/bias", *(path for path in nn.trees.paths(params) if path.startswith("encoder/"))]
    assert nn.trees.mask({"kernel": 1}, "*/kernel") == {"kernel": True}
    with pytest.raises(ValueError, match=r"'\*/weight' matches no path; the paths are dense/bias"):
        nn.trees.mask(params, "*/weight")


def test_a_mask_works_with_optax(params):
    decay = optax.masked(optax.add_decayed_weights(1.0), nn.trees.mask(params, "*/kernel"))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = decay.update(zeros, decay.init(params), params)
    assert bool((updates["dense"]["kernel"] == params["dense"]["kernel"]).all())
    assert not bool(updates["dense"]["bias"].any())


def test_counts_are_the_formula_for_dense_layers(params):
    assert nn.trees.count(params) == (2 * 3 + 3) + (3 * 4 + 4) + 2 * 4
    huge = {"kernel": jax.ShapeDtypeStruct((2**40, 2**40), jnp.float32)}
    assert nn.trees.count(huge) == 2**80
