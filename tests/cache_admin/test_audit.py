"""Audit against audio: changed files are named, frames encoded again are compared."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from rellm_cache.cache_admin.audit import compare_audio, recompute
from rellm_cache.cache_admin.info import list_clips
from rellm_cache.cache_admin.maintenance import (
    compact_cache,
    copy_cache,
    prune_cache,
    repair_cache,
    verify_cache,
)
from rellm_cache.cache_admin.quantize import quantize
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.encoders.registry import encoding_machine
from rellm_cache.errors import StoreError
from rellm_cache.extraction.run import extract
from rellm_cache.store.format import StoreInfo, list_parts
from rellm_cache.store.maintenance.metadata import recorded_writers
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter


@pytest.fixture
def cache(corpus: Path, speech_recipe: Recipe, tmp_path: Path) -> Path:
    """All clips of the corpus, extracted."""
    extract(corpus, speech_recipe, tmp_path / "cache")
    return tmp_path / "cache"


def change_audio(corpus: Path, index: int) -> None:
    """Overwrite one clip with another of the same length."""
    path = corpus.parent / f"audio/{index:02d}.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)


def test_unchanged_audio_is_counted(cache: Path, corpus: Path) -> None:
    (report,) = compare_audio(cache, corpus)
    assert (report.equal, report.changed, report.unreadable, report.absent) == (11, [], {}, [])


def test_changed_missing_and_new_clips_are_named(
    cache: Path, corpus: Path, speech_recipe: Recipe
) -> None:
    change_audio(corpus, 2)
    (corpus.parent / "audio/03.wav").unlink()
    lines = (corpus / "train.jsonl").read_text()
    (corpus / "train.jsonl").write_text(lines.replace("tones/01", "tones/new"))
    (report,) = compare_audio(cache, corpus)
    assert (report.equal, report.changed, report.absent) == (8, ["tones/02"], ["tones/new"])
    assert list(report.unreadable) == ["tones/03"]
    assert "no such file" in report.unreadable["tones/03"]


def test_frames_encoded_again_are_equal_and_machines_are_named(cache: Path, corpus: Path) -> None:
    (report,) = recompute(cache, corpus, 5)
    assert len(report.clips) == 5
    assert report.largest < 2e-3  # batches of other sizes round differently
    assert report.mean <= report.largest
    assert report.cosine > 0.99999
    assert report.writers == [report.machine]
    assert set(report.machine) == {"device", "dtype", "torch", "rellm"}
    assert recompute(cache, corpus, 5) == [report]  # the same clips by the same seed
    assert recompute(cache, corpus, 5, seed=2)[0].clips != report.clips
    assert len(recompute(cache, corpus, 99)[0].clips) == 11


def test_other_frames_are_reported(cache: Path, corpus: Path) -> None:
    store = FeatureStore(next(cache.glob("*/zarr.json")).parent)
    info = StoreInfo(store.spec, store.frame_size, store.licence)
    with StoreWriter(cache, info) as writer:  # a machine that was not recorded
        for name in store.ids:
            digest = np.frombuffer(store.audio_sha256(name), np.uint8)
            writer.add(name, digest, store.frames(name).astype(np.float32) + 0.5)
    (report,) = recompute(cache, corpus, 3)
    assert report.largest == pytest.approx(0.5, abs=5e-3)
    assert report.mean == pytest.approx(0.5, abs=5e-3)
    assert report.writers == []


def test_an_int8_store_is_intact_and_compared_after_dequantization(
    cache: Path, corpus: Path
) -> None:
    made = FeatureStore(quantize(next(cache.glob("*/zarr.json")).parent).path)
    assert all(check.is_intact for check in verify_cache(cache))
    assert made.quantization is not None
    reports = {report.store: report for report in recompute(cache, corpus, 11)}
    report = reports.pop(made.path)
    (exact,) = reports.values()
    assert exact.largest < report.largest <= 0.51 * made.quantization.scale.max() + exact.largest
    assert report.writers == exact.writers == [report.machine]  # what made the float16 frames


def test_changed_audio_is_not_compared(cache: Path, corpus: Path) -> None:
    change_audio(corpus, 2)
    (report,) = recompute(cache, corpus, 11)
    assert len(report.clips) == 10
    assert "its audio changed" in report.skipped["tones/02"]


def test_a_missing_encoder_is_reported(cache: Path, corpus: Path, whisper_folder: Path) -> None:
    hidden = whisper_folder.rename(whisper_folder.with_name("hidden"))
    try:
        (report,) = recompute(cache, corpus, 1)
    finally:
        hidden.rename(whisper_folder)
    assert str(whisper_folder) in report.reason
    assert report.clips == []


def test_extraction_records_the_machine(cache: Path, speech_recipe: Recipe) -> None:
    (part,) = list_parts(next(cache.glob("*/zarr.json")).parent)
    machine = encoding_machine(speech_recipe.encoders["speech"], torch.device("cpu"))
    assert recorded_writers([part]) == [machine]
    assert machine["dtype"] == "float32"


def test_a_cache_stays_intact_when_pruned_compacted_and_copied(
    cache: Path, corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    store = next(cache.glob("*/zarr.json")).parent
    change_audio(corpus, 0)
    extract(corpus, speech_recipe, cache)
    (pruned,) = prune_cache(cache, [corpus / "test.jsonl", corpus / "train.jsonl"])
    kept = {u.id for f in ("test", "train") for u in read_manifests(corpus / f"{f}.jsonl")}
    assert (pruned.superseded, pruned.outside) == (1, 11 - len(kept))
    assert [clip.id for clip in list_clips(store)] == sorted(kept)
    (compacted,) = compact_cache(cache, 1 << 28)
    assert compacted.parts_after == 1
    (copied,) = copy_cache(cache, tmp_path / "other", [store.name])
    assert list_clips(copied.store) == list_clips(store)
    with pytest.raises(StoreError, match="no store 'prosody'; found tiny-whisper"):
        copy_cache(cache, tmp_path / "other", ["prosody"])
    assert all(check.is_intact for check in verify_cache(cache))
    assert repair_cache(cache).stores[0].problems == []
    reports = extract(corpus, speech_recipe, cache)
    assert reports[0].encoded == 11 - len(kept)
