"""Differentially private training on Fashion-MNIST: the test accuracy with bounded and unbounded activations.

    python bench/private_training.py [--epochs 10] [--noise 0.8175] [--clip 0.1] [--rates 30] [--units tanh relu]

The network is that of Papernot et al. 2021 (arXiv:2007.14191), who find 86.1% with tanh and 81.9% with ReLU for ε = 2.7 and
δ = 1e-5. Needs dp-accounting for ε.
"""

from __future__ import annotations

import argparse
import time

import jax
import optax

import jaxnn as nn


def network(unit) -> nn.Layer:
    return nn.serial(
        *(nn.conv(16, 8, strides=2), unit, nn.max_pool(2, strides=1), nn.conv(32, 4, strides=2, padding="VALID"), unit),
        *(nn.max_pool(2, strides=1), nn.flatten(), nn.dense(32), unit, nn.dense(10)),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--noise", type=float, default=0.8175)
    parser.add_argument("--clip", type=float, default=0.1)
    parser.add_argument("--rates", type=float, nargs="*", default=[30.0])
    parser.add_argument("--units", nargs="*", default=["tanh", "relu"])
    arguments = parser.parse_args()
    data = nn.data.load("fashion-mnist")
    train, test = data.pair, data.test
    batches = nn.autodiff.poisson_batches(train, arguments.batch_size, jax.random.key(1))
    steps = arguments.epochs * len(batches)
    try:
        spent = nn.autodiff.privacy_spent(
            arguments.noise, batch_size=arguments.batch_size, samples=len(train[1]), steps=steps, delta=1e-5
        )
        print(f"ε = {spent:.3f} for δ = 1e-5, {steps} steps of about {arguments.batch_size} samples, σ = {arguments.noise}")
    except ImportError as error:
        print(error)
    for name in arguments.units:
        for rate in arguments.rates:
            start = time.perf_counter()
            result = nn.fit(
                *(network(getattr(nn, name)), batches),
                loss=nn.losses.cross_entropy,
                optimizer=optax.sgd(optax.cosine_decay_schedule(rate, steps)),
                epochs=arguments.epochs,
                key=jax.random.key(0),
                gradient=nn.autodiff.private(arguments.clip, arguments.noise, arguments.batch_size, accumulate=4),
                progress=False,
            )
            accuracy = nn.evaluate(result, test, metrics={"accuracy": nn.metrics.accuracy})["accuracy"]
            seconds = time.perf_counter() - start
            print(f"{name}, learning rate {rate:g}: test accuracy {accuracy:.4f} in {seconds:.0f} s", flush=True)
