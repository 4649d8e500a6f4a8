"""Figures of the demo: UA with bootstrap intervals, and counts over the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.inference.responders import Generation
from rellm_cache.metrics import classification
from rellm_cache.metrics.classification import ua_of_rows
from rellm_cache.metrics.intervals import Column, Interval, bootstrap
from rellm_cache.metrics.replies import repeats_itself

Predictions = Mapping[str, Mapping[str, str]]  # clip id -> row of a predictions.csv


def ua_interval(predictions: Predictions, column: str) -> Interval:
    """UA of the predictions in a column, with its 95 % bootstrap interval over clips."""
    return classification.ua_interval(*_outcomes(predictions, column))


def ua_gain(first: Predictions, second: Predictions, column: str) -> Interval:
    """UA of `first` minus that of `second` on the same clips, with its 95 % interval."""
    true, right = _outcomes(first, column)
    _, other = _outcomes({name: second[name] for name in first}, column)

    def gain(true: Column, right: Column, other: Column) -> Column:
        return ua_of_rows(true, right) - ua_of_rows(true, other)

    return bootstrap(gain, true, right, other, method="percentile")


def _outcomes(predictions: Predictions, column: str) -> tuple[Column, Column]:
    """True classes (N,) as numbers, and 1 where the prediction is right, else 0 (N,)."""
    rows = predictions.values()
    names = sorted({row["emotion"] for row in rows})
    true = np.array([names.index(row["emotion"]) for row in rows], np.float64)
    return true, np.array([row[column] == row["emotion"] for row in rows], np.float64)


@dataclass(frozen=True)
class AnswerCounts:
    """Counts over the answers to the test clips."""

    answers: int
    cut: int  # answers that the token limit cut
    repeating: int  # answers that repeat themselves
    pairs: int  # pairs of clips of one voice and one sentence in two emotions
    different: int  # such pairs with two different answers


def count_answers(
    answers: Sequence[Generation], utterances: Mapping[str, Utterance]
) -> AnswerCounts:
    """Count answers that are cut or repeat themselves, and those that follow the emotion.

    Args:
        utterances: clip id → utterance, for all answers.
    """
    takes: dict[tuple[str | None, str], list[Generation]] = {}
    for answer in answers:
        own = utterances[answer.id]
        takes.setdefault((own.speaker, own.text), []).append(answer)
    pairs = [pair for same in takes.values() for pair in combinations(same, 2)]
    return AnswerCounts(
        answers=len(answers),
        cut=sum(answer.early_stop for answer in answers),
        repeating=sum(repeats_itself(answer.response) for answer in answers),
        pairs=len(pairs),
        different=sum(one.response != other.response for one, other in pairs),
    )
