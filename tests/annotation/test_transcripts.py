"""transcribe: each clip is done once; kills, changed audio, failures and silence."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kills import KilledAfter

from rellm_cache.annotation.transcripts import TranscribeReport, read_clips, transcribe
from rellm_cache.cache_admin.info import cache_info
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.manifest import read_lines, read_manifests
from rellm_cache.encoders.whisper_transcriber import Transcription, WhisperTranscriber
from rellm_cache.errors import ConfigError, ManifestError, StoreError
from rellm_cache.extraction.run import extract
from rellm_cache.metrics.word_error_rate import WordErrors
from rellm_cache.store.remote.client import RemoteError
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.store.transcripts import (
    list_transcripts,
    read_transcripts,
    read_transcripts_file,
)
from rellm_cache.utils.resumable_table import journal_beside
from rellm_cache.workers.options import Shard, WorkerOptions

MakeClip = Callable[..., Path]


@pytest.fixture
def clips(corpus: Path) -> Path:
    """Of the corpus the four clips, 07 to 10, that are not for training; all have texts."""
    (corpus / "train.jsonl").unlink()
    return corpus


@pytest.fixture
def hearing(speech_recipe: Recipe, writer_folder: Path) -> Recipe:
    """A recipe whose transcriber writes six letters at most."""
    spec = TranscriberSpec(model=str(writer_folder), max_tokens=6)
    return replace(speech_recipe, transcriber=spec)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(manifest: Path, recipe: Recipe, cache: Path) -> TranscribeReport:
    return transcribe([manifest], recipe, cache)


def test_every_clip_gets_a_transcript_once(clips: Path, hearing: Recipe, cache: Path) -> None:
    first = run(clips, hearing, cache)
    assert (first.transcribed, first.present, first.failed, first.cut) == (4, 0, 0, 4)
    assert first.hours == pytest.approx(sum(u.duration or 0 for u in read_manifests(clips)) / 3600)
    assert list_transcripts(cache) == [first.path]
    content = first.path.read_bytes()
    assert not journal_beside(first.path).exists()
    changed = first.path.stat().st_mtime_ns
    again = run(clips, hearing, cache)
    assert (again.transcribed, again.present, again.errors) == (0, 4, first.errors)
    assert (first.path.read_bytes(), first.path.stat().st_mtime_ns) == (content, changed)
    assert {p.name for p in cache.iterdir()} == {"transcripts"}  # no lock is left


def test_transcripts_are_read_back(clips: Path, hearing: Recipe, cache: Path) -> None:
    path = run(clips, hearing, cache).path
    utterances = read_manifests(clips)
    spec = hearing.require_transcriber()
    assert spec.weights_sha256 == ""
    texts = read_transcripts(utterances, spec, cache)
    assert list(texts) == [u.id for u in utterances]
    assert texts == {key: row.text for key, row in read_transcripts_file(path).items()}
    missing = replace(utterances[0], id="tones/new")
    with pytest.raises(StoreError, match=r"1 of 5 .* 'tones/new'; add them with `rellm transcr"):
        read_transcripts([*utterances, missing], spec, cache)


def test_a_killed_run_goes_on_where_it_was(
    clips: Path, hearing: Recipe, cache: Path, killed_after: KilledAfter
) -> None:
    undisturbed = run(clips, hearing, cache).path
    content = undisturbed.read_bytes()
    undisturbed.unlink()
    with killed_after(2):
        run(clips, hearing, cache)
    assert not undisturbed.exists()
    with journal_beside(undisturbed).open("ab") as file:
        file.write(b'{"id": "tones/05", "text": "\xc3')  # a line cut short, within a letter
    report = run(clips, hearing, cache)
    assert (report.transcribed, report.present) == (2, 2)
    assert undisturbed.read_bytes() == content
    assert not journal_beside(undisturbed).exists()


def test_edited_audio_is_transcribed_again(
    clips: Path, hearing: Recipe, cache: Path, make_clip: MakeClip
) -> None:
    path = run(clips, hearing, cache).path
    before = read_transcripts_file(path)
    make_clip("audio/08.wav", 2.0, 500.0)
    report = run(clips, hearing, cache)
    assert (report.transcribed, report.present, report.changed) == (1, 3, 1)
    after = read_transcripts_file(path)
    assert {key for key in after if after[key] != before[key]} == {"tones/08"}
    assert after["tones/08"].audio_sha256 != before["tones/08"].audio_sha256


def test_failed_clips_are_listed_and_have_no_transcript(
    clips: Path, hearing: Recipe, cache: Path, make_clip: MakeClip
) -> None:
    whole = (clips.parent / "audio/07.wav").read_bytes()
    (clips.parent / "audio/07.wav").write_bytes(whole[:3000])
    report = run(clips, hearing, cache)
    assert (report.transcribed, report.present, report.failed) == (3, 0, 1)
    ((_, row),) = read_lines(report.failures)
    assert row["id"] == "tones/07"
    assert "truncated" in row["reason"]
    with pytest.raises(StoreError, match=r"1 of 4 utterances have no transcript.*'tones/07'"):
        read_transcripts(read_manifests(clips), hearing.require_transcriber(), cache)
    (clips.parent / "audio/07.wav").write_bytes(whole)
    assert run(clips, hearing, cache).transcribed == 1
    assert not report.failures.exists()


def test_a_damaged_clip_loses_its_transcript_a_missing_file_does_not(
    clips: Path, hearing: Recipe, cache: Path
) -> None:
    path = run(clips, hearing, cache).path
    (clips.parent / "audio/07.wav").write_bytes(b"RIFF")
    (clips.parent / "audio/09.wav").unlink()
    report = run(clips, hearing, cache)
    assert (report.transcribed, report.present, report.failed, report.changed) == (0, 2, 2, 1)
    kept = read_transcripts_file(path)
    assert "tones/07" not in kept
    assert "tones/09" in kept


def test_silence_gives_an_empty_transcript(
    clips: Path, hearing: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = WhisperTranscriber.transcribe

    def deaf_to_long_clips(model: WhisperTranscriber, heard: list[Any]) -> list[Transcription]:
        said = hear(model, heard)
        return [Transcription("", False) if len(clip) > 32_000 else text
                for clip, text in zip(heard, said, strict=True)]  # fmt: skip

    monkeypatch.setattr(WhisperTranscriber, "transcribe", deaf_to_long_clips)
    report = run(clips, hearing, cache)
    assert (report.empty, report.cut, report.failed) == (2, 2, 0)
    texts = read_transcripts(read_manifests(clips), hearing.require_transcriber(), cache)
    assert sum(not text for text in texts.values()) == 2
    assert run(clips, hearing, cache).empty == 2


def test_errors_are_counted_against_the_manifests_texts(
    clips: Path, hearing: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_word_wrong(model: WhisperTranscriber, heard: list[Any]) -> list[Transcription]:
        return [Transcription("this is TONE, number 1!", False) for _ in heard]

    monkeypatch.setattr(WhisperTranscriber, "transcribe", one_word_wrong)
    file = clips / "validation.jsonl"
    rows = [row for _, row in read_lines(file)]
    del rows[0]["text"], rows[1]["emotion"]  # one is compared with nothing, one has no emotion
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run(clips, hearing, cache)
    assert report.errors == WordErrors(2, 15)
    by_emotion = {"neutral": WordErrors(0, 5), "surprise": WordErrors(1, 5)}
    assert report.emotion_errors == by_emotion


def test_a_corpus_without_texts_has_no_errors(clips: Path, hearing: Recipe, cache: Path) -> None:
    file = clips / "test.jsonl"
    rows = [{k: v for k, v in row.items() if k != "text"} for _, row in read_lines(file)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = transcribe([file], hearing, cache)
    assert (report.transcribed, report.errors, report.emotion_errors) == (2, None, {})


def test_manifests_can_overlap_but_must_agree(clips: Path, tmp_path: Path) -> None:
    assert len(read_clips([clips, clips / "test.jsonl"])) == 4
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "tones/08", "audio": "elsewhere.wav"}\n')
    with pytest.raises(ManifestError, match=r"other.jsonl: id 'tones/08' is .*elsewhere.wav"):
        read_clips([clips, other])


def test_other_settings_have_a_file_of_their_own(clips: Path, hearing: Recipe, cache: Path) -> None:
    first = transcribe([clips / "test.jsonl"], hearing, cache)
    shorter = replace(hearing.require_transcriber(), max_tokens=3)
    second = transcribe([clips / "test.jsonl"], replace(hearing, transcriber=shorter), cache)
    assert second.transcribed == 2
    assert list_transcripts(cache) == sorted([first.path, second.path])


def test_a_recipe_without_a_transcriber_is_refused(
    clips: Path, speech_recipe: Recipe, cache: Path
) -> None:
    with pytest.raises(ConfigError, match=r"recipe 'speech' has no \[transcriber\] table"):
        run(clips, speech_recipe, cache)


def test_stores_and_transcripts_share_a_cache(clips: Path, hearing: Recipe, cache: Path) -> None:
    run(clips, hearing, cache)
    with pytest.raises(StoreError, match=r"found no store"):
        cache_info(cache)
    extract(clips / "test.jsonl", hearing, cache)
    assert [store.clips for store in cache_info(cache)] == [2]


def test_real_speech_goes_through(
    ravdess: Path, hearing: Recipe, cache: Path, tmp_path: Path
) -> None:
    """What the real model hears in it is in tests/demo."""
    files = sorted(ravdess.rglob("*.flac"))[:2]
    manifest = tmp_path / "real.jsonl"
    manifest.write_text("".join(json.dumps({"audio": str(file)}) + "\n" for file in files))
    report = transcribe([manifest], hearing, cache)
    assert (report.transcribed, report.failed) == (2, 0)


def test_a_cache_in_an_object_store_has_transcripts_too(
    clips: Path, hearing: Recipe, s3: Any
) -> None:
    url = s3.url
    report = run(clips, hearing, open_mirror(url))
    name = f"transcripts/{report.path.name}"
    assert s3.names() == {name}
    s3.forget_copies()
    again = run(clips, hearing, open_mirror(url))
    assert (again.transcribed, again.present) == (0, 4)
    assert again.path.read_bytes() == s3.files.cat_file(s3.path(name))


def test_a_failed_upload_is_repeated_by_the_next_call(
    clips: Path, hearing: Recipe, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(path: Path) -> None:
        raise RemoteError(f"{path}: no network")

    with monkeypatch.context() as outage:
        outage.setattr("rellm_cache.annotation.transcripts.upload_file", no_network)
        with pytest.raises(RemoteError, match="no network"):
            run(clips, hearing, open_mirror(s3.url))
    assert s3.names() == set()
    again = run(clips, hearing, open_mirror(s3.url))
    assert (again.transcribed, again.present) == (0, 4)
    assert s3.names() == {f"transcripts/{again.path.name}"}
    assert not journal_beside(again.path).exists()


def test_a_clip_too_large_for_memory_fails_alone(
    clips: Path, hearing: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = WhisperTranscriber.transcribe

    def small(self: WhisperTranscriber, waveforms: Sequence[np.ndarray]) -> list[Transcription]:
        if max(map(len, waveforms)) > 2.3 * 16_000:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return hear(self, waveforms)

    monkeypatch.setattr(WhisperTranscriber, "transcribe", small)
    report = run(clips, hearing, cache)
    assert (report.transcribed, report.failed) == (3, 1)
    ((_, row),) = read_lines(report.failures)
    assert row["id"] == "tones/10"
    assert "out of GPU memory though encoded alone" in row["reason"]


def test_workers_with_one_killed_write_what_one_process_writes(
    corpus: Path, hearing: Recipe, cache: Path, killed_worker: list[int], make_clip: MakeClip
) -> None:
    (corpus.parent / "audio/07.wav").write_bytes(b"RIFF")
    alone = run(corpus, hearing, cache)
    content = alone.path.read_bytes()
    alone.path.unlink()
    report = transcribe([corpus], hearing, cache, 4, options=WorkerOptions(workers=2))
    assert len(killed_worker) == 1
    assert (report.transcribed, report.failed, report.hours) == (10, 1, pytest.approx(alone.hours))
    assert report.path.read_bytes() == content
    assert not journal_beside(report.path).exists()
    again = transcribe([corpus], hearing, cache, options=WorkerOptions(workers=2))
    assert (again.transcribed, again.present, again.failed) == (0, 10, 1)


def test_each_shard_adds_its_transcripts_to_one_file(
    corpus: Path, hearing: Recipe, cache: Path, killed_after: KilledAfter
) -> None:
    alone = run(corpus, hearing, cache)
    content = alone.path.read_bytes()
    alone.path.unlink()
    options = [WorkerOptions(shard=Shard(number, 2)) for number in (1, 2)]
    shares = [sum(own.takes(u.id) for u in read_manifests(corpus)) for own in options]
    with killed_after(2):
        transcribe([corpus], hearing, cache, options=options[0])
    assert not alone.path.exists()
    second = transcribe([corpus], hearing, cache, options=options[1])
    assert (second.transcribed, second.present) == (shares[1], 0)
    assert len(read_transcripts_file(second.path)) == shares[1]
    first = transcribe([corpus], hearing, cache, options=options[0])
    assert (first.transcribed, first.present) == (shares[0] - 2, 2)
    assert first.path.read_bytes() == content
    assert [p.name for p in (cache / "transcripts").iterdir()] == [first.path.name]
    assert {p.name for p in cache.iterdir()} == {"transcripts"}  # no lock is left


def test_a_call_without_shards_finds_what_a_killed_shard_has_written(
    corpus: Path, hearing: Recipe, cache: Path, killed_after: KilledAfter
) -> None:
    with killed_after(2):
        transcribe([corpus], hearing, cache, options=WorkerOptions(shard=Shard(1, 2)))
    report = run(corpus, hearing, cache)
    assert (report.transcribed, report.present) == (9, 2)
    assert [p.name for p in (cache / "transcripts").iterdir()] == [report.path.name]


def test_shards_into_a_url_are_refused(clips: Path, hearing: Recipe, s3: Any) -> None:
    options = WorkerOptions(shard=Shard(1, 2))
    with pytest.raises(ConfigError, match=r"--shard 1/2: found a cache at s3://.* expected a fold"):
        transcribe([clips], hearing, open_mirror(s3.url), options=options)
