"""Text and CSV files of corpora: encoding detection, and rows with `file:line` for messages.

Corpora mix encodings and do not name them. A byte order mark or zero bytes mean UTF-16 or UTF-32,
and valid UTF-8 means UTF-8. Where the bytes rule Latin-1 out, the text is GB2312 or Windows-1252;
anything else is read as Latin-1. Lines of such files are reported.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rellm_cache.errors import ManifestError
from rellm_cache.utils.csv_cells import restore
from rellm_cache.utils.json_files import read_utf8
from rellm_cache.utils.regular_files import read_regular, why_unreadable

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16: it starts with the same two bytes
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UTF16_ZEROS = 0.25  # each character of English text in UTF-16 has one zero byte of two
# Quotation marks, dashes and accented letters of GB2312, which English text in it consists of.
# As Latin-1, every one would be a sign such as \u00a1 or \u00a8 and another one.
_GB2312 = re.compile(rb"(?:[\x00-\x7f]|[\xa1-\xa3\xa8][\xa1-\xfe])*")
_NOT_LATIN1 = re.compile(rb"[\x80-\x9f]")  # control characters in Latin-1
_NOT_WINDOWS = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_CELL = re.compile(r' *"(?:[^"]|"")*"(?=,|\r|\n|$)|[^",\r\n][^,\r\n]*|')  # of a CSV file


@dataclass
class Problems:
    """Lines in a corpus's own files with a problem: kind of problem → `file:line: reason`."""

    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, line: str) -> None:
        """Add one line."""
        self.lines.setdefault(kind, []).append(line)


def read_text(path: Path, problems: Problems) -> str:
    """The whole text; lines whose encoding is a guess are added to `problems`.

    Raises:
        ManifestError: there is no file, it ends within a UTF-16 character, or it holds zero bytes.
    """
    try:
        data = read_regular(path)
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{path}: {why_unreadable(error, path)}; is the corpus complete?"
        ) from error
    encoding, sure = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not {encoding} text ({error}); copy it again") from error
    if "\0" in text:
        number = text.count("\n", 0, text.index("\0")) + 1
        raise ManifestError(f"{path}:{number}: found a zero byte, expected text; copy it again")
    if not sure:
        for where, line in _lines(path, text):
            if not line.isascii():
                kind = f"lines that are not UTF-8, read as {encoding}"
                problems.add(kind, f"{where}: {line[:60]!r}")
    return text


def _encoding(data: bytes) -> tuple[str, bool]:
    """Name of the encoding, and whether the bytes leave no doubt."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding, True
    if data.count(0) > _UTF16_ZEROS * len(data):
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le", True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        if _GB2312.fullmatch(data):
            return "gbk", False  # GB2312 and more
        is_windows = _NOT_LATIN1.search(data) and not _NOT_WINDOWS.search(data)
        return "windows-1252" if is_windows else "latin-1", False
    return "utf-8", True


def read_text_lines(path: Path, problems: Problems) -> list[tuple[str, str]]:
    """`file:line` and text of every line that is not blank; the rest as `read_text`."""
    return list(_lines(path, read_text(path, problems)))


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    # Not splitlines(): it also splits at U+0085 and U+2028, which stand inside sentences.
    lines = enumerate(re.split(r"\r\n|\r|\n", text), 1)
    return ((f"{path}:{number}", line) for number, line in lines if line.strip())


def read_csv(
    path: Path, needed: Sequence[str] = (), skip_spaces: bool = False, own: bool = False
) -> list[tuple[str, dict[str, str]]]:
    """`file:line` and the columns of every row of a UTF-8 CSV file with a header.

    Rows without any value are left out. A column without a heading is named by its number, as
    `column 3`.

    Args:
        needed: columns that must be there.
        skip_spaces: leave out spaces after commas, also before a quotation mark.
        own: rellm wrote the table: `csv_cells.restore` its cells.

    Raises:
        ManifestError: there is no such file, it is not CSV, a column is missing or is there twice,
            or a row has more or fewer values than the header, for example after a comma in an
            unquoted text.
    """
    text = read_utf8(path, ManifestError, "expected a CSV or .jsonl table")
    records = _records(path, text, skip_spaces)
    if own:
        records = ((where, list(map(restore, cells))) for where, cells in records)
    _, header = next(records, ("", []))
    names = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
    if len(names) == 1 and (found := re.search(r"[;\t|]", names[0])):
        raise ManifestError(
            f"{path}:1: found columns separated by {found[0]!r}, expected commas; export it as CSV"
        )
    for number, name in enumerate(names, 1):
        if (first := names.index(name) + 1) < number:
            raise ManifestError(
                f"{path}:1: columns {first} and {number} are both named {name!r}; rename one"
            )
    if missing := [name for name in needed if name not in names]:
        raise ManifestError(
            f"{path}: column {', '.join(missing)} is missing; found "
            f"{', '.join(names) or 'an empty file'}"
        )
    rows: list[tuple[str, dict[str, str]]] = []
    for where, cells in records:
        if not any(cells):
            continue
        if len(cells) != len(names):
            raise ManifestError(
                f"{where}: found {len(cells)} values, expected one for each of the {len(names)} "
                "columns of the header; put texts with commas in quotation marks"
            )
        rows.append((where, dict(zip(names, cells, strict=True))))
    return rows


def _records(path: Path, text: str, skip_spaces: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield `file:line` of the last line, and the cells of each record."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=skip_spaces)
    before, limit = 0, csv.field_size_limit(len(text) + 1)
    try:
        for cells in reader:
            yield f"{path}:{reader.line_num}", cells
            before = reader.line_num
    except csv.Error as error:
        record = "\n".join(re.split(r"\r\n|\r|\n", text)[before:])
        at, column = 0, 1
        while (cell := _CELL.match(record, at)) and record[cell.end() : cell.end() + 1] == ",":
            at, column = cell.end() + 1, column + 1
        raise ManifestError(
            f"{path}:{before + 1}: column {column}: not CSV ({error}), found "
            f"{record[at : at + 40]!r}; is a quotation mark not closed? Inside a quoted text it is "
            'written twice: ""'
        ) from error
    finally:
        csv.field_size_limit(limit)
