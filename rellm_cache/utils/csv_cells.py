"""CSV cells that a spreadsheet would compute: neutralized when written, restored when read."""

import re

_FORMULA = re.compile(r"^'('*[=+\-@\t\r])")  # after an apostrophe, which stops spreadsheets
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


def neutralize(cell: object) -> object:
    """A cell with one more apostrophe if a formula, or apostrophes and a formula, begin it.

    Numbers stay as they are, also as text: `-0.5` is no formula.
    """
    if cell is None or isinstance(cell, bool | int | float):
        return cell
    text = str(cell)
    return f"'{text}" if _FORMULA.match(f"'{text}") and not _NUMBER.fullmatch(text) else text


def restore(cell: str) -> str:
    """The text that `neutralize` was given."""
    return _FORMULA.sub(r"\1", cell)
