"""A bound on what files of data sets unpack to, so that a small hostile file does not fill the memory."""

from __future__ import annotations

import os

MOST_RATIO, ALWAYS = 100, 64 * 2**20  # real data is rarely compressed by more than ten; DEFLATE reaches a thousand


def check_unpacked(path: str | os.PathLike[str], unpacked: int) -> None:
    """Check the size of what a compressed file contains, as it says itself or as far as it was read.

    Raises:
        ValueError: If that is more than 64 MiB and more than 100 times the size of the file.
    """
    size = os.path.getsize(path)
    if unpacked > max(ALWAYS, MOST_RATIO * size):
        raise ValueError(
            f"{path} has {size:,} bytes and unpacks to at least {unpacked:,}, more than {MOST_RATIO} times as many: store it "
            "without compression if that is right"
        )
