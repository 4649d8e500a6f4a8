"""Length and questions of replies."""

import pytest

from rellm_cache.metrics.replies import question_count, questions, repeats_itself, word_count


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


@pytest.mark.parametrize(
    ("reply", "repeats"),
    [
        ("", False),
        ("I am so sorry that your brother has to move back home.", False),
        ("Really? Oh no, no! That is so, so sad.", False),
        ("I'm glad to see you. I'm glad to hear it.", True),  # "I'm glad to"
        ("I'm glad to see you. I am glad to hear it.", False),
        ("Letsusususususu", True),
        ("Sorry, sorry, sorry, ", True),
        ("Sorry, Sorry, sorry, ", True),
        ("I see that. And THAT I see. I see that", True),
        ("!!!!!!", True),
        ("Wow!!!", False),
    ],
)
def test_replies_in_circles(reply: str, repeats: bool) -> None:
    assert repeats_itself(reply) is repeats
