"""Losses. In: hidden states, logits, labels. Out: sums and counts, so batching changes nothing.

Eq. 10 of the paper, L = response_lm + emotion_ce + vad, each a mean over its own tokens, labelled
utterances or utterances with dimensions in the whole optimiser step; and BLSP's response_kl.

Letters: N predicted tokens, H hidden size, V vocabulary, B utterances, C emotions, K the teacher's
tokens that are told apart.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rellm_cache.config.schema import LossesConfig
from rellm_cache.data.batch import IGNORED
from rellm_cache.llm.packing import PackedRow
from rellm_cache.llm.teacher_distribution import CHUNK, split_rows

TERMS = ("response_lm", "emotion_lm", "emotion_ce", "vad", "response_kl", "qa_lm")


@dataclass(frozen=True)
class LossTerms:
    """Summed losses and what they are to be divided by, in the order of `TERMS`.

    Attributes:
        sums: (6,) float32, differentiable.
        counts: (6,) float32: tokens, tokens, labelled utterances or the sum of their class
            weights, utterances with dimensions, tokens that a teacher predicts too, tokens.
    """

    sums: Tensor
    counts: Tensor

    def __add__(self, other: "LossTerms") -> "LossTerms":
        return LossTerms(self.sums + other.sums, self.counts + other.counts)

    def total(self, weights: Tensor, counts: Tensor | None = None) -> Tensor:
        """Weighted sum of means, scalar; `counts` of a whole step where this is a part of it."""
        counts = self.counts if counts is None else counts
        return (weights * self.sums / (counts + (counts == 0))).sum()

    @classmethod
    def nothing(cls, device: torch.device) -> "LossTerms":
        """Sums and counts of no batch at all."""
        return cls(torch.zeros(len(TERMS), device=device), torch.zeros(len(TERMS), device=device))

    def with_mean(self, term: str, mean: Tensor) -> "LossTerms":
        """The same but for one term, whose mean is `mean`."""
        at = TERMS.index(term)
        sums = self.sums.clone()
        sums[at] = self.counts[at] * mean
        return replace(self, sums=sums)

    def means(self) -> dict[str, float]:
        """Mean of each term that counted something."""
        pairs = zip(TERMS, self.sums.tolist(), self.counts.tolist(), strict=True)
        return {name: total / count for name, total, count in pairs if count}


def loss_weights(config: LossesConfig, device: torch.device) -> Tensor:
    """(6,) float32 weights of a recipe in the order of `TERMS`."""
    return torch.tensor([getattr(config, name) for name in TERMS], device=device)


class _FrozenLinearCrossEntropy(torch.autograd.Function):
    """Negative log-likelihood of tokens under a frozen output matrix, in chunks of tokens.

    Logits are formed a chunk at a time and never kept: the gradient with respect to the hidden
    state, (softmax - onehot) W, is all that the backward pass needs, as W never trains.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        losses = torch.empty(len(targets), device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
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
            del logits, powers  # before the next chunk's are made
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].unsqueeze(1).to(gradient.dtype), None, None


class _FrozenLinearDivergence(torch.autograd.Function):
    """KL(teacher || student) over the teacher's K tokens and one bin for all others, in chunks.

    The student's logits are divided by the temperature and formed a chunk at a time, as above. Of
    q, the student's bins, and p, the teacher's, the gradient with respect to a divided logit is
    q - p for a token of its own, and (q - p of the bin) times the token's share of q in it else.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, teacher: Tensor, temperature: float
    ) -> Tensor:
        losses = torch.empty(len(teacher), device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(teacher), CHUNK):
            part = slice(start, start + CHUNK)
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
            del logits, others  # before the next chunk's are made
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].unsqueeze(1).to(gradient.dtype), None, None, None


def predictions(row: PackedRow, hidden: Tensor, output_weight: Tensor) -> Tensor:
    """(N, H) hidden states that predict the tokens of a packed row's answers."""
    return hidden[row.predictors].to(output_weight.dtype)


