"""The table of a model."""

import gc
import itertools
import re
import resource
import time
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn


def test_nested_repeated_and_shared_layers():
    def twice(run, x):
        return run("f", run("f", x))

    model = nn.serial(
        stem=nn.dense(4), body=nn.repeat(nn.residual(nn.dense(4), nn.relu), 5), tied=nn.block(twice, f=nn.dense(4))
    )
    x = jnp.ones((2, 3))
    table = nn.summary(model, x)
    assert [(row.path, row.formula, row.parameters) for row in table.rows] == [
        ("stem", "3·4 + 4", 16),
        ("body", "", 0),
        ("body/dense", "5·4·4 + 5·4", 100),
        ("body/relu", "", 0),
        ("tied/f", "4·4 + 4", 20),
    ]
    assert table.parameters == nn.trees.count(model.init(jax.random.key(0), x)[0]) == 136
    assert table.size == 4 * 136
    products = {"stem": 2 * 2 * 3 * 4, "body/dense": 5 * 2 * 2 * 4 * 4, "tied/f": 2 * 2 * 2 * 4 * 4}
    biases = {"stem": 8, "body/dense": 5 * 8, "tied/f": 2 * 8}
    for row in table.rows:
        if row.path in products:
            assert row.forward == products[row.path] + biases[row.path]
    assert next(row.forward for row in table.rows if row.path == "body") == 5 * 8  # the sum of residual


def test_a_layer_alone_several_outputs_and_other_dtypes():
    assert "dense  (B, 3)  float32  4·3 + 3 = 15" in nn.summary(nn.dense(3), jnp.ones((2, 4))).text()
    both = nn.summary(nn.branch(nn.dense(2), nn.dense(3)), jnp.ones((2, 4)))
    assert [row.output for row in both.rows] == ["(B, 2)", "(B, 3)"]
    half = nn.summary(nn.dtype_policy(nn.dense(3), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16), jnp.ones((2, 4)))
    assert half.size == 30
    assert half.rows[0].dtype == "bfloat16"
    mixed = nn.summary(nn.dtype_policy(nn.serial(nn.dense(3)), dtype=jnp.bfloat16), jnp.ones((2, 4)))
    assert [row.dtype for row in mixed.rows if row.path == "dense"] == ["float32 → bfloat16"]
    assert str(nn.summary(nn.relu, jnp.ones((2, 4)))).splitlines()[-2] == "total: 0 parameters, 0 bytes"


def test_integer_outputs_batches_of_one_and_invalid_inputs():
    classes = nn.serial(nn.dense(3), nn.batch_norm(), lambda x: x.argmax(-1))
    table = nn.summary(classes, jnp.ones((1, 4)))  # batch_norm refuses to train on a batch of one
    assert table.batch == 1
    assert table.rows[0].forward == 2 * 4 * 3 + 3
    with pytest.raises(TypeError, match="embedding takes"):
        nn.summary(nn.embedding(3, 2), jnp.ones((2, 3)))


def test_the_forms_that_kernels_choose(monkeypatch):
    deep = nn.serial(nn.conv(8, 3), nn.depthwise_conv(3), nn.conv(8, 3, strides=2), nn.max_pool(2))
    model = nn.serial(deep, nn.flatten(), nn.reshape(4, -1), nn.lstm(4), nn.attention(4, 2))
    x = jnp.ones((2, 8, 8, 1))
    table = nn.summary(model, x, kernels=True)
    assert {row.path: row.forms for row in table.rows if row.forms} == {
        "serial/conv": "conv taps | conv canonical",
        "serial/depthwise_conv": "conv taps | conv column_sums, conv taps",
        "serial/conv_2": "conv canonical | conv taps, conv polyphase",
        "serial/max_pool": "max_pool taps",
        "lstm": "recurrence joined",
        "attention/cache": "attention blocks",
    }
    assert str(table).splitlines()[0].endswith("forms")
    assert "<span>conv taps | conv canonical</span>" in table._repr_html_()
    monkeypatch.setattr("jaxnn.kernels.forms.platform", lambda: "tpu")
    elsewhere = {row.forms for row in nn.summary(model, x, kernels=True).rows if row.forms}
    assert elsewhere == {"conv xla", "max_pool xla", "recurrence xla", "attention xla"}


