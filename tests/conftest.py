"""Every test runs strict: no implicit dtype or rank promotion, no tracer leaks that go unseen, warnings are errors."""

import gc
import os
import signal
import threading
from collections import Counter, defaultdict
from pathlib import Path

import jax
import pytest
from hypothesis import settings

collect_ignore_glob = ["exercises/*"]  # scripts, which test_exercises.py runs
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# A deadline would measure the machine.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_configure(config):
    """Compile quickly, and keep what is compiled for the next run; each worker for itself, as writing is not atomic.

    The default run compiles some thousand small programs and runs each for a moment, so it leaves out LLVM's optimizations;
    the slow tests train networks, and have them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would children
    if config.option.markexpr.startswith("not slow"):
        flags = ["--xla_backend_optimization_level=0"]
        if jax.__version_info__ < (0, 11):  # later versions have no other emitters (measured: a third of the time)
            flags.append("--xla_cpu_use_fusion_emitters=false")
        os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])
    folder = Path(config.rootpath, ".pytest_cache", "compiled", os.environ.get("PYTEST_XDIST_WORKER", "main"))
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry")  # a killed run's


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark cases `slow` until those left are the n that `@pytest.mark.sample(n)` asks for, evenly spread."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample") and not item.get_closest_marker("slow"):
            cases[item.path, item.originalname].append(item)
    for every in cases.values():
        (n,) = every[0].get_closest_marker("sample").args
        kept = {i * len(every) // n for i in range(n)}
        for i, item in enumerate(every):
            if i not in kept:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Spare the garbage collector the modules and tests, which stay until the end, and let it look less often at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)  # measured: 6% of the run, mostly in full collections of cached programs


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Say in the last line what was skipped because PyTorch is not installed; a whole file counts as one."""
    result = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        skipped = [report for report in reporter.stats.get("skipped", []) if "'torch'" in str(report.longrepr)]
        if skipped:
            tests = sum(report.when != "collect" for report in skipped)
            reporter.write_line(
                f"Skipped without PyTorch: {len(skipped) - tests} files of the conformance suite and {tests} other tests. "
                'pip install -e ".[test,conformance]" && pytest runs them.'
            )
    return result


EVENTS: Counter[str] = Counter()  # JAX's own events so far; a listener cannot be taken off again
jax.monitoring.register_event_duration_secs_listener(lambda event, duration, **_: EVENTS.update([event]))


@pytest.fixture
def compilations():
    """A function that returns the number of programs compiled in this process so far, those read from disk included."""
    return lambda: EVENTS["/jax/core/compile/backend_compile_duration"]


@pytest.fixture
def x64():
    """Turn 64-bit numbers on for one test."""
    with jax.enable_x64(True):
        yield
