"""Empathy of a run's answers by an EPITOME scorer.

The transcript is scored as the seeker's post, the answer as the reply.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.empathy.epitome import Exchange
from rellm_cache.empathy.scorer_folder import load_empathy
from rellm_cache.empathy.scoring import score_exchanges
from rellm_cache.inference.responders import Generation
from rellm_cache.metrics.intervals import Summary, summarize
from rellm_cache.metrics.replies import question_count, word_count
from rellm_cache.utils.devices import default_device


@dataclass(frozen=True)
class EmpathyScores:
    """Empathy levels and lengths of the answers to utterances with a transcript.

    Attributes:
        replies_cut: answers longer than the scorer reads.
        levels: mechanism → mean and deviation of its level; "ER + EX" where both are known.
        long_levels: the same with the scorer's longer limit.
    """

    count: int
    replies_cut: int
    levels: dict[str, Summary]
    long_levels: dict[str, Summary]
    words: Summary
    questions: Summary


@dataclass(frozen=True)
class ReplyLevels:
    """Levels of one answer.

    Attributes:
        levels: mechanism → level.
        long_levels: the same with the scorer's longer limit.
        cut: the answer is longer than the scorer reads.
    """

    levels: dict[str, int]
    long_levels: dict[str, int]
    cut: bool


def score_answers(folder: Path, answers: Sequence[Generation]) -> Iterator[ReplyLevels]:
    """Score answers to utterances with a transcript, in order; errors as `load_empathy`."""
    exchanges = [Exchange("", a.id, a.text, a.response) for a in answers]
    for score in score_exchanges(load_empathy(folder, default_device()), exchanges):
        yield ReplyLevels(score.levels, score.long_levels, score.reply_cut)


def summarize_empathy(responses: Sequence[str], scored: Sequence[ReplyLevels]) -> EmpathyScores:
    """Mean levels and lengths of one or more answers."""
    return EmpathyScores(
        count=len(scored),
        replies_cut=sum(s.cut for s in scored),
        levels=_summaries([s.levels for s in scored]),
        long_levels=_summaries([s.long_levels for s in scored]),
        words=summarize([word_count(r) for r in responses]),
        questions=summarize([question_count(r) for r in responses]),
    )


def _summaries(levels: Sequence[dict[str, int]]) -> dict[str, Summary]:
    found = {name: summarize([row[name] for row in levels]) for name in levels[0]}
    if {"ER", "EX"} <= found.keys():
        found["ER + EX"] = summarize([row["ER"] + row["EX"] for row in levels])
    return found
