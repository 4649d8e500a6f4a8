"""Packing. In: segments of embeddings that continue one another. Out: one row without padding.

Examples that share a prompt lie in one row behind it: `[prompt][speech response][speech response]`.
Each token sees its own segment up to itself and the segments it continues, nothing else, and its
position counts from where its parent ended: the same numbers as each example in a row of its own.
Segments form a tree, so several labels can also continue one `[speech]`. A prompt with cached keys
and values (`prefix_cache`) takes no place in the row; tokens see it all the same.

Letters: T tokens in the row, P prefix tokens before it, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from rellm_cache.llm.prefix_cache import PrefixKV

ALIGNED = 8  # values, of what memory-efficient attention reads at once


@dataclass(frozen=True)
class Segment:
    """A run of tokens, and the answer that it ends in, if any.

    Attributes:
        embeddings: (t, H); of an answer all tokens but the last, which predicts nothing.
        answer: its token ids, each with a loss. Nothing continues a segment that has one.
        parent: index of the segment it continues, which must come earlier; None at a row's start.
        speech: how many of its first embeddings are speech.
        prefix: cached keys and values of a prompt, which replace its embeddings; or None.
    """

    embeddings: Tensor
    answer: tuple[int, ...] = ()
    parent: int | None = None
    speech: int = 0
    prefix: PrefixKV | None = None


@dataclass(frozen=True)
class PackedRow:
    """What the LLM is given.

    Attributes:
        embeddings: (1, T, H).
        positions: (1, T) int64.
        segments: (T,) int64, which segment each token is in.
        sees: (S, S) bool, true where a segment sees another that lies before it, or itself.
        reach: one more than the largest position.
        speech: (T,) bool, true where a token is speech.
        prefixes: prompts with cached keys and values, which come before the row's own.
        prefix_owners: (P,) int64, the segment of each prefix token.
        answers: (N,) int64 token ids of all answers.
        predictors: (N,) int64, the token whose hidden state predicts each: the one before it.
        answered: (N,) int64, which segment each is the answer of.
    """

    embeddings: Tensor
    positions: Tensor
    segments: Tensor
    sees: Tensor
    reach: int
    speech: Tensor
    prefixes: tuple[PrefixKV, ...]
    prefix_owners: Tensor
    answers: Tensor
    predictors: Tensor
    answered: Tensor

    def mask(self) -> Tensor:
        """(1, 1, T, P + T) bool, true where a token sees another."""
        sees = self.sees[self.segments]  # (T, S)
        own = sees[:, self.segments].tril()
        return torch.cat([sees[:, self.prefix_owners], own], 1)[None, None]

    def bias(self, dtype: torch.dtype) -> Tensor:
        """(1, 1, T, P + T) the same as attention adds it: 0 where a token sees another, else -inf.

        Made once a row: of true and false every layer would make, and keep, a bias of its own. Its
        lines begin `ALIGNED` values apart, without which a GPU's kernel copies it in every layer.
        """
        mask = self.mask()[0, 0]
        length, keys = mask.shape
        lines = torch.zeros(
            length, -(-keys // ALIGNED) * ALIGNED, dtype=dtype, device=self.segments.device
        )
        return lines[:, :keys].masked_fill_(~mask, -torch.inf)[None, None]

    def block_mask(self) -> BlockMask:
        """The mask for FlexAttention, which skips blocks of 128 x 128 where nothing is seen."""
        before = len(self.prefix_owners)
        seen = torch.cat([self.prefix_owners, self.segments])  # (P + T,)

        def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return self.sees[self.segments[query], seen[key]] & (key - before <= query)

        length = len(self.segments)
        return create_block_mask(visible, None, None, length, before + length, seen.device)


def pack(segments: Sequence[Segment]) -> PackedRow:
    """Lay segments end to end in one row.

    Raises:
        ValueError: an answer has nothing before it.
    """
    device = segments[0].embeddings.device
    lengths = [len(s.embeddings) for s in segments]
    answers = [len(s.answer) for s in segments]
    sees = torch.eye(len(segments), dtype=torch.bool)
    positions: list[Tensor] = []
    predictors: list[Tensor] = []
    speech: list[Tensor] = []
    ends: list[int] = []  # position after each segment
    places: list[int] = []  # index of its last token
    at = 0
    for index, (segment, length) in enumerate(zip(segments, lengths, strict=True)):
        start_position, before = 0, -1
        if segment.parent is not None:
            sees[index] |= sees[segment.parent]
            start_position, before = ends[segment.parent], places[segment.parent]
        positions.append(torch.arange(start_position, start_position + length))
        speech.append(torch.arange(length) < segment.speech)
        at += length
        told = torch.arange(at - answers[index], at)
        if answers[index] > length:  # its first token follows what the segment continues
            if before < 0:
                raise ValueError(f"segment {index}: an answer with nothing before it")
            told[0] = before
        predictors.append(told)
        cached = segment.prefix.tokens if segment.prefix else 0
        ends.append(start_position + length + cached)
        places.append(at - 1 if length else before)
    indices = torch.arange(len(segments))
    owner = torch.repeat_interleave(indices, torch.tensor(lengths))  # (T,)
    prefixes = [s.prefix for s in segments]
    cached_lengths = torch.tensor([p.tokens if p else 0 for p in prefixes])  # (S,)
    return PackedRow(
        embeddings=torch.cat([s.embeddings for s in segments]).unsqueeze(0),
        positions=torch.cat(positions).to(device)[None],
        segments=owner.to(device),
        sees=sees.to(device),
        reach=max(ends),
        speech=torch.cat(speech).to(device),
        prefixes=tuple(p for p in prefixes if p),
        prefix_owners=torch.repeat_interleave(indices, cached_lengths).to(device),  # (P,)
        answers=torch.tensor([i for s in segments for i in s.answer], dtype=torch.long).to(device),
        predictors=torch.cat(predictors).to(device),  # (N,)
        answered=torch.repeat_interleave(indices, torch.tensor(answers)).to(device),  # (N,)
    )
