"""`TrainingConfig`: the configuration from which the programs of a run are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxnn.core.checks import function, number, whole
from jaxnn.core.foreign_names import name_here
from jaxnn.functional import losses
from jaxnn.problem.hyperparameters import Hyperparameters, lengths, parameters_of
from jaxnn.problem.objective import Objective, with_terms
from jaxnn.problem.problem import Problem
from jaxnn.train.hooks import Callback, check_callbacks

GRADIENT = "(objective, params, state, batch, key) -> (gradients, (loss, weight, state, predictions, skipped))"


@dataclass(frozen=True, eq=False)
class TrainingConfig:
    """What is trained, and how each step and epoch is computed. Results depend only on this, the key and the data.

    Attributes:
        problem: Model, loss, hyperparameters, augmentation and view.
        optimizer: An optax transformation, or a function of hyperparameters that returns one.
        batch_size: Samples per step, and per batch of the validation.
        metrics: Metrics by name.
        callbacks: The callbacks with pure functions.
        accumulate: The number of parts of a batch whose gradients are taken one after another.
        clip_norm: The largest norm of a gradient, None for any.
        sam_radius: ρ of sharpness-aware minimization.
        skip_nonfinite: Whether steps with a loss or gradient that is not finite are skipped.
        loss_scaling: Whether the loss is scaled for float16.
        gradient: What makes the gradient of a step in place of `jax.grad`, or None.
    """

    problem: Problem
    optimizer: Any
    batch_size: int = 32
    metrics: Mapping[str, Any] | None = None
    callbacks: tuple[Callback, ...] = ()
    accumulate: int = 1
    clip_norm: float | None = None
    sam_radius: float = 0.0
    skip_nonfinite: bool = False
    loss_scaling: bool = False
    gradient: Callable | None = None

    @classmethod
    def of(
        cls,
        model: Any,
        loss: Any,
        optimizer: Any,
        *,
        hyperparameters: Mapping[str, Any] | Hyperparameters | None = None,
        augment: Callable | None = None,
        view: Callable | None = None,
        batch_size: int = 32,
        metrics: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        accumulate: int = 1,
        clip_norm: float | None = None,
        sam_radius: float = 0.0,
        gradient: Callable | None = None,
        **options: Any,
    ) -> TrainingConfig:
        """The configuration of a run's keywords, checked.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If a number is out of range, or two callbacks have the same name.
        """
        if not (callable(loss) or isinstance(loss, Objective)):
            here = name_here("nn.losses", loss, losses.__all__) if isinstance(loss, str) else None
            hint = f": write {here or 'a function, such as nn.losses.mse'}" if isinstance(loss, str) else ""
            raise TypeError(f"loss is a function (predictions, y) -> scalar, or an Objective; got {loss!r}{hint}")
        if augment is not None:
            function("training", "augment", augment, "augment(key, batch) -> batch")
        if gradient is not None:
            function("training", "gradient", gradient, GRADIENT)
            others = {"accumulate": accumulate != 1, "sam_radius": sam_radius != 0, **options}
            if given := [name for name, value in others.items() if value]:
                name = {"skip_nonfinite": 'on_nonfinite="skip"'}.get(given[0], given[0])
                raise ValueError(
                    f"gradient= makes the whole gradient of a step, so that {name} does not apply: leave {name} out, or do it "
                    "within the function"
                )
        metrics = with_terms(metrics, loss)
        check_callbacks(callbacks)
        return cls(
            Problem(model, loss, Hyperparameters.of(hyperparameters), augment, view),
            optimizer,
            batch_size=whole("training", "batch_size", batch_size),
            metrics=metrics,
            callbacks=tuple(callback for callback in callbacks if callback.is_pure),
            accumulate=whole("training", "accumulate", accumulate),
            clip_norm=None if clip_norm is None else number("training", "clip_norm", clip_norm, 0, above=True),
            sam_radius=number("training", "sam_radius", sam_radius, 0),
            gradient=gradient,
            **options,
        )

    def with_lengths(self, steps_per_epoch: int | None, epochs: int) -> TrainingConfig:
        """The configuration with the run's length, as far as model, optimizer or schedules ask for it.

        A program depends on no length that nothing reads.
        """
        functions = [self.problem.model, self.optimizer, *dict(self.problem.hyperparameters.schedules).values()]
        read = {p.name for function in functions for p in parameters_of(function).values() if p.default is p.empty}
        known = {name: value for name, value in lengths(steps_per_epoch, epochs).items() if name in read}
        return replace(self, problem=self.problem.with_defaults(**known))

    def with_hyperparameters(self, given: Mapping[str, Any]) -> TrainingConfig:
        """The configuration with these hyperparameters in place of those of the same names."""
        hyperparameters = Hyperparameters.of({**self.problem.hyperparameters.as_dict(), **given})
        return replace(self, problem=replace(self.problem, hyperparameters=hyperparameters))

    def key(self) -> tuple:
        """What programs of this configuration depend on: all but the values of traced hyperparameters."""
        problem, known = self.problem, self.problem.hyperparameters
        return (
            *(problem.model, problem.loss, problem.augment, problem.view),
            *(known.fixed, known.schedules, known.traced),
            *(self.optimizer, self.batch_size, dict(self.metrics or {}), self.callbacks),
            *(self.accumulate, self.clip_norm, self.sam_radius, self.skip_nonfinite, self.loss_scaling),
            self.gradient,
        )
