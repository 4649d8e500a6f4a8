"""generate: the same answers from the cache and from audio, resumable."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from rellm_cache.config.schema import PromptsConfig, Recipe, TextConfig
from rellm_cache.corpus.manifest import Utterance, write_lines
from rellm_cache.data.batch import Batch
from rellm_cache.errors import ConfigError, ManifestError, RellmError, RunError, StoreError
from rellm_cache.extraction.run import extract
from rellm_cache.inference import responders as stage
from rellm_cache.inference.generate import generate, read_source
from rellm_cache.inference.responders import Generation
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.training.run import train
from rellm_cache.utils.resumable_table import journals_of
from rellm_cache.workers.options import Shard, WorkerOptions


@pytest.fixture
def run(corpus: Path, cache: Path, quick: Recipe, tmp_path: Path) -> Path:
    train(quick, corpus, cache, tmp_path / "run")
    return tmp_path / "run"


def test_cache_and_audio_give_the_same_numbers(run: Path, corpus: Path, tmp_path: Path) -> None:
    cache, test = tmp_path / "cache", corpus / "test.jsonl"
    cached = generate(run, test, tmp_path / "cached.jsonl", cache)
    live = generate(run, test, tmp_path / "live.jsonl", tmp_path / "no-cache", from_audio=True)
    assert [g.id for g in cached] == ["tones/09", "tones/10"]
    for one, other in zip(cached, live, strict=True):
        assert (one.id, one.response, one.emotion) == (other.id, other.response, other.emotion)
        assert one.emotion_probabilities == pytest.approx(other.emotion_probabilities, abs=1e-5)
        assert one.dimensions == pytest.approx(other.dimensions, abs=1e-5)
    rows, of_live = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("cached.jsonl", "live.jsonl")
    )
    assert [row.pop("fingerprint") for row in rows] == [row["fingerprint"] for row in of_live]
    assert rows == [asdict(g) for g in cached]


def test_one_sound_file(run: Path, corpus: Path, tmp_path: Path) -> None:
    clip = corpus.parent / "audio" / "09.wav"
    (answer,) = generate(run, clip, tmp_path / "one.jsonl", tmp_path / "no-cache")
    (cached, _) = generate(run, corpus / "test.jsonl", tmp_path / "two.jsonl", tmp_path / "cache")
    assert answer.response == cached.response


def test_a_killed_call_goes_on(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "answers.jsonl"
    whole = generate(run, corpus, tmp_path / "whole.jsonl", cache, batch_size=3)
    ordinary = stage.answer_batch
    calls: list[int] = []  # utterances of each

    def answer_or_die(
        model: SpeechLLM, batch: Batch, utterances: Sequence[Utterance], prompts: PromptsConfig
    ) -> list[Generation]:
        calls.append(len(utterances))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ordinary(model, batch, utterances, prompts)

    monkeypatch.setattr(stage, "answer_batch", answer_or_die)
    with pytest.raises(KeyboardInterrupt):
        generate(run, corpus, out, cache, batch_size=3)
    assert not out.exists()
    resumed = generate(run, corpus, out, cache, batch_size=3)
    assert sum(calls[3:]) == len(whole) - 6
    assert [g.response for g in resumed] == [g.response for g in whole]


def test_a_kill_while_writing_loses_no_answer(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "answers.jsonl"

    def write_half_and_die(path: Path, rows: Iterable[dict[str, Any]]) -> None:
        def torn() -> Iterator[dict[str, Any]]:
            yield next(iter(rows))
            raise KeyboardInterrupt

        write_lines(path, torn())

    with monkeypatch.context() as kill:
        kill.setattr("rellm_cache.utils.resumable_table.write_lines", write_half_and_die)
        with pytest.raises(KeyboardInterrupt):
            generate(run, corpus, out, cache)
    assert not out.exists()
    monkeypatch.setattr(stage, "answer_batch", None)  # nothing is asked again
    assert len(generate(run, corpus, out, cache)) == len(out.read_text().splitlines()) == 11
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".answers")] == []


def test_missing_clips_are_refused(run: Path, corpus: Path, tmp_path: Path) -> None:
    row = json.loads((corpus / "test.jsonl").read_text().splitlines()[0])
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({**row, "id": "new", "audio": str(corpus / row["audio"])}) + "\n")
    with pytest.raises(StoreError, match=r"1 of 1 clips are absent.*--from-audio"):
        generate(run, other, tmp_path / "out.jsonl", tmp_path / "cache")


def test_a_folder_without_a_run_is_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(RunError, match="not the folder of a finished run"):
        generate(tmp_path, corpus, tmp_path / "out.jsonl", tmp_path / "cache")


def test_a_run_without_llm_cannot_answer(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    extract(corpus, speech_recipe, tmp_path / "cache")
    train(speech_recipe, corpus, tmp_path / "cache", tmp_path / "run")
    with pytest.raises(ConfigError, match="this run has no LLM, so it cannot answer"):
        generate(tmp_path / "run", corpus, tmp_path / "out.jsonl", tmp_path / "cache")


def test_only_prompts_of_a_trained_run_can_be_changed(
    run: Path, corpus: Path, tmp_path: Path
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out.jsonl"
    short = generate(run, corpus / "test.jsonl", out, cache, overrides=["prompts.answer_tokens=1"])
    whole = generate(run, corpus / "test.jsonl", out, cache)
    assert all(len(s.response) < len(w.response) for s, w in zip(short, whole, strict=True))
    with pytest.raises(ConfigError, match=r"heads\.dropout=0.*only prompts\.\* can change"):
        generate(run, corpus, out, cache, overrides=["heads.dropout=0"])


def test_only_changed_clips_are_answered_again(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, out, test = tmp_path / "cache", tmp_path / "out.jsonl", corpus / "test.jsonl"
    first = generate(run, test, out, cache)
    written = out.stat().st_mtime_ns
    ordinary = stage.answer_batch
    asked: list[str] = []

    def answer(
        model: SpeechLLM, batch: Batch, utterances: Sequence[Utterance], prompts: PromptsConfig
    ) -> list[Generation]:
        asked.extend(utterance.id for utterance in utterances)
        return ordinary(model, batch, utterances, prompts)

    monkeypatch.setattr(stage, "answer_batch", answer)
    assert generate(run, test, out, cache) == first
    assert generate(run, test, out, cache, from_audio=True) == first
    assert (asked, out.stat().st_mtime_ns) == ([], written)
    clips = corpus.parent / "audio"
    (clips / "10.wav").write_bytes((clips / "09.wav").read_bytes())
    test.write_text(test.read_text().replace('"text": "', '"text": "Well, '))
    found = generate(run, test, out, cache, from_audio=True)
    assert asked == ["tones/10"]
    assert [g.response for g in found] == [first[0].response] * 2
    assert all(g.text.startswith("Well, ") for g in found)
    generate(run, test, out, cache, overrides=["prompts.answer_tokens=1"])
    assert sorted(asked[1:]) == ["tones/09", "tones/10"]
    out.write_text("My notes")
    with pytest.raises(RellmError, match=r"out\.jsonl: is there already, and is not answers"):
        generate(run, test, out, cache)


def test_other_weights_of_the_llm_give_new_answers(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    assert quick.llm is not None
    folder = shutil.copytree(quick.llm.model, tmp_path / "llm")
    reads = replace(quick, llm=replace(quick.llm, model=str(folder)), text=TextConfig())
    train(reads, corpus, cache, tmp_path / "reads")
    out, test = tmp_path / "out.jsonl", corpus / "test.jsonl"

    def fingerprints() -> list[str]:
        generate(tmp_path / "reads", test, out, cache)
        return [json.loads(line)["fingerprint"] for line in out.read_text().splitlines()]

    before = fingerprints()
    assert fingerprints() == before
    weights = load_file(folder / "model.safetensors")
    save_file({n: -t for n, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert not set(fingerprints()) & set(before)


@pytest.mark.parametrize("content", [b"\x00\x00\x00\x20ftypM4A \xff", b"hello"])
def test_a_file_of_another_kind_is_refused_with_the_known_endings(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "clip.m4a").write_bytes(content)
    with pytest.raises(ManifestError, match=r"clip.m4a.*a sound file\? Those end in .wav, .flac"):
        read_source(tmp_path / "clip.m4a")


def test_workers_with_one_killed_write_what_one_process_writes(
    run: Path, corpus: Path, tmp_path: Path, killed_worker: list[int]
) -> None:
    cache, alone, out = tmp_path / "cache", tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    generate(run, corpus, alone, cache, batch_size=1)
    answers = generate(run, corpus, out, cache, batch_size=1, options=WorkerOptions(workers=2))
    assert len(killed_worker) == 1
    assert len(answers) == 11
    assert out.read_bytes() == alone.read_bytes()
    assert journals_of(out) == []


def test_workers_make_the_batches_of_one_process(run: Path, corpus: Path, tmp_path: Path) -> None:
    cache, alone, out = tmp_path / "cache", tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    generate(run, corpus, alone, cache, batch_size=3)
    generate(run, corpus, out, cache, batch_size=3, options=WorkerOptions(workers=2))
    assert out.read_bytes() == alone.read_bytes()


def test_shards_are_joined_by_the_last_one(
    run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, alone, out = tmp_path / "cache", tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    whole = generate(run, corpus, alone, cache, batch_size=1)
    shards = [WorkerOptions(shard=Shard(number, 2)) for number in (1, 2)]
    assert generate(run, corpus, out, cache, batch_size=1, options=shards[0]) == []
    left = sum(shards[1].takes(answer.id) for answer in whole)
    assert f"out.jsonl: {left} clips remain, of shard 2/2" in capsys.readouterr().err
    assert not out.exists()
    assert generate(run, corpus, out, cache, batch_size=1, options=shards[1]) == whole
    assert out.read_bytes() == alone.read_bytes()
    assert journals_of(out) == []
