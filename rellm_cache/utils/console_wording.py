"""Counts in messages. In: a number and what is counted. Out: both, as one says it."""


def counted(count: int, one: str, many: str = "") -> str:
    """A count and its noun: `1 clip`, `3 clips`.

    Args:
        one: what follows a 1; with a verb where the message has one, as `clip is`.
        many: what follows any other number; empty for `one` with an s.
    """
    return f"{count} {one if count == 1 else many or one + 's'}"
