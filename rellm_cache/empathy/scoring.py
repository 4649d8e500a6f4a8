"""Scoring replies. In: a trained scorer and exchanges. Out: levels with probabilities.

Each exchange is scored twice: cut as EPITOME cuts, and with a longer limit, where a question late
in a long reply is still read. Where nothing is cut the two are one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rellm_cache.empathy.bi_encoder import EmpathyScorer
from rellm_cache.empathy.epitome import Exchange
from rellm_cache.empathy.exchanges import CHUNK, Reading, collate_readings, read_exchanges
from rellm_cache.empathy.scorer_folder import EmpathyModel
from rellm_cache.empathy.tfidf import WordModel
from rellm_cache.metrics.calibration import probabilities_of

BATCH = 32  # readings scored at a time

Probabilities = dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class ReplyScore:
    """What a scorer says of one exchange.

    Attributes:
        probabilities: mechanism → of levels 0, 1, 2, both texts cut at the scorer's `tokens`.
        long_probabilities: the same, cut at `long_tokens`.
        post_cut: the post is longer than `tokens`.
        reply_cut: the reply is.
    """

    probabilities: Probabilities
    long_probabilities: Probabilities
    post_cut: bool
    reply_cut: bool

    @property
    def levels(self) -> dict[str, int]:
        """Mechanism → the likeliest level."""
        return _likeliest(self.probabilities)

    @property
    def long_levels(self) -> dict[str, int]:
        """Mechanism → the likeliest level with the longer limit."""
        return _likeliest(self.long_probabilities)


def score_exchanges(model: EmpathyModel, exchanges: Sequence[Exchange]) -> Iterator[ReplyScore]:
    """Score exchanges, in their order; what they were judged is not looked at."""
    settings = model.card.settings
    for start in range(0, len(exchanges), CHUNK):
        chunk = exchanges[start : start + CHUNK]
        short = list(read_exchanges(chunk, model.encoder, settings, settings.tokens))
        cut = [i for i, r in enumerate(short) if r.post_cut or r.reply_cut]
        chosen = [chunk[i] for i in cut]
        longer = list(read_exchanges(chosen, model.encoder, settings, settings.long_tokens))
        scores = _probabilities(model, short)
        long_scores = dict(zip(cut, _probabilities(model, longer), strict=True))
        for index, reading in enumerate(short):
            long_score = long_scores.get(index, scores[index])
            yield ReplyScore(scores[index], long_score, reading.post_cut, reading.reply_cut)


def _probabilities(model: EmpathyModel, readings: Sequence[Reading]) -> list[Probabilities]:
    found: list[Probabilities] = [{} for _ in readings]
    if not readings:
        return found
    for members in model.ensembles:
        for name, logits in score_readings(
            members, readings, model.encoder.device, model.words
        ).items():
            values = probabilities_of(logits, model.card.temperatures[name])
            for row, (zero, one, two) in zip(found, values.tolist(), strict=True):
                row[name] = (zero, one, two)
    return found


@torch.inference_mode()
def score_readings(
    members: Sequence[EmpathyScorer],
    readings: Sequence[Reading],
    device: torch.device,
    words: WordModel | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Mechanism → (N, 3) logits of the levels, in the readings' order.

    Args:
        members: scorers of the same mechanisms, whose logits are averaged.
        words: adds its logits, by the share that the settings give it.
    """
    names = members[0].mechanisms
    for scorer in members:
        scorer.eval()
    logits = {name: np.zeros((len(readings), 3), np.float32) for name in names}
    order = sorted(range(len(readings)), key=lambda i: len(readings[i].response))
    for start in range(0, len(order), BATCH):
        indices = order[start : start + BATCH]
        batch = collate_readings([readings[i] for i in indices], names).to(device)
        outputs = [scorer(batch).levels for scorer in members]
        for name in names:
            mean = torch.stack([levels[name].float() for levels in outputs]).mean(0)  # (B, 3)
            logits[name][indices] = mean.cpu().numpy()
    if words is not None and readings:
        share = members[0].settings.word_weight
        beside = words.logits([r.words for r in readings])
        for name in logits:
            logits[name] = ((1 - share) * logits[name] + share * beside[name]).astype(np.float32)
    return logits


def _likeliest(probabilities: Probabilities) -> dict[str, int]:
    return {name: int(np.argmax(values)) for name, values in probabilities.items()}
