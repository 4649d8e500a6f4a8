"""Length and questions of replies."""

import pytest

from rellm_cache.metrics.replies import question_count, questions, word_count


@pytest.mark.parametrize(
    ("reply", "words", "questions"),
    [
        ("", 0, 0),
        ("I am so sorry.", 4, 0),
        ("Why? When did it start?", 5, 2),
        ("Really??  What?! No!?", 3, 3),
        ('She asked "why?" and left.', 5, 1),
        ("one\ntwo\tthree", 3, 0),
    ],
)
def test_words_and_questions(reply: str, words: int, questions: int) -> None:
    assert (word_count(reply), question_count(reply)) == (words, questions)


@pytest.mark.parametrize(
    ("reply", "asking"),
    [
        ("", []),
        ("I see. Why?", ["Why?"]),
        ("Really??  What?! no. A line\nand what is it?", ["Really?", "What?", "and what is it?"]),
        ("Oh… you too?", ["you too?"]),
        ("?", []),
    ],
)
def test_question_sentences(reply: str, asking: list[str]) -> None:
    assert questions(reply) == asking
