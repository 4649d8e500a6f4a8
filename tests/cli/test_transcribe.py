"""rellm transcribe as the shell would run it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe, TextConfig

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def arguments(
    corpus: Path, speech_recipe: Recipe, writer_folder: Path, tmp_path: Path
) -> list[object]:
    """Two clips, and a recipe that is given its transcriber on the command line."""
    (tmp_path / "speech.toml").write_text(to_toml(speech_recipe))
    return [
        "transcribe", corpus / "test.jsonl", "--recipe", tmp_path / "speech.toml",
        "--set", f"transcriber.model={writer_folder}", "--set", "transcriber.max_tokens=4",
        "--cache", tmp_path / "cache",
    ]  # fmt: skip


def test_clips_errors_and_the_next_command_are_printed(run: Run, arguments: list[object]) -> None:
    code, out, _ = run(*arguments)
    assert code == 0
    assert "2 clips transcribed" in out
    assert "2 transcripts end at transcriber.max_tokens" in out
    assert "word error rate" in out
    path = Path(out.partition("Transcripts: ")[2].splitlines()[0])
    assert len(path.read_text("utf-8").splitlines()) == 3
    assert f"Next: rellm extract {arguments[1]} --recipe " in out
    code, out, _ = run(*arguments)
    assert code == 0
    assert "Nothing to do, 2 transcripts are there" in out


def test_failed_clips_are_exit_code_3_and_in_the_json(
    run: Run, arguments: list[object], corpus: Path
) -> None:
    (corpus.parent / "audio/09.wav").write_bytes(b"RIFF")
    code, out, err = run(*arguments)
    assert (code, err) == (3, "")
    assert "1 clip failed, see " in out
    code, out, _ = run(*arguments, "--json")
    report = json.loads(out)
    assert code == 3
    assert (report["transcribed"], report["present"], report["failed"]) == (0, 1, 1)
    assert json.loads(Path(report["failures"]).read_text())["id"] == "tones/09"
    assert report["word_errors"]["words"] == 5
    assert report["word_errors_by_emotion"].keys() == {"neutral"}
    rate = report["word_errors"]["errors"] / report["word_errors"]["words"]
    assert report["word_errors"]["rate"] == rate


def test_a_recipe_without_a_transcriber_is_told_what_to_add(
    run: Run, arguments: list[object]
) -> None:
    code, _, err = run(*arguments[:4], *arguments[8:])
    assert code == 1
    assert "has no [transcriber] table" in err
    assert "--set transcriber.model=" in err


def test_a_recipe_that_reads_is_not_sent_to_extract(
    run: Run, arguments: list[object], recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "speech.toml").write_text(to_toml(replace(recipe, text=TextConfig())))
    code, out, _ = run(*arguments)
    assert code == 0
    assert "Next: rellm train --manifest FOLDER --out RUN --recipe " in out
