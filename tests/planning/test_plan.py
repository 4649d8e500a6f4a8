"""Estimates of a plan, compared with a real extraction."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_lines, read_split, write_lines
from rellm_cache.extraction.run import extract
from rellm_cache.planning.plan import Plan, plan
from rellm_cache.planning.training import CONTEXT_BYTES
from rellm_cache.qa.rows import QARow, questions_path, write_rows
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror import open_mirror


def test_the_estimated_size_equals_what_extraction_writes(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    found = plan(corpus, recipe, tmp_path / "cache", clips=3)
    assert (found.clips, found.unusable, found.extraction.timed_clips) == (11, 0, 3)
    assert found.hours == pytest.approx(21.2 / 3600)
    assert not (tmp_path / "cache").exists()
    reports = extract(corpus, recipe, tmp_path / "cache")
    for stream, report in zip(found.extraction.streams, reports, strict=True):
        store = FeatureStore(report.path)
        frames = sum(store.length(i) for i in store.ids) * 2 * store.frame_size
        assert stream.store == str(report.path)
        assert (stream.present, stream.missing, stream.frame_size) == (0, 11, 16)
        assert stream.bytes == pytest.approx(frames + 11 * 72, rel=0.02)  # wav2vec2 gives 1 less
        assert stream.seconds is not None
        assert stream.seconds > 0
    assert found.needed_bytes == sum(s.bytes for s in found.extraction.streams)
    assert found.extraction.seconds is not None
    assert found.extraction.seconds >= sum(s.seconds or 0 for s in found.extraction.streams)
    assert found.extraction.memory_bytes > 50e6  # torch alone needs more
    assert json.loads(json.dumps(found.to_json()))["fits"] is True


def test_present_clips_are_not_counted(corpus: Path, speech_recipe: Recipe, tmp_path: Path) -> None:
    extract(corpus / "train.jsonl", speech_recipe, tmp_path / "cache")
    (stream,) = plan(corpus, speech_recipe, tmp_path / "cache", clips=9).extraction.streams
    assert (stream.present, stream.missing) == (7, 4)
    extract(corpus, speech_recipe, tmp_path / "cache")
    found = plan(corpus, speech_recipe, tmp_path / "cache")
    assert (found.extraction.streams[0].missing, found.extraction.timed_clips) == (0, 0)
    assert (found.extraction.seconds, found.needed_bytes) == (0, 0)


def test_lengths_are_read_from_files_if_the_manifest_has_none(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    rows = [row for _, row in read_lines(corpus / "train.jsonl")]
    for row in rows:
        del row["duration"]
    rows[0]["audio"] = "../audio/gone.wav"
    write_lines(corpus / "train.jsonl", rows)
    found = plan(corpus / "train.jsonl", speech_recipe, tmp_path / "cache")
    assert (found.clips, found.unusable) == (7, 1)
    assert found.hours == pytest.approx(12.3 / 3600)


def test_too_little_disk_space_is_reported(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    found = plan(corpus, speech_recipe, tmp_path / "cache", clips=1)
    assert found.fits
    assert not replace(found, free_bytes=found.needed_bytes - 1).fits


def test_training_is_counted_for_the_given_gpu(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    auto = replace(recipe, training=replace(recipe.training, micro_batch_tokens="auto"))
    found = [
        plan(corpus, auto, tmp_path / "cache", clips=1, gpu_bytes=size).training
        for size in (600_000_000, 700_000_000)
    ]
    small, large = found
    assert small is not None
    assert large is not None
    assert small.tokens < large.tokens
    assert 80e6 < small.peak_bytes <= 95e6  # CUDA uses half a gigabyte, a tenth stays free
    assert 160e6 < large.peak_bytes <= 185e6
    assert small.fits(600_000_000)
    assert not small.fits(550_000_000)
    assert small.operations == large.operations > 0


def test_the_options_that_make_it_fit_are_in_the_plan(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    def planned(size: int) -> Plan:
        return plan(corpus, recipe, tmp_path / "cache", clips=0, gpu_bytes=size)

    roomy = planned(10**9)
    assert roomy.savings is None
    assert roomy.training is not None
    size = roomy.training.peak_bytes + CONTEXT_BYTES - 1
    tight = planned(size)
    assert tight.training == roomy.training
    assert tight.savings is not None
    assert tight.savings.training.fits(size)
    content = json.loads(json.dumps(tight.to_json()))["savings"]
    assert content["lines"] == list(tight.savings.lines)
    assert content["training"]["peak_bytes"] < size


def test_training_is_counted_for_clips_of_the_train_split_alone(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    counted = plan(corpus / "train.jsonl", recipe, tmp_path / "cache", clips=0).training
    rows = [row for _, row in read_lines(corpus / "train.jsonl")]
    write_lines(corpus / "train.jsonl", ({**row, "split": None} for row in rows))
    assert plan(corpus, recipe, tmp_path / "cache", clips=0).training == counted
    nowhere = (corpus / "train.jsonl").rename(corpus / "mine.jsonl")
    for file in (corpus / "test.jsonl", nowhere):
        found = plan(file, recipe, tmp_path / "cache", clips=0)
        assert found.training is None
        assert found.training_unknown == f"{file}: found no clip of the train split"


def test_without_the_llm_extraction_is_planned_and_training_is_not(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    assert recipe.llm is not None
    absent = replace(recipe, llm=replace(recipe.llm, model=str(tmp_path / "nothing")))
    found = plan(corpus, absent, tmp_path / "cache", clips=1)
    assert found.training is None
    assert "nothing': no such folder" in found.training_unknown


def test_questions_beside_the_manifest_are_counted(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    asking = replace(recipe, losses=replace(recipe.losses, qa_lm=1.0))
    without = plan(corpus, asking, tmp_path / "cache", clips=1).training
    (first, *_) = read_split(corpus, "train")
    row = QARow(first.id, "implicit", "content", 0, "Who speaks?", "A calm voice.", False,
                "", "sad", "corpus", None, "m", "0", "w", "p", 1, "")  # fmt: skip
    write_rows(questions_path(corpus / "train.jsonl"), [row])
    found = plan(corpus, asking, tmp_path / "cache", clips=1).training
    assert without is not None
    assert found is not None
    assert found.operations > without.operations


def test_a_cache_at_a_url_needs_no_more_than_the_mirror_may_hold(
    corpus: Path, speech_recipe: Recipe, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELLM_COPIES_GB", "0.000001")
    found = plan(corpus, speech_recipe, open_mirror(s3.url), clips=1)
    assert found.extraction.streams[0].bytes > found.needed_bytes == 1000
    assert s3.names() == set()
