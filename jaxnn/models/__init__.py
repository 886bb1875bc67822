"""Models of the literature, built from public names; each is a function that returns a `Layer`."""

from jaxnn.models.autoencoders import autoencoder, unet, vae
from jaxnn.models.classic import cnn, mlp, rnn
from jaxnn.models.depthwise import convnext, mobilenet_v2
from jaxnn.models.early import alexnet_small, lenet5, vgg
from jaxnn.models.language import gpt2, lstm_language_model
from jaxnn.models.patches import mlp_mixer, vit
from jaxnn.models.resnet import resnet, wide_resnet
from jaxnn.models.translation import seq2seq, transformer

__all__ = [
    "alexnet_small",
    "autoencoder",
    "cnn",
    "convnext",
    "gpt2",
    "lenet5",
    "lstm_language_model",
    "mlp",
    "mlp_mixer",
    "mobilenet_v2",
    "resnet",
    "rnn",
    "seq2seq",
    "transformer",
    "unet",
    "vae",
    "vgg",
    "vit",
    "wide_resnet",
]
