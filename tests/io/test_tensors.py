"""`save` and `load`: parameters in safetensors files."""

import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.io import load, save

pytest.importorskip("safetensors")

NANS = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000], np.uint32)


def raw(tree):
    return {path: (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for path, leaf in nn.trees.paths(tree).items()}


def test_every_bit_is_restored(tmp_path):
    params = {
        "dense": {"nans": jax.lax.bitcast_convert_type(jnp.asarray(NANS), jnp.float32), "bias": jnp.asarray(0.5)},
        **{name: jnp.asarray([1, 2], name) for name in ("bfloat16", "float16", "int8", "uint32", "complex64", "bool")},
        "empty": {"zero by 3": jnp.zeros((0, 3))},
    }
    save(tmp_path / "model.safetensors", params)
    loaded = load(tmp_path / "model.safetensors")
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert raw(loaded) == raw(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_model_is_restored_with_its_structure(tmp_path):
    model = nn.serial(nn.dense(3), nn.relu, nn.repeat(nn.dense(3), 2))
    x = jnp.ones((2, 4))
    trees = model.init(jax.random.key(0), x)
    save(tmp_path / "model.safetensors", trees)
    loaded = load(tmp_path / "model.safetensors", jax.eval_shape(model.init, jax.random.key(0), x))
    assert jax.tree.structure(loaded) == jax.tree.structure(trees)  # tuples, empty dicts
    assert raw(loaded) == raw(trees)


def test_64_bit_arrays_are_unchanged(tmp_path):
    tree = {"wide": np.array([0.1]), "long": np.array([2**62])}
    save(tmp_path / "wide", tree)
    assert raw(load(tmp_path / "wide")) == raw(load(tmp_path / "wide", tree)) == raw(tree)


def test_other_libraries_read_it(tmp_path):
    from safetensors.numpy import load_file

    save(tmp_path / "model", {"a": {"b": jnp.arange(3)}})
    assert load_file(tmp_path / "model")["a/b"].tolist() == [0, 1, 2]


def test_a_file_that_does_not_match_is_rejected(tmp_path):
    save(tmp_path / "model", {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}})
    like = {"dense": {"kernel": jnp.ones((4, 3), jnp.bfloat16), "scale": jnp.ones(3)}}
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "model", like)
    for line in (
        "model does not match; of the 2 expected leaves, these differ:",
        "  dense/kernel: found float32[4, 3], expected bfloat16[4, 3]",
        "  dense/scale: found nothing, expected float32[3]",
        "  dense/bias: found float32[3], expected nothing",
    ):
        assert line in str(caught.value)


def test_files_of_other_libraries(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(2), "a/b": np.ones(2)}, tmp_path / "nested")
    with pytest.raises(ValueError, match="has a tensor 'a' and another one inside|has a tensor 'a/b' and another one"):
        load(tmp_path / "nested")
    like = {"a": np.zeros(2), "a/b": np.zeros(2)}
    assert load(tmp_path / "nested", like)["a"].tolist() == [1, 1]
    save_file({"a": np.ones(2, jnp.float8_e4m3fn)}, tmp_path / "short")
    with pytest.raises(ValueError, match="short contains a dtype that NumPy does not support"):
        load(tmp_path / "short")


@pytest.mark.parametrize("content", [b"", b"x" * 1000, None], ids=["empty", "other", "cut"])
def test_damaged_files_are_rejected(content, tmp_path):
    save(tmp_path / "model", {"a": np.ones(20)})
    (tmp_path / "model").write_bytes((tmp_path / "model").read_bytes()[:-1] if content is None else content)
    with pytest.raises(ValueError, match="model is damaged or not a safetensors file"):
        load(tmp_path / "model")


def test_two_tensors_of_one_name_are_rejected(tmp_path):
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"%s":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
    for name, repeated in ((b"b", False), (b"a", True), (rb"\u0061", True)):
        text = header % name
        (tmp_path / "model").write_bytes(len(text).to_bytes(8, "little") + text + b"\x01\x02")
        if repeated:
            with pytest.raises(ValueError, match="model is damaged"):
                load(tmp_path / "model")
        else:
            assert {key: value.tolist() for key, value in load(tmp_path / "model").items()} == {"a": [1], "b": [2]}


def test_a_missing_file_or_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="model"):
        load(tmp_path / "model")
    with pytest.raises(OSError, match="model could not be written: .*No such file"):
        save(tmp_path / "folder" / "model", {"a": np.ones(2)})


def test_a_full_disk_leaves_the_old_file_unchanged(tmp_path):
    save(tmp_path / "model", {"a": np.ones(2000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match="model could not be written"):
            save(tmp_path / "model", {"a": np.zeros(2000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load(tmp_path / "model")["a"].sum() == 2000
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (lambda: jax.random.key(0), r"leaf 'a' is a random key, key<fry>\[\]; expected an array, which jax.random.key_data"),
        (lambda: jnp.ones(2, jnp.float8_e4m3fn), r"leaf 'a' is float8_e4m3fn\[2\]; a safetensors file supports bool"),
        (lambda: 0.5, "leaf 'a' is 0.5"),
        (lambda: np.ma.masked_array([1.0, 2.0], [0, 1]), "leaf 'a' is a masked array, whose mask would be lost"),
    ],
)
def test_what_cannot_be_saved(leaf, words, tmp_path):
    with pytest.raises(TypeError, match=words):
        save(tmp_path / "model", {"a": leaf()})
    assert list(tmp_path.iterdir()) == []


def test_without_safetensors_the_error_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    for call in (lambda: save(tmp_path / "a", {}), lambda: load(tmp_path / "a")):
        with pytest.raises(ImportError, match="pip install safetensors"):
            call()
