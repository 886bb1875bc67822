"""Plots of arrays inside a network: kernels, feature maps, attention, distributions, embeddings, spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnn.plots.axes import axes, beside, colorbar, mosaic, titled
from jaxnn.plots.style import BLUE, GRAY, ORANGE, grid, line_colormap, of_class, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@style()
def plot_filters(kernel: Any, *, ax: Axes | None = None) -> Axes:
    """Plot the kernels of a convolution as images.

    Args:
        kernel: The kernel, `(height, width, C_in, C_out)`. Three input channels are drawn as colors, one image per filter;
            otherwise there is a row per input channel and a column per filter, at most 16 × 32 of them. Pass the kernel of a
            dense layer on images as `kernel.reshape(28, 28, 1, -1)`.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. Blue is negative, red positive, white 0.

    Raises:
        ValueError: If the kernel does not have four axes.

    Example:
        >>> plot_filters(np.ones((3, 3, 1, 4))).images[0].get_array().shape
        (7, 7)
    """
    kernel = _checked(kernel, 4, "plot_filters needs a kernel (height, width, C_in, C_out)")
    ax = axes(ax)
    if kernel.shape[2] == 3:
        images = kernel.transpose(3, 0, 1, 2)
        low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
        mosaic(ax, (images - low) / np.where(high > low, high - low, 1), cmap="viridis", symmetric=False)
        return titled(ax, f"{kernel.shape[3]} filters, each in its own range")
    shown = kernel[:, :, :16, :32]
    images = shown.transpose(2, 3, 0, 1).reshape(-1, *kernel.shape[:2])
    columns = None if kernel.shape[2] == 1 else shown.shape[3]
    colorbar(ax, mosaic(ax, images, cmap="RdBu_r", symmetric=True, columns=columns))
    rows = "" if kernel.shape[2] == 1 else f" (columns) of {kernel.shape[2]} input channels (rows)"
    return titled(ax, f"{kernel.shape[3]} filters{rows}")


@style()
def plot_feature_maps(maps: Any, *, ax: Axes | None = None) -> Axes:
    """Plot the output of a convolution for one image, one tile per channel.

    Args:
        maps: The output, `(height, width, channels)`, such as `nn.inspect.activations(model, params, state, x)["conv"][0]`.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes.

    Raises:
        ValueError: If there are not three axes.

    Example:
        >>> plot_feature_maps(np.ones((4, 4, 3))).images[0].get_array().shape
        (9, 9)
    """
    maps = _checked(maps, 3, "plot_feature_maps needs the feature maps of one image (height, width, channels)")
    ax = axes(ax)
    is_signed = bool(maps.min() < 0)
    colorbar(ax, mosaic(ax, maps.transpose(2, 0, 1), cmap="RdBu_r" if is_signed else "viridis", symmetric=is_signed))
    return titled(ax, f"{maps.shape[2]} channels")


@style()
def plot_attention(weights: Any, tokens: Sequence[str] | None = None, *, ax: Axes | None = None) -> Axes:
    """Plot attention maps: the weight of each key (column) for each query (row).

    Args:
        weights: The weights, `(queries, keys)`, or `(heads, queries, keys)`, drawn as tiles.
        tokens: The text at each position, for one map with as many queries as keys.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes.

    Raises:
        ValueError: If shapes do not match.

    Example:
        >>> plot_attention(np.eye(2), ["a", "b"]).images[0].get_array().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    weights = np.asarray(weights, float)
    if weights.ndim not in (2, 3):
        shapes = "(queries, keys) or (heads, queries, keys)"
        raise ValueError(f"plot_attention needs weights {shapes}, got shape {list(weights.shape)}")
    ax = axes(ax)
    if weights.ndim == 3 and len(weights) > 1:
        image = mosaic(ax, weights, cmap="viridis", symmetric=False)
        titled(ax, f"{len(weights)} heads")
    else:
        weights = weights.reshape(weights.shape[-2:])
        image = ax.imshow(weights, cmap="viridis", vmin=0)
        if tokens is not None:
            if weights.shape != (len(tokens), len(tokens)):
                raise ValueError(
                    f"plot_attention needs one token per position, got {len(tokens)} tokens for weights {list(weights.shape)}"
                )
            ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
            ax.set_yticks(range(len(tokens)), tokens, fontsize=8)
        titled(ax, "attention", "key", "query")
    colorbar(ax, image)
    return ax


