"""Where a reply ends. In: text as it grows. Out: the text, cut after so many sentences.

The paper names long monologues that ask nothing as a limitation. A limit ends a reply after some
sentences, after its first question, or after whichever comes first.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

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


class LimitReached(StoppingCriteria):
    """Ends rows of a generation whose text has gone past a limit."""

    def __init__(self, limit: ReplyLimit, tokenizer: Any) -> None:
        self._limit = limit
        self._tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """(B,) bool for generated ids (B, T)."""
        texts: Sequence[str] = self._tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        past = [self._limit.cut(text) != text for text in texts]
        return torch.tensor(past, dtype=torch.bool, device=input_ids.device)
