"""Question files: round trip, selection by mode, type and split, errors with file and line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.corpus.manifest import write_lines
from rellm_cache.errors import ManifestError
from rellm_cache.qa.rows import (
    QARow,
    distinct_questions,
    questions_path,
    read_questions,
    read_rows,
    write_rows,
)

ROW = QARow("a", "implicit", "content", 0, "What?", "Keys.", False, "", "sad", "corpus", None,
            "m", "0", "w", "p", 1, "Keys.")  # fmt: skip
FELT = replace(ROW, type="emotion", question="How?", answer="Sad.", guess={"sad": 0.25})
TOLD = replace(ROW, mode="explicit", metadata="The speaker sounds sad.")
DROPPED = replace(ROW, index=1, question="Whose?", dropped="refusal")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A folder of two splits, each with its questions."""
    for split, rows in (("train", [ROW, FELT, TOLD, DROPPED]), ("test", [replace(ROW, id="b")])):
        write_lines(tmp_path / f"{split}.jsonl", [{"audio": "a.wav"}])
        write_rows(questions_path(tmp_path / f"{split}.jsonl"), rows)
    return tmp_path


def test_round_trip(manifest: Path) -> None:
    path = manifest / "train.questions.jsonl"
    assert read_rows(path) == [ROW, FELT, TOLD, DROPPED]
    assert "guess" not in path.read_text("utf-8").splitlines()[0]


def test_selection_leaves_out_dropped_rows(manifest: Path) -> None:
    assert read_questions(manifest) == {"a": [ROW, FELT, TOLD], "b": [replace(ROW, id="b")]}
    assert read_questions(manifest, splits=("test",)).keys() == {"b"}
    assert read_questions(manifest / "train.jsonl", ("explicit",)) == {"a": [TOLD]}
    assert read_questions(manifest / "train.jsonl", types=("emotion",)) == {"a": [FELT]}


def test_a_question_of_both_modes_counts_once(manifest: Path) -> None:
    rows = distinct_questions(read_questions(manifest))
    assert [(r.id, r.question) for r in rows] == [("a", "What?"), ("a", "How?"), ("b", "What?")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "loud"}, "found mode 'loud', expected one of"),
        ({"type": "mood"}, "found type 'mood', expected one of"),
        ({"answer": 3}, "found answer 3, expected text"),
        ({"id": None}, "found id None, expected a value"),
        ({"guess": [0.5]}, r"found guess \[0.5\], expected an object of emotions"),
        ({"early_stop": "no"}, "found early_stop 'no', expected true or false"),
        ({"anser": ""}, "unknown key 'anser'"),
    ],
)
def test_an_invalid_row_is_named(manifest: Path, change: dict[str, Any], message: str) -> None:
    write_lines(manifest / "train.questions.jsonl", [{**vars(ROW), **change}])
    with pytest.raises(ManifestError, match=f"train.questions.jsonl:1: {message}"):
        read_questions(manifest)


def test_missing_files_and_fields_are_named(manifest: Path) -> None:
    path = manifest / "train.questions.jsonl"
    write_lines(path, [{"id": "a"}])
    with pytest.raises(ManifestError, match="found no 'answer'"):
        read_questions(manifest)
    path.unlink()
    with pytest.raises(ManifestError, match=r"train\.questions\.jsonl: no such file; `rellm qa"):
        read_questions(manifest)
