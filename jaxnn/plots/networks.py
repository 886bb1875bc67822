"""Pictures of what is inside a network: kernels, feature maps, attention, distributions, embeddings, spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.core.trees import paths
from jaxnn.plots.axes import BLUE, COLORS, GREY, ORANGE, axes, bar, grid, mosaic, ramp, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_filters(kernel: Any, *, ax: Axes | None = None) -> Axes:
    """The kernels of a convolution as images.

    Args:
        kernel: (height, width, C_in, C_out). Three input channels are drawn as colours, one picture a filter; otherwise
            there is a row for each input channel and a column for each filter, at most 16 × 32 of them. A dense layer's
            kernel on images is drawn as `kernel.reshape(28, 28, 1, -1)`.
        ax: where; new axes by default.

    Returns:
        The axes; blue is negative, red positive, white 0.

    Raises:
        ValueError: if the kernel has no four axes.

    Example:
        >>> plot_filters(np.ones((3, 3, 1, 4))).images[0].get_array().shape
        (7, 7)
    """
    kernel = _array(kernel, 4, "a kernel (height, width, C_in, C_out)")
    ax = axes(ax)
    if kernel.shape[2] == 3:
        images = kernel.transpose(3, 0, 1, 2)
        low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
        mosaic(ax, (images - low) / np.where(high > low, high - low, 1), cmap="viridis", symmetric=False)
        return titled(ax, f"{kernel.shape[3]} filters, each in its own range")
    shown = kernel[:, :, :16, :32]
    images = shown.transpose(2, 3, 0, 1).reshape(-1, *kernel.shape[:2])
    columns = None if kernel.shape[2] == 1 else shown.shape[3]
    bar(ax, mosaic(ax, images, cmap="RdBu_r", symmetric=True, columns=columns))
    rows = "" if kernel.shape[2] == 1 else f" (columns) of {kernel.shape[2]} input channels (rows)"
    return titled(ax, f"{kernel.shape[3]} filters{rows}")


def plot_feature_maps(maps: Any, *, ax: Axes | None = None) -> Axes:
    """What a convolution makes of one image, a picture a channel.

    Args:
        maps: (height, width, channels), such as `nn.inspect.activations(model, params, state, x)["conv"][0]`.
        ax: where; new axes by default.

    Returns:
        The axes.

    Raises:
        ValueError: if there are not three axes.

    Example:
        >>> plot_feature_maps(np.ones((4, 4, 3))).images[0].get_array().shape
        (9, 9)
    """
    maps = _array(maps, 3, "feature maps of one image (height, width, channels)")
    ax = axes(ax)
    signed = maps.min() < 0
    cmap = "RdBu_r" if signed else "viridis"
    bar(ax, mosaic(ax, maps.transpose(2, 0, 1), cmap=cmap, symmetric=bool(signed)))
    return titled(ax, f"{maps.shape[2]} channels")


def plot_attention(weights: Any, tokens: Sequence[str] | None = None, *, ax: Axes | None = None) -> Axes:
    """Attention maps: how much each query (row) takes of each key (column).

    Args:
        weights: (queries, keys), or (heads, queries, keys), drawn as tiles.
        tokens: the text at each position, for one map of as many queries as keys.
        ax: where; new axes by default.

    Returns:
        The axes.

    Raises:
        ValueError: if shapes do not fit.

    Example:
        >>> plot_attention(np.eye(2), ["a", "b"]).images[0].get_array().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    weights = np.asarray(weights, float)
    if weights.ndim not in (2, 3):
        raise ValueError(f"attention maps are (queries, keys) or (heads, queries, keys), got {list(weights.shape)}")
    ax = axes(ax)
    if weights.ndim == 3 and len(weights) > 1:
        picture = mosaic(ax, weights, cmap="viridis", symmetric=False)
        titled(ax, f"{len(weights)} heads")
    else:
        weights = weights.reshape(weights.shape[-2:])
        picture = ax.imshow(weights, cmap="viridis", vmin=0)
        if tokens is not None:
            if weights.shape != (len(tokens), len(tokens)):
                raise ValueError(f"there are {len(tokens)} tokens for a map of {list(weights.shape)}")
            ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
            ax.set_yticks(range(len(tokens)), tokens, fontsize=8)
        titled(ax, "attention", "key", "query")
    bar(ax, picture)
    return ax


