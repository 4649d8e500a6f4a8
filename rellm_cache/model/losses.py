"""Losses. In: hidden states, logits, labels. Out: sums and counts, so batching changes nothing.

The only place where labels are shifted: the hidden state of a token's predecessor predicts it.
Eq. 10 of the paper, L = response + category + dimension, each a mean over its own tokens, labelled
utterances or utterances with dimensions in the whole optimiser step.

Letters: N predicted tokens, H hidden size, V vocabulary, B utterances, C emotions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rellm_cache.config import LossesConfig
from rellm_cache.llm.packing import IGNORED, PackedRow

TERMS = ("response", "recognition", "category", "dimension")
CHUNK = 256  # tokens whose logits exist at one time


@dataclass(frozen=True)
class LossTerms:
    """Summed losses and what they are to be divided by, in the order of `TERMS`.

    Attributes:
        sums: (4,) float32, differentiable.
        counts: (4,) float32: tokens, tokens, labelled utterances, utterances with dimensions.
    """

    sums: Tensor
    counts: Tensor

    def __add__(self, other: "LossTerms") -> "LossTerms":
        return LossTerms(self.sums + other.sums, self.counts + other.counts)

    def total(self, weights: Tensor, counts: Tensor | None = None) -> Tensor:
        """Weighted sum of means, scalar; `counts` of a whole step where this is a part of it."""
        return (
            weights * self.sums / (self.counts if counts is None else counts).clamp(min=1)
        ).sum()

    def means(self) -> dict[str, float]:
        """Mean of each term that counted something."""
        pairs = zip(TERMS, self.sums.tolist(), self.counts.tolist(), strict=True)
        return {name: total / count for name, total, count in pairs if count}


def loss_weights(config: LossesConfig, device: torch.device) -> Tensor:
    """(4,) float32 weights of a recipe in the order of `TERMS`."""
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
            log_normaliser = logits.logsumexp(dim=1)
            target = targets[part].unsqueeze(1)
            losses[part] = log_normaliser - logits.gather(1, target).squeeze(1)
            if gradient is not None:
                probabilities = logits.sub_(log_normaliser.unsqueeze(1)).exp_()
                probabilities.scatter_add_(
                    1, target, torch.full_like(target, -1, dtype=torch.float32)
                )
                gradient[part] = probabilities.to(weight.dtype) @ weight  # (n, V) -> (n, H)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].unsqueeze(1).to(gradient.dtype), None, None


def token_losses(row: PackedRow, hidden: Tensor, output_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every labelled token of a packed row.

    Args:
        hidden: (T, H) last hidden states.
        output_weight: (V, H), frozen.

    Returns:
        (N,) float32 losses in nats, differentiable in `hidden`, and (N,) int64 segment of each.
    """
    labelled = (row.labels != IGNORED).nonzero().squeeze(1)  # (N,)
    predictors = hidden[row.previous[labelled]].to(output_weight.dtype)  # (T, H) -> (N, H)
    losses: Tensor = _FrozenLinearCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch's apply is untyped
        predictors, output_weight, row.labels[labelled]
    )
    return losses, row.segments[labelled]


def category_loss(logits: Tensor, emotions: Tensor, smoothing: float) -> Tensor:
    """Summed cross entropy of (B, C) logits over utterances with an emotion, scalar float32."""
    return F.cross_entropy(
        logits.float(), emotions, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing
    )


def dimension_loss(predicted: Tensor, vad: Tensor) -> Tensor:
    """Squared error of (B, 3) dimensions, mean over the three, summed over utterances with any.

    `vad` holds NaN where an utterance has no dimensions.
    """
    known = ~vad.isnan().any(dim=1)  # (B,)
    return (predicted[known].float() - vad[known]).square().mean(dim=1).sum()


def count_terms(response: int, recognition: int, emotions: Tensor, vad: Tensor) -> Tensor:
    """(4,) float32 counts of a batch, known before its forward pass."""
    labelled = (emotions != IGNORED).sum()
    dimensioned = (~vad.isnan().any(dim=1)).sum()
    counts: Sequence[float] = (response, recognition, labelled.item(), dimensioned.item())
    return torch.tensor(counts, dtype=torch.float32, device=vad.device)
