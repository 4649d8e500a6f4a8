"""Emotion loss: cross entropy of the category head, with class weights and label smoothing.

Letters: B utterances, C emotions.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rellm_cache.config.schema import LossesConfig
from rellm_cache.data.batch import IGNORED, Batch
from rellm_cache.model.losses.registry import LossContext, Outputs, register_loss


def _labelled(batch: Batch, context: LossContext) -> float:
    return utterance_weights(batch.emotions, context.class_weights).sum().item()


@register_loss("emotion_ce", count=_labelled)
def emotion_ce(outputs: Outputs, batch: Batch, context: LossContext) -> Tensor:
    """Cross entropy of the emotion logits, summed; scalar float32."""
    smoothing, weights = context.config.label_smoothing, context.class_weights
    return emotion_cross_entropy(outputs.emotion_logits, batch.emotions, smoothing, weights)


def emotion_cross_entropy(
    logits: Tensor, emotions: Tensor, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Summed cross entropy of (B, C) logits over utterances with an emotion, scalar float32.

    With class weights (C,), each utterance's smoothed cross entropy is multiplied by the weight of
    its emotion. (torch's own `weight` would also multiply the smoothed part by the weights of the
    other classes.)
    """
    losses = F.cross_entropy(
        logits.float(), emotions, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )
    return (losses * utterance_weights(emotions, weights)).sum()


def utterance_weights(emotions: Tensor, weights: Tensor | None) -> Tensor:
    """(B,) float32 weight of each utterance's emotion: 1 without class weights, 0 if unlabelled."""
    labelled = emotions != IGNORED
    if weights is None:
        return labelled.float()
    return weights[emotions.clamp(min=0)] * labelled


def class_weights(config: LossesConfig, emotions: Sequence[int], classes: int) -> Tensor | None:
    """(C,) float32 class weights of `emotion_ce`, None for equal weights.

    "balanced" means the inverse frequency of each emotion in the training split, scaled so that a
    labelled utterance weighs 1 on average.

    Args:
        emotions: of the training split, as indices or `IGNORED`.
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
