"""JAX's debugging settings and forked processes: a run ends with its own outcome, or says what is wrong."""

import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import jaxnn as nn

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
DATA = X, X[:, :1]
KEY = jax.random.key(0)


def fit(**options):
    defaults = {"loss": nn.losses.mse, "optimizer": optax.sgd(0.1), "epochs": 2, "key": KEY, "progress": False}
    return nn.fit(nn.dense(1), DATA, **{**defaults, **options})


def sweep(rates):
    options = {"loss": nn.losses.mse, "optimizer": optax.sgd, "epochs": 20, "key": KEY, "progress": False}
    return nn.sweep(nn.dense(1), DATA, {"learning_rate": rates}, **options)


@pytest.fixture
def debugging():
    """As a user sets it, for all threads."""
    jax.config.update("jax_debug_nans", True)
    jax.config.update("jax_debug_infs", True)
    yield
    jax.config.update("jax_debug_nans", False)
    jax.config.update("jax_debug_infs", False)


@pytest.mark.slow
def test_a_diverging_run_has_its_own_outcome_under_debug_nans(debugging):
    with pytest.warns(RuntimeWarning, match="the loss of step [0-9]+ is not finite") as caught:
        result = fit(optimizer=optax.sgd(1e30), epochs=20)
    assert result.stopped == "diverged" and caught[0].filename == __file__
    with pytest.raises(nn.NonFiniteError, match="is not finite") as error:
        fit(optimizer=optax.sgd(1e30), epochs=20, on_nonfinite="raise")
    assert error.value.result.stopped == "diverged"
    with pytest.warns(RuntimeWarning, match="1 of 2 members had a loss that was not finite") as caught:
        rows = sweep([0.01, 1e30]).rows
    assert [row["status"] for row in rows] == ["finished", "diverged"] and caught[0].filename == __file__
    with pytest.raises(FloatingPointError):  # the user's own computations are still checked
        jax.numpy.log(-X).block_until_ready()


def test_a_guard_of_transfers_does_not_refuse_those_of_a_run():
    whole = fit(validation=DATA)
    with jax.transfer_guard("disallow"):
        guarded = fit(validation=DATA)
        assert nn.evaluate(guarded, DATA)["loss"] > 0
        assert nn.predict(guarded, X).shape == (20, 1)
    assert guarded.history.same_as(whole.history)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_was_forked_after_jax_had_started_says_so():
    program = """if True:
        import os, sys, warnings
        warnings.simplefilter("ignore")  # of JAX, about the fork
        import jax, numpy as np, optax, jaxnn as nn
        def train():
            x = np.ones((4, 1), np.float32)
            return nn.fit(nn.dense(1), (x, x), loss=nn.losses.mse, optimizer=optax.sgd(0.1), epochs=1,
                          key=jax.random.key(0) if key is None else key, progress=False)
        def in_child(task):
            child = os.fork()
            if not child:
                try:
                    task()
                    print("trained", flush=True)
                except RuntimeError as error:
                    print(error, flush=True)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
        key = None
        in_child(train)  # before JAX has started
        key = jax.random.key(0)
        result = train()
        in_child(train)
        in_child(lambda: nn.evaluate(result, (np.ones((4, 1), np.float32),) * 2))
        in_child(lambda: nn.predict(result, np.ones((4, 1), np.float32)))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    before, *after = done.stdout.splitlines()
    assert before == "trained", done.stderr
    assert len(after) == 3 and all("forked from one in which JAX had already started" in line for line in after), done.stdout
    assert all('multiprocessing.get_context("spawn")' in line for line in after)
