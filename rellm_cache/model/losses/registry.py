"""Registry of losses by name.

A loss is named as its weight in `[losses]`. It declares what it needs: answers of a task (and so
the LLM), the teacher's distributions, or the dimension head. It gives a sum over a batch, and a
count that is known before the forward pass. Metrics, reports and cards list it by its name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from rellm_cache.config.plugins import LOSSES, Plugin
from rellm_cache.config.schema import ANSWER_TASKS, LossesConfig
from rellm_cache.data.batch import Batch
from rellm_cache.errors import ConfigError
from rellm_cache.llm.output_matrix import OutputMatrix
from rellm_cache.model.adapter import Speech
from rellm_cache.model.losses.loss_terms import LossTerms


@dataclass(frozen=True)
class Outputs:
    """Outputs of the model for one batch.

    Attributes:
        pooled: (B, P) float32 pooled embeddings, which the heads read.
        emotion_logits: (B, C).
        dimensions: (B, 3) arousal, dominance, valence, or None without that head.
        terms: the losses; empty while they are computed.
    """

    speech: Speech
    pooled: Tensor
    emotion_logits: Tensor
    dimensions: Tensor | None
    terms: LossTerms = field(default_factory=lambda: LossTerms({}))


@dataclass(frozen=True)
class AnswerStates:
    """Hidden states that predict the answer tokens of one task in one packed row.

    Attributes:
        states: (N, H), differentiable, in the dtype of the output matrix.
        tokens: (N,) int64 token ids that they predict.
        output_weight: (V, H) frozen output matrix of the LLM. With `llm.quantize_output` it is a
            `QuantizedOutput`: `blocks()` gives it block by block, `dense()` at once.
        teacher: (N, 2 K + 1) float32 rows of the teacher's distribution, or None.
    """

    states: Tensor
    tokens: Tensor
    output_weight: OutputMatrix
    teacher: Tensor | None


@dataclass(frozen=True)
class LossContext:
    """What a loss may use besides the batch and the model's outputs.

    Attributes:
        class_weights: (C,) float32 in training, or None.
        moments: (6, 3) of the dimensions of the whole step, for CCC; None if the batch is the step.
        options: of the loss, in the dataclass that it was registered with; else None.
    """

    config: LossesConfig
    class_weights: Tensor | None = None
    moments: Tensor | None = None
    options: Any = None


Count = Callable[[Batch, LossContext], float]
TokenFunction = Callable[[AnswerStates, LossContext], Tensor]
ClipFunction = Callable[[Outputs, Batch, LossContext], Tensor]
Function = TypeVar("Function", bound=Callable[..., Tensor])


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
    options: Any = None

    def context(self, shared: LossContext) -> LossContext:
        """The context with this loss's options."""
        return shared if self.options is None else replace(shared, options=self.options)

    def check(self, total: object) -> Tensor:
        """Return what the function returned; `ConfigError` if it is not a scalar tensor."""
        if isinstance(total, Tensor) and total.ndim == 0:
            return total
        shape = f" of shape {tuple(total.shape)}" if isinstance(total, Tensor) else ""
        raise ConfigError(
            f"loss {self.name!r}: its function returned {type(total).__name__}{shape}; expected a "
            "scalar tensor, the sum over clips or tokens, as of `values.sum()`"
        )


# The losses of rellm, in the order in which they are added up: another order changes the rounding.
OURS = ("response_lm", "response_kl", "qa_lm", "emotion_lm", "emotion_ce", "vad")
TASKS: list[str] = []  # tasks with answers, each with a cross entropy of the same name


def count_clips(batch: Batch, context: LossContext) -> float:
    """Number of clips in a batch."""
    return len(batch.ids)


def cross_entropy_loss(task: str) -> None:
    """Register the cross entropy over the answers of a task, under the task's name."""
    LOSSES.register(task, Loss(task, _answer_tokens(task), task), None, __name__, task)
    TASKS.append(task)


