"""kernels.definitions: inside, models trace to JAX's own primitives only, to equal values, and share no cached program."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn._jax import subprograms
from jaxnn.core.primitives import definitions_are_open
from jaxnn.kernels import definitions
from jaxnn.kernels.convolution import winograd

CUSTOM = {"canonical_convolution", "tiled_kernel_gradient"}

# name: (model, input shape)
MODELS = {
    "convolution": (
        lambda: nn.serial(
            nn.conv(8, 3), nn.relu, nn.conv(8, 3, strides=2, groups=2), nn.batch_norm(), nn.flatten(), nn.dense(3)
        ),
        (2, 6, 6, 3),
    ),
    "conv_transpose": (lambda: nn.conv_transpose(5, 3, strides=2), (2, 4, 4, 5)),
    "pooling": (lambda: nn.serial(nn.max_pool(2), nn.avg_pool(2, strides=1), nn.max_pool(2, dilation=2)), (2, 10, 10, 3)),
    "attention": (lambda: nn.attention(8, 2, is_causal=True), (2, 40, 8)),
    "lstm": (lambda: nn.lstm(5), (2, 4, 3)),
}


def primitives(jaxpr):
    """The names of all primitives in a program, in the programs inside it too."""
    names = {eqn.primitive.name for eqn in jaxpr.eqns}
    return names.union(*(primitives(body) for eqn in jaxpr.eqns for body, _ in subprograms(eqn)))


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def test_the_package_defines_primitives_in_one_place():
    root = Path(nn.__file__).parent
    texts = {str(file.relative_to(root)): file.read_text() for file in root.rglob("*.py")}
    found = {name for name, text in texts.items() if "bilinear_primitive(" in text or " Primitive(" in text}
    assert found == {"_jax.py", "kernels/convolution/primitive.py"}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", MODELS)
def test_models_trace_to_the_primitives_of_jax(name):
    make, shape = MODELS[name]
    model, x = make(), normal(shape)
    params, state = model.init(jax.random.key(0), x)

    def loss(params, x):
        y = model.apply(params, state, x, key=jax.random.key(1), training=True)[0]
        return jnp.sum(jnp.sin(y)), y

    gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
    outside, expected = primitives(jax.make_jaxpr(gradient)(params, x).jaxpr), jax.jit(gradient)(params, x)
    with definitions():
        inside, values = primitives(jax.make_jaxpr(gradient)(params, x).jaxpr), jax.jit(gradient)(params, x)
    assert bool(outside & CUSTOM) == ("conv" in name)
    assert not inside & CUSTOM
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), values, expected)


def test_forced_forms_become_definitions_too(monkeypatch):
    monkeypatch.setattr(winograd, "is_faster", lambda *_, **__: True)
    x, kernel = normal((1, 4, 4, 8)), normal((3, 3, 8, 8), 1)
    gradient = jax.grad(lambda *v: nn.kernels.conv(*v, form="canonical").sum(), (0, 1))
    assert primitives(jax.make_jaxpr(gradient)(x, kernel).jaxpr) >= {"tiled_kernel_gradient"}
    with definitions():
        assert not primitives(jax.make_jaxpr(gradient)(x, kernel).jaxpr) & CUSTOM


def convolve(x):
    return nn.kernels.conv(x, jnp.ones((3, 1, 1)), form="canonical")


def convolve_step(carry, x):
    return carry, convolve(x)


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("wrap", "batched"),
    [
        (jax.jit, False),
        (lambda f: jax.jit(jax.jit(f)), False),
        (jax.checkpoint, False),
        (lambda f: jax.grad(lambda x: jax.jit(f)(x).sum()), False),
        (lambda f: jax.vmap(jax.jit(f)), True),
        (lambda _: lambda x: jax.lax.scan(convolve_step, None, x)[1], True),
        (nn.kernels.jit, False),
    ],
    ids=["jit", "nested jit", "checkpoint", "grad", "vmap", "scan", "kernels.jit"],
)
def test_caches_keep_inside_and_outside_apart(wrap, batched, first):
    """Traced once in either order, a function's program is never reused for the other setting."""
    jax.clear_caches()
    f = wrap(convolve)
    x = normal((2, 1, 5, 1) if batched else (1, 5, 1))

    def traced():
        return bool(primitives(jax.make_jaxpr(f)(x).jaxpr) & CUSTOM)

    for inside in (first, not first, first):
        if inside:
            with definitions():
                assert not traced()
        else:
            assert traced()


def test_compiled_calls_keep_inside_and_outside_apart():
    settings = []

    @jax.jit
    def f(x):
        settings.append(definitions_are_open())
        return convolve(x)

    x = normal((1, 5, 1))
    for _ in range(2):
        f(x)
        with definitions():
            f(x)
    assert settings == [False, True]


def test_it_belongs_to_its_thread_and_closes_on_an_error():
    with pytest.raises(ZeroDivisionError), definitions():
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(definitions_are_open).result()
        assert definitions_are_open()
        raise ZeroDivisionError
    assert not definitions_are_open()
