"""Supervised contrastive loss over pooled embeddings (Khosla et al. 2020)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

import rellm_cache as rellm
from rellm_cache.config.constraints import Range


@dataclass(frozen=True)
class ContrastiveOptions:
    """Options of the loss."""

    temperature: Annotated[float, Range(above=0)] = 0.2
    """Divides the cosine similarities."""


def _positives(batch: rellm.Batch) -> Tensor:
    """(B, B) bool: another clip of the same known emotion."""
    same = batch.emotions[:, None] == batch.emotions
    return same.fill_diagonal_(False) & (batch.emotions >= 0)


def _anchors(batch: rellm.Batch, context: rellm.LossContext) -> float:
    return _positives(batch).any(1).sum().item()


@rellm.register_loss("contrastive", count=_anchors, options=ContrastiveOptions)
def contrastive(outputs: rellm.Outputs, batch: rellm.Batch, context: rellm.LossContext) -> Tensor:
    """Summed over the clips that share their emotion with another clip; scalar float32."""
    vectors = F.normalize(outputs.pooled.float(), dim=1)  # (B, P)
    similar = vectors @ vectors.T / context.options.temperature  # (B, B)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=similar.device)
    likely = similar.masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)
    positives = _positives(batch)
    return -((likely * positives).sum(1) / positives.sum(1).clamp(min=1)).sum()
