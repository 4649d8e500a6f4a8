"""Encoding of exchanges: token ids or states of the frozen layers, labels, padded batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rellm_cache.empathy.bi_encoder import IGNORED, ExchangeBatch
from rellm_cache.empathy.epitome import Exchange
from rellm_cache.empathy.settings import EmpathySettings
from rellm_cache.empathy.text_encoder import TextEncoder, TokenizedText, pad

CHUNK = 64  # exchanges encoded at a time
WINDOW = 12  # batches in a window that is sorted by length


@dataclass(frozen=True)
class EncodedExchange:
    """One exchange, cut to a number of tokens.

    Attributes:
        seeker: (S, H) float16 states or (S,) int64 ids of the post.
        response: (T, H) float16 states or (T,) int64 ids of the reply.
        words: text of the reply up to the cut.
        post_cut, reply_cut: whether the text is longer than the limit.
        levels: mechanism → level, for judged mechanisms.
        rationales: mechanism → (T,) int64 0 or 1, for judged mechanisms.
    """

    seeker: Tensor
    response: Tensor
    words: str
    post_cut: bool
    reply_cut: bool
    levels: dict[str, int]
    rationales: dict[str, Tensor]


def encode_exchanges(
    exchanges: Sequence[Exchange], encoder: TextEncoder, settings: EmpathySettings, limit: int
) -> Iterator[EncodedExchange]:
    """Cut texts to `limit` tokens and run the frozen layers of the encoder over them."""
    if settings.lower_case:
        exchanges = [_lower_cased(exchange) for exchange in exchanges]
    every = settings.empty_rationale == "all"
    trained = settings.trained_layers
    below = None if trained < 0 else encoder.layers - trained
    for start in range(0, len(exchanges), CHUNK):
        chunk = exchanges[start : start + CHUNK]
        posts = [encoder.tokenize(e.seeker_post, limit) for e in chunk]
        replies = [encoder.tokenize(e.response_post, limit) for e in chunk]
        seekers = (
            encoder.states(posts, -1)
            if settings.seeker == "frozen"
            else _inputs(posts, encoder, below)
        )
        responses = _inputs(replies, encoder, below)
        for index, exchange in enumerate(chunk):
            yield EncodedExchange(
                seekers[index],
                responses[index],
                exchange.response_post[: max(last for _, last in replies[index].spans)],
                posts[index].cut,
                replies[index].cut,
                exchange.levels,
                {
                    name: rationale_labels(exchange.response_post, parts, replies[index], every)
                    for name, parts in exchange.rationales.items()
                },
            )


def _lower_cased(exchange: Exchange) -> Exchange:
    return replace(
        exchange,
        seeker_post=exchange.seeker_post.lower(),
        response_post=exchange.response_post.lower(),
        rationales={
            name: tuple(part.lower() for part in parts)
            for name, parts in exchange.rationales.items()
        },
    )


def _inputs(
    texts: Sequence[TokenizedText], encoder: TextEncoder, below: int | None
) -> list[Tensor]:
    """Inputs of the trained layers: ids, or the states after the frozen layers."""
    if below is None:
        return [torch.tensor(text.ids) for text in texts]
    return encoder.states(texts, below)


def rationale_labels(
    response: str, parts: Sequence[str], tokens: TokenizedText, every: bool = False
) -> Tensor:
    """(T,) int64 labels: 1 for tokens of the reply that overlap one of `parts`.

    Only the first occurrence of a part is labeled. A part that is not in the reply labels no
    token: in EPITOME's files 1 part of 23, nearly always for interpretations.

    Args:
        every: label every token, special ones too, if there is no part at all (EPITOME's code).
    """
    if every and not parts:
        return torch.ones(len(tokens.ids), dtype=torch.long)
    labels = torch.zeros(len(tokens.ids), dtype=torch.long)
    for part in parts:
        first = response.find(part)
        if first < 0:
            continue
        for index, (begin, end) in enumerate(tokens.spans):
            if begin < end and begin < first + len(part) and end > first:
                labels[index] = 1
    return labels


def collate_exchanges(
    exchanges: Sequence[EncodedExchange], mechanisms: Sequence[str]
) -> ExchangeBatch:
    """Pad exchanges to one batch."""
    seeker, seeker_mask = pad([e.seeker for e in exchanges])
    response, response_mask = pad([e.response for e in exchanges])
    levels: dict[str, Tensor] = {}
    rationales: dict[str, Tensor] = {}
    for name in mechanisms:
        levels[name] = torch.tensor([e.levels.get(name, IGNORED) for e in exchanges])
        unjudged = [torch.full((len(e.response),), IGNORED) for e in exchanges]
        rows = [e.rationales.get(name, u) for e, u in zip(exchanges, unjudged, strict=True)]
        rationales[name] = pad(rows)[0].masked_fill(~response_mask, IGNORED)
    return ExchangeBatch(
        _as_input(seeker), seeker_mask, _as_input(response), response_mask, levels, rationales
    )


def _as_input(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values


def shuffled_batches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Indices in batches of similar length, in an order that depends on the seed alone."""
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=random).tolist()
    batches = []
    for start in range(0, len(order), size * WINDOW):
        window = sorted(order[start : start + size * WINDOW], key=lambda i: lengths[i])
        batches += [window[i : i + size] for i in range(0, len(window), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]
