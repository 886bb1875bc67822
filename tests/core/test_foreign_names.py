"""Errors of names that do not exist answer with the name here."""

import re
from pathlib import Path

import pytest

import jaxnn as nn
from jaxnn.core import foreign_names


@pytest.mark.parametrize(
    "module, name, here",
    [
        (nn, "Linear", "nn.dense"),
        (nn, "Sequential", "nn.serial"),
        (nn, "Conv2d", "nn.conv"),
        (nn, "BatchNorm2d", "nn.batch_norm"),
        (nn, "LSTM", "nn.lstm"),
        (nn, "GlobalAveragePooling2D", "nn.global_avg_pool"),
        (nn, "CrossEntropyLoss", "nn.losses.cross_entropy"),
        (nn, "Adam", "optax.adam"),
        (nn.losses, "MSELoss", "nn.losses.mse"),
        (nn.losses, "SparseCategoricalCrossentropy", "nn.losses.cross_entropy"),
        (nn.metrics, "f1_score", "nn.metrics.f1"),
        (nn.initializers, "HeNormal", "nn.initializers.he_normal"),
        (nn.schedules, "OneCycleLR", "nn.schedules.cosine_onecycle_schedule"),
    ],
)
def test_a_name_of_another_library_is_answered_with_the_name_here(module, name, here):
    with pytest.raises(AttributeError, match=f"has no attribute '{name}': it is {re.escape(here)}$"):
        getattr(module, name)


def test_a_method_of_other_libraries_is_answered_with_the_function_here():
    with pytest.raises(AttributeError, match=r"has no attribute 'summary': write nn.summary\(model, x\)"):
        nn.dense(3).summary()
    with pytest.raises(AttributeError, match="a Layer has no attribute 'wheels'$"):
        nn.dense(3).wheels  # noqa: B018


def test_an_unknown_name_has_no_hint():
    with pytest.raises(AttributeError, match="nn has no attribute 'wheels'$"):
        nn.wheels  # noqa: B018
    assert not hasattr(nn.losses, "wheels")


def test_every_name_that_is_given_exists():
    text = Path(foreign_names.__file__).read_text(encoding="utf-8")
    for path in set(re.findall(r'"nn((?:\.\w+)+)"', text)):
        value = nn
        for part in path[1:].split("."):
            value = getattr(value, part)
