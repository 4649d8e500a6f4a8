"""Quantization of a store: its rounding error, and continuing after a kill."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rellm_cache.cache_admin.quantize import quantize
from rellm_cache.cli import main
from rellm_cache.config.schema import Recipe
from rellm_cache.data.streams import open_streams
from rellm_cache.encoders.registry import resolve
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.extraction.run import extract
from rellm_cache.store import writer as writer_module
from rellm_cache.store.matching import find_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train
from rellm_cache.utils import interrupts
from rellm_cache.utils.atomic_files import sync_tree


@pytest.fixture
def source(cache: Path, quick: Recipe) -> FeatureStore:
    """The speech stream's store of eleven clips."""
    return FeatureStore.find(cache, quick.encoders["speech"])


def test_a_store_in_eight_bits(source: FeatureStore) -> None:
    report = quantize(source.path)
    made = FeatureStore(report.path)
    assert (report.written, report.present, report.clipped) == (11, 0, 0)
    assert set(made.ids) == set(source.ids)
    assert made.licence == source.licence
    steps = made.quantization
    assert steps is not None
    every = np.concatenate([source.frames(i) for i in source.ids]).astype(np.float64)
    back = np.concatenate([steps.dequantize(made.frames(i)) for i in source.ids])
    error = back - every
    relative = np.sqrt(np.square(error).mean() / np.square(every).mean())
    by_channel = np.sqrt(np.square(error).mean(0)) / every.std(0)
    assert 0 < report.relative_rms < 0.02
    assert report.relative_rms == pytest.approx(relative, rel=1e-4)
    assert report.worst_channel == by_channel.argmax()
    assert report.worst_channel_rms == pytest.approx(by_channel.max(), rel=1e-3)
    for clip in source.ids:
        assert made.audio_sha256(clip) == source.audio_sha256(clip)
        assert made.length(clip) == source.length(clip)


def test_a_second_interrupt_waits_for_the_commit_of_the_first(
    source: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = writer_module.StoreWriter.commit
    verified = FeatureStore.verified_frames
    read: list[str] = []
    said: list[str] = []

    def interrupted_read(store: FeatureStore, clip: str) -> np.ndarray:
        read.append(clip)
        if len(read) == 4:
            signal.raise_signal(signal.SIGINT)
        return verified(store, clip)

    def interrupted_commit(writer: writer_module.StoreWriter) -> None:
        signal.raise_signal(signal.SIGINT)
        commit(writer)

    with monkeypatch.context() as patched:
        patched.setattr(FeatureStore, "verified_frames", interrupted_read)
        patched.setattr(writer_module.StoreWriter, "commit", interrupted_commit)
        patched.setattr(interrupts, "say", said.append)
        with pytest.raises(KeyboardInterrupt):
            quantize(source.path)
    assert said == [interrupts.NOTICE]
    report = quantize(source.path)
    assert (report.written, report.present) == (8, 3)


def test_a_killed_quantization_continues(
    source: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quantize(source.path).path
    complete = {i: FeatureStore(whole).frames(i).copy() for i in source.ids}
    for part in FeatureStore(whole).parts:
        part.path.rename(source.path.parent / f".gone-{part.path.name}")
    calls: list[Path] = []

    def die_at_second_part(folder: Path) -> None:
        calls.append(folder)
        if len(calls) > 1:
            raise KeyboardInterrupt
        sync_tree(folder)

    with monkeypatch.context() as disk:
        disk.setattr(writer_module, "sync_tree", die_at_second_part)
        with pytest.raises(KeyboardInterrupt):
            quantize(source.path, part_bytes=1)  # a part for every clip
    report = quantize(source.path)
    assert (report.written, report.present) == (10, 1)
    made = FeatureStore(report.path)
    for clip, expected in complete.items():
        np.testing.assert_array_equal(made.frames(clip), expected)
    assert quantize(source.path).written == 0


def test_clips_added_later_use_the_existing_scale(
    corpus: Path, quick: Recipe, tmp_path: Path
) -> None:
    (first,) = extract(
        corpus / "test.jsonl",
        replace(quick, encoders={"speech": quick.encoders["speech"]}),
        tmp_path / "later",
    )
    before = FeatureStore(quantize(first.path).path).quantization
    extract(
        corpus, replace(quick, encoders={"speech": quick.encoders["speech"]}), first.path.parent
    )
    report = quantize(first.path)
    assert (report.written, report.present) == (9, 2)
    after = FeatureStore(report.path).quantization
    assert before is not None
    assert after is not None
    assert before.equals(after)
    assert report.clipped > 0  # and it is said


def test_stores_that_cannot_be_quantized_are_an_error(source: FeatureStore) -> None:
    made = quantize(source.path).path
    with pytest.raises(StoreError, match="holds int8 frames; expected a float16 store"):
        quantize(made)
    for part in source.parts:
        part.path.rename(source.path.parent / f".gone-{part.path.name}")
    with pytest.raises(StoreError, match="has no clips; fill it with `rellm extract`"):
        quantize(source.path)


def in_eight_bits(recipe: Recipe) -> Recipe:
    speech = replace(recipe.encoders["speech"], dtype="int8")
    return replace(recipe, encoders={**recipe.encoders, "speech": speech})


def test_training_reads_int8_and_learns_the_same(
    corpus: Path, cache: Path, quick: Recipe, source: FeatureStore, tmp_path: Path
) -> None:
    recipe = in_eight_bits(quick)
    with pytest.raises(StoreError, match="asks for int8; make that with `rellm cache quantize"):
        train(recipe, corpus, cache, tmp_path / "too early")
    quantize(source.path)
    train(quick, corpus, cache, tmp_path / "float16")
    train(recipe, corpus, cache, tmp_path / "int8")
    assert open_streams(recipe.encoders, cache).sources["speech"].dtype == np.int8

    def losses(run: str) -> list[float]:
        return [r["loss"] for r in read_metrics(tmp_path / run) if "loss" in r]

    assert losses("int8") == pytest.approx(losses("float16"), rel=0.02)
    assert losses("int8") != losses("float16")
    written = (tmp_path / "int8/recipe.toml").read_text()
    assert 'dtype = "int8"' in written


def test_no_encoder_makes_int8(corpus: Path, quick: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoders make float16 .*`rellm cache quantize"):
        resolve(in_eight_bits(quick).encoders["speech"])
    with pytest.raises(ConfigError, match='run this with dtype = "float16"'):
        extract(corpus, in_eight_bits(quick), tmp_path / "none", device=torch.device("cpu"))


def test_the_command(
    source: FeatureStore, quick: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, expected in (([], "11 clips quantized, 0 already present"), (["--json"], None)):
        with pytest.raises(SystemExit) as end:
            main(["cache", "quantize", str(source.path), *arguments])
        assert not end.value.code
        out = capsys.readouterr().out
        if expected:
            assert expected in out
            assert "0 of values clipped" in out
    assert json.loads(out)["present"] == 11
    assert find_store(source.path.parent, in_eight_bits(quick).encoders["speech"]).is_dir()