def test_the_summary_of_a_large_model_allocates_nothing():
    x = jax.ShapeDtypeStruct((1, 4096), jnp.float32)

    def traces(depth):
        def activation(x):
            traced.append(1)
            return x

        traced = []
        return nn.summary(nn.repeat(nn.residual(nn.dense(4096), activation), depth), x), len(traced)

    (table, deep), (_, shallow) = traces(400), traces(2)
    assert deep == shallow
    assert table.parameters == 400 * (4096**2 + 4096)
    assert "26.9 GB" in str(table)
    # 2 · n² per application and per gradient; the gradient of the first layer's input is not needed
    assert "13.4 GFLOP forward, 26.8 GFLOP backward" in str(table)


def llama_2_7b(stack):
    def block():
        attention = nn.attention(4096, 32, is_causal=True, rotary_base=10_000.0, use_bias=False)
        mlp = nn.feed_forward(4096, 11008, activation=nn.silu, gated=True, use_bias=False)
        return nn.transformer_block(attention, mlp, norm=nn.rms_norm)

    embedding, logits = nn.embedding(32_000, 4096), nn.dense(32_000, use_bias=False)
    return nn.serial(embedding, blocks=stack(block, 32), norm=nn.rms_norm(), logits=logits)


@pytest.mark.parametrize(
    ("stack", "limit"),
    [
        pytest.param(lambda block, n: nn.repeat(block(), n), 3, id="repeated"),
        pytest.param(lambda block, n: nn.serial(*(block() for _ in range(n))), 30, id="unrolled", marks=pytest.mark.slow),
    ],
)
def test_seven_billion_parameters_in_seconds_of_cpu_time_and_no_memory(stack, limit):
    gc.freeze()  # collections would scan the objects of other tests
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    table = nn.summary(llama_2_7b(stack), jax.ShapeDtypeStruct((1, 2048), jnp.int32))
    seconds = time.process_time() - start
    assert seconds < limit
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB
    assert table.parameters == 6_738_415_616  # as published
    # two per weight of a product and token, and two products of attention over all pairs of tokens
    products = 2 * 2048 * (table.parameters - 32_000 * 4096) + 32 * 4 * 2048**2 * 4096
    np.testing.assert_allclose(table.forward, products, rtol=0.01)


class Tags(HTMLParser):
    """The tags that are open, and the text in summaries."""

    def __init__(self):
        super().__init__()
        self.open, self.counts, self.text = [], {}, []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "summary" in self.open:
            self.text.append(data)


def test_the_html_has_a_foldable_sum_per_block():
    model = nn.serial(nn.dense(4), body=nn.repeat(nn.residual(nn.dense(4), inner=nn.serial(nn.dense(4), nn.relu)), 5))
    table = nn.summary(model, jnp.ones((2, 3)))
    page = Tags()
    page.feed(table._repr_html_())
    assert not page.open
    assert page.counts["details"] == 2
    assert page.text[:2] == ["body", "(B, 4)"]
    assert "200" in page.text  # the parameters of both dense layers, five copies
    assert page.text[page.text.index("inner") :][:4] == ["inner", "(B, 4)", "100", "46.3%"]


def test_a_layer_shows_its_tree_and_escapes_names():
    page = Tags()
    page.feed(nn.serial(nn.dense(4), **{"<b>": nn.residual(nn.relu)})._repr_html_())
    assert not page.open
    assert page.counts["details"] == 2
    assert page.text == ["serial", " ", "2 layers", "<b> ", "residual", " ", "1 layer"]
    assert dict(nn.remat(nn.serial(nn.relu)).children).keys() == {"relu"}
    assert "<details" not in nn.dense(3)._repr_html_()


