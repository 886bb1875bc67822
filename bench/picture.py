"""The figure of the README: 1,024 networks trained together on digits.

    python bench/picture.py [--out notebooks/a_thousand_networks.png]

Needs `pip install -e ".[demo]"`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import jax
import matplotlib
import numpy as np
import optax

import jaxnn as nn

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection

RATES, SEEDS, EPOCHS = 128, 8, 20


def trained() -> nn.population.Sweep:
    """Train every learning rate with every seed."""
    data, test = nn.data.split(nn.data.load("digits"))
    return nn.sweep(
        nn.models.mlp([32], 10),
        (data.x, data.y),
        {"learning_rate": np.logspace(-4.5, -0.5, RATES).tolist()},
        seeds=SEEDS,
        loss=nn.losses.cross_entropy,
        optimizer=optax.adam,
        epochs=EPOCHS,
        key=jax.random.key(0),
        validation=(test.x, test.y),
        metrics={"accuracy": nn.metrics.accuracy},
    )


def draw(result: nn.population.Sweep, path: Path) -> None:
    """Plot accuracy per epoch, one line per network, and final accuracy, one point per network."""
    rates = np.asarray(result.columns["learning_rate"])
    curves = np.stack([result.member(i).history["val_accuracy"] for i in range(len(result))]) * 100
    colors = plt.get_cmap("plasma")(0.9 * (np.log(rates) - np.log(rates.min())) / np.log(rates.max() / rates.min()))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    epochs = np.arange(1, curves.shape[1] + 1)
    lines = [np.column_stack((epochs, curve)) for curve in curves]
    left.add_collection(LineCollection(lines, colors=colors, linewidths=0.4, alpha=0.5))
    left.set(xlim=(1, len(epochs)), ylim=(0, 100), xlabel="epoch", ylabel="held-out accuracy, %")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.scatter(rates, curves[:, -1], c=colors, s=5, linewidths=0)
    right.set(xscale="log", xlabel="learning rate")
    for ax in (left, right):
        ax.grid(alpha=0.3)
    took = f"{result.seconds:.0f} s on {os.cpu_count()} cores, compiling included"
    figure.suptitle(f"{len(result):,} networks, {len(epochs)} epochs of digits each: {took}")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "notebooks" / "a_thousand_networks.png")
    out = parser.parse_args().out
    result = trained()
    print(result)
    draw(result, out)
