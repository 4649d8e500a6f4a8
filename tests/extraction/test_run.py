"""Extraction encodes every clip once, also after kills and errors, and lists failed clips."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from miniature.kills import KILLED_EXTRACTION
from miniature.tones import change_audio
from transformers import WhisperModel

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.manifest import read_lines, read_manifests, write_lines
from rellm_cache.data.streams import open_streams
from rellm_cache.encoders.registry import build_encoder
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.run import extract
from rellm_cache.store import writer
from rellm_cache.store.format import failures_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.shard_writer import ShardWriter

Checksums = Callable[[Path], dict[str, int]]
SOAK = Path(__file__).parents[1] / "benchmarks/soak.py"
IDS = [f"tones/{index:02d}" for index in range(11)]


def test_every_clip_is_encoded_by_both_encoders(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    speech_report, emotion_report = extract(corpus, recipe, tmp_path / "cache")
    assert (speech_report.encoded, speech_report.present, speech_report.failed) == (11, 0, 0)
    assert speech_report.hours == pytest.approx(21.2 / 3600)
    speech, emotion = FeatureStore(speech_report.path), FeatureStore(emotion_report.path)
    assert set(speech.ids) == set(emotion.ids) == set(IDS)
    assert (speech.licence, emotion.licence) == ("MIT", "CC-BY-NC-SA-4.0")
    assert speech.vad(IDS[0]) is None
    encoder = build_encoder(recipe.encoders["emotion"], torch.device("cpu"))
    for utterance in read_manifests(corpus / "validation.jsonl"):
        (encoding,) = encoder.encode([load_clip(utterance).waveform])
        stored = emotion.verified_frames(utterance.id)
        np.testing.assert_allclose(stored, encoding.frames, atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(emotion.vad(utterance.id), encoding.vad, atol=1e-5)
    streams = open_streams(recipe.encoders, tmp_path / "cache")
    streams.require(IDS, "rellm extract")
    assert streams.sizes == {"speech": 16, "emotion": 16}
    assert [len(streams.values(i)) for i in IDS] == streams.lengths(IDS).tolist()


def test_a_second_run_does_nothing(corpus: Path, speech_recipe: Recipe, tmp_path: Path) -> None:
    (first,) = extract(corpus, speech_recipe, tmp_path / "cache")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*")}
    (second,) = extract(corpus, speech_recipe, tmp_path / "cache")
    assert (second.encoded, second.present, second.path) == (0, 11, first.path)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*")} == before


def test_only_new_clips_are_encoded(corpus: Path, speech_recipe: Recipe, tmp_path: Path) -> None:
    extract(corpus / "test.jsonl", speech_recipe, tmp_path / "cache")
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache")
    assert (report.encoded, report.present) == (9, 2)
    store = FeatureStore(report.path)
    assert [len(part.ids) for part in store.parts] == [2, 9]


def test_a_second_stream_does_not_encode_the_first_again(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    alone = replace(recipe, encoders={"speech": recipe.encoders["speech"]})
    extract(corpus, alone, tmp_path / "cache")
    reports = extract(corpus, recipe, tmp_path / "cache")
    assert [(r.encoded, r.present) for r in reports] == [(0, 11), (11, 0)]


def test_two_streams_with_one_encoder_share_a_store(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    speech = speech_recipe.encoders["speech"]
    twice = replace(speech_recipe, encoders={"speech": speech, "emotion": speech})
    reports = extract(corpus, twice, tmp_path / "cache")
    assert [(r.encoded, r.present, r.failed) for r in reports] == [(11, 0, 0)] * 2


def test_changed_audio_is_encoded_again_and_replaces_the_old_frames(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, checksums: Checksums
) -> None:
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache")
    before = checksums(report.path)
    change_audio(corpus, 3)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache")
    assert (report.encoded, report.present) == (1, 10)
    after = checksums(report.path)
    assert {i for i in IDS if before[i] != after[i]} == {"tones/03"}
    assert extract(corpus, speech_recipe, tmp_path / "cache")[0].encoded == 0


def test_an_invalid_path_is_a_failed_clip(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    rows = [row for _, row in read_lines(corpus / "test.jsonl")]
    rows += [{"id": "nul", "audio": "../audio/\0.wav"}, {"audio": "."}]
    write_lines(corpus / "test.jsonl", rows)
    for encoded in (2, 0):
        (report,) = extract(corpus / "test.jsonl", speech_recipe, tmp_path / "cache")
        assert (report.encoded, report.failed) == (encoded, 2)
    listed = {row["id"]: row["reason"] for _, row in read_lines(failures_path(report.path))}
    assert "found a NUL character" in listed["nul"]
    assert "Is a directory" in listed[f"{corpus.name}/."]


def test_failed_clips_are_listed_and_never_stored(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    audio = corpus.parent / "audio"
    cut = audio / "02.wav"
    cut.write_bytes(cut.read_bytes()[:30_000])
    (audio / "05.wav").unlink()
    soundfile.write(audio / "07.wav", np.zeros(3_200), 16_000)
    reports = extract(corpus, recipe, tmp_path / "cache")
    for report in reports:
        assert (report.encoded, report.present, report.failed) == (8, 0, 3)
        assert set(FeatureStore(report.path).ids) == set(IDS) - {"tones/02", "tones/05", "tones/07"}
        rows = {row["id"]: row for _, row in read_lines(failures_path(report.path))}
        assert "truncated" in rows["tones/02"]["reason"]
        assert "no such file" in rows["tones/05"]["reason"]
        assert "too short, 0.20 s" in rows["tones/07"]["reason"]
        assert rows["tones/02"]["audio"].endswith("audio/02.wav")
    # One clip is repaired, another leaves the manifest: the list follows this manifest alone.
    soundfile.write(cut, np.random.default_rng(1).uniform(-0.1, 0.1, 20_000), 16_000)
    for report in extract(corpus, recipe, tmp_path / "cache"):
        assert (report.encoded, report.present, report.failed) == (1, 8, 2)
    (report, _) = extract(corpus / "test.jsonl", recipe, tmp_path / "cache")
    listed = {row["id"] for _, row in read_lines(failures_path(report.path))}
    assert listed == {"tones/05", "tones/07"}


@pytest.mark.parametrize(
    ("gain", "reason"),
    [
        (1e6, "a frame has the value .* largest float16 is 65504"),
        (float("nan"), "frames are not finite"),
    ],
)
def test_frames_that_cannot_be_stored_are_failures(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, gain: float, reason: str
) -> None:
    folder = tmp_path / "broken-whisper"
    shutil.copytree(speech_recipe.encoders["speech"].model, folder)
    model = WhisperModel.from_pretrained(folder)
    with torch.no_grad():
        model.encoder.layer_norm.weight.fill_(gain)
    model.save_pretrained(folder)
    spec = EncoderConfig(kind="whisper", model=str(folder))
    broken = replace(speech_recipe, encoders={"speech": spec})
    (report,) = extract(corpus / "test.jsonl", broken, tmp_path / "cache")
    assert (report.encoded, report.failed) == (0, 2)
    assert len(FeatureStore(report.path)) == 0
    for _, row in read_lines(failures_path(report.path)):
        assert re.match(f"{row['id']}: {reason}", row["reason"])


def test_a_missing_model_file_stops_before_anything_is_written(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(speech_recipe.encoders["speech"].model, folder)
    (folder / "preprocessor_config.json").unlink()
    spec = EncoderConfig(kind="whisper", model=str(folder))
    with pytest.raises(ConfigError, match=r"copy: preprocessor_config.json is missing"):
        extract(corpus, replace(speech_recipe, encoders={"speech": spec}), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_keeps_earlier_parts_and_a_second_run_completes(
    corpus: Path,
    recipe: Recipe,
    tmp_path: Path,
    checksums: Checksums,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sync, calls = writer.sync_tree, []

    def fills_up(folder: Path) -> None:
        calls.append(folder)
        if len(calls) > 6:  # two stores, then two parts of each
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(folder)

    options = ExtractionOptions(commit_seconds=0)  # every clip is a part
    with monkeypatch.context() as disk:
        disk.setattr(writer, "sync_tree", fills_up)
        with pytest.raises(StoreError, match="No space left on device; free some space and run"):
            extract(corpus, recipe, tmp_path / "cache", batch_size=2, options=options)
    for store in open_streams(recipe.encoders, tmp_path / "cache").sources.values():
        assert isinstance(store, FeatureStore)
        assert len(checksums(store.path)) == 2
    for report in extract(corpus, recipe, tmp_path / "cache", batch_size=2):
        assert (report.encoded, report.present) == (9, 2)
        assert set(checksums(report.path)) == set(IDS)


def test_a_store_that_cannot_be_written_does_not_affect_the_other(
    corpus: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = ShardWriter.write, []

    def fills_up(shards: ShardWriter, clip: np.ndarray) -> int:
        if "emotion" in str(shards._folder):
            calls.append(clip)
            if len(calls) > 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(shards, clip)

    with monkeypatch.context() as disk:
        disk.setattr(ShardWriter, "write", fills_up)
        with pytest.raises(StoreError, match=r"emotion.*No space left on device"):
            extract(corpus, recipe, tmp_path / "cache", batch_size=1)
    speech, emotion = extract(corpus, recipe, tmp_path / "cache", batch_size=1)
    assert (speech.encoded + speech.present, emotion.encoded) == (11, 11)
    assert speech.present > 4


def test_a_kill_leaves_a_valid_store_and_a_rerun_completes_it(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, checksums: Checksums
) -> None:
    recipe_file = tmp_path / "recipe.toml"
    recipe_file.write_text(to_toml(speech_recipe))
    killed = [
        sys.executable,
        "-c",
        KILLED_EXTRACTION,
        str(corpus),
        str(recipe_file),
        str(tmp_path / "cache"),
    ]
    assert subprocess.run(killed, check=False).returncode == -9
    (store,) = (FeatureStore(p.parent) for p in (tmp_path / "cache").glob("*/zarr.json"))
    assert len(checksums(store.path)) == 5
    assert list((tmp_path / "cache/.writing").iterdir())  # what it was writing
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache", batch_size=2)
    assert (report.encoded, report.present, report.path) == (6, 5, store.path)
    assert not (tmp_path / "cache/.writing").exists()
    (undisturbed,) = extract(corpus, speech_recipe, tmp_path / "other", batch_size=2)
    assert checksums(report.path) == checksums(undisturbed.path)


def test_kills_at_random_moments_lose_nothing_that_was_committed(
    whisper_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, SOAK, "--kills", "8", "--clips", "12", "--model", whisper_folder]
    done = subprocess.run(
        [*map(str, command), "--json", str(tmp_path / "figures.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["soak_kills"] == 8
    assert figures["soak_caches"] >= 1


def test_two_extractions_of_one_cache_at_once_both_finish(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Checksums,
) -> None:
    (corpus.parent / "audio/05.wav").unlink()
    recipe = tmp_path / "speech.toml"
    recipe.write_text(to_toml(speech_recipe))
    command = [sys.executable, "-c", "from rellm_cache.cli import main; main()", "extract"]
    command += [str(corpus), "--recipe", str(recipe), "--cache", str(tmp_path / "cache")]
    command += ["--batch-size", "1", "--commit-seconds", "0"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [3, 3]
    assert all("1 clip failed, see " in output for output in outputs)
    (store,) = (path.parent for path in (tmp_path / "cache").glob("*/zarr.json"))
    expected = {key: value for key, value in undisturbed.items() if key != "tones/05"}
    assert checksums(store) == expected
    assert [row["id"] for _, row in read_lines(failures_path(store))] == ["tones/05"]


def test_a_clock_set_back_does_not_change_the_order_of_parts(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Checksums,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (report,) = extract(corpus / "train.jsonl", speech_recipe, tmp_path / "cache")
    shutil.copy(corpus.parent / "audio/00.wav", corpus.parent / "audio/03.wav")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    options = ExtractionOptions(commit_seconds=0)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache", batch_size=1, options=options)
    assert (report.encoded, report.changed) == (5, 1)
    store = FeatureStore(report.path)
    assert [len(part.ids) for part in store.parts] == [7, 1, 1, 1, 1, 1]
    numbers = [part.path.name.split("-")[1] for part in store.parts]
    assert numbers == [f"{number:06d}" for number in range(1, 7)]
    assert checksums(report.path) == {**undisturbed, "tones/03": undisturbed["tones/00"]}


def test_segments_of_one_file_are_separate_clips(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    audio = str(corpus.parent / "audio/02.wav")
    rows = [
        {"id": "a", "audio": audio, "segment": [0, 1.5]},
        {"id": "b", "audio": audio, "segment": [1.0, 3.0]},
    ]
    write_lines(tmp_path / "segments.jsonl", rows)
    (report,) = extract(tmp_path / "segments.jsonl", speech_recipe, tmp_path / "cache")
    store = FeatureStore(report.path)
    assert (store.length("a"), store.length("b")) == (75, 100)
    rows[1]["segment"] = [1.0, 2.5]
    write_lines(tmp_path / "segments.jsonl", rows)
    (report,) = extract(tmp_path / "segments.jsonl", speech_recipe, tmp_path / "cache")
    assert (report.encoded, report.present) == (1, 1)
    assert FeatureStore(report.path).length("b") == 75
