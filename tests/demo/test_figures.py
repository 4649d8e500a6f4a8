"""Figures of the demo: UA with intervals, gain by the stream, counts over answers."""

import pytest

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.demo.figures import count_answers, ua_gain, ua_interval
from rellm_cache.inference.responders import Generation

EMOTIONS = ("happy", "sad")


def predictions(right: int, of: int = 40) -> dict[str, dict[str, str]]:
    """Rows of which `right` of each emotion are recognized."""
    other = dict(zip(EMOTIONS, reversed(EMOTIONS), strict=True))
    return {
        f"{emotion}-{i}": {"emotion": emotion, "head": emotion if i < right else other[emotion]}
        for emotion in EMOTIONS
        for i in range(of)
    }


def test_ua_and_its_interval() -> None:
    found = ua_interval(predictions(30), "head")
    assert found.value == pytest.approx(0.75)
    # The normal approximation: 0.75 -+ 1.96 sqrt(0.75 * 0.25 / 80).
    assert (found.low, found.high) == pytest.approx((0.655, 0.845), abs=0.03)


def test_gain_is_paired_by_clip() -> None:
    found = ua_gain(predictions(36), predictions(30), "head")
    assert found.value == pytest.approx(0.15)
    assert 0.0 < found.low < 0.15 < found.high
    backwards = dict(reversed(predictions(30).items()))
    assert ua_gain(predictions(30), backwards, "head").low == 0.0


def test_answers_are_counted() -> None:
    said = {
        "a": ("mia", "It rains.", "How wonderful!", False),
        "b": ("mia", "It rains.", "I am so sorry.", False),
        "c": ("mia", "It rains.", "How wonderful!", False),
        "d": ("tom", "It rains.", "no no no no no", True),
    }
    clips = {k: Utterance(k, f"{k}.wav", text=t, speaker=s) for k, (s, t, _, _) in said.items()}
    answers = [Generation(k, f"{k}.wav", t, r, cut) for k, (_, t, r, cut) in said.items()]
    found = count_answers(answers, clips)
    assert (found.answers, found.repeating, found.cut) == (4, 1, 1)
    assert (found.pairs, found.different) == (3, 2)  # a and b, b and c differ; a and c do not
