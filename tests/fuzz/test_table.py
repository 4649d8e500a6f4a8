"""Fuzzing of CSV tables."""

from pathlib import Path

from fuzzing import damaged_bytes, fuzz, value_or_named_error
from hypothesis import strategies as st

from rellm_cache.corpus.readers.table import read_table
from rellm_cache.corpus.text_files import Problems, read_csv, read_text
from rellm_cache.utils.atomic_files import csv_text

TABLE = (
    "audio,text,emotion,speaker,split,arousal,dominance,valence\n"
    'a.wav,"It is, so.",happy,s1,train,0.1,0.2,0.3\n'
    "b.wav,Nöt ”so”,sad,s2,test,,,\n"
    'c.wav,"two\nlines, ""quoted""",angry,s2,validation,1,0,1\n'
).encode()
CELLS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6)


def test_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        value_or_named_error(lambda: read_table(path), path)
        value_or_named_error(lambda: read_text(path, Problems()), path)

    fuzz(damaged_bytes(TABLE), check)


def test_cells_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"

    def check(rows: list[list[str]]) -> None:
        path.write_text(csv_text(["a", "=b", "c"], rows), "utf-8")
        found = [list(row.values()) for _, row in read_csv(path, ["=b"], own=True)]
        assert found == [row for row in rows if any(row)]

    fuzz(st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=4), check)
