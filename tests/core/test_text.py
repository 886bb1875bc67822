"""Text of error messages."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.text import array_text, did_you_mean, listed


def test_arrays_and_trees_are_shown_by_dtype_and_shape():
    struct = jax.ShapeDtypeStruct((2,), jnp.bfloat16)
    assert array_text(np.zeros((4, 9), np.float32)) == "float32[4, 9]"
    assert array_text({"x": [struct, jnp.ones(())], "n": None}) == "{x: (bfloat16[2], float32[]), n: NoneType None}"
    assert array_text(0) == "int 0"


def test_similar_names_are_suggested():
    assert did_you_mean("leraning_rate", ["momentum", "learning_rate"]) == "did you mean 'learning_rate'?"
    assert did_you_mean("Iris", ["iris"]) == "did you mean 'iris'?"
    assert did_you_mean("zzz", ["iris"]) == ""


def test_lists_of_names_end_with_the_number_of_the_others():
    assert listed("abc") == "a, b, c"
    assert listed("abc", most=3) == "a, b, c"
    assert listed("abcd", most=3) == "a, b, c and 1 more"
    assert listed(()) == "none"
