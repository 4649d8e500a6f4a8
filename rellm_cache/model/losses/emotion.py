"""Emotion loss: cross entropy of the category head, with class weights and label smoothing.

Letters: B utterances, C emotions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rellm_cache.config.schema import LossesConfig
from rellm_cache.data.batch import IGNORED, Batch, Example
from rellm_cache.model.losses.registry import LossContext, Outputs, register_loss


def _labelled(batch: Batch, context: LossContext) -> float:
    weights = utterance_weights(batch.emotions, context.class_weights, batch.shares)
    return weights.sum().item()


@register_loss("emotion_ce", count=_labelled)
def emotion_ce(outputs: Outputs, batch: Batch, context: LossContext) -> Tensor:
    """Cross entropy of the emotion logits, summed; scalar float32.

    Of an utterance with raters it is the cross entropy against their distribution.
    """
    return emotion_cross_entropy(
        outputs.emotion_logits,
        batch.emotions,
        context.config.label_smoothing,
        context.class_weights,
        batch.shares,
    )


def emotion_cross_entropy(
    logits: Tensor,
    emotions: Tensor,
    smoothing: float,
    weights: Tensor | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """Summed cross entropy of (B, C) logits over utterances with an emotion, scalar float32.

    With class weights (C,), each utterance's smoothed cross entropy is multiplied by the weight of
    its emotion, or by the mean weight of its raters' emotions. (torch's own `weight` would also
    multiply the smoothed part by the weights of the other classes.)

    Args:
        emotions: (B,) indices, or `IGNORED`.
        shares: (B, C) float32 shares of raters, NaN for utterances without raters; or None.
    """
    logits = logits.float()
    losses = F.cross_entropy(
        logits, emotions, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )  # (B,)
    if shares is not None:
        rated, known = _rated(shares)
        soft = F.cross_entropy(logits, known, reduction="none", label_smoothing=smoothing)
        losses = torch.where(rated, soft, losses)
    return (losses * utterance_weights(emotions, weights, shares)).sum()


def utterance_weights(
    emotions: Tensor, weights: Tensor | None, shares: Tensor | None = None
) -> Tensor:
    """(B,) float32 weight of each utterance's emotion: 1 without class weights, 0 if unlabelled."""
    labelled = emotions != IGNORED
    found = labelled.float() if weights is None else weights[emotions.clamp(min=0)] * labelled
    if shares is None:
        return found
    rated, known = _rated(shares)
    return torch.where(rated, 1.0 if weights is None else known @ weights, found)


def _rated(shares: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) whether an utterance has raters, and (B, C) shares with 0 for those without."""
    return ~shares.isnan().any(dim=1), shares.nan_to_num()


def rater_divergence(logits: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Summed KL(raters || head) in nats over utterances with raters, and their number.

    Args:
        logits: (B, C).
        shares: (B, C) float32 shares of raters, NaN for utterances without raters.
    """
    rated, known = _rated(shares)
    divergence = torch.special.xlogy(known, known) - known * logits.float().log_softmax(1)
    return divergence.sum(dim=1)[rated].sum(), rated.sum()


def class_weights(config: LossesConfig, examples: Sequence[Example], classes: int) -> Tensor | None:
    """(C,) float32 class weights of `emotion_ce`, None for equal weights.

    "balanced" means the inverse frequency of each emotion in the training split, scaled so that a
    labelled utterance weighs 1 on average. Raters count by their shares.

    Args:
        examples: of the training split.
    """
    if config.class_weights == "none":
        return None
    if config.class_weights != "balanced":
        return torch.tensor(config.class_weights)
    counts = [0.0] * classes
    for example in examples:
        if example.shares is not None:
            counts = [count + share for count, share in zip(counts, example.shares, strict=True)]
        elif example.emotion != IGNORED:
            counts[example.emotion] += 1
    weights = torch.ones(classes)
    present = [count for count in counts if count]
    for emotion, count in enumerate(counts):
        if count:
            weights[emotion] = sum(present) / (len(present) * count)
    return weights
