"""Result tables: no row is made twice, and a kill loses none."""

from pathlib import Path

import pytest

from rellm_cache.errors import JournalError
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.resumable_table import (
    FINGERPRINT,
    Journal,
    ResultTable,
    fingerprint_of,
    journal_beside,
    read_journal,
    read_rows,
)


def test_rows_are_there_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    with Journal(path) as journal:
        journal.append({"text": "é\u2028\U0001f600"})
        assert list(read_journal(path)) == [{"text": "é\u2028\U0001f600"}]
    with Journal(path) as journal:
        journal.append({"n": 2})
    assert [*read_journal(path)] == [{"text": "é\u2028\U0001f600"}, {"n": 2}]


@pytest.mark.parametrize("torn", [b'{"n": ', b'{"text": "\xc3', b"{"])
def test_a_truncated_last_line_is_skipped_and_overwritten(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + torn)
    assert list(read_journal(path)) == [{"n": 1}]
    with Journal(path) as journal:
        assert path.read_bytes() == b'{"n": 1}\n'
        journal.append({"n": 2})
    assert list(read_journal(path)) == [{"n": 1}, {"n": 2}]


def test_a_journal_that_does_not_exist_has_no_rows(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none")) == []


def test_writing_the_file_keeps_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Journal(journal_beside(path)) as journal:
        journal.append({"n": 1})
    write_lines(path, [{"n": 2}])
    assert list(read_journal(journal_beside(path))) == [{"n": 1}]


@pytest.mark.parametrize("damage", [b"\x00\x00", b"5"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + damage + b'\n{"n": 2}\n')
    with pytest.raises(JournalError, match=r"rows\.jsonl:2: .*expected a JSON object"):
        list(read_journal(path))


EXPECTED = {"a": "f1", "b": "f2", "c": "f3"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "answers.jsonl"


def test_a_table_is_filled_finished_and_found_again(path: Path) -> None:
    table = ResultTable(path, EXPECTED)
    assert table.missing(["c", "a", "c"]) == ["c", "a"]
    with table:
        for name in table.missing(EXPECTED, "response"):
            table.add(name, response=name.upper())
    assert not path.exists()
    assert table.finish()
    assert path.read_text() == "".join(
        f'{{"id": "{n}", "fingerprint": "{f}", "response": "{n.upper()}"}}\n'
        for n, f in EXPECTED.items()
    )
    assert not table.journal.exists()
    again = ResultTable(path, EXPECTED)
    assert again.missing(EXPECTED, "response") == []
    written = path.stat().st_mtime_ns
    assert not again.finish()
    assert path.stat().st_mtime_ns == written


def test_killed_a_table_goes_on_and_its_order_is_the_same(path: Path) -> None:
    with ResultTable(path, EXPECTED) as table:
        table.add("c", response="C")
    with table.journal.open("ab") as file:
        file.write(b'{"id": "a", "fingerpr')
    table = ResultTable(path, EXPECTED)
    assert table.missing(EXPECTED) == ["a", "b"]
    with table:
        for name in ("b", "a"):
            table.add(name, response=name.upper())
    table.finish()
    assert [row["response"] for row in read_rows(path)] == ["A", "B", "C"]


def test_a_row_with_another_fingerprint_is_ignored(path: Path) -> None:
    write_lines(path, [{"id": n, FINGERPRINT: "f1"} for n in "abd"] + [{"id": "c", "text": "…"}])
    table = ResultTable(path, EXPECTED)
    assert ("a" in table, "b" in table, "d" in table) == (True, False, False)
    assert table.missing(EXPECTED) == ["b", "c"]
    assert [*ResultTable(path, "f1")] == ["a", "b", "d"]
    assert [*ResultTable(path)] == ["a", "b", "d"]


def test_fields_of_a_row_may_be_added_one_after_the_other(path: Path) -> None:
    with ResultTable(path, EXPECTED) as table:
        table.add("a", head="sad")
        table.add("a", likely="happy")
        assert table["a"] == {"id": "a", FINGERPRINT: "f1", "head": "sad", "likely": "happy"}
        assert table["b"] == {}
    again = ResultTable(path, EXPECTED)
    assert again["a"] == table["a"]
    assert again.missing("ab", "head", "likely") == ["b"]


def test_a_later_fingerprint_replaces_a_row_where_none_is_expected(path: Path) -> None:
    with ResultTable(path) as table:
        table.add("a", "f1", text="one", cut=False)
        table.add("a", "f2", text="two")
    assert ResultTable(path)["a"] == {"id": "a", FINGERPRINT: "f2", "text": "two"}


def test_the_finished_file_may_have_another_form(path: Path) -> None:
    table = ResultTable(path, "f1", [{"id": "a", FINGERPRINT: "f1", "score": 1}])
    written: list[object] = []
    assert table.finish(["x", "y"], lambda place, rows: written.append((place, rows)))
    assert written == [(path, ["x", "y"])]


def test_a_truncated_finished_file_is_an_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("My notes")
    with pytest.raises(JournalError, match=r"answers\.jsonl:1: not JSON \(found 'My notes'"):
        ResultTable(path, EXPECTED)


def test_rows_of_the_first_edition_are_read(path: Path) -> None:
    old = {"id": "a", "made_from": "f1", "response": "A"}
    write_lines(path, [old])
    table = ResultTable(path, {"a": "f1"})
    assert fingerprint_of(old) == fingerprint_of(table["a"]) == "f1"
    assert not table.finish()  # nothing is written for the name alone
    write_lines(
        journal_beside(path),
        [
            {"prompt": "Go on", "text": "Oh.", "generator": "f1"},
            {"writer": "f1", "transcript": "Hello", "guess": {"sad": 1.0}},
            {"by": "f1", "answers": {"k1": "yes", "k2": "no"}},
            {"by": "f1", "scores": {"k1": 5.0}},
            {"by": "f1", "score": [1]},
            {"by": "f0", "score": [2]},
            {"by": "f1", "score": [3]},
            {"id": "b", "audio_sha256": "f1", "text": "Hm"},
        ],
    )
    table = ResultTable(path, "f1")
    assert table["Go on"]["text"] == "Oh."
    assert table["Hello"]["guess"] == {"sad": 1.0}
    assert (table["k1"]["answer"], table["k1"]["score"], table["k2"]["answer"]) == ("yes", 5, "no")
    assert (table["0"]["score"], table["1"]["score"]) == ([1], [3])
    assert table["b"] == {"id": "b", FINGERPRINT: "f1", "text": "Hm"}
