"""Reply length limit: cuts a text after a number of sentences, or after its first question.

The paper names long monologues that ask nothing as a limitation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A sentence ends in . ! ? or …, with what closes a quotation; something has to follow.
SENTENCE_END = re.compile(r"""[.!?…]+["'”\u2019»)\]*]*(?=\s)""")
NUMBERED_POINT = re.compile(r"(?:^|\n)[ \t]*\d+$")
ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "etc"})


@dataclass(frozen=True)
class ReplyLimit:
    """How long a reply may be.

    Attributes:
        sentences: most sentences; 0 for any number.
        after_question: whether its first question ends a reply.
    """

    sentences: int = 0
    after_question: bool = False

    def cut(self, text: str) -> str:
        """The text up to its limit; unchanged where it does not go beyond."""
        for number, (end, is_question) in enumerate(_sentence_ends(text), start=1):
            if number == self.sentences or (self.after_question and is_question):
                return text[:end] if text[end:].strip() else text
        return text


NO_LIMIT = ReplyLimit()


def _sentence_ends(text: str) -> Iterator[tuple[int, bool]]:
    """Places after each sentence that something follows, and whether it asks.

    The full stop of an abbreviation ("Dr."), an initial ("J.") or a numbered point ("1.") ends no
    sentence.
    """
    for mark in SENTENCE_END.finditer(text):
        before = text[: mark.start()]
        if mark.group() == "." and (_is_abbreviation(before) or NUMBERED_POINT.search(before)):
            continue
        yield mark.end(), "?" in mark.group()


def _is_abbreviation(before: str) -> bool:
    """Whether what comes before a full stop is shortened by it."""
    words = before.split()
    last = words[-1].lstrip("(\"'“*").lower() if words else ""
    return last in ABBREVIATIONS or (len(last) == 1 and last.isalpha() and last != "i")
