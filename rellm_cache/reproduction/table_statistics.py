"""Statistics of Table I: means, intervals, significance tests and agreement with the paper.

ER and EX are means over all answers. UA is computed for each fold and averaged. Differences are
between answers to the same utterance.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rellm_cache.metrics.classification import ua_of_rows
from rellm_cache.metrics.intervals import Interval, Summary, bootstrap, mean_interval, summarize
from rellm_cache.metrics.significance import PairedTest, holm, paired_test
from rellm_cache.reproduction.answers import Record
from rellm_cache.reproduction.paper import MAIN, METRICS, Row, paper_directions, paper_mean

Score = Callable[[Record], float | None]
EMPATHY_SCORES: dict[str, Score] = {
    "ER": lambda r: r.er,
    "EX": lambda r: r.ex,
    "ER + EX": lambda r: None if r.er is None or r.ex is None else r.er + r.ex,
    "ER long": lambda r: r.er_long,
    "EX long": lambda r: r.ex_long,
}
LABELS: dict[str, Callable[[Record], str]] = {
    "UA": lambda r: r.llm,
    "UA in words": lambda r: r.llm_in_words,
    "UA head": lambda r: r.head,
}


@dataclass(frozen=True)
class Cell:
    """Mean of a score over answers, with its bootstrap interval."""

    summary: Summary
    interval: Interval


@dataclass(frozen=True)
class RowResult:
    """Results of one model."""

    row: Row  # the model
    answers: int  # number of answers
    # "ER", "EX", "ER + EX", and with the scorer's longer limit "ER long", "EX long".
    empathy: dict[str, Cell]
    # "UA" by label likelihood, "UA in words", "UA head": summaries over folds.
    recognition: dict[str, Summary]
    unparsable: float | None  # share of answers in words that name no emotion
    words: Summary  # number of words in an answer
    questions: Summary  # number of questions in an answer
    cut: float | None  # share of answers longer than the scorer reads; None without a scorer
    paper: dict[str, float]  # metric → the paper's mean for this corpus, if it has one
    same_as: str = ""  # earlier row that is the same model on this corpus, or empty

    def mean(self, metric: str) -> float | None:
        """Mean of ER, EX or UA as in the paper's table; None if it was not measured."""
        if metric == "UA":
            return self.recognition[metric].mean if metric in self.recognition else None
        return self.empathy[metric].summary.mean if metric in self.empathy else None


@dataclass(frozen=True)
class Comparison:
    """RE-LLM compared with another row."""

    metric: str  # ER, EX, ER + EX or UA
    first: str  # name of RE-LLM's row
    second: str  # name of the other row
    # Mean of the first minus mean of the second, with its bootstrap interval over utterances.
    difference: Interval
    test: PairedTest  # signed-rank test of the pairs; for UA, of correct (1) and wrong (0) labels
    p_holm: float  # p value corrected over all comparisons of the metric
    paper: dict[str, float]  # corpus → the paper's difference

    @property
    def direction(self) -> str:
        """Sign of the difference compared with the paper: `same`, `other`, `mixed` or `none`."""
        signs = {np.sign(value) for value in self.paper.values()} - {0.0}
        own = np.sign(self.difference.value)
        if not signs or own == 0:
            return "none"
        if len(signs) > 1:
            return "mixed"
        return "same" if own in signs else "other"


def summarize_row(row: Row, records: Sequence[Record], corpus: str, same_as: str = "") -> RowResult:
    """All results of one model."""
    empathy = {}
    for name, score in EMPATHY_SCORES.items():
        values = [value for r in records if (value := score(r)) is not None]
        if values:
            empathy[name] = Cell(summarize(values), mean_interval(values))
    recognition = {}
    for name, label in LABELS.items():
        if any(label(r) for r in records):
            recognition[name] = summarize(list(ua_by_fold(records, label).values()))
    has_words = "UA" in recognition
    cut = [r.cut for r in records if r.cut is not None]
    means = {metric: paper_mean(corpus, metric, row.name) for metric in METRICS}
    return RowResult(
        row=row,
        answers=len(records),
        empathy=empathy,
        recognition=recognition,
        unparsable=float(np.mean([not r.llm_in_words for r in records])) if has_words else None,
        words=summarize([r.words for r in records]),
        questions=summarize([r.questions for r in records]),
        cut=float(np.mean(cut)) if cut else None,
        paper={metric: mean for metric, mean in means.items() if mean is not None},
        same_as=same_as,
    )


