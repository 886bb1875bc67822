"""Every test runs strict: no implicit dtype or rank promotion, no tracer leaks that go unseen, warnings are errors."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Turn 64-bit numbers on for one test."""
    with jax.enable_x64(True):
        yield
