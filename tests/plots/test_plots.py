"""Plots of runs, networks and landscapes."""

import itertools

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb

import jaxnn as nn
from jaxnn.plots.axes import mosaic
from jaxnn.plots.figures import classification_figure
from jaxnn.plots.networks import principal_components
from jaxnn.plots.style import BLUE, COLORS, GRAY, ORANGE, PURPLE, RED, line_colormap, of_class
from jaxnn.plots.sweeps import sweep_figure

RUNS = {
    "learning_rate": [0.1, 0.1, 0.01, 0.01, 0.1, 0.001],
    "init": ["he", "glorot", "he", "glorot", "he", "he"],
    "seed": [0, 0, 0, 0, 1, 0],
    "loss": [1.0, 2.0, 3.0, 4.0, 3.0, np.nan],
}


def test_learning_curves_and_learning_rates():
    history = {"epoch": [1, 2, 3], "loss": [3.0, np.nan, 1.0], "val_loss": [2.0, 2.0, 2.0]}
    ax = nn.inspect.plot_learning_curves(history)
    assert [line.get_data()[0].tolist() for line in ax.lines] == [[1, 3], [1, 2, 3]]
    assert ax.lines[0].get_data()[1].tolist() == [3.0, 1.0]
    with pytest.raises(ValueError, match="no 'accuracy'; it has 'epoch', 'loss'"):
        nn.inspect.plot_learning_curves(history, "accuracy")
    found = nn.LearningRates(np.array([0.1, 1.0]), np.array([2.0, 1.0]), np.array([2.0, 1.5]), 0.1)
    figure = found.plot()
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [0.1, 0.1, 0.1]
    assert figure.axes[0].get_xscale() == "log"


def test_a_sweep_averages_over_the_other_columns():
    ax = nn.inspect.plot_sweep(RUNS, "learning_rate", "init", "loss")
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), [[np.nan, 3.0, 2.0], [np.nan, 4.0, 2.0]])
    assert [text.get_text() for text in ax.texts] == ["3", "2", "4", "2"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["he", "glorot"]
    with pytest.raises(ValueError, match="no column 'rate'"):
        nn.inspect.plot_sweep(RUNS, "rate", "init", "loss")


def test_parallel_coordinates_are_logarithmic_where_a_decade_is_spanned():
    table = {**RUNS, "learning_rate": [1.0, 0.1, 0.01, 0.01, 0.01, 0.01]}
    ax = nn.inspect.plot_parallel_coordinates(table, "loss", names=["learning_rate", "seed"])
    (lines,) = [c for c in ax.collections if hasattr(c, "get_segments")]
    heights = sorted([y for _, y in line] for line in lines.get_segments())
    np.testing.assert_allclose(heights, [[0, 0, 2 / 3], [0, 0, 1], [0, 1, 2 / 3], [0.5, 0, 1 / 3], [1, 0, 0]], atol=1e-12)
    assert lines.get_array().tolist() == [4.0, 3.0, 3.0, 2.0, 1.0]  # the best on top
    with pytest.raises(ValueError, match="no run has a finite 'loss'"):
        nn.inspect.plot_parallel_coordinates({"a": [1], "loss": [np.inf]}, "loss")


def test_a_sweep_is_plotted_as_its_table():
    sweep = nn.sweep(
        nn.dense(1), (np.ones((4, 1), np.float32),) * 2, {"learning_rate": [0.1, 0.2], "momentum": [0.0, 0.5]}, epochs=1,
        loss=nn.losses.mse, optimizer=optax.sgd, key=jax.random.key(0), progress=False,
    )  # fmt: skip
    image = nn.inspect.plot_sweep(sweep, "learning_rate", "momentum", "loss").images[0]
    np.testing.assert_allclose(image.get_array().T.ravel(), sweep.columns["loss"])
    ax = nn.inspect.plot_parallel_coordinates(sweep, "loss")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["learning_rate", "momentum", "loss"]


def linear(colors):
    colors = np.asarray(colors)
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def test_colors_of_lines_can_be_read_on_white_and_on_black():
    named = [to_rgb(color) for color in (BLUE, ORANGE, RED, PURPLE, GRAY)]
    lines = np.concatenate([named, line_colormap()(np.linspace(0, 1, 50))[:, :3]])
    for colors, on_white, on_black in ((lines, 2.4, 4.2), ([to_rgb(color) for color in COLORS], 2.2, 2.9)):
        luminance = linear(colors) @ [
            0.2126,
            0.7152,
            0.0722,
        ]  # of WCAG's contrast ratio, 21 for black on white
        assert (1.05 / (luminance + 0.05)).min() > on_white
        assert ((luminance + 0.05) / 0.05).min() > on_black


# Machado et al. 2009, severity 1, in linear RGB.
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
# Ottosson 2020, from linear RGB to the cube of cone responses, and from these to Oklab.
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]  # fmt: skip
TO_OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]  # fmt: skip


