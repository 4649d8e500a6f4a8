"""Filters of written questions. In: a pair and what is known of its clip. Out: why not, or None.

Each filter is a function of a `Candidate`; the first that gives a reason decides.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rellm_cache.config.qa import QAType
from rellm_cache.corpus.emotions import emotions_in
from rellm_cache.corpus.splits import text_key
from rellm_cache.llm.refusals import refusal_reason
from rellm_cache.qa.parse import Pair

# Words of the writer's request that a person who hears the clip would not use.
_SCAFFOLD = re.compile(r"\b(arousal|dominance|valence|metadata|transcript)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """A pair before it is a row for training.

    Attributes:
        pair: as read from what the LLM wrote.
        type: what was asked for.
        emotion: the utterance's label.
        emotions: all labels there are, the utterance's among them.
        earlier: questions of the same request before this one.
        guess: emotion → its probability from the transcript alone; None where it is not known.
        cut: the token limit cut the answer.
        answerable: from which probability on a guess counts.
    """

    pair: Pair
    type: QAType
    emotion: str
    emotions: tuple[str, ...]
    earlier: tuple[str, ...] = ()
    guess: Mapping[str, float] | None = None
    cut: bool = False
    answerable: float = 0.5


def reason_to_drop(candidate: Candidate) -> str | None:
    """The first filter's reason, or None: training may have it."""
    return next((r for f in FILTERS if (r := f(candidate)) is not None), None)


def is_refused(candidate: Candidate) -> str | None:
    """The LLM would not answer."""
    return refusal_reason(candidate.pair.answer)


def is_cut(candidate: Candidate) -> str | None:
    """A short answer was asked for: what is cut goes round in circles more often than not."""
    return "answer cut by the token limit" if candidate.cut else None


def repeats(candidate: Candidate) -> str | None:
    """The answer is the question again, or the question was there before."""
    question, answer = map(text_key, (candidate.pair.question, candidate.pair.answer))
    if answer == question:
        return "answer repeats the question"
    if question in map(text_key, candidate.earlier):
        return "question was there before"
    return None


def leaks_label(candidate: Candidate) -> str | None:
    """The question names the label alone. One that lists several emotions leaks none of them."""
    named = set(emotions_in(candidate.pair.question, candidate.emotions))
    return "question names the label" if named == {candidate.emotion} else None


def shows_scaffold(candidate: Candidate) -> str | None:
    """Question or answer speak of what only the writer was given."""
    pair = candidate.pair
    found = _SCAFFOLD.search(f"{pair.question} {pair.answer}")
    return "speaks of the metadata or transcript" if found else None


def names_another_emotion(candidate: Candidate) -> str | None:
    """The answer for the emotion must name the label and no other; that for a cause no other."""
    named = set(emotions_in(candidate.pair.answer, candidate.emotions))
    if candidate.type == "emotion" and not named:
        return "answer names no emotion"
    if candidate.type in ("emotion", "cause") and named - {candidate.emotion}:
        return "answer names another emotion"
    return None


def needs_no_voice(candidate: Candidate) -> str | None:
    """The writer finds the emotion from the transcript alone: the voice is not needed."""
    if candidate.type != "emotion" or not candidate.guess:
        return None
    likeliest = max(candidate.guess, key=candidate.guess.__getitem__)
    sure = candidate.guess[likeliest] >= candidate.answerable
    is_known = likeliest == candidate.emotion and sure
    return "answerable from the transcript alone" if is_known else None


FILTERS = (
    is_refused,
    is_cut,
    repeats,
    leaks_label,
    shows_scaffold,
    names_another_emotion,
    needs_no_voice,
)
