"""JSON and UTF-8 text files: reading, with errors that name file, line, cause and fix.

This is the only decoder of JSON. `decode` and `load` raise errors of Python, for readers that tell
damage from a missing file; the others raise the error of the caller.
"""

import dataclasses
import json
import shlex
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from rellm_cache.errors import RellmError
from rellm_cache.utils.regular_files import read_regular, why_unreadable

LARGE = 10**18  # integers beyond it are rare, and are looked at
INTEGER_DIGITS = 300  # more than this no float can hold
DEPTH = 100  # brackets in brackets; Python's own functions fail at about a thousand
SHOWN = 60  # characters of a line in a message

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


def parse_plain(text: str) -> dict[str, Any] | None:
    """Parse one JSON object of texts, numbers and lists of numbers, several times as fast.

    Returns None if the text needs `parse_object`: it has an escape, a NaN, a large number, another
    value, a name that occurs twice, or is not JSON.
    """
    if "\\" in text or "NaN" in text or "Infinity" in text:
        return None
    try:
        content = _PLAIN.decode(text)
    except (ValueError, RecursionError):
        return None
    if type(content) is not dict:
        return None
    texts = len(content)
    for value in content.values():
        kind = type(value)
        if kind is str:
            texts += 1
        elif kind is list:
            if not all(type(number) is float or _is_small(number) for number in value):
                return None
        elif kind is not float and value is not None and not _is_small(value):
            return None
    # Without escapes every quotation mark is the end of a text: a name twice leaves some over.
    return content if text.count('"') == 2 * texts else None


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
_DECODER = json.JSONDecoder(parse_int=_parse_int)
_STRICT = json.JSONDecoder(
    parse_int=_parse_int, parse_constant=_parse_constant, object_pairs_hook=_distinct_names
)
