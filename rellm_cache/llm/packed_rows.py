"""Packed rows: several examples behind one shared prompt, in one row without padding.

A row is `[prompt][speech response][speech response]`. Each token attends to itself, to earlier
tokens of its segment, and to all parents of the segment. Positions continue from the parent,
so each example has the same result as in a row without others. Segments form a tree: several labels
can continue one `[speech]`. A prompt with cached keys and values (`prefix_cache`) takes no place in
the row, but tokens attend to it.

Letters: T tokens in the row, P prefix tokens before it, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from rellm_cache.llm.prefix_cache import PrefixKV

ALIGNED = 8  # values that memory-efficient attention reads at once


@dataclass(frozen=True)
class Segment:
    """A run of tokens that may end with an answer.

    Attributes:
        embeddings: (t, H); without the last token of the answer, which predicts nothing.
        answer: token ids of the answer, each with a loss. Segments with an answer have no children.
        parent: index of the earlier segment that it continues; None at the start of a row.
        speech: number of leading embeddings that are speech.
        prefix: cached keys and values of a prompt, which replace its embeddings; or None.
    """

    embeddings: Tensor
    answer: tuple[int, ...] = ()
    parent: int | None = None
    speech: int = 0
    prefix: PrefixKV | None = None


@dataclass(frozen=True)
class PackedRow:
    """One input row of the LLM, with S segments.

    Attributes:
        embeddings: (1, T, H).
        positions: (1, T) int64.
        segments: (T,) int64, the segment of each token.
        sees: (S, S) bool, true where a segment attends to an earlier one or itself.
        reach: the largest position plus one.
        speech: (T,) bool, true at speech tokens.
        prefixes: prompts with cached keys and values, which come before the row's own.
        prefix_owners: (P,) int64, the segment of each prefix token.
        answers: (N,) int64 token ids of all answers.
        predictors: (N,) int64, for each answer token, the index of the token that predicts it.
        answered: (N,) int64, the segment of each answer token.
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
        """(1, 1, T, P + T) bool, true where a token attends to another."""
        sees = self.sees[self.segments]  # (T, S)
        own = sees[:, self.segments].tril()
        return torch.cat([sees[:, self.prefix_owners], own], 1)[None, None]

    def bias(self, dtype: torch.dtype) -> Tensor:
        """(1, 1, T, P + T) attention bias: 0 where a token attends to another, else -inf.

        All layers share one bias; with a bool mask, each layer would make and keep its own. The row
        stride is a multiple of `ALIGNED`; otherwise a GPU kernel would copy the bias in each layer.
        """
        mask = self.mask()[0, 0]
        length, keys = mask.shape
        lines = torch.zeros(
            length, -(-keys // ALIGNED) * ALIGNED, dtype=dtype, device=self.segments.device
        )
        return lines[:, :keys].masked_fill_(~mask, -torch.inf)[None, None]

    def block_mask(self) -> BlockMask:
        """The mask for FlexAttention, which skips empty blocks of 128 x 128."""
        before = len(self.prefix_owners)
        seen = torch.cat([self.prefix_owners, self.segments])  # (P + T,)

        def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return self.sees[self.segments[query], seen[key]] & (key - before <= query)

        length = len(self.segments)
        return create_block_mask(visible, None, None, length, before + length, seen.device)


def pack(segments: Sequence[Segment]) -> PackedRow:
    """Put segments end to end in one row.

    Raises:
        ValueError: an answer has no token before it.
    """
    device = segments[0].embeddings.device
    lengths = [len(s.embeddings) for s in segments]
    answers = [len(s.answer) for s in segments]
    sees = torch.eye(len(segments), dtype=torch.bool)
    positions: list[Tensor] = []
    predictors: list[Tensor] = []
    speech: list[Tensor] = []
    ends: list[int] = []  # position after each segment
    last_tokens: list[int] = []  # index of the last token of each segment
    at = 0
    for index, (segment, length) in enumerate(zip(segments, lengths, strict=True)):
        start_position, before = 0, -1
        if segment.parent is not None:
            sees[index] |= sees[segment.parent]
            start_position, before = ends[segment.parent], last_tokens[segment.parent]
        positions.append(torch.arange(start_position, start_position + length))
        speech.append(torch.arange(length) < segment.speech)
        at += length
        predicting = torch.arange(at - answers[index], at)
        if answers[index] > length:  # the parent's last token predicts the first answer token
            if before < 0:
                raise ValueError(f"segment {index}: an answer without a token before it")
            predicting[0] = before
        predictors.append(predicting)
        cached = segment.prefix.tokens if segment.prefix else 0
        ends.append(start_position + length + cached)
        last_tokens.append(at - 1 if length else before)
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
