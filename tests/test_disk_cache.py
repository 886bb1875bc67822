"""Compiled programs on disk: where they are kept, that numbers do not depend on it, and that damage ends no run."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import _jax, disk_cache

NAMES = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def as_jax_starts(monkeypatch):
    before = {name: getattr(jax.config, name) for name in NAMES}
    for name, value in zip(NAMES, (None, True, 1.0, 0), strict=True):
        jax.config.update(name, value)
        monkeypatch.delenv(name.upper(), raising=False)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    _jax.reset_compilation_cache()


def test_programs_are_kept_in_the_folder_small_ones_too(tmp_path):
    folder = nn.compilation_cache(tmp_path / "programs")
    assert folder.parent == tmp_path / "programs" and str(folder) == jax.config.jax_compilation_cache_dir
    jax.jit(lambda x: x * 3 + len(str(tmp_path)))(np.float32(2)).block_until_ready()
    assert any(folder.iterdir())


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="other folders there")
def test_the_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert nn.compilation_cache().parent == tmp_path / "jaxnn"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert nn.compilation_cache().parent == tmp_path / "home" / ".cache" / "jaxnn"


def test_settings_of_jax_come_first(tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1.0")
    assert nn.compilation_cache() == tmp_path and not any(tmp_path.iterdir())
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 1.0
    assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1
    jax.config.update("jax_enable_compilation_cache", False)
    assert nn.compilation_cache(tmp_path / "other") is None
    assert not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(RuntimeWarning, match="compiled programs are not kept for the next process: .*file"):
        assert nn.compilation_cache(tmp_path / "file") is None
    assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_files_are_removed(tmp_path, monkeypatch):
    folder = nn.compilation_cache(tmp_path)
    (folder / "xla").mkdir()
    for i in range(4):
        (folder / f"{i}-cache").write_bytes(b"x" * 10)
        os.utime(folder / f"{i}-cache", (i, i))
    monkeypatch.setattr(disk_cache, "MOST_BYTES", 25)
    nn.compilation_cache(tmp_path)
    assert {file.name for file in folder.glob("?-cache")} == {"2-cache", "3-cache"}


PROGRAM = """
import sys, jax, numpy as np, optax, jaxnn as nn
if sys.argv[1]:
    nn.compilation_cache(sys.argv[1])
x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
model = nn.serial(nn.dense(8), nn.tanh, nn.dropout(0.1), nn.dense(3))
result = nn.fit(model, (x, x[:, 0].astype(int) % 3), loss=nn.losses.cross_entropy, optimizer=optax.adam(1e-2), epochs=4,
                key=jax.random.key(0), batch_size=8, validation=0.2, progress=False)
leaves = [*jax.tree.leaves(result.params), np.float32(result.history["loss"]), np.float32(nn.predict(result, x))]
print("".join(np.asarray(leaf).tobytes().hex() for leaf in leaves))
"""


@pytest.mark.slow
def test_the_same_bits_with_and_without_it_and_after_damage(tmp_path):
    def run(folder):
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done

    without, cold = run(""), run(tmp_path)
    files = [file for file in tmp_path.rglob("*-cache") if file.is_file()]
    assert len(files) > 2
    warm = run(tmp_path)
    assert "persistent compilation cache" not in warm.stderr
    assert sorted(tmp_path.rglob("*-cache")) == sorted(files)  # all were found
    for i, file in enumerate(sorted(files)):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if i % 2 else b"damaged" + content[7:])
    damaged = run(tmp_path)
    assert "Error reading persistent compilation cache entry" in damaged.stderr
    assert without.stdout == cold.stdout == warm.stdout == damaged.stdout


@pytest.mark.slow
def test_the_command_line_keeps_its_programs_and_says_where(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    command = [sys.executable, "-m", "jaxnn", "--data", "iris", "--epochs", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    [said] = [line for line in done.stderr.splitlines() if line.startswith("compiled programs: ")]
    assert any(Path(said.partition(": ")[2]).iterdir())
