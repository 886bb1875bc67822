"""Ready-made models, from public names only; each is a function that returns a `Layer`."""

from jaxnn.models.classic import cnn, mlp, rnn
from jaxnn.models.depthwise import convnext, mobilenet_v2
from jaxnn.models.language import gpt2, lstm_language_model
from jaxnn.models.patches import mlp_mixer, vit
from jaxnn.models.resnet import resnet, wide_resnet

__all__ = [
    "cnn",
    "convnext",
    "gpt2",
    "lstm_language_model",
    "mlp",
    "mlp_mixer",
    "mobilenet_v2",
    "resnet",
    "rnn",
    "vit",
    "wide_resnet",
]
