"""Ready-made models, from public names only; each is a function that returns a `Layer`."""

from jaxnn.models.classic import cnn, mlp, rnn
from jaxnn.models.language import gpt2, lstm_language_model
from jaxnn.models.resnet import resnet, wide_resnet

__all__ = ["cnn", "gpt2", "lstm_language_model", "mlp", "resnet", "rnn", "wide_resnet"]
