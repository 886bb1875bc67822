"""The IDX reader against files written here, whole and damaged."""

import gzip

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


WHOLE = bytes([0, 0, 0x08, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(6))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no IDX file: it begins with nothing"),
        (b"\0\0\x08", "no IDX file"),
        (b"PNG!" + WHOLE, "begins with 50 4e 47 21, expected 00 00"),
        (b"\0\0\x07" + WHOLE[3:], "unknown dtype code 0x07; IDX knows 0x08"),
        (b"\0\0\x08\0", "ends inside its header: 4 bytes, 0 axes"),
        (WHOLE[:9], "ends inside its header: 9 bytes, 2 axes"),
        (WHOLE[:-1], r"cut short: 17 bytes, expected 18 for shape \(2, 3\)"),
        (WHOLE + b"\0", "too long: 19 bytes"),
        (b"\0\0\x08\x04" + b"\xff" * 16, "cut short"),  # axes whose product no machine holds
        (gzip.compress(WHOLE, mtime=0)[:-9], "damaged gzip file"),
        (gzip.compress(WHOLE, mtime=0)[:12] + b"\xff" * 20, "damaged gzip file"),
    ],
)
def test_damage_is_named_with_the_file(tmp_path, raw, words):
    file = tmp_path / "t10k-images"
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=words) as caught:
        read_idx(file)
    assert str(file) in str(caught.value)
