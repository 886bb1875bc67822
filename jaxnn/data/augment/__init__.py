"""Augmentation of image batches: pure functions `augment(key, (x, y)) -> (x, y)` that run inside the compiled program.

Images are (batch, height, width, channels). Every sample has its own random draw; the same key gives the same result. Each
factory returns such a function, `chain` composes them, and any custom function of this form is an augmentation, too.

Augmentations that only move pixels look up each pixel by the indices of its image, row and column in a single gather. XLA
fuses it with the gather that selects the batch, without a padded or flipped copy in between. Pixel values take part in no
arithmetic, so they are exact in every dtype, and a NaN stays in its pixel.
"""

from jaxnn.data.augment.composition import chain
from jaxnn.data.augment.geometric import MODES as MODES
from jaxnn.data.augment.geometric import cutout, random_crop, random_flip
from jaxnn.data.augment.mixing import cutmix, mixup

__all__ = ["chain", "cutmix", "cutout", "mixup", "random_crop", "random_flip"]
