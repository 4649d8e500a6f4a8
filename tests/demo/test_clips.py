"""The demo corpus is complete, small and balanced, with unseen test voices."""

from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.demo.run import embedded_clips

FOLDER = Path(str(resources.files("rellm_cache.demo"))) / "clips"


@pytest.fixture(scope="module")
def clips() -> list[Utterance]:
    return embedded_clips()


def test_the_folder_holds_the_manifests_clips_and_nothing_else(clips: list[Utterance]) -> None:
    listed = {Path(u.audio).name for u in clips} | {"manifest.jsonl"}
    assert {p.name for p in FOLDER.iterdir()} == listed
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) <= 4_000_000


def test_every_voice_says_every_sentence_in_every_emotion(clips: list[Utterance]) -> None:
    assert len(clips) >= 96
    assert len({u.speaker for u in clips}) >= 4
    assert len({u.text for u in clips}) >= 4
    counts = Counter((u.speaker, u.emotion) for u in clips)
    assert {emotion for _, emotion in counts} == {"neutral", "happy", "angry", "sad"}
    assert len(set(counts.values())) == 1


def test_test_voices_are_unseen(clips: list[Utterance]) -> None:
    splits = {
        s: {u.speaker for u in clips if u.split == s} for s in ("train", "validation", "test")
    }
    assert all(splits.values())
    assert sum(len(s) for s in splits.values()) == len(set().union(*splits.values()))


def test_dimensions_are_marked_as_made(clips: list[Utterance]) -> None:
    assert all(u.vad is not None and u.vad_source == "made" for u in clips)


def test_every_clip_loads_at_its_stated_length(clips: list[Utterance]) -> None:
    for clip in clips:
        assert load_clip(clip).seconds == pytest.approx(clip.duration, abs=0.01)
