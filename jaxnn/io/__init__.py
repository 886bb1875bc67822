"""Out of memory and back: checkpoints of a run by Orbax, parameters by safetensors. Never by pickle."""

from jaxnn.io.checkpoints import Checkpoints
from jaxnn.io.tensors import load, save

__all__ = ["Checkpoints", "load", "save"]
