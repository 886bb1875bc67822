"""Metrics in the compiled programs of `fit` and `evaluate`, with a smaller last batch, against scikit-learn."""

import jax
import numpy as np
import optax
import pytest
from scipy import special, stats
from sklearn import metrics as sk

import jaxnn as nn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(103, 3)).astype(np.float32)
NOISY = X @ np.array([1.0, -2.0, 0.5]) + RNG.normal(size=103)
KINDS = {  # targets, loss, number of outputs, and by name a metric with its reference
    "classes": (np.digitize(NOISY, [-1, 1]), nn.losses.cross_entropy, 3, {
        "precision": (nn.metrics.precision(3), lambda p, t: sk.precision_score(t, p.argmax(1), average="macro")),
        "kappa": (nn.metrics.cohen_kappa(3), lambda p, t: sk.cohen_kappa_score(t, p.argmax(1))),
        "perplexity": (nn.metrics.perplexity, lambda p, t: np.exp(sk.log_loss(t, special.softmax(p.astype(float), 1)))),
    }),
    "column": ((NOISY[:, None] > 0).astype(np.float32), nn.losses.binary_cross_entropy, 1, {
        "recall": (nn.metrics.recall(), lambda p, t: sk.recall_score(t, p > 0)),
        "auc": (nn.metrics.roc_auc(), lambda p, t: sk.roc_auc_score(t, p.astype(np.float16))),
        "average_precision": (nn.metrics.average_precision(capacity=103), lambda p, t: sk.average_precision_score(t, p)),
        "rmse": (nn.metrics.rmse, lambda p, t: sk.root_mean_squared_error(t, p)),
        "pearson": (nn.metrics.pearson, lambda p, t: stats.pearsonr(t[:, 0], p[:, 0])[0]),
    }),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_in_fit_and_evaluate(kind):
    y, loss, outputs, metrics = KINDS[kind]
    model = nn.dense(outputs)
    result = nn.fit(
        model, (X, y), loss=loss, optimizer=optax.sgd(0.1), epochs=2, batch_size=25, key=jax.random.key(0),
        metrics={name: metric for name, (metric, _) in metrics.items()}, progress=False,
    )  # fmt: skip
    predictions = np.asarray(nn.predict(result, X))
    values = nn.evaluate(result, (X, y), batch_size=40)
    for name, (_, reference) in metrics.items():
        np.testing.assert_allclose(values[name], reference(predictions, y), rtol=2e-5, err_msg=name)
        assert abs(result.history[name][-1] - values[name]) < 0.2, name  # during an epoch, the weights change
