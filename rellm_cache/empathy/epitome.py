"""EPITOME tables (Sharma et al. 2020): judged exchanges and their split by post.

Each mechanism of empathy has a CSV file with the columns sp_id, rp_id, seeker_post, response_post,
level (0, 1, 2) and rationales (parts of the response that support the level, each ended by "|").
All files judge the same exchanges; an exchange that was judged twice has two rows in each.
The published files were cleaned differently: spaces differ in one text of eight, and a few lack the
word Reddit. So rows are joined by id, the first file's texts are used, and spaces are normalized.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rellm_cache.corpus.text_files import read_csv
from rellm_cache.errors import ManifestError

LEVELS = 3
MECHANISMS = {"ER": "emotional-reactions", "IP": "interpretations", "EX": "explorations"}
TEXTS = ("seeker_post", "response_post")
JUDGED = ("sp_id", "rp_id", *TEXTS, "level", "rationales")
FOLDS = 5
VALIDATION = 0.125  # share of the posts outside the test fold: one tenth of all posts


@dataclass(frozen=True)
class Exchange:
    """A seeker's post and one reply to it.

    Attributes:
        post: id of the post; exchanges about one post stay in one split.
        reply: id of the reply.
        seeker_post: text of the post.
        response_post: text of the reply.
        levels: mechanism ("ER", "IP", "EX") → 0, 1 or 2, for judged mechanisms.
        rationales: mechanism → the parts of the reply that support its level.
    """

    post: str
    reply: str
    seeker_post: str
    response_post: str
    levels: dict[str, int] = field(default_factory=dict)
    rationales: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Exchanges of one fold, for training, calibration and test. No post is in two parts."""

    train: list[Exchange]
    validation: list[Exchange]
    test: list[Exchange]


def read_epitome(folder: Path) -> list[Exchange]:
    """Read the tables of a folder; exchanges keep the order of the first file.

    Raises:
        ManifestError: there is no table, a mechanism has two, a column or text is missing, or a
            level is not 0, 1 or 2.
    """
    found: dict[tuple[str, str, int], Exchange] = {}
    files = {name: file for name in MECHANISMS if (file := _file_of(folder, name))}
    if not files:
        wanted = ", ".join(f"{stem}*.csv" for stem in MECHANISMS.values())
        raise ManifestError(f"{folder}: no EPITOME tables; expected one or more of {wanted}")
    for mechanism, file in files.items():
        times: Counter[tuple[str, str]] = Counter()
        for where, row in read_rows(file, JUDGED):
            pair = (row["sp_id"], row["rp_id"])
            times[pair] += 1
            seeker, response = (one_spaced(row[name]) for name in TEXTS)
            new = Exchange(*pair, seeker, response)
            exchange = found.setdefault((*pair, times[pair]), new)
            exchange.levels[mechanism] = _level(row["level"], where)
            exchange.rationales[mechanism] = _parts(row["rationales"])
    return list(found.values())


def read_rows(file: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """`file:line` and the columns of each row of a CSV file.

    Raises:
        ManifestError: the file is not UTF-8 CSV, or a column, a value or a needed text is missing.
    """
    for where, row in read_csv(file, needed):
        for name in TEXTS:
            if name in needed and not row[name].strip():
                raise ManifestError(f"{where}: {name} is empty")
        yield where, row


def split_by_post(exchanges: Sequence[Exchange], fold: int) -> Split:
    """Split by post: one of five folds for test, one tenth of all posts for validation.

    A post's part depends on the hash of its id only, not on file or order.
    """
    split = Split([], [], [])
    for exchange in exchanges:
        if int(hash_fraction(exchange.post) * FOLDS) == fold:
            split.test.append(exchange)
        elif hash_fraction(f"validation:{exchange.post}") < VALIDATION:
            split.validation.append(exchange)
        else:
            split.train.append(exchange)
    return split


def one_spaced(text: str) -> str:
    """The text with every run of whitespace as one space, and none at both ends."""
    return " ".join(text.split())


def hash_fraction(name: str) -> float:
    """A number in [0, 1) from the hash of a name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32


def _file_of(folder: Path, mechanism: str) -> Path | None:
    files = sorted(folder.glob(f"{MECHANISMS[mechanism]}*.csv"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ManifestError(f"{folder}: {names} all judge {mechanism}; keep one of them")
    return files[0] if files else None


def _level(text: str, where: str) -> int:
    levels = [str(level) for level in range(LEVELS)]
    if text.strip() not in levels:
        raise ManifestError(f"{where}: level is {text!r}, expected {', '.join(levels)}")
    return int(text)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(one_spaced(part) for part in text.split("|") if part.strip())
