"""What `train` saves of a run, `model.npz`: the weights, and what is needed to predict with them; it is not pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxnn as nn
from jaxnn.cli.factories import make_model
from jaxnn.cli.job import Job, parts
from jaxnn.core.files import replacing
from jaxnn.core.trees import paths
from jaxnn.data import Dataset, load, moments
from jaxnn.data.npz import read_npz

_FORMAT = 1
_BUILT_FROM = ("model", "hidden", "activation", "init", "dropout")


@dataclass(frozen=True)
class Saved:
    """A network that `train` saved.

    Attributes:
        model: The model.
        params: Its parameters.
        state: Its state.
        shape: The shape of a sample.
        classes: The names of the classes; `()` for regression.
        moments: The means and deviations of the training part, `x_mean`, `x_std`, and `y_mean`, `y_std` for regression.
        source: The name or the file of the data.
        seed: The seed of the run.
    """

    model: nn.Layer
    params: Any
    state: Any
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    moments: Mapping[str, np.ndarray]
    source: str
    seed: int

    def outputs(self, x: Any, predict: Any, numpy: Any = np) -> Any:
        """Return the probabilities of the classes, `(N, classes)`, or numbers in the original units, `(N,)`.

        Args:
            x: Samples as loaded, float32.
            predict: A function from standardized samples to the network's outputs.
            numpy: NumPy, or `jax.numpy` under a trace.
        """
        mean, std = (self.moments[name].reshape((1,) * (x.ndim - 1) + (-1,)) for name in ("x_mean", "x_std"))
        output = predict(((x - mean) / std).astype(np.float32))
        if self.classes:
            shares = numpy.exp(output - output.max(-1, keepdims=True))
            return shares / shares.sum(-1, keepdims=True)
        return (output[..., 0] * self.moments["y_std"].item() + self.moments["y_mean"].item()).astype(np.float32)

    def test_part(self) -> Dataset:
        """Return the test part of the run's data, which the network has not seen."""
        return parts(load(self.source), self.seed)[2]


def save(job: Job, result: nn.FitResult) -> None:
    """Write what a run has trained, completely or not at all.

    Args:
        job: The job.
        result: The result of the run.
    """
    settings = asdict(job.settings)
    run = {
        "format": _FORMAT,
        "jaxnn": nn.__version__,
        **{name: settings[name] for name in (*_BUILT_FROM, "seed")},
        "source": job.source,
        "shape": job.data.x.shape[1:],
        "classes": job.data.classes,
    }
    arrays = {"run": np.array(json.dumps(run))}
    arrays |= dict(zip(("x_mean", "x_std"), moments(job.train.x), strict=True))
    if job.is_regression:
        arrays |= dict(zip(("y_mean", "y_std"), moments(job.train.y), strict=True))
    arrays |= flat(result.params, result.state)
    write_npz(job.network, arrays)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a file `.npz`."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def flat(params: Any, state: Any) -> dict[str, np.ndarray]:
    """The leaves by path, such as `"params/dense/kernel"`."""
    return {path: np.asarray(leaf) for path, leaf in paths({"params": params, "state": state}).items()}


def read(folder: Path) -> Saved:
    """Read what a run has trained.

    Args:
        folder: The folder that the run wrote to.

    Returns:
        The network.

    Raises:
        OSError: The file cannot be read.
        ValueError: There is no such file, or it is damaged.
    """
    path = folder / "model.npz"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no file model.npz; expected the folder of a run, which python -m jaxnn --out DIR writes"
        )
    _, names = read_npz(path, ())
    arrays, _ = read_npz(path, names)
    try:
        run = json.loads(str(arrays.pop("run")))
        if run["format"] != _FORMAT:
            raise ValueError(f"its format is {run['format']}, and that of this version of jaxnn {_FORMAT}")
        shape, classes = tuple(run["shape"]), tuple(run["classes"])
        model = make_model(outputs=len(classes) or 1, **{name: run[name] for name in _BUILT_FROM})
        x = jax.ShapeDtypeStruct((1, *shape), np.float32)
        like = dict(zip(("params", "state"), jax.eval_shape(model.init, jax.random.key(0), x), strict=True))
        leaves = [arrays.pop(name) for name in paths(like)]
        for leaf, (name, struct) in zip(leaves, paths(like).items(), strict=True):
            if (leaf.shape, leaf.dtype) != (struct.shape, struct.dtype):
                raise ValueError(f"{name} is {leaf.dtype}{list(leaf.shape)}, expected {struct.dtype}{list(struct.shape)}")
        tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return Saved(model, tree["params"], tree["state"], shape, classes, arrays, run["source"], run["seed"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or not what train of this version of jaxnn writes: {error}") from error
