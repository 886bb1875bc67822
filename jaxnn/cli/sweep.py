"""The command `sweep`: train all combinations of a grid, print them as a table, and draw a picture."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import jaxnn as nn
from jaxnn.cli import report
from jaxnn.cli.factories import make_model, make_optimizer, make_schedule
from jaxnn.cli.job import Job
from jaxnn.core.text import terminal_width
from jaxnn.train.watching import Watching


def run(job: Job, started: float) -> int:
    """Run the command.

    Args:
        job: What to train.
        started: When the process started, as `time.perf_counter()`.

    Returns:
        The exit code.
    """
    options = job.options()
    monitor = f"val_{next(iter(options['metrics']))}"
    train, validation, test = job.standardized()
    result = _sweep(job, train, validation, options)
    report.tell(result.table(monitor, width=terminal_width(0) or None), is_table=True)
    if all(math.isnan(row[monitor]) for row in result.rows):
        report.tell("no network completed an epoch")
        return 1
    best = result.best(monitor)
    score = nn.evaluate(best, test)
    report.tell(f"* best setting by {monitor}; its best network reaches {report.values(score)} on the test part")
    watching = Watching()
    with watching(f"writing {job.table}"):
        report.saying_what_is_replaced("table", job.table, lambda: report.write_table(result.rows, job.table))
    with watching(f"writing {job.picture}"):
        figure = report.sweep_figure(job, result, monitor)
        report.saying_what_is_replaced("picture", job.picture, lambda: figure.savefig(job.picture))
    report.tell(f"time: {time.perf_counter() - started:.1f} s")
    return 130 if any(row["status"] == "interrupted" for row in result.rows) else 0


def _sweep(job: Job, train: Any, validation: Any, options: dict[str, Any]) -> nn.population.Sweep:
    settings, outputs = job.settings, len(job.data.classes) or 1

    def model(activation=settings.activation, init=settings.init, dropout=settings.dropout):
        return make_model(settings.model, outputs, hidden=settings.hidden, activation=activation, init=init, dropout=dropout)

    def optimizer(rate, optimizer=settings.optimizer, weight_decay=settings.weight_decay):
        return make_optimizer(optimizer, weight_decay=weight_decay, freeze=settings.freeze, seed=settings.seed)(rate)

    def rate(step, learning_rate, epochs, steps_per_epoch):
        return learning_rate * make_schedule(settings.schedule, 1.0, epochs, steps_per_epoch)(step)

    fixed = {} if "learning_rate" in job.grid else {"learning_rate": settings.learning_rate}
    with warnings.catch_warnings():
        # The warning of `sweep` about members that diverged: the table shows them.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=__name__)
        return nn.sweep(
            model,
            train,
            dict(job.grid),
            seeds=job.seeds,
            optimizer=optimizer,
            hyperparameters={"rate": rate} | fixed,
            validation=validation,
            callbacks=[callback for callback in job.callbacks if callback.is_pure],
            **options,
        )
