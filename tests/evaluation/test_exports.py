"""Exports of answers for other harnesses."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rellm_cache.cli.commands import rellm
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ManifestError
from rellm_cache.evaluation.exports import FORMATS, Format, require_transcripts, write_answers
from rellm_cache.inference.responders import Generation
from rellm_cache.training.run import train

CLIPS = [Utterance("a", "a.wav", text="Où?", emotion="sad"), Utterance("b", "b.wav", text="No.")]
ANSWERS = [Generation("a", "a.wav", "Où?", "Là.", False), Generation("b", "b.wav", "No.", "", True)]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_voicebench_reads_prompt_and_response(tmp_path: Path) -> None:
    assert write_answers(tmp_path, "voicebench", CLIPS, ANSWERS) == [tmp_path / "voicebench.jsonl"]
    assert rows(tmp_path / "voicebench.jsonl") == [
        {"prompt": "Où?", "response": "Là."},
        {"prompt": "No.", "response": ""},
    ]


def test_urobench_reads_three_files_of_numbered_texts(tmp_path: Path) -> None:
    write_answers(tmp_path, "urobench", CLIPS, ANSWERS)
    folder = tmp_path / "urobench"
    assert rows(folder / "pred_text.jsonl") == [{"0000": "Là."}, {"0001": ""}]
    asked = [{"0000": "Où?"}, {"0001": "No."}]
    assert rows(folder / "question_text.jsonl") == rows(folder / "gt_text.jsonl") == asked


def test_json_lines_have_id_and_emotion(tmp_path: Path) -> None:
    write_answers(tmp_path, "jsonl", CLIPS, ANSWERS)
    assert rows(tmp_path / "answers.jsonl")[0] == {
        "id": "a", "audio": "a.wav", "text": "Où?", "emotion": "sad", "response": "Là.",
    }  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_a_harness_needs_the_transcripts(kind: Format) -> None:
    silent = [CLIPS[0], Utterance("c", "c.wav", text=" ")]
    if kind == "jsonl":
        require_transcripts(kind, silent, Path("m"))
        return
    expected = rf"m: 1 of 2 utterances have no transcript \(text\), the first is 'c', but {kind} ju"
    with pytest.raises(ManifestError, match=expected):
        require_transcripts(kind, silent, Path("m"))


def test_evaluate_exports_the_answer_to_every_clip(
    quick: Recipe, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(quick, corpus, cache, run)
    test = corpus / "test.jsonl"
    command = ["evaluate", str(run), str(test), "--cache", str(cache), "--samples", "0"]
    CliRunner().invoke(rellm, [*command, "--export", "jsonl"], catch_exceptions=False)
    found = rows(run / "answers.jsonl")
    kept = {row["id"]: row for row in rows(run / "evaluated.jsonl")}
    assert [row["id"] for row in found] == ["tones/09", "tones/10"]
    assert [row["response"] for row in found] == [
        kept[row["id"]]["answer"]["response"] for row in found
    ]
