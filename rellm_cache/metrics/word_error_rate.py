"""How well speech was written down. In: a reference and a transcript. Out: errors in words."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

APOSTROPHES = "'\u2018\u2019\u02bc"


@dataclass(frozen=True)
class WordErrors:
    """Errors against a number of reference words.

    Attributes:
        errors: words to substitute, insert or delete, at the least.
        words: of the reference.
    """

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """Word error rate: errors for each reference word, 0 or more; NaN without words."""
        return self.errors / self.words if self.words else float("nan")


def word_errors(reference: str, transcript: str) -> WordErrors:
    """The errors of one transcript, both texts as `normalize_words` has them."""
    said, heard = normalize_words(reference), normalize_words(transcript)
    return WordErrors(_distance(said, heard), len(said))


def total_errors(parts: Iterable[WordErrors]) -> WordErrors:
    """Errors of several transcripts together: long ones weigh more."""
    errors = words = 0
    for part in parts:
        errors, words = errors + part.errors, words + part.words
    return WordErrors(errors, words)


def normalize_words(text: str) -> list[str]:
    """Words in lower case without punctuation.

    An apostrophe joins ("don't" is "dont"), any other mark parts ("well-known" is two words).
    Numbers stay as they are written: "2" is not "two".
    """
    kept = []
    for letter in unicodedata.normalize("NFKC", text).lower():
        if letter in APOSTROPHES:
            continue
        kept.append(" " if unicodedata.category(letter)[0] in "PS" else letter)
    return "".join(kept).split()


def _distance(said: list[str], heard: list[str]) -> int:
    """Levenshtein's distance between two lists of words."""
    if said == heard:
        return 0
    above = list(range(len(heard) + 1))
    for row, word in enumerate(said, 1):
        current = [row]
        for column, other in enumerate(heard, 1):
            replaced = above[column - 1] + (word != other)
            current.append(min(replaced, above[column] + 1, current[-1] + 1))
        above = current
    return above[-1]
