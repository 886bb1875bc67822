"""Choose a network by five-fold cross-validation, and test the choice on data that played no part in it."""

import jax
import optax

import jaxnn as nn

train, test = nn.data.standardize(*nn.data.split(nn.data.load("breast-cancer")))
options = {
    "loss": nn.losses.cross_entropy,
    "metrics": {"accuracy": nn.metrics.accuracy},
    "epochs": 20,
    "key": jax.random.key(0),
}


def model(units, dropout):
    return nn.models.mlp([units], 2, dropout=dropout)


table = nn.population.cross_validation(
    model,
    train,
    {"learning_rate": [1e-2, 1e-3, 1e-5], "dropout": [0.0, 0.3], "units": [8, 32]},
    folds=5,
    optimizer=optax.adam,
    **options,
)
print(table)  # mean ± deviation over the folds

best = table.best_setting()
result = nn.fit(model, train, optimizer=optax.adam, hyperparameters=best, **options)
accuracy = nn.evaluate(result, test)["accuracy"]
print(f"chosen {best}: test accuracy {accuracy:.1%}")
assert len(table) == 3 * 2 * 2 * 5
assert best["learning_rate"] > 1e-5  # with which nothing is learned in 20 epochs
assert accuracy > 0.93
