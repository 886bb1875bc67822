"""Populations: hyperparameters × seeds trained as one program."""

from jaxnn.population.result import Member, Stacked, Sweep
from jaxnn.population.search import hyperband, optuna_search, population_based_training, successive_halving
from jaxnn.population.space import Distribution, choice, grid, integers, log_uniform, random, sobol, uniform
from jaxnn.population.sweep import sweep

__all__ = [
    "Distribution",
    "Member",
    "Stacked",
    "Sweep",
    "choice",
    "grid",
    "hyperband",
    "integers",
    "log_uniform",
    "optuna_search",
    "population_based_training",
    "random",
    "sobol",
    "successive_halving",
    "sweep",
    "uniform",
]
