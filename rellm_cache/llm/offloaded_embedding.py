"""Input embeddings in host memory: only the rows of a batch's tokens go to the GPU.

Qwen-7B's embeddings take 1.2 GB, and a step needs a few hundred rows.
"""

import torch
from torch import Tensor, nn


class OffloadedEmbedding(nn.Module):
    """A frozen embedding table in host memory, page-locked if its rows go to a GPU.

    The table is not a parameter: it does not move with the model and is not in state dicts.

    Attributes:
        weight: (V, H) in host memory.
    """

    def __init__(self, embedding: nn.Embedding, device: torch.device) -> None:
        super().__init__()
        weight = embedding.weight.detach().cpu()
        self.weight: Tensor = weight.pin_memory() if device.type == "cuda" else weight
        self._device = device

    def forward(self, ids: Tensor) -> Tensor:
        """Look up token ids: int64 (…) on any device -> (…, H) on the model's device."""
        rows = self.weight[ids.to(self.weight.device)]  # (…, H)
        return rows.to(self._device)
