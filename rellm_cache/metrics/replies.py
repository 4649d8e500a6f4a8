"""Length of replies in words, and the questions they ask."""

import re

QUESTION = re.compile(r"[?!]*\?[?!]*")
ASKING = re.compile(r"[^.!?…\n]*\?")  # from the end of the previous sentence to the question mark


def word_count(reply: str) -> int:
    """Number of words: runs of characters without white space."""
    return len(reply.split())


def question_count(reply: str) -> int:
    """Number of questions: runs of question marks; "??" and "?!" count once."""
    return len(QUESTION.findall(reply))


def questions(reply: str) -> list[str]:
    """The sentences that end with a question mark."""
    return [found.strip() for found in ASKING.findall(reply) if found.strip() != "?"]
