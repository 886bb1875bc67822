"""What a user is told: warnings about likely mistakes before a run, and the line of its result."""

import dataclasses
from functools import partial

import jax
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.train.mistakes import mistakes

LAST, FIRST = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((4, 28, 28, 3), (4, 3, 28, 28)))
CNN = nn.serial(nn.conv(8, 3), nn.relu, nn.flatten(), nn.dense(10))
SOFTMAX, SIGMOID = nn.serial(nn.dense(3), nn.softmax), nn.serial(nn.serial(nn.dense(1), nn.sigmoid))
X = jax.ShapeDtypeStruct((4, 5), "float32")
STOP = nn.callbacks.early_stopping(3)


@pytest.mark.parametrize(
    ("model", "loss", "x", "callbacks", "words"),
    [
        (SOFTMAX, nn.losses.cross_entropy, X, [], "ends with softmax, and the loss cross_entropy computes it too"),
        (SOFTMAX, partial(nn.losses.focal, gamma=1.0), X, [], "the loss focal computes it too: leave softmax out"),
        (SIGMOID, nn.losses.binary_cross_entropy, X, [], "ends with sigmoid"),
        (CNN, nn.losses.mse, FIRST, [], r"float32\[4, 3, 28, 28\] seem to have their channels first"),
        (CNN, nn.losses.mse, LAST, [STOP], "early_stopping monitors the training loss"),
    ],
)
def test_a_likely_mistake_is_one_sentence(model, loss, x, callbacks, words):
    [sentence] = mistakes(model, loss, x, callbacks, has_validation=False)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(sentence)


@pytest.mark.parametrize(
    ("model", "loss", "x", "callbacks", "has_validation"),
    [
        (SOFTMAX, partial(nn.losses.cross_entropy, from_logits=False), X, [], False),
        (SOFTMAX, nn.losses.mse, X, [], False),
        (SIGMOID, nn.losses.mse, X, [], False),
        (nn.serial(nn.dense(3), nn.log_softmax), nn.losses.cross_entropy, X, [], False),
        (nn.serial(nn.flatten(), nn.dense(3)), nn.losses.mse, FIRST, [], False),
        (CNN, lambda predictions, y: 0.0, LAST, [], False),
        (CNN, nn.losses.mse, jax.ShapeDtypeStruct((4, 3, 28, 1), "float32"), [], False),
        (CNN, nn.losses.mse, LAST, [STOP], True),
        (CNN, nn.losses.mse, LAST, [nn.callbacks.early_stopping(3, monitor="loss")], False),
    ],
)
def test_what_may_be_intended_is_none(model, loss, x, callbacks, has_validation):
    assert list(mistakes(model, loss, x, callbacks, has_validation)) == []


def test_fit_warns_where_it_is_called():
    x, y = np.ones((8, 5), np.float32), np.zeros(8, np.int32)
    with pytest.warns(UserWarning, match="ends with softmax") as caught:
        nn.fit(SOFTMAX, (x, y), loss=nn.losses.cross_entropy, optimizer=optax.sgd(0.1), epochs=1, key=jax.random.key(0))
    assert len(caught) == 1 and caught[0].filename == __file__


def test_a_result_is_a_line_and_a_tree_with_shapes():
    options = {"loss": nn.losses.mse, "optimizer": optax.sgd(0.0), "epochs": 2, "key": jax.random.key(0), "progress": False}
    model = nn.serial(nn.dense(2), **{"<b>": nn.residual(nn.dense(2))})
    result = nn.fit(model, (np.ones((8, 5), np.float32), np.zeros((8, 2), np.float32)), **options)
    loss = f"{result.history.last['loss']:.4g}"
    assert repr(result) == f"<FitResult: finished, 2 epochs, loss {loss}>"
    html = result._repr_html_()
    assert f"<p>finished, 2 epochs, loss {loss}</p>" in html
    assert 'dense <span class="quiet">bias (2,), kernel (5, 2)</span>' in html
    assert "&lt;b&gt;" in html and "nn.summary" not in html
    assert "nn.summary" in model._repr_html_()
    early = dataclasses.replace(result, epoch=1, stopped="early")
    assert repr(early).startswith("<FitResult: early, 2 epochs, parameters of epoch 1, loss ")


def test_a_sweep_warns_once_for_all_its_members():
    x, y = np.eye(4, dtype=np.float32), np.arange(4) % 3
    space, options = {"learning_rate": [0.1, 0.2]}, {"loss": nn.losses.cross_entropy, "optimizer": optax.sgd}
    with pytest.warns(UserWarning) as caught:
        nn.sweep(SOFTMAX, (x, y), space, epochs=1, key=jax.random.key(0), progress=False, **options)
    assert [str(warning.message).split(",")[0] for warning in caught] == ["the model ends with softmax"]
    assert caught[0].filename == __file__
