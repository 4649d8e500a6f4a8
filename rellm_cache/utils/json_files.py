"""JSON and UTF-8 text files: reading, with errors that name file, line, cause and fix.

This is the only decoder of JSON. `decode` and `load` raise errors of Python, for readers that tell
damage from a missing file; the others raise the error of the caller.
"""

import dataclasses
import json
import shlex
import types
import typing
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar

from rellm_cache.errors import RellmError
from rellm_cache.utils.regular_files import read_regular, why_unreadable

LARGE = 10**18  # integers beyond it are rare, and are looked at
INTEGER_DIGITS = 300  # more than this no float can hold
DEPTH = 100  # brackets in brackets; Python's own functions fail at about a thousand
SHOWN = 60  # characters of a line in a message
TOGETHER = 1000  # lines that are decoded at once
SEPARATOR = ",NaN,"  # between them

Record = TypeVar("Record")


class DepthError(ValueError):
    """Brackets are nested deeper than any file of rellm has them."""


def read_utf8(path: Path, error: type[RellmError], fix: str) -> str:
    """Read a UTF-8 text file, without its byte order mark.

    Raises `error` if it is no regular file, cannot be read, or is not UTF-8; then the message names
    the line, and the command that converts the file. The message ends with `fix`.
    """
    try:
        data = read_regular(path)
    except (OSError, ValueError) as found:  # ValueError: a NUL character in the path
        raise error(f"{path}: {why_unreadable(found, path)}; {fix}") from found
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as found:
        line, bad = data.count(b"\n", 0, found.start) + 1, data[found.start : found.end]
        raise error(
            f"{path}:{line}: not UTF-8 text (found bytes {bad!r}{_conversion(path, data, line)}); "
            f"save it as UTF-8; {fix}"
        ) from found


def _conversion(path: Path, data: bytes, line: int) -> str:
    """Which encoding a text may have, and the command that converts it; empty if unknown."""
    encoding, shown = "WINDOWS-1252", ""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "UTF-16"
    else:
        try:
            text = data.split(b"\n")[line - 1].decode("cp1252")
            data.decode("cp1252")
        except UnicodeDecodeError:
            return ""
        if not all(c.isprintable() or c in "\t\r" for c in text):
            return ""
        shown = f", in which line {line} is {text.strip()[:SHOWN]!r}"
    name = shlex.quote(str(path))
    return f": {encoding}{shown}? Then `iconv -f {encoding} -t UTF-8 {name} > NEW` converts it"


def read_object(path: Path, error: type[RellmError], fix: str) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises `error` if the file cannot be read or holds no object; its message ends with `fix`.
    """
    return parse_object(read_utf8(path, error, fix), str(path), error, fix)


def parse_object(
    text: str | bytes, where: str, error: type[RellmError], fix: str, strict: bool = False
) -> dict[str, Any]:
    """Parse one JSON object; `where` names its place, `strict` is as in `decode`.

    Raises `error` if the text is not one JSON object; its message ends with `fix`.
    """
    try:
        if isinstance(text, bytes):
            text = _to_text(text)
        content = decode(text, strict)
    except DepthError as found:
        raise error(f"{where}: not JSON ({found}); {fix}") from found
    except ValueError as found:
        raise error(
            f"{where}: not JSON (found {text[:40]!r}, expected a JSON object: {found}); {fix}"
        ) from found
    if not isinstance(content, dict):
        raise error(f"{where}: expected a JSON object, found {content!r:.40}; {fix}")
    return content


def load(path: Path) -> Any:
    """The JSON value in a file.

    Raises `OSError` if it cannot be read or is no regular file, `ValueError` if it is not JSON.
    """
    return decode(read_regular(path))


def decode(text: str | bytes, strict: bool = False) -> Any:
    """Decode a JSON value.

    Args:
        strict: of manifests: read NaN as null, and refuse a name that occurs twice. Halves of
            characters are left to the caller, which names the field.

    Raises `ValueError` if the text is not JSON, or has more brackets or digits than anything holds.
    """
    if isinstance(text, bytes):
        text = _to_text(text)
    try:
        value = (_STRICT if strict else _DECODER).decode(text)
    except RecursionError as found:
        raise DepthError("brackets are nested too deep") from found
    # Counting brackets is much faster than a walk, which few texts then need.
    if text.count("[") + text.count("{") > DEPTH and _is_deep(value):
        raise DepthError(f"brackets are nested too deep, more than {DEPTH} times")
    if not strict and "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as found:
            raise ValueError("half of a character (a surrogate)") from found
    return value


def _to_text(data: bytes) -> str:
    """Bytes as JSON's text: UTF-8, or UTF-16 and UTF-32 by their zero bytes."""
    return data.decode(json.detect_encoding(data))


def build_record(kind: type[Record], content: Any) -> Record:
    """Build a dataclass from the JSON object that `dataclasses.asdict` gives.

    Raises `ValueError` that names the field which is missing, unknown, or of another type.
    """
    return typing.cast("Record", _convert(kind, content, kind.__name__))


