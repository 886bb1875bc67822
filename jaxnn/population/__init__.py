"""Populations: hyperparameters × seeds trained as one program, searched, put together, and validated on folds."""

from jaxnn.population.ensemble import (
    disagreement,
    greedy_selection,
    mean_probabilities,
    predict_members,
    soup,
    spread,
    uncertainty,
    vote,
)
from jaxnn.population.resampling import bootstrap, cross_validation
from jaxnn.population.result import Member, Stacked, Sweep
from jaxnn.population.search import hyperband, optuna_search, population_based_training, successive_halving
from jaxnn.population.space import Distribution, choice, grid, integers, log_uniform, random, sobol, uniform
from jaxnn.population.sweep import sweep

__all__ = [
    "Distribution",
    "Member",
    "Stacked",
    "Sweep",
    "bootstrap",
    "choice",
    "cross_validation",
    "disagreement",
    "greedy_selection",
    "grid",
    "hyperband",
    "integers",
    "log_uniform",
    "mean_probabilities",
    "optuna_search",
    "population_based_training",
    "predict_members",
    "random",
    "sobol",
    "soup",
    "spread",
    "successive_halving",
    "sweep",
    "uncertainty",
    "uniform",
    "vote",
]
