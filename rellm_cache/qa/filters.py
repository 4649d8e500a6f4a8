"""Filters for generated questions: functions of a `Candidate` that give a reason to drop it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rellm_cache.config.qa import QAType
from rellm_cache.corpus.emotions import emotions_in
from rellm_cache.corpus.splits import text_key
from rellm_cache.llm.refusals import refusal_reason
from rellm_cache.qa.parse import Pair

# Words of the request that a listener would not use.
_REQUEST_WORDS = re.compile(r"\b(arousal|dominance|valence|metadata|transcript)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """A question and answer that may become a training row."""

    pair: Pair  # question and answer from the LLM's text
    type: QAType  # type of the question
    emotion: str  # the utterance's label
    emotions: tuple[str, ...]  # all labels
    earlier: tuple[str, ...] = ()  # earlier questions of the same request
    guess: Mapping[str, float] | None = None  # emotion → probability by the transcript alone
    cut: bool = False  # whether the token limit cut the answer
    answerable: float = 0.5  # lowest probability at which a guess counts


def reason_to_drop(candidate: Candidate) -> str | None:
    """The reason of the first filter that drops the candidate, or None."""
    return next((r for f in FILTERS if (r := f(candidate)) is not None), None)


def is_refused(candidate: Candidate) -> str | None:
    """Drop refusals and empty answers."""
    return refusal_reason(candidate.pair.answer)


def is_cut(candidate: Candidate) -> str | None:
    """Drop answers that the token limit cut: the request asks for a short answer."""
    return "answer cut by the token limit" if candidate.cut else None


def repeats(candidate: Candidate) -> str | None:
    """Drop an answer that equals its question, and a question that occurred before."""
    question, answer = map(text_key, (candidate.pair.question, candidate.pair.answer))
    if answer == question:
        return "answer repeats the question"
    if question in map(text_key, candidate.earlier):
        return "question was there before"
    return None


def leaks_label(candidate: Candidate) -> str | None:
    """Drop a question that names the label and no other emotion."""
    named = set(emotions_in(candidate.pair.question, candidate.emotions))
    return "question names the label" if named == {candidate.emotion} else None


def mentions_request(candidate: Candidate) -> str | None:
    """Drop questions and answers about metadata or transcript, which only the writer sees."""
    pair = candidate.pair
    found = _REQUEST_WORDS.search(f"{pair.question} {pair.answer}")
    return "speaks of the metadata or transcript" if found else None


def names_another_emotion(candidate: Candidate) -> str | None:
    """Drop emotion answers without an emotion, and emotion or cause answers with a wrong one."""
    named = set(emotions_in(candidate.pair.answer, candidate.emotions))
    if candidate.type == "emotion" and not named:
        return "answer names no emotion"
    if candidate.type in ("emotion", "cause") and named - {candidate.emotion}:
        return "answer names another emotion"
    return None


def is_answerable_from_text(candidate: Candidate) -> str | None:
    """Drop an emotion question that the writer can answer from the transcript alone."""
    if candidate.type != "emotion" or not candidate.guess:
        return None
    best = max(candidate.guess, key=candidate.guess.__getitem__)
    sure = candidate.guess[best] >= candidate.answerable
    is_known = best == candidate.emotion and sure
    return "answerable from the transcript alone" if is_known else None


FILTERS = (
    is_refused,
    is_cut,
    repeats,
    leaks_label,
    mentions_request,
    names_another_emotion,
    is_answerable_from_text,
)
