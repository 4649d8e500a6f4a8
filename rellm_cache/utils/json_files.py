"""JSON and UTF-8 text files: reading, with errors that name file, line, cause and fix."""

import json
from pathlib import Path
from typing import Any

from rellm_cache.errors import RellmError

LARGE = 10**18  # integers beyond it are rare, and are looked at
INTEGER_DIGITS = 300  # more than this no float can hold


def read_utf8(path: Path, error: type[RellmError], fix: str) -> str:
    """Read a UTF-8 text file, without its byte order mark.

    Raises `error` if it is no regular file, cannot be read, or is not UTF-8; then the message names
    the line. The message ends with `fix`.
    """
    try:
        if path.exists() and not path.is_file():
            what = "folder" if path.is_dir() else "pipe or device"
            raise error(f"{path}: no such file; found a {what}, {fix}")
        data = path.read_bytes()
    except FileNotFoundError as found:
        raise error(f"{path}: no such file; {fix}") from found
    except (OSError, ValueError) as found:  # ValueError: a NUL character in the path
        raise error(f"{path}: cannot be read ({found}); {fix}") from found
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as found:
        line, bad = data.count(b"\n", 0, found.start) + 1, data[found.start : found.end]
        kind = ": UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise error(
            f"{path}:{line}: not UTF-8 text (found bytes {bad!r}{kind}); save it as UTF-8; {fix}"
        ) from found


def read_object(path: Path, error: type[RellmError], fix: str) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises `error` if the file cannot be read or holds no object; its message ends with `fix`.
    """
    return parse_object(read_utf8(path, error, fix), str(path), error, fix)


def parse_object(
    text: str | bytes, where: str, error: type[RellmError], fix: str, strict: bool = False
) -> dict[str, Any]:
    """Parse one JSON object; `where` names its place.

    Args:
        strict: read NaN as null, and refuse a name that occurs twice.

    Raises `error` if the text is not one JSON object; its message ends with `fix`.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        content = (_STRICT if strict else _DECODER).decode(text)
    except RecursionError as found:
        raise error(f"{where}: not JSON (brackets are nested too deep); {fix}") from found
    except ValueError as found:  # includes UnicodeDecodeError
        raise error(
            f"{where}: not JSON (found {text[:40]!r}, expected a JSON object: {found}); {fix}"
        ) from found
    if not isinstance(content, dict):
        raise error(f"{where}: expected a JSON object, found {content!r:.40}; {fix}")
    return content


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
