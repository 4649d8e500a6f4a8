"""What the LLM wrote, read. In: its text. Out: pairs of question and answer, or none.

LLMs write the form they were asked for in many ways: `Question: … Answer: …`, `Q1: …`,
`**Answer:**`, with numbers, bullets and quotation marks. What has no question followed by an answer
is not guessed.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

_LABEL = re.compile(
    r"^[\s*#>\-•\d.)(]*(?P<short>question|answer|q|a)\s*\d*\s*\**\s*:\**"  # at a line's start
    r"|\b(?P<long>question|answer)\s*\d*\s*\**\s*:\**",  # within a line
    re.IGNORECASE | re.MULTILINE,
)
_QUOTES = {'"': '"', "“": "”", "'": "'", "*": "*", "`": "`"}
_NEXT_ITEM = re.compile(r"\n\s*(?:\d+[.)]|[-*•#])\s*$")  # a bullet or number left of what follows


@dataclass(frozen=True)
class Pair:
    """A question and its answer."""

    question: str
    answer: str


def parse_pairs(text: str) -> list[Pair]:
    """All questions that an answer follows, in their order."""
    parts = []
    labels = [*_LABEL.finditer(text)]
    ends = [*(label.start() for label in labels[1:]), len(text)]
    for label, end in zip(labels, ends, strict=False):
        body = text[label.end() : end]
        parts.append((_letter(label), _clean(body)))
    return [
        Pair(first, second)
        for (label, first), (next_label, second) in pairwise(parts)
        if (label, next_label) == ("q", "a") and first and second
    ]


def parse_answer(text: str) -> str:
    """The answer to a given question: without its label and whatever question comes after it."""
    labels = [*_LABEL.finditer(text)]
    if labels and _letter(labels[0]) == "a":
        text = text[labels[0].end() : labels[1].start() if len(labels) > 1 else len(text)]
    elif labels:
        text = text[: labels[0].start()]
    return _clean(text)


def _letter(label: re.Match[str]) -> str:
    return str(label["short"] or label["long"])[0].lower()


def _clean(text: str) -> str:
    """Words on one line, without the marks around them."""
    text = _NEXT_ITEM.sub("", text)
    text = " ".join(text.split())
    inner = text[1:-1]
    if inner and text[-1] == _QUOTES.get(text[0]) and text[0] not in inner:
        return inner.strip()
    return text
