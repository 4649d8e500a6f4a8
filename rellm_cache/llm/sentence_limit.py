"""Sentence limit of a reply: cuts it after a number of sentences, or after its first question.

The paper names long replies without a question as a limitation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A sentence ends with . ! ? or …, with closing quotation marks, and more text follows.
SENTENCE_END = re.compile(r"""[.!?…]+["'”\u2019»)\]*]*(?=\s)""")
NUMBERED_POINT = re.compile(r"(?:^|\n)[ \t]*\d+$")
ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "etc"})


@dataclass(frozen=True)
class ReplyLimit:
    """Maximum number of sentences of a reply (0: no limit); whether its first question ends it."""

    sentences: int = 0
    after_question: bool = False

    def cut(self, text: str) -> str:
        """Cut a text at the limit; a shorter text is unchanged."""
        for number, (end, is_question) in enumerate(_sentence_ends(text), start=1):
            if number == self.sentences or (self.after_question and is_question):
                return text[:end] if text[end:].strip() else text
        return text


NO_LIMIT = ReplyLimit()


def _sentence_ends(text: str) -> Iterator[tuple[int, bool]]:
    """End positions of all sentences but the last, and whether each is a question.

    A full stop after an abbreviation ("Dr."), an initial ("J.") or a number ("1.") at the start of
    a line does not end a sentence.
    """
    for mark in SENTENCE_END.finditer(text):
        before = text[: mark.start()]
        if mark.group() == "." and (_is_abbreviation(before) or NUMBERED_POINT.search(before)):
            continue
        yield mark.end(), "?" in mark.group()


def _is_abbreviation(before: str) -> bool:
    """Whether the last word before a full stop is an abbreviation or an initial."""
    words = before.split()
    last = words[-1].lstrip("(\"'“*").lower() if words else ""
    return last in ABBREVIATIONS or (len(last) == 1 and last.isalpha() and last != "i")
