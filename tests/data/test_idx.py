"""Tests of the IDX reader with valid and damaged files."""

import gzip
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxnn.data import read_idx


@settings(max_examples=30)
@given(data=st.data(), code=st.sampled_from(["f4", "f8", "i1", "i2", "i4", "u1"]), zipped=st.booleans())
def test_round_trip(idx_bytes, tmp_path_factory, data, code, zipped):
    array = data.draw(hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)))
    raw = idx_bytes(array)
    file = tmp_path_factory.mktemp("idx") / "array"
    file.write_bytes(gzip.compress(raw, mtime=0) if zipped else raw)
    read = read_idx(file)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


VALID = bytes([0, 0, 0x08, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(6))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not an IDX file: it begins with nothing"),
        (b"\0\0\x08", "not an IDX file"),
        (b"PNG!" + VALID, "begins with 50 4e 47 21, expected 00 00"),
        (b"\0\0\x07" + VALID[3:], "unknown dtype code 0x07, expected one of 0x08"),
        (b"\0\0\x08\0", "ends inside its header: 4 bytes, 0 axes"),
        (VALID[:9], "ends inside its header: 9 bytes, 2 axes"),
        (VALID[:-1], r"truncated: 17 bytes, expected 18 for shape \(2, 3\)"),
        (VALID + b"\0", "too long: 19 bytes"),
        (b"\0\0\x08\x04" + b"\xff" * 16, "truncated"),  # a product of axes too large for any machine
        (gzip.compress(VALID, mtime=0)[:-9], "damaged gzip file"),
        (gzip.compress(VALID, mtime=0)[:12] + b"\xff" * 20, "damaged gzip file"),
    ],
)
def test_errors_name_the_file_and_the_damage(tmp_path, raw, words):
    file = tmp_path / "t10k-images"
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=words) as caught:
        read_idx(file)
    assert str(file) in str(caught.value)


def test_a_gzip_file_that_unpacks_to_much_is_not_unpacked(tmp_path):
    file = tmp_path / "bomb.gz"
    file.write_bytes(gzip.compress(b"\0\0\x08\x01" + (200_000_000).to_bytes(4, "big") + bytes(200_000_000)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.gz has .* bytes and unpacks to at least 68,157,440, more than 100 times"):
        read_idx(file)
    assert tracemalloc.get_traced_memory()[1] < 90e6
    tracemalloc.stop()
