"""Callbacks of training: your own logging, and stopping early.

A callback gets a report after each optimizer step, after each epoch and at the end of training.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rellm_cache.errors import ConfigError


class Decision(enum.Enum):
    """What a callback may return instead of None."""

    STOP = "stop"


STOP: Literal[Decision.STOP] = Decision.STOP


@dataclass(frozen=True)
class StepReport:
    """An optimizer step, as in a row of `metrics.jsonl`.

    Attributes:
        step: number of the step, from 1.
        steps: steps of the whole run if it is not stopped early.
        epoch: number of the epoch, from 1.
        loss: weighted sum of the losses.
        losses: name → mean of each loss over the clips or tokens of the step, without its weight.
        learning_rate: learning rate of the step.
        gradient_norm: norm of the gradient before clipping.
        seconds: time of the step, without `waited`.
        waited: seconds of waiting for frames.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    losses: dict[str, float]
    learning_rate: float
    gradient_norm: float
    seconds: float
    waited: float


@dataclass(frozen=True)
class EpochReport:
    """An epoch and the scores after it.

    Attributes:
        epoch: number of the epoch, from 1.
        epochs: epochs of the whole run if it is not stopped early.
        step: steps taken so far.
        validation: name → score on the validation split, as `loss`, `vad_loss`, `ua` and
            `ccc_valence`; UA is in 0..1. Empty without a validation split.
        is_best: whether `training.best_metric` is better than after all earlier epochs.
        epochs_since_best: epochs since the best one; 0 if this is the best.
        seconds: training time so far, over all calls.
    """

    epoch: int
    epochs: int
    step: int
    validation: dict[str, float]
    is_best: bool
    epochs_since_best: int
    seconds: float


@dataclass(frozen=True)
class TrainReport:
    """A finished run.

    Attributes:
        out: the run folder.
        steps: steps taken.
        planned: steps of the recipe; more than `steps` if training was stopped early.
        stopped: why training was stopped early, or "".
        resumed_at: step at which this call continued: 0 for a new run, `steps` if the run was
            already finished.
        seconds: training time over all calls.
        validation: scores of the best weights on the validation split.
        untrained: scores before the first step.
        trainable: number of trained parameters.
        notes: sentences on losses without labels in the data.
        layer_weights: stream → number of a layer → its learned weight (`adapter.layer_mix`).
    """

    out: Path
    steps: int
    planned: int
    stopped: str
    resumed_at: int
    seconds: float
    validation: dict[str, float]
    untrained: dict[str, float]
    trainable: int
    notes: list[str]
    layer_weights: dict[str, dict[str, float]] = field(default_factory=dict)


class Callback:
    """Base class of callbacks; override the methods that you need.

    Callbacks are called in the order in which they are given, in the main process only. An error
    that one raises ends the call of `train`; the same call again continues the run. Steps after the
    newest checkpoint are then taken again and reported again.

    A stopped run is finished: it is validated, its best weights are its result, and the same call
    again does not continue it.

    Example:
        >>> class Log(Callback):
        ...     def on_step(self, step: StepReport) -> None:
        ...         print(step.step, step.loss)
        >>> class StopAtTarget(Callback):
        ...     def on_epoch(self, epoch: EpochReport) -> Decision | None:
        ...         return STOP if epoch.validation["ua"] > 0.9 else None
    """

    def on_step(self, step: StepReport) -> Decision | None:
        """After an optimizer step; return `STOP` to end training here.

        The weights are then validated as at the end of an epoch.
        """

    def on_epoch(self, epoch: EpochReport) -> Decision | None:
        """After an epoch was validated; return `STOP` to end training here.

        The scores before the first step are not reported; `TrainReport.untrained` has them.
        """

    def on_end(self, report: TrainReport) -> None:
        """After the result is in the run folder; also if the run was already finished."""


def reason_to_stop(callbacks: Sequence[Callback], report: StepReport | EpochReport) -> str:
    """Give a report to every callback; return which of them stop training, or "".

    Raises:
        ConfigError: a callback returned something else than None or `STOP`.
    """
    stopping = []
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(report, StepReport):
            answer, method = callback.on_step(report), "on_step"
        else:
            answer, method = callback.on_epoch(report), "on_epoch"
        if answer is STOP:
            stopping.append(name)
        elif answer is not None:
            raise ConfigError(
                f"callback {name}.{method} returned {answer!r}; expected None, or STOP to stop "
                "training"
            )
    return f"{' and '.join(stopping)} returned STOP" if stopping else ""
