"""`nn.estimators.JaxnnClassifier` against scikit-learn's `MLPClassifier`: the same network, optimizer, epochs and data.

    python bench/estimators.py [--rounds 5]

Digits, one hidden layer of 100, Adam, batches of 32, 50 epochs, without early stopping:

- `fit`: after a first fit, which compiles;
- `search`: `GridSearchCV` over 3 learning rates × 3 folds, once in a new process, everything from the first call counted;
- the mean accuracy on a third of the data over 10 seeds and splits.

Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings

import numpy as np
from common import table
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier

from jaxnn.estimators import JaxnnClassifier

PACKAGES = ("jax", "scikit-learn")
X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)


def ours(seed: int = 0) -> JaxnnClassifier:
    """Our estimator."""
    return JaxnnClassifier(epochs=50, batch_size=32, random_state=seed)


def theirs(seed: int = 0) -> MLPClassifier:
    """scikit-learn's, with its weight decay turned off and all 50 epochs."""
    return MLPClassifier(max_iter=50, batch_size=32, alpha=0.0, n_iter_no_change=1000, random_state=seed)


ESTIMATORS = {"jaxnn": (ours, "learning_rate"), "scikit-learn": (theirs, "learning_rate_init")}


def search(name: str) -> None:
    """Print the seconds of a search."""
    make, rate = ESTIMATORS[name]
    start = time.perf_counter()
    GridSearchCV(make(), {rate: [1e-3, 3e-3, 1e-2]}, cv=3).fit(X, Y)
    print(time.perf_counter() - start)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--search", help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # that scikit-learn's has not converged
    if given.search:
        search(given.search)
        return
    ours().fit(X[:1198], Y[:1198])
    seconds: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    accuracy: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for seed in range(10):
        x, x_test, y, y_test = train_test_split(X, Y, test_size=1 / 3, random_state=seed)
        for name, (make, _) in ESTIMATORS.items():
            start = time.perf_counter()
            model = make(seed).fit(x, y)
            seconds[name].append(time.perf_counter() - start)
            accuracy[name].append(model.score(x_test, y_test))
    table("digits, 50 epochs", "s", seconds, "jaxnn", PACKAGES)
    print("accuracy: " + ", ".join(f"{name} {np.mean(values):.4f} ± {np.std(values):.4f}" for name, values in accuracy.items()))
    searches: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for _ in range(given.rounds):
        for name in ESTIMATORS:
            run = subprocess.run([sys.executable, __file__, "--search", name], capture_output=True, text=True, check=True)
            searches[name].append(float(run.stdout))
    table("search over 3 rates and 3 folds, compiling included", "s", searches, "jaxnn", PACKAGES)


if __name__ == "__main__":
    main()
