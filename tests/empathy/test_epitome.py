"""EPITOME tables: reading, joining, errors with line numbers, split by post."""

import csv
import random
from pathlib import Path

import pytest

from rellm_cache.empathy.epitome import (
    FOLDS,
    JUDGED,
    Exchange,
    read_epitome,
    split_by_post,
)
from rellm_cache.errors import ManifestError

REAL = Path(__file__).parents[2] / "../shared/data/epitome"


def write(file: Path, *rows: tuple[str, ...], header: tuple[str, ...] = JUDGED) -> Path:
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([header, *rows])
    return file


ROW = ("s1", "r1", "I failed.", "Oh no, sorry. Why?", "2", "Oh no, sorry|")


def test_tables_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "emotional-reactions-reddit.csv", ROW)
    write(tmp_path / "explorations.csv", (*ROW[:4], "1", "Why?| "), (*ROW[:4], "0", ""))
    first, second = read_epitome(tmp_path)
    assert (first.post, first.reply, first.response_post) == ("s1", "r1", "Oh no, sorry. Why?")
    assert first.levels == {"ER": 2, "EX": 1}
    assert first.rationales == {"ER": ("Oh no, sorry",), "EX": ("Why?",)}
    assert (second.levels, second.rationales) == ({"EX": 0}, {"EX": ()})  # judged twice


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((*ROW[:4], "3", ""), "3: level is '3', expected 0, 1, 2"),
        ((*ROW[:4], "", ""), "3: level is '', expected 0, 1, 2"),
        ((*ROW[:3], " ", "0", ""), "3: response_post is empty"),
        (ROW[:5], "3: found 5 values, expected one for each of the 6 columns"),
        ((*ROW, "more"), "3: found 7 values, expected one for each of the 6 columns"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: tuple[str, ...], problem: str) -> None:
    file = write(tmp_path / "explorations-reddit.csv", ROW, row)
    with pytest.raises(ManifestError, match=f"{file}:{problem}"):
        read_epitome(tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "explorations.csv", header=("sp_id", "seeker_post", "level"))
    with pytest.raises(ManifestError, match="column rp_id, response_post, rationales is missing"):
        read_epitome(tmp_path)
    file.write_text("")
    with pytest.raises(ManifestError, match="found an empty file"):
        read_epitome(tmp_path)


def test_rows_are_joined_by_id_despite_different_cleaning(tmp_path: Path) -> None:
    write(tmp_path / "emotional-reactions.csv", ROW)
    cleaned = (*ROW[:3], "Oh no,  sorry.\nWhy? Reddit", "1", "sorry.  Why?|")
    write(tmp_path / "explorations.csv", cleaned)
    (exchange,) = read_epitome(tmp_path)
    assert exchange.response_post == "Oh no, sorry. Why?"
    assert exchange.rationales["EX"] == ("sorry. Why?",)


def test_no_table_and_two_tables_of_one_mechanism_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"expected one or more of emotional-reactions\*\.csv"):
        read_epitome(tmp_path)
    write(tmp_path / "explorations.csv", ROW)
    write(tmp_path / "explorations-2.csv", ROW)
    with pytest.raises(ManifestError, match=r"explorations-2\.csv, explorations\.csv all judge EX"):
        read_epitome(tmp_path)


def test_the_part_of_a_post_does_not_depend_on_order() -> None:
    exchanges = [Exchange(f"p{i % 400}", f"r{i}", "a", "b") for i in range(500)]
    shuffled = random.Random(1).sample(exchanges, len(exchanges))
    held_out: list[str] = []
    for fold in range(FOLDS):
        split, other = split_by_post(exchanges, fold), split_by_post(shuffled, fold)
        parts = [{e.post for e in p} for p in (split.train, split.validation, split.test)]
        assert parts == [{e.post for e in p} for p in (other.train, other.validation, other.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 400
        assert 60 < len(parts[2]) < 100
        assert 25 < len(parts[1]) < 60
        held_out += parts[2]
    assert len(held_out) == len(set(held_out)) == 400


@pytest.mark.skipif(not REAL.is_dir(), reason="EPITOME's tables are not beside the repository")
def test_the_real_tables() -> None:
    exchanges = read_epitome(REAL)
    assert len(exchanges) == 2448
    assert all(e.levels.keys() == {"ER", "IP", "EX"} for e in exchanges)
    counts = [sum(e.levels["ER"] == level for e in exchanges) for level in range(3)]
    assert counts == [1618, 713, 117]
    parts = [(e.response_post, p) for e in exchanges for ps in e.rationales.values() for p in ps]
    assert sum(part in text for text, part in parts) / len(parts) > 0.95
