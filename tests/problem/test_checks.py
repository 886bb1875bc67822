"""Checks of data: the same for arrays, memory maps and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.problem.checks import as_data, checked_batch, checked_data
from jaxnn.problem.labels import labels_of

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 2, 1], np.int32)
ONES = np.ones(4, np.float32)


def mapped(data, folder):
    def memory_map(leaf):
        path = folder / f"{len(list(folder.iterdir()))}.npy"
        np.save(path, leaf)
        return np.load(path, mmap_mode="r")

    return jax.tree.map(memory_map, data)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (X, TypeError, r"expected as a pair \(x, y\) or as \(x, y, weights\), got ndarray"),
        ((X,), TypeError, "got tuple of 1 entries"),
        ({"x": X, "labels": Y}, TypeError, r"got a dict with 'x', 'labels': pass a tuple .* \(d\['x'\], d\['labels'\]\)"),
        ([(X, Y)] * 4, TypeError, "pass a list of batches as lambda epoch: batches"),
        ((X, Y[:3]), ValueError, r"one entry per sample each, got x \[4, 3\], y \[3\]: check"),
        ((X[:0], Y[:0]), ValueError, r"has no samples: its shape is \[0, 3\]"),
        ((X, None), ValueError, "y of the .* contains no array"),
        ((X, 1), ValueError, "needs a leading axis of samples, got a single number"),
        ((list(X), Y), ValueError, r"got x \[3\], \[3\], \[3\], \[3\], y \[4\]"),
        (([X, X[:3]], Y), ValueError, "a list of arrays is taken as a tuple of inputs, np.stack makes one array"),
        ((X, Y, ONES[:, None]), ValueError, r"weights of the .* need one number per sample, shape \(N,\), got \[4, 1\]"),
        ((X, Y, (ONES, ONES)), ValueError, "weights of the .* need one number per sample"),
    ],
)
def test_arrays_memory_maps_and_batches_have_the_same_errors(data, error, words, tmp_path):
    with pytest.raises(error, match=words):
        checked_data(data)
    with pytest.raises(error, match=words):
        checked_batch(data)
    # A memory map has an axis and a value.
    if isinstance(data, tuple) and all(np.size(leaf) and np.ndim(leaf) for leaf in jax.tree.leaves(data)):
        with pytest.raises(error, match=words):
            as_data(mapped(data, tmp_path), memory_maps=True)


def test_weights_below_0():
    for check in (checked_data, checked_batch):
        with pytest.raises(ValueError, match="must be at least 0, got -1.0 at index 2"):
            check((X, Y, np.array([1, 0, -1, 2], np.float32)))


def test_the_leaves_of_a_batch_of_an_objective_may_differ_in_length():
    nodes, edges = checked_batch({"edges": X, "nodes": Y[:2]}, objective=True).values()
    assert (nodes.shape, edges.shape) == ((4, 3), (2,))
    assert isinstance(checked_batch([X, X], objective=True), tuple)
    for batch, words in (({}, "contains no array"), (np.float32(1), "single number"), (X[:0], "no samples")):
        with pytest.raises(ValueError, match=words):
            checked_batch(batch, objective=True)


def cross_entropy_of_known(predictions, y):
    return nn.losses.cross_entropy(predictions, jnp.maximum(y, 0), where=y >= 0)


def accepted(loss, y=Y, model=None):
    model = model or nn.dense(3)
    return labels_of(loss, model, (X, y), *model.init(jax.random.key(0), X))


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8])
def test_a_loss_says_which_labels_it_accepts(dtype):
    y = Y.astype(dtype)
    losses = nn.losses
    for loss in (losses.cross_entropy, losses.focal, losses.multi_margin, lambda p, y: losses.cross_entropy(p, y)):
        assert accepted(loss, y) == (3, 0 if np.issubdtype(dtype, np.signedinteger) else None, 2)
    for loss in (cross_entropy_of_known, lambda p, y: p.sum() + y.sum(), lambda p, y: y.at[0], None):
        assert accepted(loss, y) is None
    assert accepted(lambda p, y: losses.cross_entropy(p, y - 1), y) is None  # labels from 1


def test_labels_are_compared_only_where_there_is_one_per_vector_of_outputs():
    assert accepted(nn.losses.mse, X) is None
    assert accepted(nn.losses.cross_entropy, Y[:, None]) is None
    assert accepted(nn.losses.cross_entropy, model=nn.dense(1)) is None
    labels = accepted(nn.losses.cross_entropy)
    labels.check(Y)
    for wrong, words in ((Y - 1, "-1 to 1"), (Y + 1, "1 to 3: renumber them, or give the last layer 4 features")):
        with pytest.raises(ValueError, match=f"from 0 to 2; y has labels from {words}"):
            labels.check(wrong)