def test_colors_of_classes_are_told_apart_with_color_blindness_too():
    rgb = linear([to_rgb(color) for color in COLORS])
    assert len(rgb) == 10
    for vision, least in ((np.eye(3), 0.15), (PROTANOPIA, 0.095), (DEUTERANOPIA, 0.095)):
        seen = np.cbrt(np.clip(rgb @ np.transpose(vision), 0, 1) @ np.transpose(TO_CONES)) @ np.transpose(TO_OKLAB)
        distances = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(10, 1)]
        assert distances.min() > least  # a just noticeable difference is 0.02
    looks = {tuple(of_class(i).items()) for i in range(40)}
    assert len(looks) == 40


def test_a_sweep_is_drawn_by_its_size():
    def table(**grid):
        rows = list(itertools.product(*grid.values(), range(2)))
        columns = dict(zip([*grid, "seed"], map(list, zip(*rows, strict=True)), strict=True))
        return columns | {"accuracy": [0.5 + 0.01 * i for i in range(len(rows))]}

    rates, rest = [0.1, 0.01, 0.001], {"init": ["he", "lecun"], "dropout": [0.0, 0.5]}
    dots = sweep_figure(table(rate=rates), ["rate"], "accuracy", title="dots")
    assert [len(line.get_xdata()) for line in dots.axes[0].lines] == [2, 1] * 3
    assert dots.axes[0].lines[1].get_ydata() == pytest.approx([0.545])  # the mean of the smallest rate's, the last two
    maps = sweep_figure(table(rate=rates, **rest), ["rate", "init", "dropout"], "accuracy", title="maps")
    *panels, bar = maps.axes
    assert [ax.get_title(loc="left") for ax in panels] == ["dropout 0", "dropout 0.5"]
    assert len({ax.images[0].get_clim() for ax in panels}) == 1 and bar.get_ylabel() == "mean accuracy"
    shown = np.asarray(panels[1].images[0].get_array())  # he of dropout 0.5: runs 2, 3 of each block of 8
    np.testing.assert_allclose(shown, np.array([[0.685, 0.605, 0.525], [0.725, 0.645, 0.565]]))
    many = {"a": list(range(12)), "b": list(range(4)), "c": [0, 1]}
    lines = sweep_figure(table(**many), list(many), "accuracy", title="lines")
    assert len(lines.axes[0].collections[0].get_segments()) == 12 * 4 * 2 * 2
    for figure, title in ((dots, "dots"), (maps, "maps"), (lines, "lines")):
        assert figure.get_suptitle() == title
        assert not any(ax.get_title(loc="center") for ax in figure.axes)  # one above another
    with pytest.raises(ValueError, match="no run has a finite 'loss'"):
        sweep_figure({"rate": [0.1, 0.2], "loss": [np.nan, np.inf]}, ["rate"], "loss", title="")


def test_the_epoch_that_was_kept_is_marked():
    history = {"loss": [2.0, 1.0, 1.5], "accuracy": [0.1, 0.5, 0.4]}
    figure = classification_figure(history, np.zeros((2, 3)), [0, 1], [0, 1], ["a", "b"], title="early", kept=2)
    for ax in figure.axes[:2]:
        assert ax.lines[-1].get_xdata() == [2, 2]
        assert ax.get_legend().get_texts()[-1].get_text() == "kept: epoch 2"


