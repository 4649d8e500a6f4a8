"""Registry of losses by name.

A loss is named as its weight in `[losses]`. It declares what it needs: answers of a task (and so
the LLM), the teacher's distributions, or the dimension head. It gives a sum over a batch, and a
count that is known before the forward pass. Metrics, reports and cards list it by its name.

A new loss is a new module in this package:

    @clip_loss("embedding_norm")            # [losses.extra] embedding_norm = 0.1
    def embedding_norm(outputs, batch, context):
        return outputs.speech.embeddings.square().mean(dim=(1, 2)).sum()
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import Tensor

from rellm_cache.config.schema import ANSWER_TASKS, LossesConfig
from rellm_cache.data.batch import Batch
from rellm_cache.errors import ConfigError
from rellm_cache.model.adapter import Speech
from rellm_cache.model.losses.loss_terms import LossTerms


@dataclass(frozen=True)
class Outputs:
    """Outputs of the model for one batch.

    Attributes:
        emotion_logits: (B, C).
        dimensions: (B, 3) arousal, dominance, valence, or None without that head.
        terms: the losses; empty while they are computed.
    """

    speech: Speech
    emotion_logits: Tensor
    dimensions: Tensor | None
    terms: LossTerms = field(default_factory=lambda: LossTerms({}))


@dataclass(frozen=True)
class AnswerStates:
    """Hidden states that predict the answer tokens of one task in one packed row.

    Attributes:
        states: (N, H), differentiable, in the dtype of the output matrix.
        tokens: (N,) int64 token ids that they predict.
        output_weight: (V, H) frozen output matrix of the LLM.
        teacher: (N, 2 K + 1) float32 rows of the teacher's distribution, or None.
    """

    states: Tensor
    tokens: Tensor
    output_weight: Tensor
    teacher: Tensor | None


@dataclass(frozen=True)
class LossContext:
    """What a loss may use besides the batch and the model's outputs.

    Attributes:
        class_weights: (C,) float32 in training, or None.
        moments: (6, 3) of the dimensions of the whole step, for CCC; None if the batch is the step.
    """

    config: LossesConfig
    class_weights: Tensor | None = None
    moments: Tensor | None = None


Count = Callable[[Batch, LossContext], float]
TokenFunction = Callable[[AnswerStates, LossContext], Tensor]
ClipFunction = Callable[[Outputs, Batch, LossContext], Tensor]


@dataclass(frozen=True)
class Loss:
    """A loss and what it needs.

    Attributes:
        name: its weight in `[losses]`, and its name in metrics and reports.
        count: what the sum of a batch is divided by.
        task: task of the answers that it reads; empty for a loss over clips.
        token_sum: sum over the answer tokens of one packed row; None for a loss over clips, and for
            the cross entropy of a task, which the model computes for all tasks together.
        clip_sum: sum over the clips of a batch; None for a loss over answers.
        needs_teacher: it reads the teacher's distributions (`rellm respond --teacher`).
        needs_dimensions: it is left out of a model without the dimension head.
    """

    name: str
    count: Count
    task: str = ""
    token_sum: TokenFunction | None = None
    clip_sum: ClipFunction | None = None
    needs_teacher: bool = False
    needs_dimensions: bool = False


LOSSES: dict[str, Loss] = {}
TASKS: list[str] = []  # tasks with answers, each with a cross entropy of the same name


def count_clips(batch: Batch, context: LossContext) -> float:
    """Number of clips in a batch."""
    return len(batch.ids)


def cross_entropy_loss(task: str) -> None:
    """Register the cross entropy over the answers of a task, under the task's name."""
    _register(Loss(task, _answer_tokens(task), task))
    TASKS.append(task)


def token_loss(
    name: str, task: str, *, count: Count | None = None, needs_teacher: bool = False
) -> Callable[[TokenFunction], TokenFunction]:
    """Register a loss over the answer tokens of a task; by default they are its count."""
    counted = count or _answer_tokens(task)

    def register(function: TokenFunction) -> TokenFunction:
        _register(Loss(name, counted, task, token_sum=function, needs_teacher=needs_teacher))
        return function

    return register


def clip_loss(
    name: str, *, count: Count = count_clips, needs_dimensions: bool = False
) -> Callable[[ClipFunction], ClipFunction]:
    """Register a loss over the clips of a batch."""

    def register(function: ClipFunction) -> ClipFunction:
        _register(Loss(name, count, clip_sum=function, needs_dimensions=needs_dimensions))
        return function

    return register


def _register(loss: Loss) -> None:
    if loss.name in LOSSES:
        raise ValueError(f"a loss named {loss.name!r} is registered already")
    LOSSES[loss.name] = loss
    if loss.task:
        ANSWER_TASKS[loss.name] = loss.task


def _answer_tokens(task: str) -> Count:
    def count(batch: Batch, context: LossContext) -> float:
        return sum(len(t.ids) for targets in batch.targets for t in targets if t.task == task)

    return count


def active_losses(config: LossesConfig, has_dimensions: bool) -> dict[str, Loss]:
    """Losses with a weight above 0, and the cross entropy of every task that one of them reads."""
    weights = loss_weights(config)
    chosen = {
        name: loss
        for name, loss in LOSSES.items()
        if weights[name] > 0 and (has_dimensions or not loss.needs_dimensions)
    }
    tasks = {loss.task for loss in chosen.values()}
    return {name: loss for name, loss in LOSSES.items() if name in chosen or name in tasks}


def loss_weights(config: LossesConfig) -> dict[str, float]:
    """Weight of every registered loss in a recipe; `ConfigError` if it names another loss."""
    weights = config.weights
    for name in weights:
        if name not in LOSSES:
            near = get_close_matches(name, LOSSES, n=1) or sorted(LOSSES)
            raise ConfigError(
                f"losses.extra.{name}: no loss has this name; did you mean {near[0]!r}? A new loss "
                "is registered by a module of rellm_cache/model/losses"
            )
    return {name: weights.get(name, 0.0) for name in LOSSES}


def count_terms(losses: Iterable[Loss], batch: Batch, context: LossContext) -> dict[str, Tensor]:
    """Scalar float32 count of each loss over a batch, by name; no forward pass is needed."""
    found = {loss.name: loss.count(batch, context) for loss in losses}
    counts = torch.tensor(list(found.values()), dtype=torch.float32, device=batch.vad.device)
    return dict(zip(found, counts.unbind(), strict=True))
