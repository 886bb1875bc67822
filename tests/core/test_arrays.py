"""Conversion of whatever users pass as data to arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.core.arrays import as_arrays

NUMBERS = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_pandas_objects_are_taken_by_position():
    pd = pytest.importorskip("pandas")
    index = [2, 0, 1]
    np.testing.assert_array_equal(as_arrays(pd.DataFrame(NUMBERS, index=index), "x"), NUMBERS)
    labels = as_arrays(pd.Series(np.array([5, 6, 7], np.int32), index=index), "y")
    assert (type(labels), labels.dtype, labels.tolist()) == (np.ndarray, np.int32, [5, 6, 7])
    assert as_arrays(pd.Series([1, 2], dtype="Int64"), "y").dtype == np.int32


@pytest.mark.parametrize("code", [">f4", ">f2", ">i4", ">i8", ">u2", ">c8", "<f4"])
def test_every_byte_order_becomes_the_native_one(code):
    given = np.array([1, 2, 300]).astype(code)
    array = as_arrays(given, "x")
    assert array.dtype.isnative and jnp.asarray(array, array.dtype).tolist() == given.tolist()


def test_a_list_of_arrays_is_a_tuple_and_a_list_of_numbers_an_array():
    first, second = as_arrays([NUMBERS, NUMBERS + 1], "x")
    np.testing.assert_array_equal(second - first, 1)
    assert isinstance(as_arrays([NUMBERS, [1.0, 2.0, 3.0]], "x"), tuple)
    for numbers in ([[1.0, 2.0], [3.0, 4.0]], [(1.0, 2.0), (3.0, 4.0)], [np.float32(1), np.float32(3)]):
        array = as_arrays(numbers, "x")
        assert array.dtype == np.float32 and array.tolist() == np.array(numbers).tolist()
    assert as_arrays({"a": [1, 2]}, "x")["a"].dtype == np.int32


def test_jax_arrays_and_memory_maps_are_untouched(tmp_path):
    given = jnp.ones(3)
    assert as_arrays((given,), "x")[0] is given
    np.save(tmp_path / "x.npy", NUMBERS.astype(">f4"))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert as_arrays(mapped, "x", memory_maps=True) is mapped
    read = as_arrays(mapped, "x")
    assert read.dtype == np.float32 and read.dtype.isnative
    np.testing.assert_array_equal(read, NUMBERS)


def test_masked_arrays_lose_no_mask():
    with pytest.raises(ValueError, match=r"x is a NumPy masked array with 2 masked values.*\.filled\(value\)"):
        as_arrays(np.ma.masked_array(NUMBERS, NUMBERS > 3), "x")
    np.testing.assert_array_equal(as_arrays(np.ma.masked_array(NUMBERS), "x"), NUMBERS)


class Unconvertible:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("on another device")


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (np.array(["a", "b"]), TypeError, "x needs numbers, got dtype <U1: encode strings"),
        (np.array([1, None]), TypeError, "x needs an array of numbers, got dtype object: encode strings and objects"),
        (["a", "b"], TypeError, "encode strings"),
        ([{"a": 1}], TypeError, "got dtype object"),
        (iter([1]), TypeError, "got list_iterator"),
        (np.array([1, 2], "m8[s]"), TypeError, "needs numbers, got dtype timedelta64"),
        (np.array([1, 2], "M8[s]"), TypeError, "needs numbers, got dtype datetime64"),
        (np.zeros(2, [("a", "f4")]), TypeError, "needs numbers"),
        (np.zeros(2, np.longdouble), TypeError, r'JAX does not support: convert it with \.astype\("float32"\)'),
        (np.zeros(2, np.float64), ValueError, "x is float64, and 64-bit numbers are disabled"),
        (np.zeros(2, ">f8"), ValueError, "x is float64, and 64-bit numbers are disabled"),
        (np.zeros(2, np.complex128), ValueError, "would be rounded to complex64"),
        (np.array([2**40]), ValueError, "x is int64 with values that int32 cannot represent"),
        ([[1, 2], [3]], ValueError, "x is a list that is not one array of numbers; make all entries the same length"),
        (Unconvertible(), TypeError, "x is a Unconvertible that NumPy cannot convert to an array: on another device"),
    ],
)
def test_errors_name_the_data(value, error, words):
    with pytest.raises(error, match=words):
        as_arrays(value, "x")


def test_a_memory_map_is_refused_by_its_dtype(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(ValueError, match="x is float64"):
        as_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), "x", memory_maps=True)


def test_other_libraries():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="x needs an array of numbers, got dia_array"):
        as_arrays(sparse.dia_array((3, 3)), "x")


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(as_arrays(torch.arange(3), "y"), [0, 1, 2])
    with pytest.raises(TypeError, match="x is a Tensor that NumPy cannot convert.*detach"):
        as_arrays(torch.ones(2, requires_grad=True), "x")


def test_with_64_bit_numbers(x64):
    assert as_arrays(np.zeros(2), "x").dtype == np.float64
    assert as_arrays([1.0, 2.0], "x").dtype == np.float64
    wide = as_arrays((np.zeros(2, ">f8"), np.zeros(2, ">i8")), "x")
    assert [array.dtype for array in wide] == [np.float64, np.int64]