def token_losses(row: PackedRow, hidden: Tensor, output_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every token of a packed row's answers.

    Args:
        hidden: (T, H) last hidden states.
        output_weight: (V, H), frozen.

    Returns:
        (N,) float32 losses in nats, differentiable in `hidden`, and (N,) int64 segment of each.
    """
    losses: Tensor = _FrozenLinearCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch's apply is untyped
        predictions(row, hidden, output_weight), output_weight, row.answers
    )
    return losses, row.answered


def token_divergences(
    predictors: Tensor, output_weight: Tensor, teacher: Tensor, temperature: float
) -> Tensor:
    """KL(text LLM || speech LLM) at each of N tokens, times the temperature squared.

    BLSP's response_kl: both distributions are softened by the temperature; its square keeps the
    gradient's size from falling with it (Hinton et al. 2015, section 2). The tokens that the
    teacher does not tell apart are one bin for both (`rellm_cache.llm.teacher_distribution`).

    Args:
        predictors: (N, H) hidden states that predict the tokens, in the dtype of the weight.
        output_weight: (V, H), frozen.
        teacher: (N, 2 K + 1) float32 rows of the teacher's distribution at this temperature.

    Returns:
        (N,) float32 in nats, differentiable in `predictors`.
    """
    losses: Tensor = _FrozenLinearDivergence.apply(  # type: ignore[no-untyped-call]  # torch's apply is untyped
        predictors, output_weight, teacher, temperature
    )
    return temperature**2 * losses


def category_loss(
    logits: Tensor, emotions: Tensor, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Summed cross entropy of (B, C) logits over utterances with an emotion, scalar float32.

    With class weights (C,), each utterance's smoothed cross entropy counts as often as its emotion
    weighs. (torch's own `weight` also weighs the smoothed part by the other classes' weights, so
    that the result is a weighted mean of nothing.)
    """
    losses = F.cross_entropy(
        logits.float(), emotions, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )
    return (losses * utterance_weights(emotions, weights)).sum()


def utterance_weights(emotions: Tensor, weights: Tensor | None) -> Tensor:
    """(B,) float32 weight of each utterance's emotion, 1 without weights; 0 where it has none."""
    labelled = emotions != IGNORED
    if weights is None:
        return labelled.float()
    return weights[emotions.clamp(min=0)] * labelled


def class_weights(config: LossesConfig, emotions: Sequence[int], classes: int) -> Tensor | None:
    """(C,) float32 weights of the category loss, None where all weigh the same.

    Args:
        emotions: of the training split, as indices or `IGNORED`.
        classes: C.

    Returns:
        As the recipe lists them; or, "balanced", the inverse of each emotion's share of the split,
        such that all that occur weigh the same in sum and a labelled utterance weighs 1 on average.
    """
    if config.class_weights == "none":
        return None
    if config.class_weights != "balanced":
        return torch.tensor(config.class_weights)
    counts = Counter(e for e in emotions if e != IGNORED)
    weights = torch.ones(classes)
    for emotion, count in counts.items():
        weights[emotion] = counts.total() / (len(counts) * count)
    return weights


def dimension_loss(predicted: Tensor, vad: Tensor) -> Tensor:
    """Squared error of (B, 3) dimensions, mean over the three, summed over utterances with any.

    `vad` holds NaN where an utterance has no dimensions.
    """
    known = ~vad.isnan().any(dim=1)  # (B,)
    return (predicted[known].float() - vad[known]).square().mean(dim=1).sum()


def count_terms(
    tokens: Mapping[str, int], emotions: Tensor, vad: Tensor, weights: Tensor | None = None
) -> Tensor:
    """(6,) float32 counts of a batch, known before its forward pass.

    Args:
        tokens: of the terms over tokens.
        emotions: (B,) int64, `IGNORED` where unknown.
        vad: (B, 3), NaN where unknown.
        weights: (C,) of the emotions, or None.
    """
    counts = {
        **tokens,
        "emotion_ce": utterance_weights(emotions, weights).sum().item(),
        "vad": (~vad.isnan().any(dim=1)).sum().item(),
    }
    return torch.tensor([counts.get(t, 0) for t in TERMS], dtype=torch.float32, device=vad.device)
