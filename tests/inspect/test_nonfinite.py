"""The first non-finite value is found where it was put, and harmless ones are not reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.inspect.nonfinite import NonFinite, find_nonfinite, first_nonfinite_path
from jaxnn.programs import nonfinite_trace
from jaxnn.programs.nonfinite import locate_nonfinite

KEY = jax.random.key(0)
X = np.random.default_rng(0).uniform(1, 2, (6, 3)).astype(np.float32)
ZERO_IN_TWO = np.where(np.arange(6)[:, None] == 2, 0, X)  # sample 2 is zero


def mean(predictions, y):
    return jnp.mean(predictions.astype(jnp.float32))


def weight():
    """x · w with w = 1: a layer with a parameter to differentiate with respect to."""

    def init(key, x):
        return {"w": nn.param(nn.initializers.ones, (1,))}

    def apply(params, x):
        return x * params["w"].reshape((1,) * x.ndim).astype(x.dtype)

    return nn.stateless(init, apply)


def find(model, x=X, y=None, *, loss=mean, params=None, training=True):
    drawn, state = model.init(KEY, x)
    return find_nonfinite(
        model, drawn if params is None else params(drawn), state, (x, y), loss=loss, key=KEY, training=training
    )


def after_weight(*layers, **named):
    return nn.serial(weight(), *layers, **named)


def test_a_forward_value_names_layer_operation_samples_and_the_users_own_line():
    def shifted(x):
        z = x - 1
        return jnp.log(jnp.abs(z + 1))

    found = find(after_weight(block=nn.serial(nn.relu, logarithm=shifted), out=weight()), ZERO_IN_TWO)
    assert (found.path, found.phase, found.operation, found.kind) == ("block/logarithm", "forward", "log", "inf")
    assert (found.count, found.size, found.value, found.samples, found.step) == (3, 18, "float32[6, 3]", (2,), None)
    assert found.example == "log(0) = -inf"
    assert __file__ in found.source
    assert found.source.endswith("return jnp.log(jnp.abs(z + 1))")
    text = str(found)
    assert text.startswith("layer 'block/logarithm' (forward): log gives inf in 3 of 18 values, float32[6, 3], in sample 2 of")
    assert "as log(0) = -inf; the line is" in text
    assert "keep it away from 0" in text


def test_the_source_line_is_in_the_jitted_function_or_its_caller():
    @jax.jit
    def users_own(x):
        return 1 / x

    users_own(X)  # traced before, for another caller
    found = find(after_weight(inverse=lambda x: users_own(x)), ZERO_IN_TWO)
    assert (found.path, found.example) == ("inverse", "div(1, 0) = inf")
    assert found.source.endswith("return 1 / x")
    jnp.reciprocal(X)  # jitted, traced before, and not the user's own code

    def other(x):
        return jnp.reciprocal(x)

    assert find(after_weight(other), ZERO_IN_TWO).source.endswith("return jnp.reciprocal(x)")


@pytest.mark.slow
def test_nonfinite_inputs_of_the_training_step():
    model = after_weight(nn.batch_norm())
    x = X.copy()
    x[4, 1] = np.nan
    found = find(nn.serial(lambda x: x["a"] + x["b"], weight()), {"a": X, "b": x})
    assert (found.phase, found.path, found.samples, found.operation) == ("input", "x/b", (4,), None)
    assert str(found).startswith("input 'x/b' has nan in 1 of 18 values, float32[6, 3], in sample 4 of the batch. Drop")
    y = X.copy()
    y[[0, 5]] = np.inf
    found = find(weight(), X, y, loss=nn.losses.mse)
    assert (found.phase, found.path, found.samples, found.kind) == ("targets", "y", (0, 5), "inf")
    found = find(model, params=lambda p: {**p, "weight": {"w": jnp.full(1, jnp.nan)}})
    assert (found.phase, found.path, found.samples, found.count) == ("parameters", "weight/w", (), 1)
    params, state = model.init(KEY, X)
    state["batch_norm"]["var"] = jnp.array([1, jnp.nan, 1])
    options = {"loss": mean, "key": KEY}
    found = find_nonfinite(model, params, state, (X, None), training=False, **options)
    assert (found.phase, found.path) == ("state", "batch_norm/var")
    assert find_nonfinite(model, params, state, (X, None), training=True, **options) is None  # training does not read it


@pytest.mark.slow
def test_a_loss_of_finite_predictions():
    def log_loss(predictions, y):
        return -jnp.mean(jnp.log(predictions))

    found = find(weight(), ZERO_IN_TWO, loss=log_loss)
    assert (found.phase, found.path, found.operation, found.samples) == ("loss", "loss", "log", (2,))
    assert found.source.endswith("return -jnp.mean(jnp.log(predictions))")
    labels = np.array([0, 1, 2, 3, 1, -1])
    found = find(weight(), X, labels, loss=nn.losses.cross_entropy)
    assert (found.phase, found.kind, found.samples, found.source) == ("loss", "nan", (3, 5), "")
    assert "not a class" in found.hint


@pytest.mark.slow
def test_a_gradient_of_a_finite_loss():
    def norm(x):
        return jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))

    found = find(after_weight(norm=norm), ZERO_IN_TWO)
    assert (found.phase, found.path, found.operation, found.samples) == ("backward", "norm", "div", (2,))
    assert found.source.endswith("return jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))")

    def root(x):
        return jnp.where(x > 1.5, jnp.sqrt(x - 1.5), 0)  # NaN in the branch that is not selected

    found = find(after_weight(nn.serial(trap=root)))
    assert (found.phase, found.path, found.operation, found.kind) == ("backward", "serial/trap", "sqrt", "nan")
    assert "does not select" in found.hint
    assert find(after_weight(lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)), ZERO_IN_TWO) is None


def masked(x, allowed):
    scores = jnp.where(allowed, x, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


def test_harmless_values_are_not_reported():
    def sigmoid(x):
        return 1 / (1 + jnp.exp(100 * x))  # exp overflows, and its inverse is 0

    assert find(after_weight(lambda x: masked(x, jnp.arange(3)[None] < 2), lambda x: jax.lax.stop_gradient(sigmoid(x)))) is None
    unused = nn.block(lambda run, x: run("w", x) + 0 * jnp.argmax(run("log", x)).astype(x.dtype), w=weight(), log=jnp.log)
    assert find(unused, ZERO_IN_TWO) is None
    # a harmless value next to it does not hide the one that matters
    found = find(
        nn.block(
            lambda run, x: jax.lax.stop_gradient(run("harmless", x)) + run("log", run("w", x)),
            harmless=sigmoid, w=weight(), log=jnp.log,
        ),
        ZERO_IN_TWO,
    )  # fmt: skip
    assert (found.path, found.example) == ("log", "log(0) = -inf")


def test_a_row_that_is_masked_completely():
    found = find(after_weight(attend=lambda x: masked(x, jnp.arange(len(x))[:, None] != 3)))
    assert (found.path, found.operation, found.kind, found.samples) == ("attend", "sub", "nan", (3,))
    assert found.example == "sub(-inf, -inf) = nan"
    assert "masked completely" in found.hint
    found = find(after_weight(hide=lambda x: jnp.where(x > 1.9, jnp.nan, x)))
    assert (found.path, found.operation) == ("hide", "select_n")
    assert "constant nan" in found.hint


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda layer: layer, nn.remat], ids=["plain", "remat"])
def test_copies_of_repeat_are_distinguished(wrap):
    layer = wrap(nn.residual(nn.dense(3), then=lambda x: jnp.sqrt(x)))
    model = nn.serial(body=nn.repeat(layer, 4), out=weight())

    def params(kernel, bias):
        dense = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
        return lambda drawn: {**drawn, "body": {"dense": dense}}

    kernels, biases = np.zeros((4, 3, 3)), np.ones((4, 3))
    biases[2] = -1
    found = find(model, params=params(kernels, biases))
    assert (found.path, found.phase, found.operation, found.step) == ("body/2/then", "forward", "sqrt", None)
    biases[2] = 0  # the root is finite, and its derivative is not
    found = find(model, params=params(kernels, biases))
    assert (found.path, found.phase) == ("body/2/then", "backward")
    biases[2] = 1
    assert find(model, params=params(kernels, biases)) is None
    kernels[1] = 3e38
    found = find(model, params=params(kernels, biases))
    assert (found.path, found.phase, found.operation) == ("body/1/dense", "forward", "dot_general")
    assert found.samples == tuple(range(6))


@pytest.mark.slow
def test_time_steps_and_loops():
    x = np.random.default_rng(1).normal(size=(2, 7, 3)).astype(np.float32)
    x[1, 5] = 1e30
    model = nn.serial(nn.rnn(4, activation=nn.relu, return_sequences=False), weight())

    def large(params):  # the sum of three products overflows, whatever the order of additions
        return {**params, "rnn": {**params["rnn"], "kernel": jnp.full_like(params["rnn"]["kernel"], 1e10)}}

    found = find(model, x, params=large)
    assert (found.path, found.phase, found.operation, found.step, found.samples) == ("rnn", "forward", "dot_general", 5, (1,))
    assert "(forward, step 5 of its loop)" in str(found)

    def grow(x):
        return jax.lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, c[1] * 1e10), (0, jnp.float32(1)))[1] * x

    found = find(after_weight(grow=grow))
    assert (found.path, found.operation, found.step) == ("grow", "mul", 3)

    def branch(x):
        return jax.lax.cond(x.sum() > 0, jnp.log, jnp.exp, x)

    found = find(after_weight(choose=branch), ZERO_IN_TWO)
    assert (found.path, found.operation, found.step) == ("choose", "log", None)


@pytest.mark.slow
def test_convolution_and_normalization():
    x = np.ones((3, 5, 2), np.float32)
    model = nn.serial(nn.conv(2, 3), nn.relu, second=nn.conv(2, 3), flat=nn.flatten())

    def large(params):
        kernel = jnp.full_like(params["conv"]["kernel"], 1e20)
        return {**params, "conv": {**params["conv"], "kernel": kernel}, "second": {**params["second"], "kernel": kernel}}

    found = find(model, x, params=large)
    assert (found.path, found.operation, found.samples) == ("second", "canonical_convolution", (0, 1, 2))
    assert found.example.startswith("values up to ")

    x = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    x[:, 1] = 5  # a channel without variance
    model = after_weight(norm=nn.batch_norm(epsilon=0.0))
    found = find(model, x)
    assert (found.path, found.phase, found.kind, found.operation) == ("norm", "forward", "inf", "rsqrt")
    assert find(after_weight(norm=nn.batch_norm()), x) is None


def test_half_precision():
    model = nn.dtype_policy(nn.serial(first=weight(), wide=lambda x: x * 300, square=lambda x: x * x), dtype=jnp.float16)
    found = find(model)
    assert (found.path, found.operation, found.value) == ("square", "mul", "float16[6, 3]")
    assert "The largest number of float16 is 6.55e+04" in found.hint
    assert find(nn.dtype_policy(nn.serial(weight(), lambda x: x * 300, lambda x: x * x), dtype=jnp.bfloat16)) is None


@pytest.mark.slow
@pytest.mark.parametrize("where", range(4))
def test_the_layer_that_overflows_is_found_among_equal_ones(where):
    model = nn.serial(**{f"layer_{i}": nn.serial(nn.dense(3), nn.relu) for i in range(4)})

    def params(drawn):
        kernels = {i: jnp.full((3, 3), 3e38 if i == where else 0.1) for i in range(4)}
        return {f"layer_{i}": {"dense": {"kernel": kernel, "bias": jnp.ones(3)}} for i, kernel in kernels.items()}

    found = find(model, params=params)
    assert (found.path, found.operation) == (f"layer_{where}/dense", "dot_general")


@pytest.mark.slow
def test_other_objectives_and_random_layers():
    model = nn.serial(nn.dense(4), nn.dropout(0.5), nn.dense(1))
    params, state = model.init(KEY, X)
    assert find_nonfinite(model, params, state, (X, X[:, :1]), loss=nn.losses.mse, key=KEY) is None
    with pytest.raises(ValueError, match="got no key"):
        find_nonfinite(model, params, state, (X, X[:, :1]), loss=nn.losses.mse)

    def objective(model, params, state, batch, key):
        twice = [model.apply(params, state, batch["x"], key=k, training=True)[0] for k in jax.random.split(key)]
        return jnp.mean(jnp.log(batch["weights"])[:, None] * (twice[0] - twice[1]) ** 2)

    weights = np.ones(6, np.float32)
    weights[[1, 3]] = -1
    spec = model.setup(jax.ShapeDtypeStruct(X.shape, jnp.float32))
    found = locate_nonfinite(objective, model, params, state, {"x": X, "weights": weights}, KEY, spec)
    assert (found.phase, found.operation, found.samples) == ("loss", "log", (1, 3))
    assert found.example == "log(-1) = nan"


def test_first_nonfinite_path():
    tree = {"a": np.zeros(2), "b": [jnp.ones(3, jnp.bfloat16), jnp.array([1, jnp.nan], jnp.bfloat16)], "key": KEY, "n": 3}
    assert first_nonfinite_path(tree) == "b/1"
    assert first_nonfinite_path({**tree, "b": ()}) is None
    assert first_nonfinite_path(np.float32("inf")) == ""


def test_the_text_lists_few_of_many_samples():
    found = NonFinite("x", "input", None, "nan", 9, 9, "float32[9]", tuple(range(9)), hint="Fix it.")
    assert (
        str(found)
        == "input 'x' has nan in 9 of 9 values, float32[9], in samples 0, 1, 2, 3, 4 and 4 others of the batch. Fix it."
    )


def test_an_overflow_in_the_backward_pass_and_scopes_that_are_not_layers():
    def steep(x):
        with jax.named_scope("dense"):
            return 1e20 * (1e20 * (x - jax.lax.stop_gradient(x)))

    found = find(nn.serial(dense=weight(), steep=steep))
    assert (found.path, found.phase, found.operation, found.kind) == ("steep", "backward", "mul", "inf")
    assert "3.4e+38" in found.hint


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(8, 3), (7, 3), (5, 2), (1, 1)])
def test_the_result_does_not_depend_on_the_sizes_of_chunks(sizes, monkeypatch):
    monkeypatch.setattr(nonfinite_trace, "CHUNK_SIZES", sizes)
    model = after_weight(hidden=lambda x: jnp.where(x > 0, jnp.log(x), 0), more=nn.tanh, root=jnp.sqrt, last=nn.dense(1))
    for x, expected in ((X, None), (ZERO_IN_TWO, ("hidden", "backward", (2,))), (-X, None), (0.5 * X, ("root", "forward"))):
        found = find(model, x)
        got = None if found is None else (found.path, found.phase, found.samples)[: len(expected)]
        assert got == expected


def test_weights_and_objectives():
    model = nn.serial(nn.dense(2), logarithm=jnp.log)
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
    x, y = jnp.array([[1.0, 1.0], [0.0, 0.0]]), jnp.ones((2, 2))
    found = find_nonfinite(model, params, {}, (x, y, jnp.ones(2)), loss=nn.losses.mse)
    assert (found.path, found.samples) == ("logarithm", (1,))

    def reconstruct(model, params, state, batch, key):
        y, state = model.apply(params, state, batch)
        return nn.losses.mse(y, batch), (state, y)

    assert find_nonfinite(model, params, {}, x, loss=nn.Objective(reconstruct)).path == "logarithm"
