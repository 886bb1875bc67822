"""Populations: hyperparameters × seeds trained as one program."""

from jaxnn.population.result import Member, Stacked, Sweep
from jaxnn.population.space import Distribution, choice, grid, integers, log_uniform, random, sobol, uniform
from jaxnn.population.sweep import sweep

__all__ = [
    "Distribution",
    "Member",
    "Stacked",
    "Sweep",
    "choice",
    "grid",
    "integers",
    "log_uniform",
    "random",
    "sobol",
    "sweep",
    "uniform",
]
