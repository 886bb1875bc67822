"""Details of the contract: errors with paths, models with state, functions as layers, custom layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
X = jnp.ones((2, 4))


def notes(raised) -> str:
    return "\n".join(raised.value.__notes__)


def deep():
    model = nn.serial(encoder=nn.serial(block=nn.residual(mlp=nn.serial(nn.dense(4), nn.relu, nn.dense(4)))))
    return model, *model.init(KEY, X)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: f,
        jax.jit,
        jax.grad,
        lambda f: jax.vmap(f, axis_size=2, in_axes=None),
        lambda f: jax.jit(jax.vmap(jax.grad(f), axis_size=2, in_axes=None)),
        lambda f: lambda p: jax.jvp(f, (p,), (p,)),
        lambda f: lambda p: jax.eval_shape(f, p),
        lambda f: jax.checkpoint(f),
    ],
    ids=["plain", "jit", "grad", "vmap", "jit vmap grad", "jvp", "eval_shape", "checkpoint"],
)
def test_errors_carry_the_path_and_the_shapes_under_any_transform(transform):
    model, params, _ = deep()
    with pytest.raises(ValueError, match=r"initialized for 4 input features, got an input of shape \[2, 9\]") as raised:
        transform(lambda p: model(p, jnp.ones((2, 9))).sum())(params)
    assert "in layer 'encoder/block/mlp/dense': input float32[2, 9], bias float32[4], kernel float32[4, 4]" in notes(raised)
    assert notes(raised).count("in layer") == 1


def test_errors_at_init_carry_the_path_too():
    model = nn.serial(stem=nn.dense(4), body=nn.serial(nn.conv(3, 3)))
    with pytest.raises(ValueError, match="spatial axes") as raised:
        model.init(KEY, X)
    assert "in layer 'body/conv': input float32[2, 4]" in notes(raised)


def test_errors_inside_repeat_and_block_carry_the_path():
    def forward(run, x):
        return run("inner", x)

    model = nn.serial(stack=nn.repeat(nn.block(forward, inner=nn.dense(4)), 2))
    params, state = model.init(KEY, X)
    with pytest.raises(ValueError, match="input features") as raised:
        model.apply(params, state, jnp.ones((2, 5)))
    assert "in layer 'stack/inner'" in notes(raised)


def test_a_model_with_state_says_what_to_call_instead():
    model = nn.serial(nn.dense(3), nn.batch_norm())
    params, state = model.init(KEY, X)
    with pytest.raises(ValueError, match=r"model.apply\(params, state, x\)"):
        model(params, X)
    y, after = model.apply(params, state, X)
    assert y.shape == (2, 3)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_a_layer_is_hashed_by_identity_and_is_not_a_pytree():
    one, other = nn.dense(3), nn.dense(3)
    assert one != other
    assert len({one, other, one}) == 2
    assert jax.tree.leaves(one) == [one]
    with pytest.raises(AttributeError):
        one.name = "other"


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.relu, "relu"),
        (jax.nn.gelu, "gelu"),
        (lambda x: 2 * x, "lambda"),
        (functools.partial(nn.leaky_relu, negative_slope=0.2), "leaky_relu"),
        (jax.jit(jnp.sin), "sin"),
    ],
    ids=["relu", "gelu", "lambda", "partial", "jitted"],
)
def test_functions_are_layers(function, name):
    model = nn.serial(function)
    assert model.init(KEY, X) == ({}, {})
    np.testing.assert_allclose(model({}, X), function(X), rtol=1e-6)
    assert nn.as_layer(function).name == name


@pytest.mark.parametrize("value", [3, "dense", None, jnp.ones(3)], ids=repr)
def test_values_that_are_not_layers_are_refused(value):
    with pytest.raises(TypeError, match="a layer must be a jaxnn Layer or a function of x"):
        nn.serial(nn.dense(3), value)


@pytest.mark.parametrize("factory", [nn.flatten, nn.dense, nn.serial, lambda x: nn.dense(3)], ids=range(4))
def test_a_factory_that_was_not_called_is_named(factory):
    with pytest.raises(TypeError, match=r"makes a layer and is not a layer itself: call it, \w+\(\.\.\.\)"):
        nn.serial(factory).init(KEY, X)


def test_a_custom_layer_works_like_any_other():
    def scaled():
        def init(key, x):
            return {"scale": jax.random.normal(key, x.shape[-1:])}, {"calls": jnp.zeros((), jnp.int32)}

        def apply(params, state, x, *, key=None, training=False):
            return x * params["scale"][None, :], {"calls": state["calls"] + 1}

        return nn.Layer(init, apply, "scaled")

    model = nn.serial(nn.dense(3), scaled(), nn.repeat(scaled(), 2))
    params, state = model.init(KEY, X)
    y, state = jax.jit(model.apply)(params, state, X)
    assert y.shape == (2, 3)
    assert state["scaled"]["calls"] == 1
    np.testing.assert_array_equal(state["repeat"]["calls"], [1, 1])


def test_a_layer_that_breaks_the_contract_is_an_error():
    with pytest.raises(TypeError, match=r"init must return \(params, state\)"):
        nn.Layer(lambda key, x: {}, lambda params, state, x, **_: (x, state), "wrong").init(KEY, X)
    forgetful = nn.Layer(lambda key, x: ({}, {"n": jnp.zeros(())}), lambda params, state, x, **_: (x, {}), "forgetful")
    with pytest.raises(ValueError, match="the same entries, shapes and dtypes as that of init"):
        forgetful.init(KEY, X)


def _grows(params, state, x, *, key=None, training=False):
    return x, {"m": state["n"]} if training else state


def _changes_dtype(params, state, x, *, key=None, training=False):
    return x, {"n": state["n"].astype(jnp.int32)} if training else state


@pytest.mark.parametrize(
    ("apply", "error", "words"),
    [
        (lambda params, state, x, *, key=None, training=False: x, TypeError, r"must return \(y, state\), got float32\[2, 4\]"),
        (lambda params, state, x, *, key=None, training=False: (x, x), TypeError, r"got \(float32\[2, 4\], float32\[2, 4\]\)"),
        (lambda params, state, x: (x, state), TypeError, "define it as apply.*unexpected keyword argument 'key'"),
        (lambda params, state, x, *, key=None: (x, state), TypeError, "define it as apply.*argument 'training'"),
        (lambda params, x, *, key=None, training=False: x, TypeError, "define it as apply.*too many positional"),
        (_grows, ValueError, r"given the state {n: float32\[\]} and returned {m: float32\[\]}"),
        (_changes_dtype, ValueError, r"given the state {n: float32\[\]} and returned {n: int32\[\]}.*astype"),
    ],
)
def test_an_apply_that_breaks_the_contract_is_named_by_its_path(apply, error, words):
    wrong = nn.Layer(lambda key, x: ({}, {"n": jnp.zeros(())}), apply, "wrong")
    model = nn.serial(first=nn.serial(second=wrong))
    with pytest.raises(error, match=words) as raised:
        params, state = model.init(KEY, X)
        model.apply(params, state, X, training=True)
    assert "in layer 'first/second': input float32[2, 4]" in notes(raised)


def test_an_init_or_a_function_with_other_parameters_is_named_by_its_path():
    for layer, words in (
        (nn.Layer(lambda x: ({}, {}), lambda params, state, x, **_: (x, state), "wrong"), r"define it as init\(key, x\)"),
        (nn.stateless(lambda x: {}, lambda params, x: x, "wrong"), r"define it as init\(key, x\) -> params"),
        (nn.stateless(lambda key, x: {}, lambda params, state, x: x, "wrong"), r"define it as apply\(params, x\)"),
    ):
        with pytest.raises(TypeError, match=words) as raised:
            nn.serial(second=layer).init(KEY, X)
        assert "in layer 'second': input float32[2, 4]" in notes(raised)


def test_numbers_in_params_and_state_become_arrays():
    def apply(params, state, x, *, key=None, training=False):
        return params["scale"] * x, {**state, "count": state["count"] + 1}

    init = lambda key, x: ({"scale": 2.0}, {"count": 0, "done": True})  # noqa: E731
    model = nn.serial(nn.Layer(init, apply, "counting"))
    params, state = model.init(KEY, X)
    y, after = model.apply(params, state, X, training=True)
    np.testing.assert_array_equal(y, 2 * X)
    assert [leaf.dtype for leaf in jax.tree.leaves((params, state))] == [jnp.float32, jnp.int32, jnp.bool_]
    assert after["counting"]["count"] == 1


@pytest.mark.slow
def test_a_mask_travels_with_its_sequence():
    mask = jnp.array([[True, True, False], [True, False, False]])
    tokens = jnp.array([[1, 2, 0], [3, 0, 0]])
    model = nn.serial(
        nn.embedding(5, 4),
        nn.layer_norm(),
        nn.dense(6),
        nn.positionwise(nn.relu),
        nn.lstm(7),
        nn.lstm(3, return_sequences=False),
    )
    params, state = model.init(KEY, (tokens, mask))
    y = model(params, (tokens, mask))
    assert y.shape == (2, 3)
    short = model(params, (tokens[1:, :1], mask[1:, :1]))
    np.testing.assert_allclose(y[1:], short, rtol=1e-5)
    with pytest.raises(ValueError, match="one boolean per position"):
        model(params, (tokens, mask[:, :2]))


def test_float64_and_integer_inputs(x64):
    model = nn.dtype_policy(nn.dense(3), dtype=jnp.float64, param_dtype=jnp.float64)
    params, _ = model.init(KEY, X.astype(jnp.float64))
    assert model(params, X.astype(jnp.float64)).dtype == jnp.float64
    images = jnp.full((2, 4), 255, jnp.uint8)
    params, _ = nn.dense(3).init(KEY, images)
    np.testing.assert_allclose(nn.dense(3)(params, images), nn.dense(3)(params, images.astype(jnp.float32)))


def test_nested_combinators_trace_each_layer_once():
    traces = {"init": 0, "apply": 0}

    def counted():
        def init(key, x):
            traces["init"] += 1
            return {"scale": nn.param(nn.initializers.ones, x.shape[-1:])}

        def apply(params, x):
            traces["apply"] += 1
            return x * params["scale"][None]

        return nn.stateless(init, apply)

    model = nn.serial(*[nn.serial(nn.serial(nn.serial(nn.residual(counted())))) for _ in range(100)])
    params, _ = jax.eval_shape(model.init, KEY, X)
    assert traces == {"init": 100, "apply": 100}
    assert nn.trees.count(params) == 100 * 4


@pytest.mark.slow
def test_abstract_init_takes_no_memory():
    model = nn.serial(*[nn.dense(2**16) for _ in range(8)])  # 137 GB if it were drawn
    params, _ = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, 2**16), jnp.float32))
    assert nn.trees.count(params) == 8 * (2**32 + 2**16)
    assert nn.summary(model, jax.ShapeDtypeStruct((1, 2**16), jnp.float32)).parameters == nn.trees.count(params)
