"""What the LLM wrote, read. In: its text. Out: pairs of question and answer, or none.

LLMs write the form they were asked for in many ways: `Question: … Answer: …`, `Q1: …`,
`**Answer:**`, with numbers, bullets and quotation marks. A label begins a line or a sentence;
within one "question:" is a word like others, and "answer:" too, unless the question has no other.
What has no question followed by an answer is not guessed.
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
_NEXT_ITEM = re.compile(r"\n\s*(?:\d+[.)]|[-*•#])\s*$")  # a bullet or number left of what follows


@dataclass(frozen=True)
class Pair:
    """A question and its answer."""

    question: str
    answer: str


def parse_pairs(text: str) -> list[Pair]:
    """All questions that an answer follows, in their order."""
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
