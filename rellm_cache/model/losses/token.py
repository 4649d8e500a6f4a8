"""Token losses: cross entropy and divergence at the answer tokens of packed rows.

Labels are shifted here and nowhere else: `PackedRow.predictors` names the token whose hidden state
predicts each answer token.

Letters: N predicted tokens, H hidden size, V vocabulary, K tokens that the teacher tells apart.
"""

from typing import Any

import torch
from torch import Tensor

from rellm_cache.data.batch import Batch
from rellm_cache.llm.output_matrix import BlockedSums, OutputMatrix, QuantizedOutput
from rellm_cache.llm.packed_rows import PackedRow
from rellm_cache.llm.teacher_distribution import CHUNK, split_rows
from rellm_cache.model.losses.registry import (
    AnswerStates,
    LossContext,
    cross_entropy_loss,
    register_loss,
)


class _SavedGradient(torch.autograd.Function):
    """A loss (N,) whose forward pass saves the gradient with respect to its first input (N, H)."""

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        others = [None] * (len(ctx.needs_input_grad) - 1)
        return gradient * outputs[0].unsqueeze(1).to(gradient.dtype), *others


class _FrozenLinearCrossEntropy(_SavedGradient):
    """Negative log-likelihood of tokens under a frozen output matrix, in chunks of tokens.

    Logits exist for one chunk at a time. W never trains, so the backward pass needs only the
    gradient with respect to the hidden state, (softmax - onehot) W, which is computed here.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: OutputMatrix, targets: Tensor, chunk: int
    ) -> Tensor:
        if isinstance(weight, QuantizedOutput):
            return _blocked_cross_entropy(ctx, hidden, weight, targets)
        losses = torch.empty(len(targets), device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = (hidden[part] @ weight.T).float()  # (n, H) -> (n, V)
            target = targets[part].unsqueeze(1)
            told = logits.gather(1, target)  # (n, 1)
            largest = logits.amax(1, keepdim=True)
            powers = logits.sub_(largest).exp_()  # in place: no second (n, V)
            sums = powers.sum(1, keepdim=True)
            losses[part] = (sums.log() + largest - told).squeeze(1)
            if gradient is not None:
                powers.scatter_add_(1, target, -sums)
                gradient[part] = (powers.to(weight.dtype) @ weight) / sums  # (n, V) -> (n, H)
            del logits, powers  # before those of the next chunk exist
        ctx.save_for_backward(gradient)
        return losses


class _FrozenLinearDivergence(_SavedGradient):
    """KL(teacher || student) over the teacher's K tokens and one bin for all others, in chunks.

    The student's logits are divided by the temperature, one chunk at a time. With the student's
    bins q and the teacher's bins p, the gradient with respect to a divided logit is q - p for one
    of the K tokens; for another token it is (q - p) of the last bin times the token's share of q in
    that bin.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: OutputMatrix,
        teacher: Tensor,
        temperature: float,
        chunk: int,
    ) -> Tensor:
        if isinstance(weight, QuantizedOutput):
            return _blocked_divergence(ctx, hidden, weight, teacher, temperature)
        losses = torch.empty(len(teacher), device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(teacher), chunk):
            part = slice(start, start + chunk)
            ids, log_p, log_p_rest = split_rows(teacher[part])  # (n, K), (n, K), (n, 1)
            logits = (hidden[part] @ weight.T).float().div_(temperature)  # (n, H) -> (n, V)
            top = logits.gather(1, ids)  # (n, K)
            others = logits.scatter_(1, ids, -torch.inf)
            rest = others.logsumexp(1, keepdim=True)  # (n, 1)
            log_q = torch.cat([top, rest], 1).log_softmax(1)  # (n, K + 1)
            log_p = torch.cat([log_p, log_p_rest], 1)
            p = log_p.exp()
            losses[part] = (p * (log_p - log_q)).sum(1)
            if gradient is not None:
                slopes = log_q.exp() - p  # (n, K + 1)
                each = (
                    others.sub_(rest).exp_().mul_(slopes[:, -1:]).scatter_(1, ids, slopes[:, :-1])
                )
                gradient[part] = (each.to(weight.dtype) @ weight) / temperature  # -> (n, H)
                del each
            del logits, others  # before those of the next chunk exist
        ctx.save_for_backward(gradient)
        return losses


