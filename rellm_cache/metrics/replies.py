"""What replies look like. In: texts. Out: their length in words and the questions they ask."""

import re

QUESTION = re.compile(r"[?!]*\?[?!]*")
ASKING = re.compile(r"[^.!?…\n]*\?")  # from the end of the sentence before to the question mark


def word_count(reply: str) -> int:
    """Words: runs of characters between spaces."""
    return len(reply.split())


def question_count(reply: str) -> int:
    """Questions: question marks, of which "??" and "?!" are one."""
    return len(QUESTION.findall(reply))


def questions(reply: str) -> list[str]:
    """The sentences that ask, each up to its question mark."""
    return [found.strip() for found in ASKING.findall(reply) if found.strip() != "?"]