def test_images_are_drawn_as_tiles():
    _, ax = pyplot.subplots()
    drawn = np.asarray(mosaic(ax, np.arange(12.0).reshape(3, 2, 2), cmap="viridis", symmetric=False).get_array())
    nan = np.nan
    wanted = [[0, 1, nan, 4, 5], [2, 3, nan, 6, 7], [nan] * 5, [8, 9, nan, nan, nan], [10, 11, nan, nan, nan]]
    np.testing.assert_array_equal(np.ma.filled(drawn, nan), wanted)
    kernel = np.arange(2 * 2 * 2 * 3.0).reshape(2, 2, 2, 3)
    image = np.ma.filled(nn.inspect.plot_filters(jnp.asarray(kernel)).images[0].get_array(), nan)
    np.testing.assert_array_equal(image[3:5, 6:8], kernel[:, :, 1, 2])  # row: input channel, column: filter
    colors = np.asarray(nn.inspect.plot_filters(np.random.default_rng(0).normal(size=(3, 3, 3, 4))).images[0].get_array())
    assert colors.shape == (7, 7, 4)
    assert colors[:3, :3, :3].min() == 0.0
    assert colors[:3, :3, :3].max() == 1.0
    assert colors[3, :, 3].tolist() == [0.0] * 7  # transparent between the tiles
    maps = nn.inspect.plot_feature_maps(np.ones((4, 4, 2)))
    assert np.nansum(np.ma.filled(maps.images[0].get_array(), nan)) == 32
    heads = nn.inspect.plot_attention(np.stack([np.eye(4)] * 2))
    assert heads.get_title(loc="left") == "2 heads"
    for plot, wrong in ((nn.inspect.plot_filters, np.ones((3, 3))), (nn.inspect.plot_feature_maps, np.ones((1, 3, 3, 2)))):
        with pytest.raises(ValueError, match="needs .* got shape"):
            plot(wrong)
    with pytest.raises(ValueError, match="got 1 tokens for weights"):
        nn.inspect.plot_attention(np.eye(2), ["a"])


def test_histograms_by_layer_and_step():
    steps = [{"b": np.full(10, -1.0), "a": {"k": np.array([1.0, 3.0, np.nan])}}, {"b": np.zeros(10), "a": {"k": np.ones(2)}}]
    ax = nn.inspect.plot_histograms(steps, steps=[0, 50], bins=7)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a/k", "b"]
    assert len(ax.collections) == 4
    top = [ridge.get_paths()[0].vertices[:, 1].max() for ridge in ax.collections]
    np.testing.assert_allclose(top, [1.425, 1.85, 0.85, 0.85])  # base + 0.85 · the share of the values over the largest share
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["step 0", "step 50"]
    log = nn.inspect.plot_histograms({"g": np.array([0.0, 1e-8, 1e-8, 1.0])}, log=True)
    assert log.get_xlim()[0] < -8 < 0 < log.get_xlim()[1]
    with pytest.raises(ValueError, match="nothing to plot"):
        nn.inspect.plot_histograms({"g": np.zeros(3)}, log=True)


def test_activation_statistics_find_dead_units():
    values = np.array([[0.0, 1.0, -1.0], [0.0, 0.0, 2.0]])
    table = nn.inspect.activation_statistics({"layer": values})
    assert table["layer"] == ["layer"]
    np.testing.assert_allclose([table[k][0] for k in ("mean", "std", "zero", "dead")], [1 / 3, values.std(), 0.5, 1 / 3])
    ax = nn.inspect.plot_activations({"layer": values})
    assert [text.get_text() for text in ax.texts] == ["33% dead"]
    bar = ax.patches[0]
    np.testing.assert_allclose([bar.get_x(), bar.get_width()], [1 / 3 - values.std(), 2 * values.std()])


