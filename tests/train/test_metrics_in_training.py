"""Every metric in `fit` and `evaluate`: the last batch is smaller, the program is compiled, the values are scikit-learn's."""

import jax
import numpy as np
import optax
import pytest
from scipy import stats
from sklearn import metrics as sk

import jaxnn as nn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(103, 3)).astype(np.float32)
NOISY = X @ np.array([1.0, -2.0, 0.5]) + RNG.normal(size=103)
DATA = {
    "classes": np.digitize(NOISY, [-1, 1]),
    "bits": (NOISY > 0).astype(np.int32),
    "numbers": (NOISY[:, None] + 10).astype(np.float32),
}
METRICS = {
    "classes": (nn.losses.cross_entropy, 3, {
        "precision": (nn.metrics.precision(3), lambda p, t: sk.precision_score(t, p.argmax(1), average="macro")),
        "weighted_f1": (nn.metrics.f1(3, average="weighted"), lambda p, t: sk.f1_score(t, p.argmax(1), average="weighted")),
        "kappa": (nn.metrics.cohen_kappa(3), lambda p, t: sk.cohen_kappa_score(t, p.argmax(1))),
        "perplexity": (nn.metrics.perplexity, lambda p, t: np.exp(sk.log_loss(t, np.asarray(jax.nn.softmax(p), float)))),
    }),
    "bits": (lambda p, t: nn.losses.binary_cross_entropy(p[:, 0], t), 1, {
        "recall": (nn.metrics.recall(), lambda p, t: sk.recall_score(t, p[:, 0] > 0)),
        "auc": (nn.metrics.roc_auc(), lambda p, t: sk.roc_auc_score(t, p[:, 0].astype(np.float16))),
        "average_precision": (nn.metrics.average_precision(capacity=103), lambda p, t: sk.average_precision_score(t, p[:, 0])),
    }),
    "numbers": (nn.losses.mse, 1, {
        "rmse": (nn.metrics.rmse, lambda p, t: sk.root_mean_squared_error(t, p)),
        "mape": (nn.metrics.mape, lambda p, t: sk.mean_absolute_percentage_error(t, p)),
        "pearson": (nn.metrics.pearson, lambda p, t: stats.pearsonr(t[:, 0], p[:, 0])[0]),
        "spearman": (nn.metrics.spearman(103), lambda p, t: stats.spearmanr(t[:, 0], p[:, 0])[0]),
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", METRICS)
def test_metrics_in_fit_and_evaluate(kind):
    loss, outputs, members = METRICS[kind]
    y = DATA[kind]
    model = nn.dense(outputs)
    result = nn.fit(
        model, (X, y), loss=loss, optimizer=optax.adam(0.1), epochs=2, batch_size=25, key=jax.random.key(0),
        validation=(X, y), metrics={name: metric for name, (metric, _) in members.items()}, progress=False,
    )  # fmt: skip
    predictions = np.asarray(nn.predict(model, result, X))
    values = nn.evaluate(model, result, (X, y), batch_size=40)
    for name, (_, reference) in members.items():
        np.testing.assert_allclose(values[name], reference(predictions, y), rtol=2e-5, err_msg=name)
        np.testing.assert_allclose(result.history[f"val_{name}"][-1], values[name], rtol=2e-5, err_msg=name)
        assert np.isfinite(result.history[name]).all()
