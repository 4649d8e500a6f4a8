"""Text responders: no training, equal answers to equal transcripts, true emotions in requests."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from rellm_cache.annotation.transcripts import transcribe
from rellm_cache.cli.commands import rellm
from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe, TextConfig
from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.manifest import read_split
from rellm_cache.errors import ConfigError, ManifestError, StoreError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.extraction.run import extract
from rellm_cache.inference.generate import generate
from rellm_cache.runs.weights import load_run
from rellm_cache.store.transcripts import read_transcripts
from rellm_cache.sweeps.plan import SweepPlan, Variant
from rellm_cache.sweeps.run import SweepSettings, sweep
from rellm_cache.training.run import train


@pytest.fixture
def reads(quick: Recipe) -> Recipe:
    """The tiny LLM, given transcripts."""
    prompts = replace(quick.prompts, answer_tokens=8)
    return replace(quick, name="reads", text=TextConfig(), prompts=prompts)


def test_equal_transcripts_get_equal_answers_without_any_frames(
    reads: Recipe, corpus: Path, tmp_path: Path
) -> None:
    run, nowhere = tmp_path / "run", tmp_path / "no-cache"
    report = train(reads, corpus, nowhere, run)
    assert report.steps == report.trainable == 0
    assert {path.name for path in run.iterdir()} == {"recipe.toml", "results.sha256"}
    answers = generate(run, corpus, tmp_path / "answers.jsonl", nowhere)
    texts = [u.text for split in ("train", "validation", "test") for u in read_split(corpus, split)]
    assert [a.text for a in answers] == texts
    by_text: dict[str, set[str]] = {}
    for answer in answers:
        by_text.setdefault(answer.text, set()).add(answer.response)
        assert (answer.emotion, answer.emotion_probabilities, answer.dimensions) == (None, {}, None)
    assert len(by_text) == 3
    assert all(len(responses) == 1 for responses in by_text.values())


def test_a_gold_emotion_changes_the_request_only(
    reads: Recipe, corpus: Path, tmp_path: Path
) -> None:
    nowhere, told = tmp_path / "no-cache", replace(reads, text=TextConfig(gold_emotion=True))
    train(reads, corpus, nowhere, tmp_path / "plain")
    train(told, corpus, nowhere, tmp_path / "told")
    plain = generate(tmp_path / "plain", corpus, tmp_path / "a.jsonl", nowhere)
    labelled = generate(tmp_path / "told", corpus, tmp_path / "b.jsonl", nowhere)
    assert [a.response for a in plain] != [a.response for a in labelled]
    with pytest.raises(ConfigError, match=r"labelled_answer = .*expected {emotion} exactly once"):
        replace(told.prompts, labelled_answer="{speech}")
    assert evaluate(tmp_path / "told", corpus, nowhere).llm is None


def test_recognition_from_the_transcript(reads: Recipe, corpus: Path, tmp_path: Path) -> None:
    run, nowhere = tmp_path / "run", tmp_path / "no-cache"
    train(reads, corpus, nowhere, run)
    scores = evaluate(run, corpus, nowhere, EvaluationOptions(2))
    assert scores.head.recognition is None
    assert scores.llm is not None
    assert scores.llm.likelihood.count == 11
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    texts = {u.id: u.text for s in ("train", "validation", "test") for u in read_split(corpus, s)}
    said = {(texts[row["id"]], row["llm"], row["llm_in_words"]) for row in rows}
    assert len(said) == 3  # one label a transcript, whatever the voice
    assert {row["head"] for row in rows} == {""}
    right = sum(row["llm"] == row["emotion"] for row in rows)
    assert right / 11 == pytest.approx(scores.llm.likelihood.accuracy)
    page = (run / "report.html").read_text()
    assert "Recognition by the LLM" in page
    assert "category head" not in page


def test_missing_transcripts_are_refused(reads: Recipe, corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(reads, corpus, tmp_path, run)
    rows = [json.loads(line) for line in (corpus / "test.jsonl").read_text().splitlines()]
    silent = tmp_path / "silent.jsonl"
    silent.write_text("".join(json.dumps({**row, "text": " "}) + "\n" for row in rows))
    expected = r"reads each utterance's transcript \(text\), but 2 of 2 utterances have none"
    with pytest.raises(ManifestError, match=expected):
        generate(run, silent, tmp_path / "answers.jsonl", tmp_path)
    with pytest.raises(ConfigError, match=r"run: recipe 'reads' reads text: it has no adapter"):
        load_run(run, torch.device("cpu"))


def test_a_transcript_too_long_for_the_llm_is_named_and_not_evaluated(
    reads: Recipe, corpus: Path, tmp_path: Path
) -> None:
    manifest = corpus / "test.jsonl"
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    rows[1]["text"] = "word " * 500
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    run = tmp_path / "run"
    train(reads, corpus, tmp_path / "none", run)
    message = f"1 transcript is too long for .*, the first is that of '{rows[1]['id']}'"
    with pytest.raises(ManifestError, match=message):
        generate(run, manifest, tmp_path / "a.jsonl", tmp_path / "none")
    assert not (tmp_path / "a.jsonl").exists()
    found = evaluate(run, manifest, tmp_path / "none").llm
    assert found is not None
    assert found.likelihood.count == 1
    reason = f"its transcript is too long for {reads.require_llm().model}"
    dropped = json.loads((run / "scores.json").read_text())["dropped"]
    assert dropped == {rows[1]["id"]: reason}
    before = (run / "evaluated.jsonl").read_text()
    assert evaluate(run, manifest, tmp_path / "none").llm == found
    assert (run / "evaluated.jsonl").read_text() == before


def test_commands(reads: Recipe, corpus: Path, tmp_path: Path) -> None:
    recipe, run = tmp_path / "reads.toml", tmp_path / "run"
    recipe.write_text(to_toml(reads))

    def call(*arguments: str | Path) -> str:
        words = [*map(str, arguments), "--cache", str(tmp_path / "no-cache")]
        return CliRunner().invoke(rellm, words, catch_exceptions=False).stdout

    said = call("train", "--recipe", recipe, "--manifest", corpus, "--out", run)
    assert f"recipe 'reads' reads text and has nothing to train; {run} answers as it is" in said
    said = call("generate", run, corpus / "test.jsonl", "--out", tmp_path / "answers.jsonl")
    assert "tones/09: " in said
    assert "2 answers" in said
    assert "LLM, likelihood" in call("evaluate", run, corpus / "test.jsonl")


def test_a_sweep_takes_text_models(reads: Recipe, corpus: Path, tmp_path: Path) -> None:
    file, nowhere = tmp_path / "reads.toml", tmp_path / "no-cache"
    file.write_text(to_toml(reads))
    plan = SweepPlan(
        str(file), variants=(Variant("told", ("text.gold_emotion=true",)),), seeds=(1,)
    )
    report = sweep(plan, SweepSettings(corpus, nowhere, corpus / "test.jsonl"), tmp_path / "sweep")
    assert not report.failed
    assert report.scores("baseline", "test.llm_ua").keys() == {1}
    assert report.scores("told", "test.llm_ua") == {}


def test_text_models_need_no_frames(reads: Recipe, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipe 'reads' reads text and needs no frames"):
        extract(corpus, reads, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_transcripts_of_whisper_are_read(
    reads: Recipe, corpus: Path, tmp_path: Path, writer_folder: Path
) -> None:
    spec = TranscriberSpec(model=str(writer_folder), max_tokens=6)
    heard = replace(reads, text=TextConfig(transcript="whisper"), transcriber=spec)
    run, cache = tmp_path / "run", tmp_path / "cache"
    train(heard, corpus, cache, run)
    with pytest.raises(StoreError, match="rellm transcribe"):
        generate(run, corpus / "test.jsonl", tmp_path / "a.jsonl", cache)
    transcribe([corpus / "test.jsonl"], heard, cache)
    texts = read_transcripts(read_split(corpus, "test"), spec, cache)
    answers = generate(run, corpus / "test.jsonl", tmp_path / "a.jsonl", cache)
    written = tmp_path / "written.jsonl"
    rows = [json.loads(line) for line in (corpus / "test.jsonl").read_text().splitlines()]
    rows = [{**row, "audio": f"manifest/{row['audio']}", "text": texts[row["id"]]} for row in rows]
    written.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(reads, corpus, cache, tmp_path / "reads")
    same = generate(tmp_path / "reads", written, tmp_path / "b.jsonl", cache)
    assert [a.response for a in answers] == [a.response for a in same]


def test_another_transcript_is_answered_again(reads: Recipe, corpus: Path, tmp_path: Path) -> None:
    run, nowhere, out = tmp_path / "run", tmp_path / "no-cache", tmp_path / "answers.jsonl"
    test = corpus / "test.jsonl"
    train(reads, corpus, nowhere, run)
    generate(run, test, out, nowhere)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    out.write_text("".join(json.dumps({**row, "response": "kept"}) + "\n" for row in rows))
    lines = [json.loads(line) for line in test.read_text().splitlines()]
    lines[1]["text"] = "Something else."
    test.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = generate(run, test, out, nowhere)
    assert first.response == "kept"
    assert second.response != "kept"
    assert second.text == "Something else."