def test_principal_components_are_scikit_learns():
    decomposition = pytest.importorskip("sklearn.decomposition")
    vectors = np.random.default_rng(0).normal(size=(30, 5)) * [1, 5, 2, 1, 0.1]
    points, shares = principal_components(vectors)
    pca = decomposition.PCA(2).fit(vectors)
    np.testing.assert_allclose(np.abs(points), np.abs(pca.transform(vectors)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, rtol=1e-6)
    ax = nn.inspect.plot_embeddings(vectors, np.arange(30) % 3)
    assert [len(c.get_offsets()) for c in ax.collections] == [10, 10, 10]
    words = nn.inspect.plot_embeddings(vectors[:3], ["a", "b", "c"])
    assert [text.get_text() for text in words.texts] == ["a", "b", "c"]


def test_the_density_of_a_spectrum_weights_eigenvalues():
    x, density = nn.inspect.plot_spectrum([[0.0, 1.0], [0.0, 1.0]], [[0.9, 0.1], [0.7, 0.3]]).lines[0].get_data()
    step = x[1] - x[0]
    np.testing.assert_allclose([density[x < 0.5].sum() * step, density[x > 0.5].sum() * step], [0.8, 0.2], atol=1e-3)
    with pytest.raises(ValueError, match="one weight per eigenvalue"):
        nn.inspect.plot_spectrum([1.0, 2.0], [1.0])


def quadratic(params):
    return 3 * params["a"].sum() ** 2 + params["b"].sum() ** 2 + 1.0


PATH = [{"a": jnp.array([a]), "b": jnp.array([b])} for a, b in ((2.0, 1.0), (1.0, 0.0), (0.0, 0.0))]


def test_a_landscape_is_the_loss_on_the_plane():
    u, v = {"a": jnp.array([2.0]), "b": jnp.array([0.0])}, {"a": jnp.array([0.0]), "b": jnp.array([1.0])}
    center = {"a": jnp.array([1.0]), "b": jnp.array([0.0])}
    landscape = nn.inspect.loss_landscape(quadratic, center, (u, v), extent=(-1.0, 1.0, 0.0, 2.0), points=5)
    a, b = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(0, 2, 5))
    np.testing.assert_allclose(landscape.losses, 3 * (1 + 2 * a) ** 2 + b**2 + 1, rtol=1e-6)
    np.testing.assert_allclose(landscape.project(PATH), [[0.5, 1.0], [0.0, 0.0], [-0.5, 0.0]], atol=1e-6)
    held = nn.inspect.loss_landscape(quadratic, center, (u, v), path=PATH, points=3)  # the path spans −0.5 to 0.5 and 0 to 1
    np.testing.assert_allclose([held.x, held.y], [[-0.8, 0.0, 0.8], [-0.3, 0.5, 1.3]], atol=1e-6)
    ax = nn.inspect.plot_landscape(landscape, PATH)
    np.testing.assert_allclose(ax.lines[1].get_data(), [[0.5, 0.0, -0.5], [1.0, 0.0, 0.0]], atol=1e-6)
    with pytest.raises(ValueError, match="two directions like the parameters"):
        nn.inspect.loss_landscape(quadratic, center, (u, {"a": jnp.ones(2), "b": jnp.ones(1)}))


def test_directions():
    u, v = nn.inspect.path_directions(PATH)
    basis = np.array([[u["a"][0], u["b"][0]], [v["a"][0], v["b"][0]]])
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-6)
    path = np.array([[2.0, 1.0], [1.0, 0.0]])
    expected = np.linalg.eigh(path.T @ path)[1][:, ::-1].T
    np.testing.assert_allclose(np.abs(basis), np.abs(expected), atol=1e-6)
    params = {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 2, 4)), "bias": jnp.ones(4)}
    first, second = nn.inspect.random_directions(jax.random.key(0), params)
    for direction in (first, second):
        sizes = [jnp.sqrt((tree["kernel"] ** 2).sum((0, 1, 2))) for tree in (direction, params)]
        np.testing.assert_allclose(*sizes, rtol=1e-5)
        assert not direction["bias"].any()
    assert not np.allclose(first["kernel"], second["kernel"])
    with pytest.raises(ValueError, match="three points"):
        nn.inspect.path_directions(PATH[:2])


