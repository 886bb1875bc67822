"""The first initialization in a new process: ResNet-18's 21 kernels, 11.2 million numbers, He normal.

    python bench/init_time.py [--rounds 5]

Each contender runs in a separate process, one after another, round by round. The time starts after its library has been
imported and JAX has run one addition, and ends when all kernels have been computed. Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time


def shapes() -> list[tuple[int, ...]]:
    """ResNet-18 for 32×32 images and ten classes (He et al. 2016): stem, eight blocks, three shortcuts, head."""
    found, channels = [(3, 3, 3, 64)], 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            found += [(3, 3, channels, width), (3, 3, width, width)]
            found += [(1, 1, channels, width)] if channels != width else []
            channels = width
    return [*found, (512, 10)]


def jaxnn() -> float:
    import jaxnn as nn

    def init(key, x):
        return {f"kernel_{i}": nn.param(nn.initializers.he_normal(), shape) for i, shape in enumerate(shapes())}

    model = nn.stateless(init, lambda params, x: x, "kernels")
    return timed(lambda key: model.init(key, jnp.ones((1, 1)))[0])


def flax_nnx() -> float:
    from flax import nnx

    def build(key):
        rngs = nnx.Rngs(params=key)
        draw = nnx.initializers.he_normal()
        layers = [
            nnx.Linear(*s, use_bias=False, kernel_init=draw, rngs=rngs)
            if len(s) == 2
            else nnx.Conv(s[2], s[3], s[:2], use_bias=False, kernel_init=draw, rngs=rngs)
            for s in shapes()
        ]
        return nnx.state(nnx.List(layers), nnx.Param)

    return timed(build)


def equinox() -> float:
    import equinox as eqx

    def build(key):
        keys = jax.random.split(key, len(shapes()))
        return [
            eqx.nn.Linear(*s, use_bias=False, key=k) if len(s) == 2 else eqx.nn.Conv2d(s[2], s[3], s[:2], use_bias=False, key=k)
            for s, k in zip(shapes(), keys, strict=True)
        ]

    return timed(lambda key: eqx.filter(build(key), eqx.is_array))


def one_jit() -> float:
    def build(key):
        draw = jax.nn.initializers.he_normal()
        return [draw(jax.random.fold_in(key, i), s) for i, s in enumerate(shapes())]

    return timed(jax.jit(build))


CONTENDERS = {"jaxnn": jaxnn, "Flax NNX": flax_nnx, "Equinox": equinox, "jax.nn in one jit": one_jit}


def timed(build) -> float:
    key = jax.random.key(0)
    jax.block_until_ready(jnp.ones(3) + 1)
    start = time.perf_counter()
    jax.block_until_ready(jax.tree.leaves(build(key)))
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        import jax
        import jax.numpy as jnp

        print(CONTENDERS[options.one]())
    else:
        from common import table

        rounds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(options.rounds):
            for name in CONTENDERS:
                done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True)
                rounds[name].append(float(done.stdout.split()[-1]))
        table("First init of ResNet-18's 21 kernels in a new process", "seconds", rounds, "jaxnn", ("jax", "flax", "equinox"))
