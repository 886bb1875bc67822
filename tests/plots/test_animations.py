"""Animations: the contents of a frame, and files that open."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


def test_functions_are_drawn_with_their_derivatives():
    movie = nn.inspect.animate_functions({"cube": lambda x: x**3}, low=-1.0, high=1.0, frames=5)
    movie.draw(3)
    curve, derivative, tangent, point = movie.figure.axes[0].lines
    x, slope = derivative.get_data()
    assert x[-1] == 0.5
    np.testing.assert_allclose(slope, 3 * x**2, atol=1e-6)
    np.testing.assert_allclose(point.get_data(), [[0.5], [0.125]], atol=1e-6)
    (left, right), (low, high) = tangent.get_data()
    assert (high - low) / (right - left) == pytest.approx(0.75)
    np.testing.assert_allclose(curve.get_ydata(), curve.get_xdata() ** 3, atol=1e-6)


@pytest.mark.slow
def test_activations_and_losses_are_those_of_the_library():
    activations = nn.inspect.animate_activations(frames=3)
    activations.draw(2)
    slopes = {ax.get_title(loc="left"): ax.lines[1].get_ydata() for ax in activations.figure.axes}
    assert list(slopes) == ["linear", "sigmoid", "ReLU", "leaky ReLU", "ELU", "tanh"]
    assert set(slopes["ReLU"].tolist()) == {0.0, 1.0}
    assert slopes["sigmoid"].max() == pytest.approx(0.25, abs=1e-4)
    assert slopes["leaky ReLU"].min() == pytest.approx(0.01)
    functions = {"linear": nn.identity, "sigmoid": nn.sigmoid, "ReLU": nn.relu, "leaky ReLU": nn.leaky_relu, "ELU": nn.elu,
                 "tanh": nn.tanh}  # fmt: skip
    for ax in activations.figure.axes:
        x, function = ax.lines[0].get_xdata(), functions[ax.get_title(loc="left")]
        np.testing.assert_allclose(ax.lines[0].get_ydata(), function(x), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ax.lines[1].get_ydata(), jax.vmap(jax.grad(function))(x), rtol=1e-6, atol=1e-6)
    losses = nn.inspect.animate_losses(frames=3)
    losses.draw(2)
    curves = {ax.get_title(loc="left"): ax.lines[0].get_data() for ax in losses.figure.axes}
    x = curves["MSE"][0].astype(float)
    of_logit = jax.vmap(lambda x: nn.losses.binary_cross_entropy(x[None], jnp.ones(1)))
    np.testing.assert_allclose(curves["cross-entropy"][1], of_logit(curves["cross-entropy"][0]), atol=1e-6)
    np.testing.assert_allclose(curves["MSE"][1], x**2, atol=1e-5)
    np.testing.assert_allclose(curves["MAE"][1], abs(x), atol=1e-5)
    np.testing.assert_allclose(curves["Huber, δ = 1"][1], np.where(abs(x) <= 1, x**2 / 2, abs(x) - 0.5), atol=1e-5)
    np.testing.assert_allclose(curves["hinge"][1], np.maximum(0, 1 - x), atol=1e-5)
    np.testing.assert_allclose(curves["cross-entropy"][1], np.log1p(np.exp(-x)), atol=1e-5)
    with pytest.raises(ValueError, match="at least 2 frames"):
        nn.inspect.animate_losses(frames=1)


def test_a_boundary_changes_and_is_saved_as_gif(tmp_path):
    image = pytest.importorskip("PIL.Image")
    x, labels = [[0.0, 0.0], [1.0, 1.0]], [0, 1]
    movie = nn.inspect.animate_boundary(lambda p, x: 50 * (x[:, 0] - p), [0.25, 0.75], x, labels, steps=[0, 10], points=41)
    ax = movie.figure.axes[0]
    for i, edge in enumerate((0.25, 0.75)):
        movie.draw(i)
        colors = np.asarray(ax.images[0].get_array())[0, :, :3]
        change = np.flatnonzero((np.diff(colors, axis=0) != 0).any(1))[0]
        assert np.linspace(*ax.images[0].get_extent()[:2], 41)[change] == pytest.approx(edge, abs=0.04)
    assert ax.get_title(loc="left") == "step 10"
    movie.save(tmp_path / "boundary.gif")
    with image.open(tmp_path / "boundary.gif") as opened:
        assert opened.n_frames == 2
    with pytest.raises(ValueError, match=r"as \.gif or \.html"):
        movie.save(tmp_path / "boundary.mp4")


def test_a_path_in_a_landscape_is_saved_as_a_page(tmp_path):
    path = [{"w": jnp.array([a, b])} for a, b in ((2.0, 1.0), (1.0, 0.5), (0.0, 0.0))]
    directions = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}
    extent = nn.inspect.around(np.array([[2.0, 1.0]]))
    landscape = nn.inspect.loss_landscape(lambda p: (p["w"] ** 2).sum(), path[-1], directions, extent=extent, points=5)
    movie = nn.inspect.animate_landscape(landscape, path, losses=[5.0, 1.25, 0.0])
    movie.draw(1)
    ax = movie.figure.axes[0]
    np.testing.assert_allclose(ax.lines[1].get_data(), [[2.0, 1.0], [1.0, 0.5]], atol=1e-6)
    assert ax.get_title(loc="left") == "step 1, loss 1.25"
    movie.save(tmp_path / "path.html")
    page = (tmp_path / "path.html").read_text()
    assert page.count("data:image/png;base64") == 3
    assert "http" not in page.replace("http://www.w3.org", "")  # the page downloads nothing
    assert "▶" in page
