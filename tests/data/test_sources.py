"""Tests of bundled data sets, `.npz` files, and the errors for missing data."""

import builtins
import gzip
import io
import pathlib
import tracemalloc
import zipfile

import numpy as np
import pytest

from jaxnn.data import NAMES, load, sources

FACTS = {  # samples, shape, samples per class: from the UCI repository and the papers of the data sets
    "digits": (1797, (8, 8, 1), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
    "iris": (150, (4,), [50, 50, 50]),
    "wine": (178, (13,), [59, 71, 48]),
    "breast-cancer": (569, (30,), [212, 357]),
    "diabetes": (442, (10,), None),
}


@pytest.mark.parametrize("name", FACTS)
def test_small_data_sets_match_their_publication(name):
    length, shape, balance = FACTS[name]
    data = load(name)
    assert (len(data), data.x.shape[1:], data.name, data.test) == (length, shape, name, None)
    if balance is None:
        assert (data.task, data.classes) == ("regression", ())
        assert (data.y.min(), data.y.max()) == (25, 346)
    else:
        np.testing.assert_array_equal(np.bincount(data.y), balance)
        assert len(data.classes) == len(balance)


def test_digits_are_images_between_0_and_1():
    data = load("digits")
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.classes == tuple("0123456789")


def test_class_names():
    assert load("iris").classes == ("setosa", "versicolor", "virginica")
    assert load("breast-cancer").classes == ("malignant", "benign")


def test_diabetes_has_original_units():
    age = load("diabetes").x[:, 0]
    assert (age.min(), age.max()) == (19, 79)


@pytest.fixture
def no_system_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "_SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.delenv("JAXNN_DATA", raising=False)


@pytest.fixture
def write_fashion(idx_bytes):
    """A function that writes a small Fashion-MNIST, the images gzipped and the labels plain."""

    def write(folder, *, leave_out=()):
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for part, length in (("train", 20), ("t10k", 10)):
            images = idx_bytes(rng.integers(0, 256, (length, 28, 28), np.uint8))
            labels = idx_bytes((np.arange(length) % 10).astype("u1"))
            if f"{part}-images" not in leave_out:
                (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
            if f"{part}-labels" not in leave_out:
                (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)

    return write


@pytest.mark.parametrize("place", ["data", "data/fashion-mnist", "system"])
def test_fashion_mnist_is_found(place, tmp_path, monkeypatch, no_system_folder, write_fashion):
    write_fashion(tmp_path / place)
    if place != "system":
        monkeypatch.setenv("JAXNN_DATA", str(tmp_path / "data"))
    data = load("fashion-mnist")
    assert (data.x.shape, data.test.x.shape) == ((20, 28, 28, 1), (10, 28, 28, 1))
    assert data.x.dtype == np.float32 and data.x.min() >= 0 and data.x.max() <= 1
    assert data.classes[9] == "ankle boot" and len(data.classes) == 10


def test_missing_fashion_mnist_error_lists_folders_and_remedy(tmp_path, monkeypatch, no_system_folder, write_fashion):
    monkeypatch.setenv("JAXNN_DATA", str(tmp_path / "data"))
    write_fashion(tmp_path / "data", leave_out=("t10k-labels",))  # three of four files are not enough
    with pytest.raises(FileNotFoundError) as caught:
        load("fashion-mnist")
    message = str(caught.value)
    for words in (tmp_path / "data", tmp_path / "data/fashion-mnist", tmp_path / "system", "apt install", "JAXNN_DATA"):
        assert str(words) in message
    for file in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1"):
        assert file in message


@pytest.mark.skipif(not pathlib.Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="not installed here")
def test_real_fashion_mnist():
    data = load("fashion-mnist")
    assert (data.x.shape, data.test.x.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    np.testing.assert_array_equal(np.bincount(data.y), 6000)
    np.testing.assert_array_equal(np.bincount(data.test.y), 1000)
    np.testing.assert_allclose([data.x.mean(), data.x.std()], [0.2860, 0.3530], atol=1e-4)  # published values


def test_npz_round_trip(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) % 3
    np.savez(tmp_path / "mine.npz", x=x, y=y, x_test=x[:2], y_test=y[:2], other=np.zeros(1))
    data = load(tmp_path / "mine.npz")
    assert (data.name, data.task, data.classes) == ("mine", "classification", ("0", "1", "2"))
    np.testing.assert_array_equal(data.x, x.astype(np.float32))
    np.testing.assert_array_equal(data.test.y, y[:2])


def npz(folder, **arrays):
    file = folder / "bad.npz"
    np.savez(file, **arrays)
    return file


X = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X}, r"no array y; it has x\. Use np\.savez"),
        ({"images": X, "labels": X}, "no array x and no y; it has images, labels"),
        ({}, "no array x and no y; it has none"),
        ({"x": X, "y": np.array([{}] * 4)}, "contains Python objects, which are not loaded"),
        ({"x": X, "y": np.zeros(3, int)}, "data 'bad': x and y differ in length"),
        ({"x": X, "y": np.zeros(4, int), "x_test": X}, "has x_test but no y_test"),
        ({"x": X * np.nan, "y": np.zeros(4, int)}, "data 'bad': x has 8 values that are NaN"),
        ({"x": X, "y": -np.ones(4, int)}, "labels run from -1 to -1"),
        ({"x": X, "y": np.array(list("abab"))}, "expected numbers"),
    ],
)
def test_npz_errors(tmp_path, arrays, words):
    with pytest.raises(ValueError, match=words):
        load(npz(tmp_path, **arrays))


