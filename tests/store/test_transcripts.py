"""Transcripts files: found by a recipe, an error if altered."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.manifest import write_lines
from rellm_cache.errors import StoreError
from rellm_cache.store.transcripts import (
    Transcript,
    file_lines,
    find_transcripts,
    is_transcripts,
    list_transcripts,
    parse_transcript,
    read_header,
    read_transcripts_file,
    transcripts_path,
)

SPEC = TranscriberSpec(model="openai/whisper-tiny.en", weights_sha256="1" * 64)
ROWS = [
    Transcript("b", "0" * 64, "Ünal said:\u2028no.", False),
    Transcript("a", "1" * 64, "", True),
]


def made(cache: Path, spec: TranscriberSpec = SPEC) -> Path:
    path = transcripts_path(cache, spec)
    write_lines(path, file_lines(spec, "MIT", ROWS))
    return path


def test_transcripts_are_read_sorted_by_id(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert path == tmp_path / f"transcripts/whisper-tiny.en-{SPEC.fingerprint[:12]}.jsonl"
    assert read_transcripts_file(path) == {row.id: row for row in ROWS}
    header, first, second = map(json.loads, path.read_text("utf-8").split("\n")[:-1])
    assert (first["id"], second["id"]) == ("a", "b")
    assert header["licence"] == "MIT"
    assert header["transcriber"] == SPEC.to_json()
    assert header["transcriber"]["weights"] == SPEC.weights_sha256  # the key of the first edition
    assert read_header(path) == SPEC


def test_the_fingerprint_covers_what_changes_texts() -> None:
    elsewhere = replace(SPEC, model="/models/whisper")
    assert elsewhere.fingerprint == SPEC.fingerprint
    for change in (
        {"weights_sha256": "2" * 64},
        {"language": "de"},
        {"max_tokens": 9},
        {"version": 2},
    ):
        assert replace(SPEC, **change).fingerprint != SPEC.fingerprint


def test_a_file_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert transcripts_path(tmp_path, replace(SPEC, model="/models/copy-of-it")) == path


def test_other_files_are_not_transcripts(tmp_path: Path) -> None:
    path = made(tmp_path)
    for name in (f"{path.stem}.failed.jsonl", f".{path.name}.journal", "notes.jsonl"):
        path.with_name(name).write_text("{}\n")
        assert not is_transcripts(f"transcripts/{name}")
    assert list_transcripts(tmp_path) == [path]
    assert not is_transcripts(f"elsewhere/{path.name}")


def test_a_recipe_without_a_pin_finds_its_transcripts(tmp_path: Path) -> None:
    path = made(tmp_path)
    assert find_transcripts(tmp_path, replace(SPEC, weights_sha256="")) == path
    assert find_transcripts(tmp_path, replace(SPEC, model="elsewhere")) == path  # pinned
    other = made(tmp_path, replace(SPEC, weights_sha256="2" * 64))
    with pytest.raises(StoreError, match=r"2 files hold transcripts .* pin one .*1{64}.*2{64}"):
        find_transcripts(tmp_path, replace(SPEC, weights_sha256=""))
    assert find_transcripts(tmp_path, replace(SPEC, weights_sha256="2" * 64)) == other


def test_the_error_names_the_difference_from_the_nearest_transcriber(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"found no transcripts; make them with `rellm transcribe"):
        find_transcripts(tmp_path, SPEC)
    made(tmp_path)
    with pytest.raises(StoreError, match=r"max_tokens: wanted 9, found 224"):
        find_transcripts(tmp_path, replace(SPEC, max_tokens=9))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format_version": 1', '"format_version": 2', r"found format rellm-transcripts 2"),
        ('"language": "en"', '"language": "de"', r"it was altered"),
        ('"language": "en"', '"tongue": "en"', r"unknown key 'tongue', which a newer version"),
        ('{"format"', '"format"', r"its first line is not the header"),
        ('{"id": "b"', '{"id": "b', r"jsonl:3: not JSON"),
        ('"cut": true', '"cut": 1', r"jsonl:2: found .* expected a transcript"),
        ('"text": "", ', "", r"jsonl:2: found .* expected a transcript"),
    ],
)
def test_the_error_names_what_was_altered(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = made(tmp_path)
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(StoreError, match=message):
        read_transcripts_file(path)


def test_a_row_of_a_journal_is_checked_too() -> None:
    assert parse_transcript(asdict(ROWS[0]), "here") == ROWS[0]
    with pytest.raises(StoreError, match=r"here: found \{\}"):
        parse_transcript({}, "here")
