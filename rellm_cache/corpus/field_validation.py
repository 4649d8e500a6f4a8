"""Field validation for JSON rows: types, lists of allowed values, valid Unicode."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from rellm_cache.errors import ManifestError

INVISIBLE = str.maketrans("", "", "\ufeff\u200b\u200c\u200d\u2060")  # marks, zero-width spaces

SLOWEST, FASTEST = 0.5, 2.0  # times the original speed

Field = tuple[Callable[[Any], bool], str]  # (test of a value, description of valid values)


def check_fields(row: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> None:
    """Raise `ManifestError` if a value is invalid and not null; the message starts with `where`."""
    for name, value in row.items():
        if value is None or (known := fields.get(name)) is None:
            continue
        if type(value) is str and (known is TEXT or known is NAME):  # most values, quickly
            continue
        if not known[0](value):
            raise ManifestError(f"{where}: found {name} {value!r}, expected {known[1]}")


def check_text(fields: Mapping[str, Any], where: str) -> None:
    """Raise `ManifestError` for a field with a lone surrogate, which cannot be written to a file.

    Surrogates come from JSON escapes such as `\\ud800` and from file names that are not UTF-8.
    """
    if _can_be_written(fields):
        return
    name, value = next((n, v) for n, v in fields.items() if not _can_be_written({n: v}))
    raise ManifestError(
        f"{where}: found {name} {value!r} with a lone surrogate, which is half of a character; "
        "expected Unicode text: correct the text, or rename the file to UTF-8"
    )


def _can_be_written(fields: Mapping[str, Any]) -> bool:
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_name(name: str) -> str:
    """A field's name in lower case, without spaces and invisible marks: to find a near match."""
    return "".join(name.translate(INVISIBLE).casefold().split())


def as_text(value: object) -> str:
    """A value as text: the number 0 becomes "0", null becomes ""."""
    return "" if value is None else str(value)


def is_number(value: object) -> bool:
    """Whether a value is a number; true and false do not count as numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_seconds(value: Any) -> bool:
    """Whether a value is a finite number of seconds, 0 or more."""
    return is_number(value) and 0 <= value < math.inf


def is_segment(value: Any) -> bool:
    """Whether a value is a list of two times in seconds, the second later."""
    fits = isinstance(value, list) and len(value) == 2 and all(map(is_seconds, value))
    return fits and bool(value[0] < value[1])


def is_speed(value: Any) -> bool:
    """Whether a value is a speed at which speech stays speech."""
    return is_number(value) and SLOWEST <= value <= FASTEST


def is_sha256(value: Any) -> bool:
    """Whether a value is a SHA-256 digest as hex digits in lower case."""
    return isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{64}", value))


def one_of(*names: str) -> Field:
    """A field that holds one of `names` or empty text."""
    return (lambda value: value in ("", *names)), f"one of {', '.join(names)}"


TEXT: Field = (lambda value: isinstance(value, str), "text")
NAME: Field = (lambda value: isinstance(value, str) or is_number(value), "text or a number")
BOOL: Field = (lambda value: isinstance(value, bool), "true or false")
SECONDS: Field = (is_seconds, "seconds")
SPEED: Field = (is_speed, f"a number, {SLOWEST} to {FASTEST}")
SHA256: Field = (is_sha256, "64 hex digits")
SEGMENT: Field = (is_segment, "[start, end] in seconds, start < end")


def json_object(contents: str) -> Field:
    """A field that holds a JSON object."""
    return (lambda value: isinstance(value, dict)), f"an object of {contents}"
