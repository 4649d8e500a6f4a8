"""Scoring of replies: levels and probabilities from a trained scorer, for exchanges or a CSV file.

Each exchange is scored twice: with EPITOME's text limit, and with a longer limit, which keeps
a question late in a long reply. If no text is cut, both scores are the same.

Columns added to a CSV file; each mechanism of the scorer has its own levels and probabilities:

ER_label, ER_p0, ER_p1, ER_p2            level and probabilities, texts cut at 64 tokens
ER_label_long, ER_p0_long, …             the same with the scorer's longer limit
reply_cut, post_cut                      1 if the text is longer than 64 tokens
fingerprint                              digest of the scorer and of the scored file
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rellm_cache.config.specs import digest
from rellm_cache.corpus.text_files import read_csv
from rellm_cache.empathy.bi_encoder import EmpathyScorer
from rellm_cache.empathy.epitome import TEXTS, Exchange, one_spaced, read_rows
from rellm_cache.empathy.exchanges import (
    CHUNK,
    EncodedExchange,
    collate_exchanges,
    encode_exchanges,
)
from rellm_cache.empathy.scorer_folder import (
    CARD,
    EmpathyModel,
    ScorerCard,
    load_card,
    load_empathy,
)
from rellm_cache.empathy.tfidf import TfidfModel
from rellm_cache.errors import ManifestError
from rellm_cache.metrics.calibration import probabilities_of
from rellm_cache.metrics.intervals import Summary, summarize
from rellm_cache.utils.atomic_files import write_csv
from rellm_cache.utils.console import counted, progress, say
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.locks import hold_file
from rellm_cache.utils.overwriting import overwriting, refuse_input
from rellm_cache.utils.regular_files import file_digest
from rellm_cache.utils.resumable_table import FINGERPRINT, ResultTable, fingerprint_of

BATCH = 32  # exchanges in one forward pass

Probabilities = dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class ReplyScore:
    """Score of one exchange."""

    probabilities: Probabilities  # mechanism → p of levels 0, 1, 2; texts cut at `tokens`
    long_probabilities: Probabilities  # the same for texts cut at `long_tokens`
    post_cut: bool  # whether the post is longer than `tokens`
    reply_cut: bool  # whether the reply is longer than `tokens`

    @property
    def levels(self) -> dict[str, int]:
        """Mechanism → most probable level."""
        return _most_probable(self.probabilities)

    @property
    def long_levels(self) -> dict[str, int]:
        """Mechanism → most probable level with the longer limit."""
        return _most_probable(self.long_probabilities)


def score_exchanges(model: EmpathyModel, exchanges: Sequence[Exchange]) -> Iterator[ReplyScore]:
    """Score exchanges in order; levels that they already have are ignored."""
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


@dataclass(frozen=True)
class ScoreReport:
    """Summary of a scored file."""

    rows: int
    tokens: int  # token limit of the labels
    long_tokens: int  # token limit of the long labels
    replies_cut: int  # replies longer than `tokens`
    posts_cut: int  # posts longer than `tokens`
    levels: dict[str, Summary]  # mechanism → mean and deviation of its level
    long_levels: dict[str, Summary]  # the same with the longer limit


def score_csv(folder: Path, source: Path, out: Path, overwrite: bool = False) -> ScoreReport:
    """Score every row of `source` and write all rows with the new columns to `out`.

    A call after a killed one continues after its last row. An up-to-date `out` is not changed.

    Args:
        overwrite: replace `out` even if it is `source`, or not a scored table.

    Raises:
        RellmError: `out` is `source` or another table, or another process writes it.
        RunError: `folder` has no finished scorer.
        ManifestError: `source` is not a CSV file with seeker_post and response_post, a text is
            missing, a new column exists already, or `out` is not a table.
    """
    rows = [row for _, row in read_rows(source, TEXTS)]
    if not rows:
        raise ManifestError(f"{source}: no rows below the header")
    card = load_card(folder)
    columns = [*_columns(card), FINGERPRINT]
    if taken := [name for name in columns if name in rows[0]]:
        raise ManifestError(f"{source}: has a column {', '.join(taken)} already; rename it")
    files = (folder / CARD, source)
    fingerprint = digest([file_digest(file) for file in files])
    if not overwrite:
        refuse_input(out, [source])
    before = [] if overwrite or not out.exists() else [row for _, row in read_csv(out, own=True)]
    if not all(fingerprint_of(row) for row in before):
        raise overwriting(out, "a table of `rellm empathy score`")
    if len(before) == len(rows) and all(fingerprint_of(row) == fingerprint for row in before):
        say(f"{out}: nothing to do, {counted(len(rows), 'reply is', 'replies are')} scored")
        return _report(card, before)
    model = load_empathy(folder, default_device())
    with hold_file(out):
        return _report(card, _score_rows(rows, model, columns, ResultTable(out, fingerprint, ())))


def _score_rows(
    rows: Sequence[dict[str, str]], model: EmpathyModel, columns: Sequence[str], table: ResultTable
) -> list[dict[str, str]]:
    """Score the rows that the table lacks, write it, and return all its rows."""
    ids = list(map(str, range(len(rows))))
    missing = table.missing(ids, *columns)
    exchanges = [_exchange(rows[int(i)]) for i in missing]
    with progress("Scoring", len(exchanges), "replies") as tick, table:
        for i, score in zip(missing, score_exchanges(model, exchanges), strict=True):
            table.add(i, **_score_columns(score))
            tick()
    scored = [
        row | {name: table[i][name] for name in columns} for i, row in zip(ids, rows, strict=True)
    ]
    names = list(scored[0])
    table.finish(scored, lambda path, rows: write_csv(path, names, (row.values() for row in rows)))
    return scored


def _exchange(row: dict[str, str]) -> Exchange:
    seeker, response = (one_spaced(row[name]) for name in TEXTS)
    return Exchange("", "", seeker, response)


def _report(card: ScorerCard, rows: Sequence[dict[str, str]]) -> ScoreReport:
    names = [name for group in card.groups for name in group]

    def values(column: str) -> list[int]:
        return [int(row[column]) for row in rows]

    return ScoreReport(
        rows=len(rows),
        tokens=card.settings.tokens,
        long_tokens=card.settings.long_tokens,
        replies_cut=sum(values("reply_cut")),
        posts_cut=sum(values("post_cut")),
        levels={name: summarize(values(f"{name}_label")) for name in names},
        long_levels={name: summarize(values(f"{name}_label_long")) for name in names},
    )


def _columns(card: ScorerCard) -> list[str]:
    """Names of the columns with scores."""
    names = [name for group in card.groups for name in group]
    parts = ("label", "p0", "p1", "p2")
    return [
        *(f"{name}_{part}{end}" for end in ("", "_long") for name in names for part in parts),
        "reply_cut",
        "post_cut",
    ]


def _score_columns(score: ReplyScore) -> dict[str, str]:
    """The values of the columns for one score."""
    row = {"reply_cut": str(int(score.reply_cut)), "post_cut": str(int(score.post_cut))}
    for levels, probabilities, end in (
        (score.levels, score.probabilities, ""),
        (score.long_levels, score.long_probabilities, "_long"),
    ):
        for name, values in probabilities.items():
            row[f"{name}_label{end}"] = str(levels[name])
            row |= {f"{name}_p{level}{end}": f"{p:.4f}" for level, p in enumerate(values)}
    return row
