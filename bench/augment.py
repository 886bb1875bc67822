"""Augmentation of batches of 128 images: 32 × 32 × 3 and 28 × 28 × 1.

    python bench/augment.py [--rounds 7]

Each contender selects its batch from 1,024 images by random indices, augments it and writes it to memory. jaxnn and the
straightforward JAX versions run in a compiled loop, as in an epoch. The straightforward versions slice each window out of the
padded image (a gather), select between an image and a flipped copy, mix with a permuted copy, and use `jax.random.beta`.
PyTorch works eagerly on whole batches, channels first; NumPy on the host slices one window at a time.
Needs `pip install -e ".[bench]"`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from common import interleave, table

from jaxnn.data import augment as a

BATCH, IMAGES, STEPS, CLASSES = 128, 1024, 20, 10
PAD, SQUARE, ALPHA = 4, 8, 1.0


# Straightforward versions in JAX


def plain_flip(key, x, y):
    return jnp.where(jax.random.bernoulli(key, 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x), y


def plain_crop(key, x, y):
    padded = jnp.pad(x, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    start = jax.random.randint(key, (len(x), 2), 0, 2 * PAD + 1)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), x.shape[1:]))(padded, start), y


def box(key, x, height, width):
    middle = jax.random.uniform(key, (2, len(x), 1)) * jnp.array(x.shape[1:3])[:, None, None]
    rows = jnp.abs(jnp.arange(x.shape[1]) - middle[0]) < height / 2
    columns = jnp.abs(jnp.arange(x.shape[2]) - middle[1]) < width / 2
    return (rows[:, :, None] & columns[:, None])[..., None]


def plain_cutout(key, x, y):
    return jnp.where(box(key, x, SQUARE, SQUARE), 0, x), y


def plain_mixup(key, x, y):
    share_key, order_key = jax.random.split(key)
    share = jax.random.beta(share_key, ALPHA, ALPHA, (len(x), 1))
    order, y = jax.random.permutation(order_key, len(x)), jax.nn.one_hot(y, CLASSES)
    return share[..., None, None] * x + (1 - share[..., None, None]) * x[order], share * y + (1 - share) * y[order]


def plain_cutmix(key, x, y):
    share_key, order_key, box_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(share_key, ALPHA, ALPHA, (len(x), 1)))
    order, y = jax.random.permutation(order_key, len(x)), jax.nn.one_hot(y, CLASSES)
    pasted = box(box_key, x, x.shape[1] * side, x.shape[2] * side)
    share = pasted.mean((1, 2))
    return jnp.where(pasted, x[order], x), (1 - share) * y + share * y[order]


def plain_chain(key, x, y):
    for k, one in enumerate((plain_flip, plain_crop, plain_cutout, plain_mixup)):
        x, y = one(jax.random.fold_in(key, k), x, y)
    return x, y


# PyTorch, channels first


def torch_flip(x, y):
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x), y


def torch_crop(x, y):
    n, _, height, width = x.shape
    padded = torch.nn.functional.pad(x, (PAD, PAD, PAD, PAD))
    rows = torch.randint(2 * PAD + 1, (n, 1)) + torch.arange(height)
    columns = torch.randint(2 * PAD + 1, (n, 1)) + torch.arange(width)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None]]
    return picked.permute(0, 3, 1, 2), y


def torch_box(x, height, width):
    rows = (torch.arange(x.shape[2]) - torch.rand(len(x), 1) * x.shape[2]).abs() < height / 2
    columns = (torch.arange(x.shape[3]) - torch.rand(len(x), 1) * x.shape[3]).abs() < width / 2
    return (rows[:, :, None] & columns[:, None])[:, None]


def torch_cutout(x, y):
    return x.masked_fill(torch_box(x, SQUARE, SQUARE), 0), y


def torch_beta(n):
    return torch.distributions.Beta(ALPHA, ALPHA).sample((n, 1))


def torch_mixup(x, y):
    share, order, y = torch_beta(len(x)), torch.randperm(len(x)), torch.nn.functional.one_hot(y, CLASSES).float()
    return torch.lerp(x[order], x, share[..., None, None]), torch.lerp(y[order], y, share)


def torch_cutmix(x, y):
    side, order, y = (1 - torch_beta(len(x))).sqrt(), torch.randperm(len(x)), torch.nn.functional.one_hot(y, CLASSES).float()
    pasted = torch_box(x, x.shape[2] * side, x.shape[3] * side)
    return torch.where(pasted, x[order], x), torch.lerp(y, y[order], pasted.float().mean((2, 3)))


def torch_chain(x, y):
    for one in (torch_flip, torch_crop, torch_cutout, torch_mixup):
        x, y = one(x, y)
    return x, y


# NumPy on the host


def numpy_flip(rng, x, y):
    flipped = rng.random(len(x)) < 0.5
    x[flipped] = x[flipped, :, ::-1]
    return x, y


def numpy_crop(rng, x, y):
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    for image, (i, j), to in zip(padded, rng.integers(0, 2 * PAD + 1, (len(x), 2)), x, strict=True):
        to[:] = image[i : i + height, j : j + width]
    return x, y


def numpy_cutout(rng, x, y):
    _, height, width, _ = x.shape
    for image, i, j in zip(x, rng.integers(height, size=len(x)), rng.integers(width, size=len(x)), strict=True):
        image[max(i - SQUARE // 2, 0) : i + SQUARE // 2, max(j - SQUARE // 2, 0) : j + SQUARE // 2] = 0
    return x, y


def numpy_mixup(rng, x, y):
    share, order = rng.beta(ALPHA, ALPHA, (len(x), 1)).astype(np.float32), rng.permutation(len(x))
    y = np.eye(CLASSES, dtype=np.float32)[y]
    return share[..., None, None] * x + (1 - share[..., None, None]) * x[order], share * y + (1 - share) * y[order]


def numpy_cutmix(rng, x, y):
    _, height, width, _ = x.shape
    side, order, y = np.sqrt(1 - rng.beta(ALPHA, ALPHA, len(x))), rng.permutation(len(x)), np.eye(CLASSES, dtype=np.float32)[y]
    out, share = x.copy(), np.zeros((len(x), 1), np.float32)
    for n, (i, j) in enumerate(zip(rng.integers(height, size=len(x)), rng.integers(width, size=len(x)), strict=True)):
        h, w = int(height * side[n]), int(width * side[n])
        place = np.s_[max(i - h // 2, 0) : i - h // 2 + h, max(j - w // 2, 0) : j - w // 2 + w]
        out[n][place] = x[order[n]][place]
        share[n] = out[n][place].size / out[n].size
    return out, (1 - share) * y + share * y[order]


def numpy_chain(rng, x, y):
    for one in (numpy_flip, numpy_crop, numpy_cutout, numpy_mixup):
        x, y = one(rng, x, y)
    return x, y


CHAIN = a.chain(a.random_flip(), a.random_crop(PAD), a.cutout(SQUARE), a.mixup(ALPHA, CLASSES))
FORMS: dict[str, tuple[Callable, Callable, Callable, Callable]] = {
    "flip": (a.random_flip(), plain_flip, torch_flip, numpy_flip),
    "crop": (a.random_crop(PAD), plain_crop, torch_crop, numpy_crop),
    "cutout": (a.cutout(SQUARE), plain_cutout, torch_cutout, numpy_cutout),
    "mixup": (a.mixup(ALPHA, CLASSES), plain_mixup, torch_mixup, numpy_mixup),
    "cutmix": (a.cutmix(ALPHA, CLASSES), plain_cutmix, torch_cutmix, numpy_cutmix),
    "flip, crop, cutout, mixup": (CHAIN, plain_chain, torch_chain, numpy_chain),
}


def contenders(name: str, shape: tuple[int, ...]) -> dict[str, Callable]:
    from jaxnn import kernels

    ours, plain, there, host = FORMS[name]
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(IMAGES, *shape)).astype(np.float32), rng.integers(0, CLASSES, IMAGES)
    order = np.stack([rng.permutation(IMAGES)[:BATCH] for _ in range(STEPS)])

    def compiled(augment):
        def epoch(x, y, order):
            def step(last, item):
                number, index = item
                batch = (part.at[index].get(mode="promise_in_bounds") for part in (x, y))
                return augment(jax.random.fold_in(jax.random.key(0), number), *batch), None

            like = augment(jax.random.key(0), x[:BATCH], y[:BATCH])
            return jax.lax.scan(step, like, (jnp.arange(STEPS), order))[0]

        program, arrays = (
            kernels.jit(epoch),
            (jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.asarray(order, jnp.int32)),
        )
        return lambda: program(*arrays)

    x, y, index = torch.tensor(images).movedim(-1, 1).contiguous(), torch.tensor(labels), torch.tensor(order)

    def eager(threads):
        torch.set_num_threads(threads)
        for i in index:
            there(x[i], y[i])

    def on_the_host():
        for i in order:
            host(rng, images[i], labels[i])

    return {
        "jaxnn": compiled(lambda key, x, y: ours(key, (x, y))),
        "straightforward JAX": compiled(plain),
        "the batch only": compiled(lambda key, x, y: (x, y)),
        "PyTorch, 1 thread": lambda: eager(1),
        "PyTorch, 2 threads": lambda: eager(2),
        "NumPy on the host": on_the_host,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for shape in ((32, 32, 3), (28, 28, 1)):
        for name in FORMS:
            runs = interleave(contenders(name, shape), options.rounds, 1e6 / STEPS)
            title = f"Augmentation, {BATCH} × {' × '.join(map(str, shape))}: {name}"
            table(title, "µs per batch", runs, "jaxnn", ("jax", "torch", "numpy"))
