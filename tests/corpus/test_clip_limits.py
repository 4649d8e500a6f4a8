"""Limits of clips: their range, their record in the report, and every command that obeys them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rellm_cache.annotation.transcripts import read_clips
from rellm_cache.cache_admin.audit import recompute
from rellm_cache.config.schema import AdapterConfig, EncoderConfig, LossesConfig, Recipe
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.clip_limits import WIDEST_LIMITS, ClipLimits, read_limits
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.errors import ManifestError
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.run import extract
from rellm_cache.inference.generate import read_source
from rellm_cache.inference.live_encoding import LiveEncoders
from rellm_cache.planning.plan import plan

MakeClip = Callable[..., Path]
PROSODY = Recipe(
    name="prosody",
    encoders={"speech": EncoderConfig(kind="prosody")},
    adapter=AdapterConfig(preset="lite", width=16, bottleneck=16, output_size=32),
    losses=LossesConfig(response_lm=0.0),
)


@pytest.mark.parametrize(
    "limits",
    [(0, 30), (0.05, 30), (-1, 2), (2, 1), (1, 30.1), (1, float("inf")), (float("nan"), 9)],
)
def test_limits_outside_the_range_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ManifestError, match=r"expected 0.1 s <= min_seconds <= max_seconds"):
        ClipLimits(*limits)


@pytest.mark.parametrize(
    "limits",
    [[], 3, {"min_seconds": "1"}, {"shortest": 1}, {"keep_silent": 1}, {"max_seconds": 99},
     {"min_seconds": True}],
)  # fmt: skip
def test_a_report_with_other_limits_is_refused(tmp_path: Path, limits: Any) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"limits": limits}))
    with pytest.raises(ManifestError, match=r"report.json: .*remove it, or prepare again"):
        read_limits(tmp_path)


def test_a_manifest_without_limits_has_the_default_ones(tmp_path: Path) -> None:
    assert read_limits(tmp_path / "train.jsonl") == ClipLimits()
    (tmp_path / "report.json").write_text("{}")
    assert read_limits(tmp_path) == ClipLimits()


@pytest.fixture
def short_manifest(make_clip: MakeClip, tmp_path: Path) -> Path:
    """A manifest whose clips the default limits would leave out."""
    paths = [
        make_clip("a.wav", seconds=0.3),
        make_clip("b.wav", seconds=0.6),
        make_clip("silent.wav", samples=np.zeros(16_000)),
    ]
    clips = [Utterance(id=p.stem, audio=str(p), split="train") for p in paths]
    limits = ClipLimits(0.3, 2, keep_silent=True)
    assert prepare(Corpus("x", clips), tmp_path / "manifest", limits).excluded == []
    return tmp_path / "manifest"


@pytest.mark.parametrize("workers", [0, 1])
def test_extraction_obeys_the_manifest(short_manifest: Path, tmp_path: Path, workers: int) -> None:
    cache, cpu = tmp_path / "cache", torch.device("cpu")
    (done,) = extract(
        short_manifest, PROSODY, cache, device=cpu, options=ExtractionOptions(workers)
    )
    assert (done.encoded, done.failed) == (3, 0)
    (again,) = recompute(cache, short_manifest, 3, device=cpu)
    assert (len(again.clips), again.skipped) == (3, {})


def test_planning_live_encoding_and_transcripts_obey_the_manifest(
    short_manifest: Path, tmp_path: Path
) -> None:
    found = plan(short_manifest, PROSODY, tmp_path / "cache")
    assert (found.unusable, found.extraction.timed_clips) == (0, 3)
    utterances = read_source(short_manifest)
    live = LiveEncoders(PROSODY.encoders, torch.device("cpu"))
    live.streams(utterances, read_limits(short_manifest)).require([u.id for u in utterances], "")
    assert set(read_clips([short_manifest]).values()) == {ClipLimits(0.3, 2, keep_silent=True)}


def test_planning_counts_what_extraction_leaves_out(make_clip: MakeClip, tmp_path: Path) -> None:
    rows = [{"audio": str(make_clip(f"{s}.wav", seconds=s))} for s in (0.5, 1.5, 31.0)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = plan(tmp_path / "train.jsonl", PROSODY, tmp_path / "cache")
    assert (found.clips, found.unusable, found.extraction.streams[0].missing) == (3, 2, 1)
    (done,) = extract(tmp_path / "train.jsonl", PROSODY, tmp_path / "cache")
    assert (done.encoded, done.failed) == (1, 2)


@pytest.mark.parametrize("kind", ["prosody", "whisper", "wav2vec2-emotion"])
def test_every_encoder_takes_the_shortest_and_the_longest_clip(
    whisper_folder: Path, emotion_folder: Path, make_clip: MakeClip, kind: str
) -> None:
    model = {"prosody": "", "whisper": whisper_folder, "wav2vec2-emotion": emotion_folder}[kind]
    spec = EncoderSpec(kind=kind, model=str(model))
    encoder = build_encoder(resolve(spec), torch.device("cpu"))
    for seconds in (0.1, 30.0):
        path = make_clip("a.wav", seconds=seconds)
        clip = load_clip(Utterance("x", str(path)), WIDEST_LIMITS)
        (encoding,) = encoder.encode([clip.waveform])
        assert len(encoding.frames) == pytest.approx(50 * seconds, abs=1)
