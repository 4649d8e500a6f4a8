"""Replies in numbers: their length in words, the questions they ask, and repetition."""

import re

QUESTION = re.compile(r"[?!]*\?[?!]*")
ASKING = re.compile(r"[^.!?…\n]*\?")  # from the end of the previous sentence to the question mark
CIRCLE = re.compile(r"(.{2,40}?)\1\1", re.S)  # a piece of text three times in a row


def word_count(reply: str) -> int:
    """Number of words: runs of characters without white space."""
    return len(reply.split())


def question_count(reply: str) -> int:
    """Number of questions: runs of question marks; "??" and "?!" count once."""
    return len(QUESTION.findall(reply))


def questions(reply: str) -> list[str]:
    """The sentences that end with a question mark."""
    return [found.strip() for found in ASKING.findall(reply) if found.strip() != "?"]


def repeats_itself(reply: str) -> bool:
    """Whether a reply runs in circles.

    It does if three words in a row occur again in it, or if a piece of text of two to forty
    characters follows itself at least twice, as "Letsususus" or "no, no, no, ". Upper and lower
    case count as the same.

    Example:
        >>> repeats_itself("I am glad that I am glad that you came.")
        True
        >>> repeats_itself("I am glad that you came.")
        False
    """
    words = re.findall(r"[\w'\u2019]+", reply.lower())
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(triples)) < len(triples) or CIRCLE.search(reply.lower()) is not None
