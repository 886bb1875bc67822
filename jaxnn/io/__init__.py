"""Save and load: checkpoints of a run with Orbax, parameters with safetensors. Nothing is pickled."""

from jaxnn.io.checkpoints import Checkpoints
from jaxnn.io.tensors import load, save

__all__ = ["Checkpoints", "load", "save"]