LABELS, SCORES = np.array([0, 1, 1, 0]), np.array([0.1, 0.8, 0.4, 0.6])
PLOTS = {
    "plot_activations": lambda **o: nn.inspect.plot_activations({"relu": np.eye(3)}, **o),
    "plot_attention": lambda **o: nn.inspect.plot_attention(np.eye(3), ["a", "b", "c"], **o),
    "plot_calibration": lambda **o: nn.inspect.plot_calibration(SCORES, LABELS, **o),
    "plot_confusion_matrix": lambda **o: nn.inspect.plot_confusion_matrix(LABELS, LABELS, 2, **o),
    "plot_decision_boundary": lambda **o: nn.inspect.plot_decision_boundary(lambda x: x, np.eye(2), [0, 1], points=5, **o),
    "plot_embeddings": lambda **o: nn.inspect.plot_embeddings(np.arange(8.0).reshape(4, 2), LABELS, **o),
    "plot_feature_maps": lambda **o: nn.inspect.plot_feature_maps(np.ones((4, 4, 3)), **o),
    "plot_filters": lambda **o: nn.inspect.plot_filters(np.arange(72.0).reshape(3, 3, 2, 4), **o),
    "plot_histograms": lambda **o: nn.inspect.plot_histograms([{"a": np.arange(9.0)}] * 2, **o),
    "plot_landscape": lambda **o: nn.inspect.plot_landscape(
        nn.inspect.Landscape(np.arange(3.0), np.arange(3.0), np.arange(9.0).reshape(3, 3), PATH[0], (PATH[0], PATH[1])), **o
    ),
    "plot_learning_curves": lambda **o: nn.inspect.plot_learning_curves({"loss": [2.0, 1.0], "val_loss": [2.0, 1.5]}, **o),
    "plot_learning_rates": lambda **o: nn.inspect.plot_learning_rates(
        nn.LearningRates(np.array([0.1, 1.0]), np.array([2.0, 1.0]), np.array([2.0, 1.5]), 0.1), **o
    ),
    "plot_parallel_coordinates": lambda **o: nn.inspect.plot_parallel_coordinates(RUNS, "loss", **o),
    "plot_precision_recall": lambda **o: nn.inspect.plot_precision_recall(SCORES, LABELS, **o),
    "plot_roc": lambda **o: nn.inspect.plot_roc(SCORES, LABELS, **o),
    "plot_spectrum": lambda **o: nn.inspect.plot_spectrum([0.0, 1.0, 4.0], **o),
    "plot_sweep": lambda **o: nn.inspect.plot_sweep(RUNS, "learning_rate", "init", "loss", **o),
}


def test_every_plot_takes_axes_and_returns_them():
    assert set(PLOTS) == {name for name in nn.inspect.__all__ if name.startswith("plot_")}
    before = dict(matplotlib.rcParams)
    for name, ax in zip(PLOTS, pyplot.figure().subplots(4, 5).flat, strict=False):
        assert PLOTS[name](ax=ax) is ax, name
        assert ax.has_data(), name
    assert len(pyplot.get_fignums()) == 1  # no plot opened another figure
    assert dict(matplotlib.rcParams) == before


def test_plots_follow_a_dark_style():
    with pyplot.style.context("dark_background"):
        axes = [
            nn.inspect.plot_learning_curves({"loss": [1.0, 0.5]}),
            nn.inspect.plot_spectrum([0.0, 1.0]),
            nn.inspect.plot_parallel_coordinates(RUNS, "loss"),
        ]
    for ax in axes:
        assert ax.figure.get_facecolor()[:3] == (0.0, 0.0, 0.0)
        assert ax.title.get_color() == ax.xaxis.label.get_color() == "white"
        assert all(text.get_color() == "white" for text in ax.texts)
