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


def concat_prefixes(prefixes: Sequence[PrefixKV]) -> DynamicCache | None:
    """Join prefixes, one after another, for one forward call; None if there are none."""
    if not prefixes:
        return None
    layers = zip(*(prefix.layers for prefix in prefixes), strict=True)
    return DynamicCache(
        [tuple(torch.cat(t, 2) for t in zip(*pairs, strict=True)) for pairs in layers]
    )