def test_missing_or_invalid_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.npz"):
        load(tmp_path / "gone.npz")
    file = tmp_path / "text.npz"
    file.write_text("x, y")
    with pytest.raises(ValueError, match=r"text\.npz is not an \.npz file"):
        load(file)
    file.write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="is not an .npz file"):
        load(file)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_npz(tmp_path, compressed):
    file = tmp_path / "bad.npz"
    (np.savez_compressed if compressed else np.savez)(file, x=np.arange(400.0).reshape(100, 4), y=np.zeros(100, int))
    raw = bytearray(file.read_bytes())
    raw[60:400] = bytes(340)
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"bad\.npz is damaged"):
        load(file)


def members(file, **contents):
    """A zip file with these bytes as its members, deflated."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)
    return file


def npy(array=None, shape=None, dtype="<f4", version=None):
    """The bytes of an array as NumPy writes them, or only a header that claims this shape."""
    stream = io.BytesIO()
    if array is not None:
        np.lib.format.write_array(stream, array, version)
    else:
        np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


ENTRY = b"PK\x01\x02-\x03-\x00"  # how an entry of the directory begins, before its flags


def patched(file, old, new, count=1):
    raw = file.read_bytes()
    assert raw.count(old) >= count
    file.write_bytes(raw.replace(old, new))
    return file


def test_every_kind_of_damage_is_a_value_error_with_the_name_of_the_file(tmp_path):
    file, y = tmp_path / "bad.npz", npy(np.zeros(4, np.int32))
    kinds = {
        "a header of 4 TB": lambda: members(file, x=npy(shape=(10**6, 10**6)), y=y),
        "a header that overflows": lambda: members(file, x=npy(shape=(2**62, 2**62)), y=y),
        "a negative axis": lambda: members(file, x=npy(shape=(-1, -1)) + bytes(4), y=y),
        "too few values": lambda: members(file, x=npy(np.zeros((4, 2)))[:-1], y=y),
        "too many values": lambda: members(file, x=npy(np.zeros((4, 2))) + b"0", y=y),
        "no header": lambda: members(file, x=b"", y=y),
        "an unknown version": lambda: members(file, x=b"\x93NUMPY\x07\x00" + bytes(100), y=y),
        "field names": lambda: members(file, x=npy(np.zeros(2, [("\u00fc", "f4")]), version=(3, 0)), y=y),
        "a header that is no dict": lambda: members(file, x=npy(shape=(4, 2)).replace(b"{", b"["), y=y),
        "an unknown dtype": lambda: members(file, x=npy(shape=(4, 2)).replace(b"<f4", b"<q9"), y=y),
        "encrypted": lambda: patched(npz(tmp_path, x=X, y=np.zeros(4, int)), ENTRY + b"\x00", ENTRY + b"\x01"),
        "two arrays x": lambda: patched(npz(tmp_path, x=X, z=X, y=np.zeros(4, int)), b"z.npy", b"x.npy", 2),
    }
    for kind, write in kinds.items():
        with pytest.raises(ValueError, match=r"bad\.npz is damaged: .") as caught:
            load(write())
        assert kind != "two arrays x" or "it has two arrays x" in str(caught.value)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):  # which unpack without a bound
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("x.npy", npy(X))
        with pytest.raises(ValueError, match="compressed by another method"):
            load(file)


@pytest.mark.parametrize("cut", range(1, 400, 13))
def test_a_truncated_npz(tmp_path, cut):
    file = tmp_path / "bad.npz"
    np.savez_compressed(file, x=X, y=np.zeros(4, int))
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"bad\.npz is (damaged|not an \.npz file)"):
        load(file)


def test_a_file_that_unpacks_to_much_takes_no_memory(tmp_path):
    file = tmp_path / "bomb.npz"
    np.savez_compressed(file, x=np.zeros((17_000_000, 1), np.float32), y=np.zeros(4, int))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.npz has .* bytes and unpacks to at least 68,000,\d+, more than 100 times"):
        load(file)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    np.savez_compressed(file, x=np.zeros((100_000, 1)), y=np.zeros(100_000, int))
    assert len(load(file)) == 100_000  # a small file may be compressed well


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "unknown data set 'digit'; did you mean 'digits'"),
        ("Fashion_MNIST", "did you mean 'fashion-mnist'"),
        ("breast_cancer", "did you mean 'breast-cancer'"),
        ("xyzzy", "known data sets: digits, iris, wine, breast-cancer, diabetes, fashion-mnist, and any FILE.npz"),
        ("data.csv", "unknown data set 'data.csv'"),
        ("", "unknown data set ''"),
    ],
)
def test_unknown_names_suggest_near_names(name, words):
    with pytest.raises(ValueError, match=words):
        load(name)


def test_missing_scikit_learn_error_names_the_package(monkeypatch):
    real_import = builtins.__import__

    def without_sklearn(name, *rest, **named):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    for name in NAMES[:-1]:
        with pytest.raises(ImportError, match="pip install scikit-learn"):
            load(name)
