"""Clips are identified by their id and the digest of their audio, not by their path."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rellm_cache.cli.extract import show
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_lines, write_lines
from rellm_cache.extraction.run import extract

Checksums = Callable[[Path], dict[str, int]]


def edit_manifest(file: Path, change: Callable[[dict[str, object]], None]) -> None:
    rows = [row for _, row in read_lines(file)]
    for row in rows:
        change(row)
    write_lines(file, rows)


def test_a_renamed_clip_is_not_encoded_again(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    extract(corpus, speech_recipe, tmp_path / "cache")
    shutil.move(corpus.parent / "audio/03.wav", corpus.parent / "moved.wav")

    def rename(row: dict[str, object]) -> None:
        if row["id"] == "tones/03":
            row["audio"] = "../moved.wav"

    edit_manifest(corpus / "train.jsonl", rename)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache")
    assert (report.encoded, report.present, report.changed) == (0, 11, 0)


def test_an_id_given_to_another_clip_is_reported_and_encoded_again(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Checksums,
    capsys: pytest.CaptureFixture[str],
) -> None:
    extract(corpus, speech_recipe, tmp_path / "cache")

    def reuse(row: dict[str, object]) -> None:
        if row["id"] == "tones/03":
            row["audio"] = "../audio/04.wav"

    edit_manifest(corpus / "train.jsonl", reuse)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache")
    assert (report.encoded, report.present, report.changed) == (1, 10, 1)
    show(report)
    assert "1 id had other audio before; the new frames replace" in capsys.readouterr().out
    assert checksums(report.path) == {**undisturbed, "tones/03": undisturbed["tones/04"]}
