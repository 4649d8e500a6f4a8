"""Exchanges as a scorer takes them. In: texts. Out: ids or frozen states, labels, batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rellm_cache.empathy.bi_encoder import IGNORED, ExchangeBatch
from rellm_cache.empathy.epitome import Exchange
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.text_encoder import TextEncoder, Tokens, pad

CHUNK = 64  # exchanges whose states are computed together
WINDOW = 12  # batches whose exchanges are sorted by length together


@dataclass(frozen=True)
class Reading:
    """One exchange, cut to a limit.

    Attributes:
        seeker: (S, H) float16 states or (S,) int64 ids of the post.
        response: (T, H) float16 states or (T,) int64 ids of the reply.
        words: the reply as far as it is read.
        post_cut: the post is longer than the limit.
        reply_cut: the reply is.
        levels: mechanism → level, where judged.
        rationales: mechanism → (T,) int64 0 or 1, where judged.
    """

    seeker: Tensor
    response: Tensor
    words: str
    post_cut: bool
    reply_cut: bool
    levels: dict[str, int]
    rationales: dict[str, Tensor]


def read_exchanges(
    exchanges: Sequence[Exchange], encoder: TextEncoder, settings: EmpathySettings, limit: int
) -> Iterator[Reading]:
    """Cut texts to `limit` tokens; what is frozen of the encoder runs here, once."""
    trained = settings.trained_layers
    below = None if trained < 0 else encoder.layers - trained
    for start in range(0, len(exchanges), CHUNK):
        chunk = exchanges[start : start + CHUNK]
        posts = [encoder.tokenise(e.seeker_post, limit) for e in chunk]
        replies = [encoder.tokenise(e.response_post, limit) for e in chunk]
        seekers = (
            encoder.states(posts, -1)
            if settings.seeker == "frozen"
            else _inputs(posts, encoder, below)
        )
        responses = _inputs(replies, encoder, below)
        for index, exchange in enumerate(chunk):
            yield Reading(
                seekers[index],
                responses[index],
                exchange.response_post[: max(last for _, last in replies[index].spans)],
                posts[index].cut,
                replies[index].cut,
                exchange.levels,
                {
                    name: rationale_labels(exchange.response_post, parts, replies[index])
                    for name, parts in exchange.rationales.items()
                },
            )


def _inputs(texts: Sequence[Tokens], encoder: TextEncoder, below: int | None) -> list[Tensor]:
    """What the trained part of the encoder takes: ids, or the states of the layers below it."""
    if below is None:
        return [torch.tensor(text.ids) for text in texts]
    return encoder.states(texts, below)


def rationale_labels(response: str, parts: Iterable[str], tokens: Tokens) -> Tensor:
    """(T,) int64: 1 for tokens of the reply that lie in one of `parts`.

    Parts are looked for as they are written, each from the start; what is not found labels nothing
    (in EPITOME's files one part in 23, nearly all of interpretations).
    """
    labels = torch.zeros(len(tokens.ids), dtype=torch.long)
    for part in parts:
        first = response.find(part)
        if first < 0:
            continue
        for index, (begin, end) in enumerate(tokens.spans):
            if begin < end and begin < first + len(part) and end > first:
                labels[index] = 1
    return labels


def collate_readings(readings: Sequence[Reading], mechanisms: Sequence[str]) -> ExchangeBatch:
    """Readings as one batch."""
    seeker, seeker_mask = pad([r.seeker for r in readings])
    response, response_mask = pad([r.response for r in readings])
    levels: dict[str, Tensor] = {}
    rationales: dict[str, Tensor] = {}
    for name in mechanisms:
        levels[name] = torch.tensor([r.levels.get(name, IGNORED) for r in readings])
        unjudged = [torch.full((len(r.response),), IGNORED) for r in readings]
        rows = [r.rationales.get(name, u) for r, u in zip(readings, unjudged, strict=True)]
        rationales[name] = pad(rows)[0].masked_fill(~response_mask, IGNORED)
    return ExchangeBatch(
        _as_input(seeker), seeker_mask, _as_input(response), response_mask, levels, rationales
    )


def _as_input(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values


def shuffled_batches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """All indices once, in batches of like length, in random order; the same for the same seed."""
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=random).tolist()
    batches = []
    for start in range(0, len(order), size * WINDOW):
        window = sorted(order[start : start + size * WINDOW], key=lambda i: lengths[i])
        batches += [window[i : i + size] for i in range(0, len(window), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]