def plot_histograms(
    trees: Any, *, steps: Sequence[Any] | None = None, log: bool = False, bins: int = 60, ax: Axes | None = None
) -> Axes:
    """How parameters or gradients are distributed, by layer and step.

    Args:
        trees: params or their gradients; with `steps`, a sequence of them.
        steps: what each of the sequence is called: steps or epochs.
        log: draw log₁₀ of the absolute values, for gradients over many decades; zeros are left out.
        bins: how many bars a histogram has.
        ax: where; new axes by default.

    Returns:
        The axes: a ridge for each leaf, all in one scale, later steps in front, from blue to orange. Values that are not finite
        are left out.

    Raises:
        ValueError: if there are not as many steps as trees, or nothing finite is in them.

    Example:
        >>> ax = plot_histograms([{"kernel": np.zeros(3)}, {"kernel": np.ones(3)}], steps=[0, 100])
        >>> [text.get_text() for text in ax.get_yticklabels()], len(ax.collections)
        (['kernel'], 2)
    """
    sequence = [trees] if steps is None else list(trees)
    if steps is not None and len(sequence) != len(steps):
        raise ValueError(f"there are {len(sequence)} trees and {len(steps)} steps")
    tables = [{name: _distribution(leaf, log) for name, leaf in paths(tree).items()} for tree in sequence]
    every = np.concatenate([values for table in tables for values in table.values()])
    if not every.size:
        raise ValueError("there is nothing to draw: no value is finite" + (" and not 0" if log else ""))
    low, high = (every.min(), every.max()) if log else (-np.abs(every).max(), np.abs(every).max())
    margin = 0.02 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, bins + 1)
    names = list(tables[0])
    ax = axes(ax, 6.2, 1.2 + 0.45 * len(names))
    colors = _ramp(len(tables))
    for row, name in enumerate(names):
        heights = [np.histogram(table[name], edges)[0] / max(table[name].size, 1) for table in tables]
        top = max(h.max() for h in heights) or 1.0
        for color, height in zip(colors, heights, strict=True):
            base = len(names) - 1 - row
            ax.fill_between(edges[:-1], base, base + 0.85 * height / top, step="post", color=color, alpha=0.55, linewidth=0)
    ax.set_yticks(range(len(names))[::-1], names, fontsize=8)
    ax.set_ylim(-0.1, len(names))
    if steps is not None:
        handles = [ax.plot([], [], color=color, linewidth=6)[0] for color in colors]
        shown = range(len(colors)) if len(colors) <= 6 else np.linspace(0, len(colors) - 1, 5).astype(int)
        ax.legend([handles[i] for i in shown], [f"step {steps[i]}" for i in shown], frameon=False, fontsize=8)
    grid(ax)
    return titled(ax, "", "log₁₀ |value|" if log else "value")


def activation_statistics(activations: Mapping[str, Any]) -> dict[str, list]:
    """What tells whether layers are alive, by layer: a table as a dict of columns.

    Args:
        activations: arrays by layer, (batch, ..., features), as `nn.inspect.activations` returns them.

    Returns:
        `layer`; `mean` and `std`; `zero`, the share of values that are 0; `dead`, the share of features that are 0 for
        the whole batch, as a dying ReLU's are.

    Example:
        >>> table = activation_statistics({"relu": np.array([[0.0, 2.0], [0.0, 0.0]])})
        >>> table["mean"], table["zero"], table["dead"]
        ([0.5], [0.75], [0.5])
    """
    table: dict[str, list] = {name: [] for name in ("layer", "mean", "std", "zero", "dead")}
    for name, values in activations.items():
        values = np.asarray(values, float)
        zero = values == 0
        dead = zero.reshape(-1, values.shape[-1] if values.ndim else 1).all(0)
        numbers = (name, values.mean(), values.std(), zero.mean(), dead.mean())
        for column, number in zip(table.values(), numbers, strict=True):
            column.append(number if isinstance(number, str) else float(number))
    return table


