"""Journals: rows survive a kill, a line cut short does not."""

from pathlib import Path

import pytest

from rellm_cache.corpus.manifest import write_lines
from rellm_cache.errors import JournalError
from rellm_cache.utils.result_table import Journal, journal_beside, read_journal


def test_rows_are_there_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    with Journal(path) as journal:
        journal.append({"text": "é\u2028\U0001f600"})
        assert list(read_journal(path)) == [{"text": "é\u2028\U0001f600"}]
    with Journal(path) as journal:
        journal.append({"n": 2})
    assert [*read_journal(path)] == [{"text": "é\u2028\U0001f600"}, {"n": 2}]


@pytest.mark.parametrize("torn", [b'{"n": ', b'{"text": "\xc3', b"{"])
def test_a_torn_last_line_is_left_out_and_written_over(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + torn)
    assert list(read_journal(path)) == [{"n": 1}]
    with Journal(path) as journal:
        assert path.read_bytes() == b'{"n": 1}\n'
        journal.append({"n": 2})
    assert list(read_journal(path)) == [{"n": 1}, {"n": 2}]


def test_a_journal_that_does_not_exist_has_no_rows(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none")) == []


def test_writing_the_file_leaves_its_journal_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Journal(journal_beside(path)) as journal:
        journal.append({"n": 1})
    write_lines(path, [{"n": 2}])
    assert list(read_journal(journal_beside(path))) == [{"n": 1}]


@pytest.mark.parametrize("damage", [b"\x00\x00", b"5"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + damage + b'\n{"n": 2}\n')
    with pytest.raises(JournalError, match=r"rows\.jsonl:2: found .*expected a JSON object"):
        list(read_journal(path))
