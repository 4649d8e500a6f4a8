"""Attention over a packed row, a segment at a time. In: queries, keys and values of a row, and how
its segments continue one another. Out: what attention over the whole row gives.

Most tokens of a row see nothing of most others, which a kernel over the whole row computes all the
same. Here each segment attends to what it continues and to itself alone. On a CPU that is less
work; a GPU would wait for the many small calls.

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
from rellm_cache.llm.packing import PackedRow

NAME = "rellm-segments"  # under which transformers finds it
ARGUMENT = "rellm_segments"  # by which layers hand it on
UNKNOWN = ("softcap", "s_aux", "position_bias")  # what would change the numbers


@dataclass(frozen=True)
class Segments:
    """How a row falls apart, for the attention of every layer.

    Attributes:
        lengths: tokens of each piece of keys: the cached prefixes, then the row's segments.
        prefixes: how many pieces are cached prefixes.
        seen: of each of the row's segments the pieces that it sees, in order, itself the last.
        biases: of each, (1, 1, t, keys): 0 where a token sees a key, else -inf.
    """

    lengths: tuple[int, ...]
    prefixes: int
    seen: tuple[tuple[int, ...], ...]
    biases: tuple[Tensor, ...]


def segments_of(row: PackedRow, dtype: torch.dtype) -> Segments:
    """Of a row whose queries, keys and values are of a dtype."""
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
    """(1, T, heads, D) attention of queries (1, heads, T, D) to keys and values (1, key heads,
    P + T, D); called by the layers of a model of transformers.

    Raises:
        ConfigError: the model's attention is of a kind that is not computed here.
    """
    row: Segments | None = options.get(ARGUMENT)
    if row is None:  # somebody else's call of a model that was last used for a row
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return output, None
    for name in UNKNOWN:
        if options.get(name) is not None:
            raise ConfigError(
                f"llm.model: its attention has {name!r}, which packed rows do not know; take a "
                "model of Llama's or Qwen's kind"
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
AttentionMaskInterface.register(NAME, sdpa_mask)  # for others' calls; rows have their biases
