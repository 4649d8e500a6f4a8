"""Totals of a corpus: differences from the expected ones."""

from rellm_cache.corpus.readers.base import Corpus, Total, wrong_totals


def test_equal_differences_of_one_kind_are_one_entry() -> None:
    totals = [Total("all", 36, 108), Total("sad", 36, 40)]
    totals += [Total(f"speaker {n:02}", 0 if n < 3 else 36, 36) for n in range(1, 5)]
    corpus = Corpus("ravdess", [], totals=tuple(totals))
    assert wrong_totals(corpus) == [
        "all: found 36, expected 108",
        "sad: found 36, expected 40",
        "speaker 01, 02: found 0, expected 36 each",
    ]
