"""Key/value cache with a slot for each answer that is being written.

An answer that ends frees its slot, so that the next prompt takes its place and the batch stays
full (continuous batching). transformers' caches have one length for the whole batch.

Letters: S slots, A of them in use, C columns of a slot, P prefix tokens, T prompt tokens, D head
size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from rellm_cache.llm.prefix_cache import PrefixKV

ROUNDING = 64  # a slot has a multiple of so many columns


class SlotCache(Cache):
    """Keys and values of the first A of S slots; the model adds one token to each in a call.

    Attributes:
        lengths: number of tokens in each slot that is in use, A values.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self._slots = slots
        self._layers: list[Tensor] = []  # keys and values of each layer: (2, S, heads, C, D)
        self._written: Tensor | None = None  # columns of the tokens of this call: (A,)

    def add(self, prompts: DynamicCache, lengths: Sequence[int], columns: int) -> None:
        """Put prompts, computed with padding on the left, into the next slots.

        Args:
            prompts: keys and values of prefix and prompts, (n, heads, P + T, D) a layer.
            lengths: number of tokens of each prompt, without the prefix.
            columns: tokens that a slot must have room for, prefix included.
        """
        layers = [(layer.keys, layer.values) for layer in prompts.layers]
        self._reserve(layers, columns)
        total = layers[0][0].shape[2]
        prefix = total - max(lengths)
        for own, pair in zip(self._layers, layers, strict=True):
            for kind, tensor in enumerate(pair):
                for row, length in enumerate(lengths):
                    slot = own[kind, len(self.lengths) + row]  # (heads, C, D)
                    slot[:, :prefix] = tensor[row, :, :prefix]
                    slot[:, prefix : prefix + length] = tensor[row, :, total - length :]
        self.lengths += [prefix + length for length in lengths]

    def remove(self, slot: int) -> None:
        """Free a slot; the last slot in use moves there."""
        last = len(self.lengths) - 1
        if slot != last:
            for layer in self._layers:
                length = self.lengths[last]
                layer[:, slot, :, :length] = layer[:, last, :, :length]
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def begin(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Make room for one token in each slot in use.

        Returns:
            its position (A, 1), and the attention bias (A, 1, 1, columns in use): 0 where the
            token attends to a column, else -inf.
        """
        self._written = torch.tensor(self.lengths, device=device)  # (A,)
        self.lengths = [length + 1 for length in self.lengths]
        columns = torch.arange(max(self.lengths), device=device)
        hidden = columns > self._written[:, None]  # (A, columns)
        bias = torch.zeros(hidden.shape, dtype=dtype, device=device)
        return self._written[:, None], bias.masked_fill_(hidden, -torch.inf)[:, None, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values of one token a slot, (A, heads, 1, D).

        Returns:
            keys and values of all tokens of the slots, (A, heads, columns in use, D).
        """
        keys, values = self._layers[layer_idx]  # (S, heads, C, D)
        active, columns = len(self.lengths), max(self.lengths)
        rows = torch.arange(active, device=keys.device)
        keys[rows, :, self._written] = key_states[:, :, 0]
        values[rows, :, self._written] = value_states[:, :, 0]
        return keys[:active, :, :columns], values[:active, :, :columns]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before this call in the longest slot."""
        return max(self.lengths, default=1) - 1

    def _reserve(self, layers: Sequence[tuple[Tensor, Tensor]], columns: int) -> None:
        """Give each slot at least `columns` columns, with heads and sizes like `layers`."""
        if self._layers and self._layers[0].shape[3] >= columns:
            return
        room = -(-columns // ROUNDING) * ROUNDING
        grown = []
        for index, (keys, _) in enumerate(layers):
            layer = keys.new_zeros(2, self._slots, keys.shape[1], room, keys.shape[3])
            if self._layers:
                old = self._layers[index][:, : len(self.lengths)]
                layer[:, : len(self.lengths), :, : old.shape[3]] = old
                self._layers[index] = layer.new_empty(0)  # one layer at a time is held twice
            grown.append(layer)
        self._layers = grown


def repeat_prefix(prefix: PrefixKV | None, rows: int) -> DynamicCache:
    """A cache that holds a prefix for each of `rows` prompts; empty without a prefix."""
    if prefix is None:
        return DynamicCache()
    return DynamicCache(
        [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in prefix.layers]
    )
