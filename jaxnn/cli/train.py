"""The command `train`: train one network, print its test score, and draw a picture."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

import jaxnn as nn
from jaxnn.cli import report, saved
from jaxnn.cli.factories import make_optimizer, make_schedule
from jaxnn.cli.job import Job
from jaxnn.train.watching import Watching


def run(job: Job, started: float) -> int:
    """Run the command.

    Args:
        job: What to train.
        started: When the process started, as `time.perf_counter()`.

    Returns:
        The exit code.
    """
    if not job.quiet:
        report.tell(report.beginning(job))
    *fitted, (x_test, _) = job.standardized()
    result = _fit(job, *fitted)
    report.tell(report.ending(result, job.settings))
    if result.epoch:
        predictions = np.asarray(nn.predict(result, x_test))
        text, figure = report.evaluation(job, result, predictions)
        report.tell(text)
        if hint := report.guess(job, result, fitted[1][1]):
            report.tell(hint)
        watching = Watching()
        with watching(f"writing {job.picture}"):
            report.saying_what_is_replaced("picture", job.picture, lambda: figure.savefig(job.picture))
        with watching(f"writing {job.network}"):
            report.saying_what_is_replaced("network", job.network, lambda: saved.save(job, result))
    report.tell(f"time: {time.perf_counter() - started:.1f} s, of which {result.compile_seconds:.1f} s compiling the training")
    return {"interrupted": 130, "diverged": 1}.get(result.stopped, 0)


def _fit(job: Job, train: Any, validation: Any) -> nn.FitResult:
    settings = job.settings

    def rate(step, epochs, steps_per_epoch):  # by name, so that a resumed run may have more epochs
        return make_schedule(settings.schedule, settings.learning_rate, epochs, steps_per_epoch)(step)

    with warnings.catch_warnings():
        # The warning of `fit` about a non-finite loss: `report.ending` says it.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=__name__)
        return nn.fit(
            job.model,
            train,
            optimizer=make_optimizer(
                settings.optimizer, weight_decay=settings.weight_decay, freeze=settings.freeze, seed=settings.seed
            ),
            hyperparameters={"learning_rate": rate},
            validation=validation,
            callbacks=job.callbacks,
            **job.options(),
        )
