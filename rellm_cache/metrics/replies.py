"""What replies look like. In: texts. Out: their length in words and the questions they ask."""

import re

QUESTION = re.compile(r"[?!]*\?[?!]*")


def word_count(reply: str) -> int:
    """Words: runs of characters between spaces."""
    return len(reply.split())


def question_count(reply: str) -> int:
    """Questions: question marks, of which "??" and "?!" are one."""
    return len(QUESTION.findall(reply))