@style()
def plot_histograms(
    trees: Any, *, steps: Sequence[Any] | None = None, log: bool = False, bins: int = 60, ax: Axes | None = None
) -> Axes:
    """Plot the distribution of parameters or gradients, by layer and step.

    Args:
        trees: A tree of arrays, such as params or their gradients; with `steps`, a sequence of trees.
        steps: The step or epoch of each tree.
        log: Whether to show log₁₀ of the absolute values, for gradients over many decades; zeros are left out.
        bins: The number of bins of a histogram.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes: a ridge per leaf, all on one scale, later steps in front, from blue to orange. Non-finite values are left
        out.

    Raises:
        ValueError: If the number of steps is not the number of trees, or no value is finite.

    Example:
        >>> ax = plot_histograms([{"kernel": np.zeros(3)}, {"kernel": np.ones(3)}], steps=[0, 100])
        >>> [text.get_text() for text in ax.get_yticklabels()], len(ax.collections)
        (['kernel'], 2)
    """
    sequence = [trees] if steps is None else list(trees)
    if steps is not None and len(sequence) != len(steps):
        raise ValueError(f"plot_histograms needs one step per tree, got {len(sequence)} trees and {len(steps)} steps")
    tables = [{path: _finite_values(leaf, log) for path, leaf in _leaves(tree).items()} for tree in sequence]
    everything = np.concatenate([values for table in tables for values in table.values()])
    if not everything.size:
        raise ValueError("plot_histograms: there is nothing to plot, no value is finite" + (" and not 0" if log else ""))
    limit = np.abs(everything).max()
    low, high = (everything.min(), everything.max()) if log else (-limit, limit)
    margin = 0.02 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, bins + 1)
    names = list(tables[0])
    ax = axes(ax, 6.2, 1.2 + 0.45 * len(names))
    colors = [BLUE] if len(tables) == 1 else [line_colormap()(i / (len(tables) - 1)) for i in range(len(tables))]
    for row, name in enumerate(names):
        heights = [np.histogram(table[name], edges)[0] / max(table[name].size, 1) for table in tables]
        top = max(h.max() for h in heights) or 1.0
        base = len(names) - 1 - row
        for color, height in zip(colors, heights, strict=True):
            ax.fill_between(edges[:-1], base, base + 0.85 * height / top, step="post", color=color, alpha=0.55, linewidth=0)
    ax.set_yticks(range(len(names))[::-1], names, fontsize=8)
    ax.set_ylim(-0.1, len(names))
    if steps is not None:
        handles = [ax.plot([], [], color=color, linewidth=6)[0] for color in colors]
        shown = range(len(colors)) if len(colors) <= 6 else np.linspace(0, len(colors) - 1, 5).astype(int)
        ax.legend([handles[i] for i in shown], [f"step {steps[i]}" for i in shown])
    grid(ax)
    return titled(ax, "", "log₁₀ |value|" if log else "value")


