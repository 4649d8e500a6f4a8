"""Seeded sampling. In: a seed for each row. Out: draws that no other row of the batch changes.

The largest of logits / temperature + Gumbel noise is a draw from their softmax (Gumbel-max). Each
row's noise comes from a generator of its own, so that a prompt is answered alike in any batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor


@dataclass(frozen=True)
class Sampling:
    """How a batch is sampled.

    Attributes:
        temperature: above 0.
        seeds: one for each prompt.
    """

    temperature: float
    seeds: Sequence[int]


class SeededNoise(LogitsProcessor):
    """Adds each row's own noise, so that the greedy choice is a draw."""

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in sampling.seeds]

    def __call__(self, input_ids: Any, scores: Tensor) -> Tensor:
        """(B, V) perturbed scores of scores (B, V)."""
        size = scores.shape[1]
        uniform = torch.stack(
            [torch.rand(size, generator=g, dtype=torch.float64) for g in self._generators]
        )  # (B, V)
        noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        return scores / self._temperature + noise.to(scores)
