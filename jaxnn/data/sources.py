"""Sources of data sets: scikit-learn, the files of Fashion-MNIST, and `.npz` files."""

from __future__ import annotations

import os
from pathlib import Path

from jaxnn.core.text import did_you_mean, listed
from jaxnn.data.dataset import Dataset, from_arrays
from jaxnn.data.idx import read_idx
from jaxnn.data.npz import read_npz

_SKLEARN = {
    "digits": "load_digits",
    "iris": "load_iris",
    "wine": "load_wine",
    "breast-cancer": "load_breast_cancer",
    "diabetes": "load_diabetes",
}
NAMES = (*_SKLEARN, "fashion-mnist")
"""Names of the data sets that `load` accepts."""

_FASHION_CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_FASHION_FILES = {
    "x": "train-images-idx3-ubyte",
    "y": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def load(name: str | os.PathLike[str]) -> Dataset:
    """Load a data set by name, or from an `.npz` file by path.

    | name | samples | task |
    |---|---|---|
    | `"digits"` | 1797 grayscale images (8, 8, 1) in [0, 1] | 10 classes |
    | `"iris"`, `"wine"`, `"breast-cancer"` | tables of 150 × 4, 178 × 13, 569 × 30 | 3, 3, 2 classes |
    | `"diabetes"` | table of 442 × 10, in the original units | regression |
    | `"fashion-mnist"` | 60,000 grayscale images (28, 28, 1) in [0, 1], and 10,000 as the test part | 10 classes |
    | `"FILE.npz"` | arrays `x` and `y`, optionally `x_test` and `y_test` | by the dtype of `y` |

    The first three rows need scikit-learn. Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017) is read from its four IDX files
    in `$JAXNN_DATA`, `$JAXNN_DATA/fashion-mnist` or the system's folder. The arrays of an `.npz` file are those of
    `from_arrays`: integer `y` are labels, floating-point `y` regression targets, float64 becomes float32, and uint8 images
    are scaled to [0, 1]. Pickled objects are never loaded, and no file is unpacked to more than 100 times its size (64 MiB are
    always allowed).

    Args:
        name: One of `NAMES`, or a path that ends with `.npz`.

    Returns:
        The data set, neither split nor standardized.

    Raises:
        ValueError: If the name is unknown, or a file is damaged or does not have the expected content; the message names it.
        FileNotFoundError: If a file is missing; the message lists the folders searched.
        ImportError: If scikit-learn is required and not installed.

    Example:
        >>> load("iris")
        <Dataset iris: 150 samples of (4,), 3 classes>
    """
    name = os.fspath(name)
    if name.endswith(".npz"):
        return _load_npz(Path(name))
    if name == "fashion-mnist":
        return _load_fashion_mnist()
    if name in _SKLEARN:
        return _load_sklearn(name)
    hint = did_you_mean(name, NAMES, n=2)
    raise ValueError(
        f"unknown data set {name!r}; {hint}{' ' if hint else ''}known data sets: {listed(NAMES)}, and any FILE.npz"
    )


def _load_sklearn(name: str) -> Dataset:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(f"the data set {name!r} needs scikit-learn: pip install scikit-learn") from error
    loader = getattr(datasets, _SKLEARN[name])
    if name == "diabetes":  # scikit-learn's scaling uses all samples, including those that are held out later
        raw = loader(scaled=False)
        return from_arrays(raw.data, raw.target, name=name)
    raw = loader()
    x = raw.images[..., None] / 16 if name == "digits" else raw.data
    return from_arrays(x, raw.target, name=name, classes=[str(label) for label in raw.target_names])


def _load_fashion_mnist() -> Dataset:
    root = os.environ.get("JAXNN_DATA")
    folders = [Path(root), Path(root, "fashion-mnist")] if root else []
    folders.append(_SYSTEM_FOLDER)
    for folder in folders:
        files = {key: _plain_or_gz(folder / file) for key, file in _FASHION_FILES.items()}
        if all(files.values()):
            arrays = {key: read_idx(file) for key, file in files.items() if file is not None}
            return from_arrays(**arrays, name="fashion-mnist", classes=_FASHION_CLASSES)
    raise FileNotFoundError(
        f"Fashion-MNIST was not found in {', '.join(map(str, folders))}. On Debian or Ubuntu: apt install "
        "dataset-fashion-mnist. Elsewhere: set JAXNN_DATA to a folder that contains "
        f"{', '.join(_FASHION_FILES.values())} (each plain or .gz)"
    )


def _plain_or_gz(path: Path) -> Path | None:
    return next((file for file in (path, path.with_name(path.name + ".gz")) if file.is_file()), None)


def _load_npz(path: Path) -> Dataset:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    arrays, found = read_npz(path, ("x", "y", "x_test", "y_test"))
    missing = [key for key in ("x", "y") if key not in arrays]
    if missing:
        raise ValueError(
            f"{path} has no array {' and no '.join(missing)}; it has {listed(found)}. Use np.savez({path.name!r}, x=x, y=y)"
        )
    return from_arrays(**arrays, name=path.stem)
