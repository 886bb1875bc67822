"""Ready-made models, from public names only; each is a function that returns a `Layer`."""

from jaxnn.models.classic import cnn, mlp, rnn

__all__ = ["cnn", "mlp", "rnn"]
