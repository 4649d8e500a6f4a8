"""Text and CSV files of corpora: encoding detection, and rows with `file:line` for messages.

Corpora mix encodings and do not name them. A byte order mark or zero bytes mean UTF-16, valid UTF-8
means UTF-8, and anything else is read as Latin-1.
"""

import codecs
import csv
import re
from collections.abc import Sequence
from pathlib import Path

from rellm_cache.errors import ManifestError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """The whole text; `ManifestError` if there is no file or it ends within a UTF-16 character."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ManifestError(f"{path}: no such file; is the corpus complete?") from error
    encoding = _encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not {encoding} text ({error}); copy it again") from error


def _encoding(data: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    if b"\0" in data:  # each character of English text in UTF-16 has one zero byte
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def read_text_lines(path: Path) -> list[tuple[str, str]]:
    """`file:line` and the text of every line that is not blank.

    `splitlines` is not used: it also splits at U+0085, which is "…" in a Windows-1252 file.
    """
    lines = enumerate(re.split(r"\r\n|\r|\n", read_text(path)), 1)
    return [(f"{path}:{number}", line) for number, line in lines if line.strip()]


def read_csv(path: Path, needed: Sequence[str] = ()) -> list[tuple[str, dict[str, str]]]:
    """`file:line` and the columns of every row of a UTF-8 CSV file with a header.

    Args:
        needed: columns that must be there.

    Raises:
        ManifestError: there is no such file, it is not CSV, a column is missing, or a row has more
            or fewer values than the header, for example after a comma in an unquoted text.
    """
    rows: list[tuple[str, dict[str, str]]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or ()
            if missing := [name for name in needed if name not in names]:
                raise ManifestError(
                    f"{path}: column {', '.join(missing)} is missing; found "
                    f"{', '.join(names) or 'an empty file'}"
                )
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise ManifestError(
                        f"{where}: found more or fewer values than the {len(names)} columns of the "
                        "header; put texts with commas in quotation marks"
                    )
                rows.append((where, row))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ManifestError(f"{path}: no such file; expected a CSV or .jsonl table") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise ManifestError(
            f"{path}: not a CSV file after line {reader.line_num} ({error}); is a quotation mark "
            "not closed?"
        ) from error
    return rows
