"""Word error rate (WER) of transcripts against reference texts."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

APOSTROPHES = "'\u2018\u2019\u02bc"


@dataclass(frozen=True)
class WordErrors:
    """Substitutions, insertions and deletions, and the number of words in the references."""

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """Errors per reference word, 0 or more; NaN without words."""
        return self.errors / self.words if self.words else float("nan")


def word_errors(references: Sequence[str], transcripts: Sequence[str]) -> WordErrors:
    """Errors of transcripts (N) against references (N), both normalized by `normalize_words`.

    Errors and words are summed over all pairs, so a long text weighs more than a short one.
    """
    found = jiwer.process_words(
        [" ".join(normalize_words(text)) for text in references],
        [" ".join(normalize_words(text)) for text in transcripts],
    )
    missed = found.substitutions + found.deletions  # reference words
    return WordErrors(missed + found.insertions, missed + found.hits)


def normalize_words(text: str) -> list[str]:
    """Words in lower case without punctuation.

    Apostrophes are removed ("don't" becomes "dont"); any other mark separates words ("well-known"
    is two words). Numbers stay as they are: "2" is not "two".
    """
    kept = []
    for letter in unicodedata.normalize("NFKC", text).lower():
        if letter in APOSTROPHES:
            continue
        kept.append(" " if unicodedata.category(letter)[0] in "PS" else letter)
    return "".join(kept).split()