def ua_by_fold(records: Sequence[Record], label: Callable[[Record], str]) -> dict[str, float]:
    """Fold → UA over the utterances that have an emotion."""
    found = {}
    for fold in dict.fromkeys(r.fold for r in records):
        rows = [r for r in records if r.fold == fold and r.emotion]
        if rows:
            true, right = _outcomes(rows, label)
            found[fold] = float(ua_of_rows(true[None], right[None])[0])
    return found


def _outcomes(
    records: Sequence[Record], label: Callable[[Record], str]
) -> tuple[np.ndarray, np.ndarray]:
    """True emotions (N,) as numbers, and whether each label is right (N,), 1 or 0."""
    names = sorted({r.emotion for r in records})
    true = np.array([names.index(r.emotion) for r in records], np.float64)
    return true, np.array([label(r) == r.emotion for r in records], np.float64)


def compare(
    records: Mapping[str, Sequence[Record]], same_as: Mapping[str, str], corpus: str
) -> list[Comparison]:
    """Compare RE-LLM with every other model; p values are Holm-corrected for each metric."""
    if MAIN not in records:
        return []
    others = [n for n in records if n != MAIN and n not in same_as and same_as.get(MAIN) != n]
    found: list[Comparison] = []
    for metric in ("ER", "EX", "ER + EX"):
        score = EMPATHY_SCORES[metric]
        found += _correct(_compare_scores(records, o, metric, score, corpus) for o in others)
    return found + _correct(_compare_ua(records, other, corpus) for other in others)


def _pairs(records: Mapping[str, Sequence[Record]], other: str) -> list[tuple[Record, Record]]:
    """Pairs of answers by RE-LLM and by another model to the same utterances."""
    second = {(r.fold, r.id): r for r in records[other]}
    return [(r, second[r.fold, r.id]) for r in records[MAIN] if (r.fold, r.id) in second]


def _compare_scores(
    records: Mapping[str, Sequence[Record]], other: str, metric: str, score: Score, corpus: str
) -> Comparison | None:
    first, second = [], []
    for mine, theirs in _pairs(records, other):
        a, b = score(mine), score(theirs)
        if a is not None and b is not None:
            first.append(a)
            second.append(b)
    if not first:
        return None
    difference = mean_interval(np.subtract(first, second))
    directions = paper_directions(corpus, metric, MAIN, other)
    return Comparison(metric, MAIN, other, difference, paired_test(first, second), 1.0, directions)


def _compare_ua(
    records: Mapping[str, Sequence[Record]], other: str, corpus: str
) -> Comparison | None:
    """Compare UA by label likelihood; None if a model has no such labels."""
    label = LABELS["UA"]
    pairs = [(a, b) for a, b in _pairs(records, other) if a.emotion and label(a) and label(b)]
    if not pairs:
        return None
    true, first = _outcomes([a for a, _ in pairs], label)
    _, second = _outcomes([b for _, b in pairs], label)

    def gain(true: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return ua_of_rows(true, first) - ua_of_rows(true, second)

    difference = bootstrap(gain, true, first, second, method="percentile", resamples=2_000)
    test = paired_test(first.tolist(), second.tolist())
    directions = paper_directions(corpus, "UA", MAIN, other)
    return Comparison("UA", MAIN, other, difference, test, 1.0, directions)


def _correct(comparisons: Iterable[Comparison | None]) -> list[Comparison]:
    """Drop missing comparisons, and correct the p values over all others."""
    found = [c for c in comparisons if c is not None]
    corrected = holm({c.second: c.test.p for c in found})
    return [replace(c, p_holm=corrected[c.second]) for c in found]