def plot_activations(activations: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """The distribution of every layer's output: mean ± one standard deviation as a bar, the middle 98% as a line.

    Args:
        activations: arrays by layer, as `nn.inspect.activations` returns them.
        ax: where; new axes by default.

    Returns:
        The axes; beside a layer stands how many of its units are dead, 0 for the whole batch, if any are.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> ax = plot_activations({"dense": np.array([[-1.0, 1.0]]), "relu": np.array([[0.0, 1.0]])})
        >>> [text.get_text() for text in ax.texts]
        ['50% dead']
    """
    table = activation_statistics(activations)
    names = table["layer"]
    ax = axes(ax, 6.2, 1.2 + 0.32 * len(names))
    for row, name in enumerate(names):
        y, mean, std = len(names) - 1 - row, table["mean"][row], table["std"][row]
        low, high = np.quantile(np.asarray(activations[name], float), (0.01, 0.99))
        ax.plot([low, high], [y, y], color=GREY, linewidth=1.2)
        ax.barh(y, 2 * std, left=mean - std, height=0.55, color=BLUE, alpha=0.6)
        ax.plot([mean], [y], color=ORANGE, marker="|", markersize=12, markeredgewidth=2)
        if table["dead"][row]:
            share = f"{100 * table['dead'][row]:.2g}% dead"
            ax.annotate(share, (1, y), (4, 0), ax.get_yaxis_transform(), "offset points", va="center", fontsize=8)
    ax.set_yticks(range(len(names))[::-1], names, fontsize=8)
    grid(ax)
    return titled(ax, "outputs: mean ± std, and the middle 98%", "value")


def plot_embeddings(vectors: Any, labels: Any = None, *, ax: Axes | None = None) -> Axes:
    """Vectors in the plane in which they spread most (principal component analysis, Pearson 1901).

    Args:
        vectors: (N, features).
        labels: a class, (N,), or a text each, for at most 100; none by default.
        ax: where; new axes by default.

    Returns:
        The axes; labels say how much of the variance each direction has.

    Raises:
        ValueError: if there are not two axes and at least two of each.

    Example:
        >>> ax = plot_embeddings([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
        >>> ax.get_xlabel(), ax.collections[0].get_offsets().tolist()
        ('component 1 (100% of the variance)', [[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    """
    points, shares = principal_components(_array(vectors, 2, "vectors (N, features)"))
    ax = axes(ax, 5.2, 4.4)
    texts = None if labels is None else np.asarray(labels)
    if texts is None or texts.dtype.kind in "US":
        ax.scatter(points[:, 0], points[:, 1], s=14, color=BLUE, alpha=0.7, edgecolors="none")
        for point, text in zip(points, [] if texts is None else texts[:100], strict=False):
            ax.annotate(text, point, (3, 3), textcoords="offset points", fontsize=8)
    else:
        for i, label in enumerate(np.unique(texts)):
            mine = points[texts == label]
            ax.scatter(mine[:, 0], mine[:, 1], s=14, color=COLORS[i % 10], alpha=0.7, edgecolors="none", label=str(label))
        ax.legend(frameon=False, fontsize=8)
    grid(ax)
    names = [f"component {i + 1} ({100 * share:.3g}% of the variance)" for i, share in enumerate(shares)]
    return titled(ax, "principal components", *names)


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two coordinates of each vector, (N, 2), and their shares of the variance.

    The sign is such that a direction's largest entry is positive.
    """
    if min(vectors.shape) < 2:
        raise ValueError(f"principal components take at least two vectors of two features, got {list(vectors.shape)}")
    centred = vectors - vectors.mean(0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    first = directions[:2]
    first = first * np.sign(first[np.arange(2), np.abs(first).argmax(1)])[:, None]
    return centred @ first.T, sizes[:2] ** 2 / (np.sum(sizes**2) or 1.0)


def plot_spectrum(eigenvalues: Any, weights: Any = None, *, ax: Axes | None = None) -> Axes:
    """The density of a spectrum, such as a Hessian's (Ghorbani et al. 2019): Gaussians around eigenvalues, added up.

    Args:
        eigenvalues: any shape; with weights, the nodes of a quadrature, one row a run of stochastic Lanczos.
        weights: of the same shape, at least 0; all alike by default.
        ax: where; new axes by default.

    Returns:
        The axes, the density on a logarithmic scale; its integral is 1, and a Gaussian's width 1% of the range.

    Raises:
        ValueError: if shapes differ.

    Example:
        >>> x, density = plot_spectrum([0.0, 1.0]).lines[0].get_data()
        >>> round(float(np.sum(density) * (x[1] - x[0])), 3)
        1.0
    """
    values = np.asarray(eigenvalues, float)
    shares = np.ones_like(values) if weights is None else np.asarray(weights, float)
    if values.shape != shares.shape or not values.size:
        raise ValueError(f"one weight an eigenvalue is needed, got shapes {list(values.shape)} and {list(shares.shape)}")
    values, shares = values.ravel(), shares.ravel() / shares.sum()
    width = 0.01 * (values.max() - values.min()) or 0.01 * abs(values[0]) or 0.01
    x = np.linspace(values.min() - 8 * width, values.max() + 8 * width, 2000)
    bells = np.exp(-0.5 * ((x[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    density = bells @ shares
    ax = axes(ax)
    ax.semilogy(x, density, color=BLUE)
    ax.fill_between(x, density, 1e-12, color=BLUE, alpha=0.2, linewidth=0)
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
    ax.set_ylim(max(density.max() * 1e-8, 1e-12), density.max() * 3)
    grid(ax)
    return titled(ax, f"spectrum, from {values.min():.3g} to {values.max():.3g}", "eigenvalue", "density")


def _array(value: Any, ndim: int, what: str) -> np.ndarray:
    array = np.asarray(value, float)
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(f"{what} is needed, got shape {list(array.shape)}")
    return array


def _distribution(leaf: Any, log: bool) -> np.ndarray:
    values = np.asarray(leaf, float).ravel()
    values = values[np.isfinite(values)]
    return np.log10(np.abs(values[values != 0])) if log else values


def _ramp(n: int) -> list:
    """Colours from the first step to the last."""
    return [BLUE] if n == 1 else [ramp()(i / (n - 1)) for i in range(n)]
