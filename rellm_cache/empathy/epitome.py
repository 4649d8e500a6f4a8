"""EPITOME's tables (Sharma et al. 2020). In: a folder of CSV files. Out: judged exchanges, split.

Three files judge the same exchanges, one for each mechanism of empathy, with the columns sp_id,
rp_id, seeker_post, response_post, level (0, 1, 2) and rationales (parts of the response that speak
for the level, each ended by "|"). An exchange that was judged twice has two rows in each file.
The published files were cleaned differently: spaces differ in one text of eight, a few lack the
word Reddit. So ids join them, the first file's texts count, and runs of spaces become one.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rellm_cache.errors import ManifestError

LEVELS = 3
MECHANISMS = {"ER": "emotional-reactions", "IP": "interpretations", "EX": "explorations"}
TEXTS = ("seeker_post", "response_post")
JUDGED = ("sp_id", "rp_id", *TEXTS, "level", "rationales")
FOLDS = 5
VALIDATION = 0.125  # of the posts that are not held out: a tenth of all


@dataclass(frozen=True)
class Exchange:
    """A seeker's post and one reply to it.

    Attributes:
        post: id of the post; exchanges about one post stay in one split.
        reply: id of the reply.
        seeker_post: text of the post.
        response_post: text of the reply.
        levels: mechanism ("ER", "IP", "EX") → 0, 1 or 2, where it was judged.
        rationales: mechanism → the parts of the reply that speak for its level.
    """

    post: str
    reply: str
    seeker_post: str
    response_post: str
    levels: dict[str, int] = field(default_factory=dict)
    rationales: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Exchanges of one fold: trained on, calibrated on, held out. No post is in two."""

    train: list[Exchange]
    validation: list[Exchange]
    test: list[Exchange]


def read_epitome(folder: Path) -> list[Exchange]:
    """Exchanges of the mechanisms that `folder` has a file of, in the first file's order.

    Raises:
        ManifestError: no file of any mechanism, two of one, a column or a text is missing, or a
            level is not 0, 1 or 2.
    """
    found: dict[tuple[str, str, int], Exchange] = {}
    files = {name: file for name in MECHANISMS if (file := _file_of(folder, name))}
    if not files:
        wanted = ", ".join(f"{stem}*.csv" for stem in MECHANISMS.values())
        raise ManifestError(f"{folder}: no EPITOME tables; expected one or more of {wanted}")
    for mechanism, file in files.items():
        times: Counter[tuple[str, str]] = Counter()
        for number, row in read_rows(file, JUDGED):
            pair = (row["sp_id"], row["rp_id"])
            times[pair] += 1
            seeker, response = (one_spaced(row[name]) for name in TEXTS)
            new = Exchange(*pair, seeker, response)
            exchange = found.setdefault((*pair, times[pair]), new)
            exchange.levels[mechanism] = _level(row["level"], file, number)
            exchange.rationales[mechanism] = _parts(row["rationales"])
    return list(found.values())


def read_rows(file: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with their numbers, the header being row 1.

    Raises:
        ManifestError: it is not UTF-8, a column is missing, or a row has no value for one.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines, strict=True)
            absent = [name for name in needed if name not in (rows.fieldnames or ())]
            if absent:
                raise ManifestError(
                    f"{file}: column {', '.join(absent)} is missing; found "
                    f"{', '.join(rows.fieldnames or ()) or 'an empty file'}"
                )
            for number, row in enumerate(rows, start=2):
                if None in row or None in row.values():
                    _refuse(file, number, "as many values as the header has columns expected")
                for name in TEXTS:
                    if name in needed and not row[name].strip():
                        _refuse(file, number, f"{name} is empty")
                yield number, row
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file}: not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise ManifestError(f"{file}: not a CSV file ({error})") from error


def split_by_post(exchanges: Sequence[Exchange], fold: int) -> Split:
    """Hold out the posts of one of five folds; of the others a tenth of all is for validation.

    A post's place comes from a digest of its id alone: it is the same in every file and order.
    """
    split = Split([], [], [])
    for exchange in exchanges:
        if int(place_of(exchange.post) * FOLDS) == fold:
            split.test.append(exchange)
        elif place_of(f"validation:{exchange.post}") < VALIDATION:
            split.validation.append(exchange)
        else:
            split.train.append(exchange)
    return split


def one_spaced(text: str) -> str:
    """The text with each run of spaces and line ends as one space, none at its ends."""
    return " ".join(text.split())


def place_of(name: str) -> float:
    """A number in [0, 1) that only depends on a name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32


def _file_of(folder: Path, mechanism: str) -> Path | None:
    files = sorted(folder.glob(f"{MECHANISMS[mechanism]}*.csv"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ManifestError(f"{folder}: {names} all judge {mechanism}; keep one of them")
    return files[0] if files else None


def _level(text: str, file: Path, number: int) -> int:
    levels = [str(level) for level in range(LEVELS)]
    if text.strip() not in levels:
        _refuse(file, number, f"level is {text!r}, expected {', '.join(levels)}")
    return int(text)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(one_spaced(part) for part in text.split("|") if part.strip())


def _refuse(file: Path, number: int, problem: str) -> NoReturn:
    raise ManifestError(f"{file}, row {number}: {problem}")
