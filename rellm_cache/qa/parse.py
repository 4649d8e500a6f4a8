"""Parser for questions and answers in the text of an LLM.

LLMs write the requested form in many ways: `Question: … Answer: …`, `Q1: …`, `**Answer:**`, with
numbers, bullets and quotation marks. A label starts a line or a sentence. Elsewhere "question:" is
an ordinary word. So is "answer:", unless the question has no other answer. A text gives a pair only
if it has both a question and its answer.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

_LABEL = re.compile(
    r"^[\s*#>\-•\d.)(]*(?P<short>question|answer|q|a)\s*\d*\s*\**\s*:\**"  # a line
    r"|(?:(?<=[.!?…:])|(?<=[.!?…:][\"”')*])|(?<=[.!?…:]\*\*))\s+(?:\d+[.)]\s+)?"  # a sentence
    r"\**(?P<long>question|answer)\s*\d*\s*\**\s*:\**",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER_WITHIN = re.compile(r"\banswer\s*\d*\s*\**\s*:\**", re.IGNORECASE)
_QUOTES = {'"': '"', "“": "”", "'": "'", "*": "*", "`": "`"}
_NEXT_ITEM = re.compile(r"\n\s*(?:\d+[.)]|[-*•#])\s*$")  # bullet or number of the next item


@dataclass(frozen=True)
class Pair:
    """A question and its answer."""

    question: str
    answer: str


def parse_pairs(text: str) -> list[Pair]:
    """All pairs of a question and the answer after it, in order."""
    labels = [*_LABEL.finditer(text)]
    ends = [*(label.start() for label in labels[1:]), len(text)]
    parts = [
        (_letter(label), text[label.end() : end]) for label, end in zip(labels, ends, strict=False)
    ]
    pairs = []
    for (label, question), (next_label, answer) in pairwise([*parts, ("", "")]):
        if label != "q":
            continue
        if next_label != "a":
            question, answer = [*_ANSWER_WITHIN.split(question, maxsplit=1), ""][:2]
        pair = Pair(_clean(question), _clean(answer))
        if pair.question and pair.answer:
            pairs.append(pair)
    return pairs


def parse_answer(text: str) -> str:
    """The answer to a given question, without its label and without later questions."""
    labels = [*_LABEL.finditer(text)]
    if labels and _letter(labels[0]) == "a":
        text = text[labels[0].end() : labels[1].start() if len(labels) > 1 else len(text)]
    elif labels:
        text = text[: labels[0].start()]
    return _clean(text)


def _letter(label: re.Match[str]) -> str:
    return str(label["short"] or label["long"])[0].lower()


def _clean(text: str) -> str:
    """Text on one line, without surrounding quotation marks."""
    text = _NEXT_ITEM.sub("", text)
    text = " ".join(text.split())
    inner = text[1:-1]
    if inner and text[-1] == _QUOTES.get(text[0]) and text[0] not in inner:
        return inner.strip()
    return text
