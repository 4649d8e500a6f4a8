"""Reply limit: cuts after sentences and questions."""

import pytest

from rellm_cache.llm.sentence_limit import ReplyLimit

REPLY = "I am so sorry. That sounds hard! How are you now? I am here. Take care."


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (ReplyLimit(), REPLY),
        (ReplyLimit(sentences=1), "I am so sorry."),
        (ReplyLimit(sentences=2), "I am so sorry. That sounds hard!"),
        (ReplyLimit(sentences=5), REPLY),
        (ReplyLimit(sentences=9), REPLY),
        (ReplyLimit(after_question=True), "I am so sorry. That sounds hard! How are you now?"),
        (ReplyLimit(1, after_question=True), "I am so sorry."),
        (ReplyLimit(4, after_question=True), "I am so sorry. That sounds hard! How are you now?"),
    ],
)
def test_a_reply_is_cut_after_its_limit(limit: ReplyLimit, kept: str) -> None:
    assert limit.cut(REPLY) == kept
    assert limit.cut(kept) == kept


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith, i.e. J. Smith, knows.",
        "It costs 3.50 or more.",
        'He said "why?!"',
        "Well...",
        "1. Breathe in slowly.",
        "So I did.",
        "It was in 2020.",
    ],
)
def test_full_stops_that_do_not_end_a_sentence(sentence: str) -> None:
    assert ReplyLimit(sentences=1).cut(f"{sentence} Then another.") == sentence


def test_a_text_of_at_most_one_sentence_is_unchanged() -> None:
    for text in ("", "   ", "no end", "One.", "One. "):
        assert ReplyLimit(1, after_question=True).cut(text) == text
