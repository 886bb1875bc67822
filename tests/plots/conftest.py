"""Plots are drawn without a window, and no figure of another test, nor of an example, is open."""

import matplotlib
import pytest

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    from matplotlib import pyplot

    pyplot.close("all")
    yield
    pyplot.close("all")
