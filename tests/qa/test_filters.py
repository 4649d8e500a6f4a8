"""Filters: each with texts of LLMs that it drops and keeps."""

from typing import Any

import pytest

from rellm_cache.config.qa import QAType
from rellm_cache.qa.filters import Candidate, reason_to_drop
from rellm_cache.qa.parse import Pair

EMOTIONS = ("neutral", "happy", "angry", "sad", "surprise")


def candidate(question: str, answer: str, kind: QAType, **more: Any) -> Candidate:
    return Candidate(Pair(question, answer), kind, "sad", EMOTIONS, **more)


@pytest.mark.parametrize(
    ("question", "answer", "kind", "reason"),
    [
        ("What is said?", "I'm sorry, but I cannot help with that.", "content", "refusal"),
        ("How does the speaker feel?", "As an AI language model …", "emotion", "refusal"),
        ("What is said?", "What is said?", "content", "answer repeats the question"),
        ("Why is the speaker so sad?", "The dog is gone.", "cause", "question names the label"),
        ("What explains her SADNESS?", "The dog is gone.", "cause", "question names the label"),
        ("Is the speaker sad or happy?", "The speaker is sad.", "emotion", None),
        (
            "Why does the speaker feel so?",
            "The speaker is sad, arousal is low, valence is low.",
            "cause",
            "speaks of the metadata or transcript",
        ),
        (
            "What does the transcript say?",
            "A dog.",
            "content",
            "speaks of the metadata or transcript",
        ),
        ("How does it sound?", "The speaker is tired.", "emotion", "answer names no emotion"),
        ("How does it sound?", "Angry.", "emotion", "answer names another emotion"),
        ("How does it sound?", "Sad or angry.", "emotion", "answer names another emotion"),
        ("How does it sound?", "There is sadness in the voice.", "emotion", None),
        ("Why?", "They are happy to be home.", "cause", "answer names another emotion"),
        ("What do you reply?", "I would be happy to listen.", "reply", None),
        ("What is said?", "Dogs are sitting by the door.", "content", None),
    ],
)
def test_reasons(question: str, answer: str, kind: QAType, reason: str | None) -> None:
    assert reason_to_drop(candidate(question, answer, kind)) == reason


def test_a_repeated_question_is_dropped() -> None:
    again = candidate("what is said", "A dog.", "content", earlier=("What is said?",))
    assert reason_to_drop(again) == "question was there before"


def test_a_cut_answer_is_dropped() -> None:
    looped = candidate("What is said?", "Dogs are. Dogs are. Dogs", "content", cut=True)
    assert reason_to_drop(looped) == "answer cut by the token limit"


@pytest.mark.parametrize(
    ("kind", "guess", "answerable", "drops"),
    [
        ("emotion", {"sad": 0.6, "happy": 0.4}, 0.5, True),
        ("emotion", {"sad": 0.6, "happy": 0.4}, 0.7, False),
        ("emotion", {"sad": 0.4, "happy": 0.35, "angry": 0.25}, 0.0, True),
        ("emotion", {"sad": 0.3, "happy": 0.7}, 0.0, False),
        ("emotion", None, 0.0, False),
        ("cause", {"sad": 0.9, "happy": 0.1}, 0.0, False),
    ],
)
def test_a_question_answerable_from_the_transcript_is_dropped(
    kind: QAType, guess: dict[str, float] | None, answerable: float, drops: bool
) -> None:
    asked = candidate("How?", "The speaker is sad.", kind, guess=guess, answerable=answerable)
    reason = reason_to_drop(asked)
    assert reason == ("answerable from the transcript alone" if drops else None)
