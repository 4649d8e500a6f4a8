"""empathy score. In: a scorer's folder and a CSV file. Out: the file with levels added.

Added to each row, for each mechanism the scorer knows:

ER_label, ER_p0, ER_p1, ER_p2            the level and the probabilities, texts cut at 64 tokens
ER_label_long, ER_p0_long, …             the same with the scorer's longer limit
reply_cut, post_cut                      1 where the text is longer than 64 tokens
fingerprint                              digest of the scorer and of the file that was scored

A killed call goes on where it was; a second one finds that there is nothing to do.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.config.specs import digest
from rellm_cache.empathy.epitome import TEXTS, Exchange, one_spaced, read_rows
from rellm_cache.empathy.scorer_folder import CARD, ScorerCard, load_card, load_empathy
from rellm_cache.empathy.scoring import ReplyScore, score_exchanges
from rellm_cache.errors import ManifestError
from rellm_cache.metrics.intervals import Summary, summarize
from rellm_cache.utils.atomic_files import write_csv
from rellm_cache.utils.console import counted, progress, say
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.result_table import FINGERPRINT, ResultTable, Row, fingerprint_of


@dataclass(frozen=True)
class ScoreReport:
    """What was scored.

    Attributes:
        rows: of the file.
        tokens: the limit of the labels.
        long_tokens: the limit of the long labels.
        replies_cut: replies longer than `tokens`.
        posts_cut: posts longer than `tokens`.
        levels: mechanism → mean and deviation of its level.
        long_levels: the same with the longer limit.
    """

    rows: int
    tokens: int
    long_tokens: int
    replies_cut: int
    posts_cut: int
    levels: dict[str, Summary]
    long_levels: dict[str, Summary]


def score_csv(folder: Path, source: Path, out: Path) -> ScoreReport:
    """Score every row of `source`, which has EPITOME's columns, and write them all to `out`.

    Raises:
        RunError: `folder` is no finished scorer.
        ManifestError: a column or a text is missing, one to be added is there already, or `out`
            holds something else than a table.
    """
    rows = [row for _, row in read_rows(source, TEXTS)]
    if not rows:
        raise ManifestError(f"{source}: no rows below the header")
    card = load_card(folder)
    columns = [*score_columns(card.groups), FINGERPRINT]
    taken = [name for name in columns if name in rows[0]]
    if taken:
        raise ManifestError(f"{source}: has a column {', '.join(taken)} already; rename it")
    fingerprint = _fingerprint(folder, source)
    before = [row for _, row in read_rows(out, ())] if out.exists() else []
    if len(before) == len(rows) and all(fingerprint_of(row) == fingerprint for row in before):
        say(f"{out}: nothing to do, {counted(len(rows), 'reply is', 'replies are')} scored")
        return report(card, before)
    model = load_empathy(folder, default_device())
    table = ResultTable(out, fingerprint, ())
    numbers = list(map(str, range(len(rows))))
    left = table.missing(numbers)
    exchanges = [_exchange(rows[int(number)]) for number in left]
    with progress("Scoring", len(exchanges), "replies") as tick, table:
        for number, score in zip(left, score_exchanges(model, exchanges), strict=True):
            table.add(number, score=_to_json(score))
            tick()
    made = {FINGERPRINT: fingerprint}
    scores = (score_row(_from_json(table[number]["score"])) for number in numbers)
    scored = [row | score | made for row, score in zip(rows, scores, strict=True)]
    names = [*rows[0], *columns]
    table.finish(scored, lambda path, rows: write_csv(path, names, _values(rows, names)))
    return report(card, scored)


def _values(rows: Iterable[Row], names: Sequence[str]) -> Iterator[list[str]]:
    return ([row[name] for name in names] for row in rows)


def _exchange(row: dict[str, str]) -> Exchange:
    seeker, response = (one_spaced(row[name]) for name in TEXTS)
    return Exchange("", "", seeker, response)


def report(card: ScorerCard, rows: Sequence[dict[str, str]]) -> ScoreReport:
    """Means over rows with their scores."""
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


def score_columns(groups: Sequence[Sequence[str]]) -> list[str]:
    """Names of the columns that are added."""
    names = [name for group in groups for name in group]
    parts = ("label", "p0", "p1", "p2")
    return [
        *(f"{name}_{part}" for name in names for part in parts),
        *(f"{name}_{part}_long" for name in names for part in parts),
        "reply_cut",
        "post_cut",
    ]


def score_row(score: ReplyScore) -> dict[str, str]:
    """A score as the columns of a row."""
    row = {"reply_cut": str(int(score.reply_cut)), "post_cut": str(int(score.post_cut))}
    for levels, probabilities, end in (
        (score.levels, score.probabilities, ""),
        (score.long_levels, score.long_probabilities, "_long"),
    ):
        for name, values in probabilities.items():
            row[f"{name}_label{end}"] = str(levels[name])
            row |= {f"{name}_p{level}{end}": f"{p:.4f}" for level, p in enumerate(values)}
    return row


def _to_json(score: ReplyScore) -> list[object]:
    return [score.probabilities, score.long_probabilities, score.post_cut, score.reply_cut]


def _from_json(values: list[dict[str, list[float]]]) -> ReplyScore:
    short, longer = ({k: (v[0], v[1], v[2]) for k, v in part.items()} for part in values[:2])
    return ReplyScore(short, longer, bool(values[2]), bool(values[3]))


def _fingerprint(folder: Path, source: Path) -> str:
    """The fingerprint of scores: digest of the scorer and of the file's bytes."""
    files = (folder / CARD, source)
    return digest([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
