"""Scoring of replies: levels and probabilities from a trained scorer.

Each exchange is scored twice: with texts cut as EPITOME cuts them, and with a longer limit that
keeps a question late in a long reply. If nothing is cut, one score serves for both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rellm_cache.empathy.bi_encoder import EmpathyScorer
from rellm_cache.empathy.epitome import Exchange
from rellm_cache.empathy.exchanges import (
    CHUNK,
    EncodedExchange,
    collate_exchanges,
    encode_exchanges,
)
from rellm_cache.empathy.scorer_folder import EmpathyModel
from rellm_cache.empathy.tfidf import TfidfModel
from rellm_cache.metrics.calibration import probabilities_of

BATCH = 32  # exchanges in one forward pass

Probabilities = dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class ReplyScore:
    """Score of one exchange.

    Attributes:
        probabilities: mechanism → probabilities of levels 0, 1, 2, texts cut at `tokens`.
        long_probabilities: the same for texts cut at `long_tokens`.
        post_cut, reply_cut: whether the text is longer than `tokens`.
    """

    probabilities: Probabilities
    long_probabilities: Probabilities
    post_cut: bool
    reply_cut: bool

    @property
    def levels(self) -> dict[str, int]:
        """Mechanism → most probable level."""
        return _most_probable(self.probabilities)

    @property
    def long_levels(self) -> dict[str, int]:
        """Mechanism → most probable level with the longer limit."""
        return _most_probable(self.long_probabilities)


def score_exchanges(model: EmpathyModel, exchanges: Sequence[Exchange]) -> Iterator[ReplyScore]:
    """Score exchanges in their order; their own levels are not used."""
    settings = model.card.settings
    for start in range(0, len(exchanges), CHUNK):
        chunk = exchanges[start : start + CHUNK]
        short = list(encode_exchanges(chunk, model.encoder, settings, settings.tokens))
        cut = [i for i, e in enumerate(short) if e.post_cut or e.reply_cut]
        chosen = [chunk[i] for i in cut]
        longer = list(encode_exchanges(chosen, model.encoder, settings, settings.long_tokens))
        scores = _probabilities(model, short)
        long_scores = dict(zip(cut, _probabilities(model, longer), strict=True))
        for index, encoded in enumerate(short):
            long_score = long_scores.get(index, scores[index])
            yield ReplyScore(scores[index], long_score, encoded.post_cut, encoded.reply_cut)


def _probabilities(
    model: EmpathyModel, exchanges: Sequence[EncodedExchange]
) -> list[Probabilities]:
    found: list[Probabilities] = [{} for _ in exchanges]
    if not exchanges:
        return found
    for members in model.ensembles:
        for name, logits in level_logits(
            members, exchanges, model.encoder.device, model.tfidf
        ).items():
            values = probabilities_of(logits, model.card.temperatures[name])
            for row, (zero, one, two) in zip(found, values.tolist(), strict=True):
                row[name] = (zero, one, two)
    return found


@torch.inference_mode()
def level_logits(
    members: Sequence[EmpathyScorer],
    exchanges: Sequence[EncodedExchange],
    device: torch.device,
    tfidf: TfidfModel | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Mechanism → (N, 3) logits of the levels, in the order of the exchanges.

    Args:
        members: scorers of the same mechanisms; their logits are averaged.
        tfidf: adds its logits with the weight `word_weight` of the settings.
    """
    names = members[0].mechanisms
    for scorer in members:
        scorer.eval()
    logits = {name: np.zeros((len(exchanges), 3), np.float32) for name in names}
    order = sorted(range(len(exchanges)), key=lambda i: len(exchanges[i].response))
    for start in range(0, len(order), BATCH):
        indices = order[start : start + BATCH]
        batch = collate_exchanges([exchanges[i] for i in indices], names).to(device)
        outputs = [scorer(batch).levels for scorer in members]
        for name in names:
            mean = torch.stack([levels[name].float() for levels in outputs]).mean(0)  # (B, 3)
            logits[name][indices] = mean.cpu().numpy()
    if tfidf is not None and exchanges:
        share = members[0].settings.word_weight
        added = tfidf.logits([e.words for e in exchanges])
        for name in logits:
            logits[name] = ((1 - share) * logits[name] + share * added[name]).astype(np.float32)
    return logits


def _most_probable(probabilities: Probabilities) -> dict[str, int]:
    return {name: int(np.argmax(values)) for name, values in probabilities.items()}
