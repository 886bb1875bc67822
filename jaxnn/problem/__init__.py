"""What is trained, bound once: model, loss, hyperparameters and data, as pure functions."""
