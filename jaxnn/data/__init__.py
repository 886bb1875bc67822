"""Data sets: bundled data, `.npz` files, seeded splits and standardization, in NumPy; `augment` is in JAX."""

from jaxnn.data import augment
from jaxnn.data.dataset import Dataset, from_arrays
from jaxnn.data.idx import read_idx
from jaxnn.data.prepare import moments, split, standardize
from jaxnn.data.sources import NAMES, load

__all__ = ["NAMES", "Dataset", "augment", "from_arrays", "load", "moments", "read_idx", "split", "standardize"]