def _convert(hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type of a field."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return None
        hint = next(member for member in inner if member is not type(None))
        return _convert(hint, value, name)
    if hint is Any:
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _convert_fields(hint, value, name)
    if origin is typing.Literal:
        if value not in inner:
            raise ValueError(f"{name}: found {value!r:.40}, expected one of {inner}")
        return value
    kind = origin or hint
    expected: Any = {float: (float, int), tuple: list}.get(kind, kind)
    if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name}: found {value!r:.40}, expected {getattr(hint, '__name__', hint)}")
    if kind is float:
        return float(value)
    if kind is dict and inner:
        return {key: _convert(inner[1], item, f"{name}.{key}") for key, item in value.items()}
    if kind is tuple:
        return tuple(_convert(inner[0], item, name) for item in value)
    return value


def _convert_fields(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: found {value!r:.40}, expected a JSON object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(value.keys() - fields.keys()):
        raise ValueError(f"{name}: unknown name {unknown[0]!r:.40}")
    hints = typing.get_type_hints(kind)
    found = {key: _convert(hints[key], item, key) for key, item in value.items()}
    for key, field in fields.items():
        has_default = field.default is not dataclasses.MISSING
        if key not in found and not has_default and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name}: {key!r} is missing")
    return kind(**found)


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than `DEPTH` times; without recursion."""
    level = [value]
    for _ in range(DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, list | dict)
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return False
    return True


def parse_plain_lines(lines: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """Yield the JSON object of each line, several times as fast as `parse_object`.

    It yields None for a line that needs `parse_object`: see `is_plain`.
    """
    for start in range(0, len(lines), TOGETHER):
        some = lines[start : start + TOGETHER]
        plain = [
            not ("\\" in line or "NaN" in line or "Infinity" in line) and bool(line.strip())
            for line in some
        ]
        values = iter(_decode_together([*compress(some, plain)]))
        for line, decoded in zip(some, plain, strict=True):
            value = next(values) if decoded else None
            yield value if is_plain(value, line) else None


def _decode_together(lines: list[str]) -> list[Any]:
    """The JSON value of each line; None if it is not JSON. No line has a NaN.

    The lines become one list with a NaN between two of them. All NaN are then at every second place
    of this list if and only if each line is one value.
    """
    if not lines:
        return []
    try:
        values = _PLAIN.decode(f"[{SEPARATOR.join(lines)}]")
    except (ValueError, RecursionError):  # a line is wrong: the others are decoded without it
        values = []
    if len(values) == 2 * len(lines) - 1 and all(nan != nan for nan in values[1::2]):
        return list(values[::2])
    if len(lines) == 1:
        return [None]
    middle = len(lines) // 2
    return _decode_together(lines[:middle]) + _decode_together(lines[middle:])


def is_plain(content: Any, line: str) -> bool:
    """Whether a line is one object of texts, numbers and lists of numbers that all readers accept.

    It is not if it has another value, a large integer, or a name that occurs twice. The line has no
    escapes.
    """
    if type(content) is not dict:
        return False
    kinds = tuple(map(type, content.values()))
    if (known := _KINDS.get(kinds)) is None:
        if not _TEXTS.keys() >= set(kinds):
            return False
        marks = 2 * (len(kinds) + sum(map(_TEXTS.__getitem__, kinds)))
        known = marks, int in kinds or list in kinds
        if len(_KINDS) < MOST_KINDS:
            _KINDS[kinds] = known
    marks, are_looked_at = known
    # Without escapes every quotation mark is the end of a text: a name twice leaves some over.
    if line.count('"') != marks:
        return False
    return not are_looked_at or all(map(_is_plain_value, content.values()))


def _is_plain_value(value: Any) -> bool:
    if type(value) is list:
        return all(type(number) is float or _is_small(number) for number in value)
    return type(value) is not int or _is_small(value)


def _is_small(value: object) -> bool:
    return type(value) is bool or (type(value) is int and -LARGE < value < LARGE)


def _parse_int(digits: str) -> int:
    if len(digits) > INTEGER_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _parse_constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _distinct_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice")
    return values


# A decoder is made once: manifests have millions of lines.
_PLAIN = json.JSONDecoder()
_TEXTS: dict[type, int] = {str: 1, float: 0, int: 0, bool: 0, list: 0, type(None): 0}
# Types of the values of a plain object, as they occur: its quotation marks, and whether its values
# are looked at.
_KINDS: dict[tuple[type, ...], tuple[int, bool]] = {}
MOST_KINDS = 1000  # that are kept
_DECODER = json.JSONDecoder(parse_int=_parse_int)
_STRICT = json.JSONDecoder(
    parse_int=_parse_int, parse_constant=_parse_constant, object_pairs_hook=_distinct_names
)
