"""Fields of a row of JSON. In: a row and what its fields must be. Out: nothing, or why not."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from rellm_cache.errors import ManifestError

Field = tuple[Callable[[Any], bool], str]  # whether a value fits, and what is expected


def check_fields(row: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> None:
    """Raise `ManifestError`, beginning with `where`, for a value that is neither null nor fits."""
    for name, (fits, expected) in fields.items():
        if (value := row.get(name)) is not None and not fits(value):
            raise ManifestError(f"{where}: found {name} {value!r}, expected {expected}")


def check_text(fields: Mapping[str, Any], where: str) -> None:
    """Raise `ManifestError` for a field that holds half of a character.

    JSON can name a lone surrogate, as `\\ud800`, and Python gives one for each byte of a file's
    name that is no UTF-8. Neither can be written to a file again.
    """
    if _can_be_written(fields):
        return
    name, value = next((n, v) for n, v in fields.items() if not _can_be_written({n: v}))
    raise ManifestError(
        f"{where}: found {name} {value!r} with a lone surrogate, which is half of a character; "
        "expected Unicode text: mend the text, or rename the file to UTF-8"
    )


def _can_be_written(fields: Mapping[str, Any]) -> bool:
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(value: object) -> str:
    """An id, a speaker or a text as text: the number 0 is "0", null is nothing."""
    return "" if value is None else str(value)


def is_number(value: object) -> bool:
    """Whether it is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: object) -> bool:
    """Whether it is text."""
    return isinstance(value, str)


def is_name(value: object) -> bool:
    """Whether it can name a clip or a speaker: text, or a number."""
    return is_text(value) or is_number(value)


def is_truth(value: object) -> bool:
    """Whether it is true or false; text that says so is not."""
    return isinstance(value, bool)


def is_object(value: object) -> bool:
    """Whether it is an object of JSON."""
    return isinstance(value, dict)


def is_duration(value: Any) -> bool:
    """Whether it can be a number of seconds."""
    return is_number(value) and 0 <= value < math.inf


def is_segment(value: Any) -> bool:
    """Whether it is a list of two durations, the second longer."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(is_duration, value))
        and bool(value[0] < value[1])
    )


def one_of(*names: str) -> Field:
    """One of some names, or nothing."""
    return (lambda value: value in ("", *names)), f"one of {', '.join(names)}"