def _blocked_cross_entropy(
    ctx: Any, hidden: Tensor, output: QuantizedOutput, targets: Tensor
) -> Tensor:
    """The same under a matrix in 4 bits, by blocks of the vocabulary: all tokens at once."""
    sums = BlockedSums(hidden, output, targets.unsqueeze(1))
    gradient = None
    if ctx.needs_input_grad[0]:
        gradient = sums.gradient(None, -torch.ones_like(sums.found)).to(hidden.dtype)
    ctx.save_for_backward(gradient)
    return (sums.logs - sums.found).squeeze(1)


def _blocked_divergence(
    ctx: Any, hidden: Tensor, output: QuantizedOutput, teacher: Tensor, temperature: float
) -> Tensor:
    ids, log_p, log_p_rest = split_rows(teacher)  # (N, K), (N, K), (N, 1)
    sums = BlockedSums(hidden, output, ids, temperature, included=False)
    log_q = torch.cat([sums.found, sums.logs], 1).log_softmax(1)  # (N, K + 1)
    log_p = torch.cat([log_p, log_p_rest], 1)
    p = log_p.exp()
    gradient = None
    if ctx.needs_input_grad[0]:
        slopes = log_q.exp() - p  # (N, K + 1)
        gradient = (sums.gradient(slopes[:, -1:], slopes[:, :-1]) / temperature).to(hidden.dtype)
    ctx.save_for_backward(gradient)
    return (p * (log_p - log_q)).sum(1)


def predicting_states(row: PackedRow, hidden: Tensor, output_weight: OutputMatrix) -> Tensor:
    """(N, H) hidden states that predict the answer tokens of a packed row."""
    return hidden[row.predictors].to(output_weight.dtype)


def token_cross_entropy(
    row: PackedRow, hidden: Tensor, output_weight: OutputMatrix, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every answer token of a packed row.

    Args:
        hidden: (T, H) last hidden states.
        output_weight: (V, H), frozen.

    Returns:
        (N,) float32 losses in nats, differentiable in `hidden`; (N,) int64 segment of each token.
    """
    losses: Tensor = _FrozenLinearCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch's apply is untyped
        predicting_states(row, hidden, output_weight), output_weight, row.answers, chunk
    )
    return losses, row.answered


def token_divergences(
    states: Tensor,
    output_weight: OutputMatrix,
    teacher: Tensor,
    temperature: float,
    chunk: int = CHUNK,
) -> Tensor:
    """KL(text LLM || speech LLM) at each of N tokens, times the temperature squared.

    Both distributions are softened by the temperature; its square keeps the size of the gradient
    (Hinton et al. 2015, section 2).

    Args:
        states: (N, H) hidden states that predict the tokens, in the dtype of the weight.
        output_weight: (V, H), frozen.
        teacher: (N, 2 K + 1) float32 rows of the teacher's distribution at this temperature.

    Returns:
        (N,) float32 in nats, differentiable in `states`.
    """
    losses: Tensor = _FrozenLinearDivergence.apply(  # type: ignore[no-untyped-call]  # torch's apply is untyped
        states, output_weight, teacher, temperature, chunk
    )
    return temperature**2 * losses


def _taught_tokens(batch: Batch, context: LossContext) -> float:
    return 0 if batch.teacher is None else len(batch.teacher)


cross_entropy_loss("response_lm")


@register_loss("response_kl", task="response_lm", count=_taught_tokens, needs_teacher=True)
def response_kl(answers: AnswerStates, context: LossContext) -> Tensor:
    """Distillation loss (Hinton et al. 2015) at response tokens, summed; scalar float32.

    BLSP's loss of this name has no factor T squared, takes the full vocabulary, and reads the
    logits at the response tokens, not at those that predict them.
    """
    if answers.teacher is None:
        return answers.states.new_zeros((), dtype=torch.float32)
    temperature = context.config.kl_temperature
    return token_divergences(
        answers.states, answers.output_weight, answers.teacher, temperature
    ).sum()


cross_entropy_loss("qa_lm")
cross_entropy_loss("emotion_lm")
