"""Attention over a packed row by segments, with the same result as one call for the whole row.

Most pairs of tokens in a row do not attend to each other, but a kernel over the whole row computes
them too. Here each segment attends only to itself and the segments that it continues. On a CPU
this is less work; on a GPU the many small calls would be slower.

Letters: T tokens in the row, P prefix tokens before it, D head size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rellm_cache.errors import ConfigError
from rellm_cache.llm.packed_rows import PackedRow

NAME = "rellm-segments"  # name of the attention function in transformers
ARGUMENT = "rellm_segments"  # argument of the layers that holds the `Segments`
UNSUPPORTED = ("softcap", "s_aux", "position_bias")  # options that change the result


@dataclass(frozen=True)
class Segments:
    """The pieces of a row, for the attention of every layer.

    Attributes:
        lengths: tokens of each piece of keys: the cached prefixes, then the row's segments.
        prefixes: number of pieces that are cached prefixes.
        seen: for each segment of the row, the pieces it attends to, in order, itself last.
        biases: for each segment, (1, 1, t, keys): 0 where a token attends to a key, else -inf.
    """

    lengths: tuple[int, ...]
    prefixes: int
    seen: tuple[tuple[int, ...], ...]
    biases: tuple[Tensor, ...]


def segments_of(row: PackedRow, dtype: torch.dtype) -> Segments:
    """Split a row into pieces; `dtype` is the dtype of its queries, keys and values."""
    count = len(row.sees)
    cached = torch.bincount(row.prefix_owners, minlength=count).tolist()  # by segment
    own = torch.bincount(row.segments, minlength=count).tolist()
    pieces: list[int] = []
    places: dict[int, list[int]] = {segment: [] for segment in range(count)}
    for lengths in (cached, own):
        for segment, length in enumerate(lengths):
            if length:
                places[segment].append(len(pieces))
                pieces.append(length)
    seen, biases = [], []
    for segment, length in enumerate(own):
        if length:
            continued = row.sees[segment].nonzero().flatten().tolist()
            seen.append(tuple(place for one in continued for place in places[one]))
            keys = sum(pieces[place] for place in seen[-1])
            bias = torch.full((length, keys), -torch.inf, dtype=dtype, device=row.sees.device)
            biases.append(bias.triu(keys - length + 1)[None, None])
    return Segments(tuple(pieces), len(pieces) - len(seen), tuple(seen), tuple(biases))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention function for the layers of a transformers model.

    Args:
        query: (1, heads, T, D).
        key, value: (1, key heads, P + T, D).

    Returns:
        (1, T, heads, D) and no attention weights.

    Raises:
        ConfigError: the model's attention has an option that is not supported.
    """
    row: Segments | None = options.get(ARGUMENT)
    if row is None:  # a call without a packed row
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return output, None
    for name in UNSUPPORTED:
        if options.get(name) is not None:
            raise ConfigError(
                f"llm.model: its attention has {name!r}, which packed rows do not support; use a "
                "model of the Llama or Qwen family"
            )
    lengths = list(row.lengths)
    queries = torch.split(query, lengths[row.prefixes :], 2)
    both = torch.split(torch.cat([key, value], 1), lengths, 2)
    outputs = []
    for own, seen, bias in zip(queries, row.seen, row.biases, strict=True):
        k, v = torch.cat([both[place] for place in seen], 2).chunk(2, 1)
        output = F.scaled_dot_product_attention(
            own, k, v, attn_mask=bias, scale=scaling, enable_gqa=True
        )
        outputs.append(output.transpose(1, 2))  # (1, heads, t, D) -> (1, t, heads, D)
    return torch.cat(outputs, 1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)  # for calls without a packed row
