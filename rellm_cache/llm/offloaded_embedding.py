"""Input embeddings that stay in host memory. In: token ids. Out: their rows on the device.

Qwen-7B's table is 1.2 GB of which a step needs some hundred rows: a GPU need not hold it.
"""

import torch
from torch import Tensor, nn


class HostEmbedding(nn.Module):
    """A frozen embedding table in host memory, page-locked where its rows go to a GPU.

    The table is no parameter: it does not move with the model and is in no state dict.

    Attributes:
        weight: (V, H) in host memory.
    """

    def __init__(self, embedding: nn.Embedding, device: torch.device) -> None:
        super().__init__()
        weight = embedding.weight.detach().cpu()
        self.weight: Tensor = weight.pin_memory() if device.type == "cuda" else weight
        self._device = device

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of token ids: int64 (…) on any device -> (…, H) on the model's."""
        rows = self.weight[ids.to(self.weight.device)]  # (…, H)
        return rows.to(self._device)
