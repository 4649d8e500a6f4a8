"""Word normalization and word errors."""

import math

import pytest

from rellm_cache.metrics.word_error_rate import (
    WordErrors,
    normalize_words,
    word_errors,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" - … !", []),
        ("Kids are talking by the door.", ["kids", "are", "talking", "by", "the", "door"]),
        ("I don't, I don\u2019t!", ["i", "dont", "i", "dont"]),
        ("A well-known\tname/place", ["a", "well", "known", "name", "place"]),
        ("Ünal paid $5.", ["ünal", "paid", "5"]),
        ("\uff2f\uff2b", ["ok"]),
    ],
)
def test_words_are_lower_case_without_punctuation(text: str, words: list[str]) -> None:
    assert normalize_words(text) == words


@pytest.mark.parametrize(
    ("reference", "transcript", "errors", "words"),
    [
        ("The door.", "the door", 0, 2),
        ("Dogs are sitting", "Docs are sitting", 1, 3),
        ("Dogs are sitting", "Dogs sitting", 1, 3),
        ("Dogs are sitting", "The dogs are sitting down", 2, 3),
        ("a b c d", "b c d a", 2, 4),
        ("Dogs are sitting", "", 3, 3),
        ("Yes", "no no no", 3, 1),
        ("", "noise", 1, 0),
    ],
)
def test_errors_are_the_fewest_changes(
    reference: str, transcript: str, errors: int, words: int
) -> None:
    assert word_errors([reference], [transcript]) == WordErrors(errors, words)


def test_long_texts_weigh_more() -> None:
    total = word_errors(["a b", "c d e f g h i j"], ["a x", "c d e f g h i j"])
    assert (total, total.rate) == (WordErrors(1, 10), 0.1)
    assert WordErrors(3, 1).rate == 3.0
    assert math.isnan(word_errors([], []).rate)
