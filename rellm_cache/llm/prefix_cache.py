"""Key/value cache of the prompt prefixes that packed rows share.

A prompt that never changes runs through the LLM once. Rows then hold its keys and values only.

Letters: P tokens of a prefix, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache


@dataclass(frozen=True, eq=False)
class PrefixKV:
    """Keys and values of one prompt prefix.

    Attributes:
        layers: keys and values of each layer, (1, heads, P, D).
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def tokens(self) -> int:
        """Number of tokens in the prefix."""
        return self.layers[0][0].shape[2]


def compute_prefix(decoder: Any, embeddings: Tensor) -> PrefixKV:
    """Keys and values of a prefix, given as embeddings (1, P, H)."""
    cache = DynamicCache()
    decoder(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
    return PrefixKV(tuple((layer.keys, layer.values) for layer in cache.layers))


class FixedPrefix(DynamicCache):
    """Keys and values before a row, which a forward pass reads and never adds to.

    So a layer that runs again in the backward pass (activation checkpointing) reads the same.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix and of the row, (1, heads, P + T, D)."""
        before = self.layers[layer_idx]
        return (
            torch.cat([before.keys, key_states], 2),
            torch.cat([before.values, value_states], 2),
        )


def concat_prefixes(prefixes: Sequence[PrefixKV]) -> FixedPrefix | None:
    """Join prefixes, one after another, for one forward call; None if there are none."""
    if not prefixes:
        return None
    layers = zip(*(prefix.layers for prefix in prefixes), strict=True)
    return FixedPrefix(
        [tuple(torch.cat(t, 2) for t in zip(*pairs, strict=True)) for pairs in layers]
    )
