"""From `python` to the first trained epoch: import, trace, compile, run. An MLP 64-32-10 on digits, batch 32, Adam.

    python bench/startup.py [--rounds 5]

Every contender is a new process that reads the data from a NumPy file, trains one epoch and exits; the time is that of the
process. jaxnn is also measured with JAX's persistent compilation cache, filled by the previous process. "imports alone" only
imports JAX and optax and reads the data. Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import table
from sklearn.datasets import load_digits

DATA = """
import os
os.environ["KERAS_BACKEND"] = "jax"
import numpy as np
digits = np.load("digits.npz")
x, y = digits["x"], digits["y"]
"""
JAXNN = """
import jax, optax, jaxnn as nn
model = nn.serial(nn.dense(32), nn.relu, nn.dense(10))
result = nn.fit(model, (x, y), loss=nn.losses.cross_entropy, optimizer=optax.adam(1e-3), epochs=1, key=jax.random.key(0),
                progress=False)
assert result.history["loss"][0] < 3
"""
KERAS = """
import keras
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)])
model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, y, batch_size=32, epochs=1, verbose=0)
"""
FLAX = """
import jax, optax
from flax import nnx
rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(64, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 10, rngs=rngs))
optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
@nnx.jit
def step(model, optimizer, x, y):
    loss = lambda model: optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value
order = np.random.default_rng(0).permutation(len(x))
for rows in np.split(order, range(32, len(x), 32)):
    loss = step(model, optimizer, x[rows], y[rows])
assert float(loss) < 3
"""


def seconds(program: str, folder: str, *, cached: bool = False) -> float:
    cache = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} if cached else {}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", DATA + program], cwd=folder, env=os.environ | cache, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    x, y = load_digits(return_X_y=True)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "digits.npz"), x=(x[:1792] / 16).astype(np.float32), y=y[:1792].astype(np.int32))
        runs = {
            "jaxnn": lambda: seconds(JAXNN, folder),
            "jaxnn, cached": lambda: seconds(JAXNN, folder, cached=True),
            "Keras 3 (JAX)": lambda: seconds(KERAS, folder),
            "Flax NNX": lambda: seconds(FLAX, folder),
            "imports alone": lambda: seconds("import jax, optax", folder),
        }
        for run in runs.values():
            run()
        times = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(run())
    table("Start to the end of the first epoch", "s", times, "jaxnn", ("jax", "optax", "flax", "keras"))