def register_loss(
    name: str,
    *,
    task: str = "",
    count: Count | None = None,
    options: type[Any] | None = None,
    needs_teacher: bool = False,
    needs_dimensions: bool = False,
) -> Callable[[Function], Function]:
    """Decorator that makes a function available as the loss `[losses] name = weight`.

    Without `task` the function is `(outputs, batch, context)` and returns the sum over the clips of
    a batch; with one it is `(answers, context)` and returns the sum over the answer tokens of one
    packed row. The sum is a scalar float32, differentiable. It sees one micro-batch of a step.

    Args:
        task: `response_lm`, `emotion_lm` or `qa_lm`, whose answers it reads.
        count: `(batch, context)`, what the sum is divided by, known without a forward pass; by
            default the number of clips, or of answer tokens.
        options: frozen dataclass of `[losses.options.NAME]`; `context.options` is one.
        needs_teacher: it reads the teacher's distributions (`rellm respond --teacher`).
        needs_dimensions: it is left out of a model without the dimension head.

    Raises:
        ValueError: the name is taken or not allowed, or there is no such task.

    Example:
        >>> import rellm_cache as rellm
        >>> @rellm.register_loss("confidence")
        ... def confidence(outputs: rellm.Outputs, batch: rellm.Batch, context: rellm.LossContext):
        ...     return outputs.emotion_logits.softmax(1).square().sum()
        >>> rellm.load_recipe("heads", set={"losses.confidence": 0.1}).losses.weights["confidence"]
        0.1
    """
    if task and task not in ANSWER_TASKS.values():
        known = ", ".join(dict.fromkeys(ANSWER_TASKS.values()))
        raise ValueError(f"loss {name!r}: task = {task!r}: expected one of {known}")
    counted = count or (_answer_tokens(task) if task else count_clips)

    def register(function: Function) -> Function:
        sums = {"token_sum" if task else "clip_sum": function}
        loss = Loss(
            name,
            counted,
            task,
            needs_teacher=needs_teacher,
            needs_dimensions=needs_dimensions,
            **sums,
        )
        LOSSES.register(name, loss, options, function.__module__, task)
        return function

    return register


def _answer_tokens(task: str) -> Count:
    def count(batch: Batch, context: LossContext) -> float:
        return sum(len(t.ids) for targets in batch.targets for t in targets if t.task == task)

    return count


def active_losses(config: LossesConfig, has_dimensions: bool) -> dict[str, Loss]:
    """Losses with a weight above 0, and the cross entropy of every task that one of them reads."""
    weights = loss_weights(config)
    known = {name: _find(name, config) for name in weights}
    chosen = {
        name: loss
        for name, loss in known.items()
        if weights[name] > 0 and (has_dimensions or not loss.needs_dimensions)
    }
    tasks = {loss.task for loss in chosen.values()}
    return {name: loss for name, loss in known.items() if name in chosen or name in tasks}


def loss_weights(config: LossesConfig) -> dict[str, float]:
    """Weight of every loss of rellm and of the recipe's plug-ins, in the order of their sum."""
    weights = config.weights
    return {name: weights[name] for name in OURS} | {
        name: weight for name, weight in weights.items() if name not in OURS
    }


def _find(name: str, config: LossesConfig) -> Loss:
    plugin: Plugin = config.plugin(name)
    loss: Loss = plugin.loaded
    given = config.options.get(name, {})
    return replace(loss, options=plugin.build_options(given, f"losses.options.{name}"))


def count_terms(losses: Iterable[Loss], batch: Batch, context: LossContext) -> dict[str, Tensor]:
    """Scalar float32 count of each loss over a batch, by name; no forward pass is needed."""
    found = {loss.name: loss.count(batch, loss.context(context)) for loss in losses}
    counts = torch.tensor(list(found.values()), dtype=torch.float32, device=batch.vad.device)
    return dict(zip(found, counts.unbind(), strict=True))