@style()
def plot_ranges(
    names: Sequence[str],
    means: Sequence[float],
    stds: Sequence[float],
    quantiles: Sequence[Any],
    dead: Sequence[float],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Plot distributions as rows: a bar for mean ± one standard deviation, a line for the middle 98%.

    Args:
        names: The names of the rows, from top to bottom.
        means: The means.
        stds: The standard deviations.
        quantiles: The quantiles 0.01 and 0.99 of each row.
        dead: The share of dead features of each row, which is written next to it unless it is 0.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes.

    Example:
        >>> ax = plot_ranges(["relu"], [0.5], [0.5], [(0.0, 1.0)], [0.5])
        >>> [text.get_text() for text in ax.texts]
        ['50% dead']
    """
    ax = axes(ax, 6.2, 1.2 + 0.32 * len(names))
    for row, (mean, std, (low, high)) in enumerate(zip(means, stds, quantiles, strict=True)):
        y = len(names) - 1 - row
        ax.plot([low, high], [y, y], color=GRAY, linewidth=1.2)
        ax.barh(y, 2 * std, left=mean - std, height=0.55, color=BLUE, alpha=0.6)
        ax.plot([mean], [y], color=ORANGE, marker="|", markersize=12, markeredgewidth=2)
        if dead[row]:
            text = f"{100 * dead[row]:.2g}% dead"
            ax.annotate(text, (1, y), (4, 0), ax.get_yaxis_transform(), "offset points", va="center", fontsize=8)
    ax.set_yticks(range(len(names))[::-1], names, fontsize=8)
    grid(ax)
    return titled(ax, "outputs: mean ± std, and the middle 98%", "value")


@style()
def plot_embeddings(vectors: Any, labels: Any = None, *, ax: Axes | None = None) -> Axes:
    """Plot vectors in the plane of their largest variance (principal component analysis, Pearson 1901).

    Args:
        vectors: The vectors, `(N, features)`.
        labels: The classes, `(N,)`, or a text per vector, of which the first 100 are shown; none by default. Ten classes have
            colors that are told apart with protanopia and deuteranopia too; more classes have other markers as well.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. The labels of the axes show the share of the variance along each direction.

    Raises:
        ValueError: If there are not two axes, or fewer than two vectors or features.

    Example:
        >>> ax = plot_embeddings([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
        >>> ax.get_xlabel(), ax.collections[0].get_offsets().tolist()
        ('component 1 (100% of the variance)', [[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    """
    points, shares = principal_components(_checked(vectors, 2, "plot_embeddings needs vectors (N, features)"))
    ax = axes(ax, 5.2, 4.4)
    labels = None if labels is None else np.asarray(labels)
    if labels is None or labels.dtype.kind in "US":
        ax.scatter(points[:, 0], points[:, 1], s=14, color=BLUE, alpha=0.7, edgecolors="none")
        for point, text in zip(points, [] if labels is None else labels[:100], strict=False):
            ax.annotate(text, point, (3, 3), textcoords="offset points", fontsize=8)
    else:
        for i, label in enumerate(np.unique(labels)):
            chosen = points[labels == label]
            ax.scatter(chosen[:, 0], chosen[:, 1], s=16, alpha=0.8, edgecolors="none", label=str(label), **of_class(i))
        ax.legend(**beside(len(np.unique(labels))))
    grid(ax)
    names = [f"component {i + 1} ({100 * share:.3g}% of the variance)" for i, share in enumerate(shares)]
    return titled(ax, "principal components", *names)


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of vectors.

    Args:
        vectors: The vectors, `(N, features)`.

    Returns:
        The coordinates `(N, 2)`, and the share of the variance along each direction. The sign is such that the entry of
        largest absolute value of a direction is positive.

    Raises:
        ValueError: If there are fewer than two vectors or features.

    Example:
        >>> principal_components(np.array([[0.0, 0.0], [2.0, 0.0]]))[0].tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    if min(vectors.shape) < 2:
        raise ValueError(f"principal components need at least two vectors of two features, got shape {list(vectors.shape)}")
    centered = vectors - vectors.mean(0)
    _, sizes, directions = np.linalg.svd(centered, full_matrices=False)
    first = directions[:2]
    first = first * np.sign(first[np.arange(2), np.abs(first).argmax(1)])[:, None]
    return centered @ first.T, sizes[:2] ** 2 / (np.sum(sizes**2) or 1.0)


@style()
def plot_spectrum(eigenvalues: Any, weights: Any = None, *, ax: Axes | None = None) -> Axes:
    """Plot the density of a spectrum, such as a Hessian's, as a sum of Gaussians about eigenvalues (Ghorbani et al. 2019).

    Args:
        eigenvalues: Eigenvalues, of any shape; or with weights, the nodes of quadratures, such as one row per run of
            stochastic Lanczos.
        weights: Their weights, of the same shape and at least 0; equal by default.
        ax: The axes to draw on; new ones by default.

    Returns:
        The axes. The scale of the density is logarithmic; its integral is 1, and the standard deviation of a Gaussian is 1%
        of the range.

    Raises:
        ValueError: If shapes differ.

    Example:
        >>> x, density = plot_spectrum([0.0, 1.0]).lines[0].get_data()
        >>> round(float(np.sum(density) * (x[1] - x[0])), 3)
        1.0
    """
    values = np.asarray(eigenvalues, float)
    shares = np.ones_like(values) if weights is None else np.asarray(weights, float)
    if values.shape != shares.shape or not values.size:
        shapes = f"{list(values.shape)} and {list(shares.shape)}"
        raise ValueError(f"plot_spectrum needs one weight per eigenvalue, got shapes {shapes}")
    values, shares = values.ravel(), shares.ravel() / shares.sum()
    width = 0.01 * (values.max() - values.min()) or 0.01 * abs(values[0]) or 0.01
    x = np.linspace(values.min() - 8 * width, values.max() + 8 * width, 2000)
    gaussians = np.exp(-0.5 * ((x[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    density = gaussians @ shares
    ax = axes(ax)
    ax.semilogy(x, density, color=BLUE)
    ax.fill_between(x, density, 1e-12, color=BLUE, alpha=0.2, linewidth=0)
    ax.axvline(0, color=GRAY, linewidth=0.8, linestyle="--")
    ax.set_ylim(max(density.max() * 1e-8, 1e-12), density.max() * 3)
    grid(ax)
    return titled(ax, f"spectrum, from {values.min():.3g} to {values.max():.3g}", "eigenvalue", "density")


def _checked(value: Any, ndim: int, needs: str) -> np.ndarray:
    array = np.asarray(value, float)
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(f"{needs}, got shape {list(array.shape)}")
    return array


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, such as `"dense/kernel"`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _finite_values(leaf: Any, log: bool) -> np.ndarray:
    values = np.asarray(leaf, float).ravel()
    values = values[np.isfinite(values)]
    return np.log10(np.abs(values[values != 0])) if log else values
