"""Text files of corpora, in whatever encoding. In: a path. Out: its lines or rows, each named.

Corpora mix encodings from file to file and none says which it is. UTF-16 is known by its byte order
mark or its zero bytes, UTF-8 by being valid; what is neither is taken as Latin-1, which any bytes
are.
"""

import codecs
import csv
import re
from pathlib import Path
from typing import Any

from rellm_cache.errors import ManifestError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """The whole file; `ManifestError` where there is none or UTF-16 is cut within a letter."""
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
    if b"\0" in data:  # English text in UTF-16 has a zero in every letter, before or after
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def read_text_lines(path: Path) -> list[tuple[str, str]]:
    """`file:line` and the text of every line that is not blank.

    Not `splitlines`: in Latin-1, letters of other code pages would end lines.
    """
    lines = enumerate(re.split(r"\r\n|\r|\n", read_text(path)), 1)
    return [(f"{path}:{number}", line) for number, line in lines if line.strip()]


def read_csv(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """`file:line` and the columns of every row of a UTF-8 table with a heading.

    Raises:
        ManifestError: there is no such file, it is no CSV, or a row has more or fewer values than
            the heading: a comma in a text that has no quotation marks would cut it.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise ManifestError(
                        f"{where}: found more or fewer values than the "
                        f"{len(reader.fieldnames or ())} columns of the heading; put texts with "
                        "commas in quotation marks"
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