# treescope reads every public name of NumPy, deprecated ones included.
deprecated_numpy = pytest.mark.filterwarnings("ignore:The chararray class:DeprecationWarning")


@deprecated_numpy
def test_treescope_shows_models_with_their_layers_params_and_results():
    treescope = pytest.importorskip("treescope")
    model = nn.serial(nn.dense(4), body=nn.repeat(nn.residual(nn.dense(4)), 2))
    params, _ = model.init(jax.random.key(0), jnp.ones((2, 3)))
    assert "'body': Layer(\n      name='repeat'" in treescope.render_to_text(model)
    assert "float32(2, 4, 4)" in treescope.render_to_text(params)
    assert "2·4·4" in treescope.render_to_text(nn.summary(model, jnp.ones((2, 3))))
    state = nn.init_train_state(model, optax.sgd(0.1), jax.random.key(0), jnp.ones((2, 3)))
    history = nn.History([{"epoch": 1, "loss": 0.5}])
    result = nn.FitResult(params, {}, history, "finished", 1, 0.0, model, nn.losses.mse, {}, state)
    assert treescope.render_to_text(history).startswith("History(rows=[{'epoch': 1, 'loss': 0.5}])\n")
    assert "  step=<jax.Array(0, dtype=int32)>" in treescope.render_to_text(state)
    assert "history=History(rows=[" in treescope.render_to_text(result)


@pytest.mark.slow
@deprecated_numpy
def test_treescope_shows_a_sweep():
    treescope = pytest.importorskip("treescope")
    space, options = {"learning_rate": [0.1, 0.01]}, {"loss": nn.losses.mse, "optimizer": optax.sgd, "epochs": 1}
    result = nn.sweep(nn.dense(1), (jnp.ones((4, 2)), jnp.ones((4, 1))), space, key=jax.random.key(0), **options)
    assert "{'learning_rate': 0.1, 'seed': 0, 'loss': " in treescope.render_to_text(result)
    assert "setting={'learning_rate': 0.01}" in treescope.render_to_text(result.member(1))


def test_a_block_with_the_name_of_the_model_is_told_from_the_model():
    model = nn.serial(nn.serial(nn.dense(4), nn.branch(nn.dense(2), nn.dense(3))), lambda ys: ys[0].sum() + ys[1].sum())

    def doubled(run, x):
        return 2 * run("doubled", x)

    page, table = Tags(), nn.summary(nn.block(doubled, doubled=model), jnp.ones((2, 3)))
    assert table.rows[0].path == "(itself)"
    assert table.blocks["doubled/serial"] == table.blocks["doubled/serial/branch"] == "(B, 2), (B, 3)"
    page.feed(table._repr_html_())
    assert page.counts["details"] == 3


LONG = nn.serial(nn.serial(nn.dense(3), a_layer_with_the_name_kernel_or_so_2=nn.dense(10)), nn.relu)


def test_the_text_fits_its_width():
    table = nn.summary(nn.models.cnn(10), jnp.ones((4, 28, 28, 1)))
    everything = table.text()
    heads = [table.text(width).splitlines()[0].split() for width in (200, 92, 80, 70, 60, 40)]
    assert heads[0] == ["layer", "output", "dtype", "parameters", "share", "forward", "backward", "share", "kept"]
    for one, other in itertools.pairwise(heads):
        assert set(other) <= set(one)
    for width in (80, 70, 60, 40):
        assert max(map(len, table.text(width).splitlines())) <= width
        assert "1,290" in table.text(width)
    assert re.search(r"\n…\S*kernel_or_so_2 +\(B, 10\)", nn.summary(LONG, jnp.ones((4, 9))).text(40))
    assert str(table) == table.text(80)
    assert table.text(len(everything.splitlines()[1])) == everything
