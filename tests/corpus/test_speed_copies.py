"""Copies of training clips at other speeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rellm_cache.corpus.audio import clip_seconds, load_clip
from rellm_cache.corpus.audio_source import audio_digest
from rellm_cache.corpus.clip_limits import ClipLimits
from rellm_cache.corpus.manifest import Utterance, read_manifest, write_manifest
from rellm_cache.corpus.speed_copies import (
    is_copy_of,
    read_training_clips,
    with_speed_copies,
    without_copies,
)
from rellm_cache.errors import ManifestError

LIMITS = ClipLimits()


def clip(name: str, split: str = "train", seconds: float | None = 2.0) -> Utterance:
    return Utterance(name, f"/audio/{name}.wav", split=split, duration=seconds, emotion="sad")


def test_training_clips_get_a_copy_at_each_speed() -> None:
    given = [clip("a"), clip("b", "test"), clip("c", seconds=None)]
    found = with_speed_copies(given, (0.8, 1.25), LIMITS)
    assert found[:3] == given
    assert [u.id for u in found[3:]] == ["a@0.8", "c@0.8", "a@1.25", "c@1.25"]
    assert (found[3].duration, found[3].speed, found[3].emotion) == (2.5, 0.8, "sad")
    assert without_copies(found) == given
    assert with_speed_copies(given, (), LIMITS) == given


def test_copies_outside_the_limits_are_left_out() -> None:
    found = with_speed_copies([clip("short", seconds=1.05), clip("long", seconds=28)], (0.9, 1.1),
                              LIMITS)  # fmt: skip
    assert [u.id for u in found] == ["short", "long", "short@0.9", "long@1.1"]


def test_an_id_that_is_taken_is_named() -> None:
    with pytest.raises(ManifestError, match=r"'a@0\.9' has the id of the copy of 'a'"):
        with_speed_copies([clip("a"), clip("a@0.9")], (0.9,), LIMITS)


def test_ids_of_copies_are_known_by_their_original() -> None:
    assert is_copy_of("a@0.9", {"a"})
    assert not is_copy_of("a@b", {"a"})
    assert not is_copy_of("a", {"a"})
    assert not is_copy_of("b@0.9", {"a"})


def test_a_faster_copy_is_shorter_and_higher(tmp_path: Path) -> None:
    path, rate = tmp_path / "tone.wav", 24_000
    tone = 0.5 * np.sin(2 * np.pi * 400 * np.arange(2 * rate) / rate)
    soundfile.write(path, tone, rate)
    own = Utterance("tone", str(path))
    copy = replace(own, id="tone@1.25", speed=1.25)
    clip = load_clip(copy)
    assert clip.seconds == clip_seconds(copy) == 1.6
    spectrum = np.abs(np.fft.rfft(clip.waveform))
    assert np.argmax(spectrum) * 16_000 / len(clip.waveform) == pytest.approx(500, abs=1)
    assert clip.rate == rate
    assert audio_digest(copy).tobytes() != audio_digest(own).tobytes()


def test_manifests_hold_speeds_that_are_not_1(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    given = [clip("a"), replace(clip("b"), speed=0.9)]
    write_manifest(path, given)
    assert read_manifest(path) == given
    assert path.read_text("utf-8").count("speed") == 1
    assert [u.id for u in read_training_clips(tmp_path, (1.1,))] == ["a", "b", "a@1.1", "b@1.1"]


@pytest.mark.parametrize("speed", ["0.1", "3", '"fast"', "-1", "true"])
def test_other_speeds_are_refused(tmp_path: Path, speed: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"audio": "a.wav", "speed": {speed}}}')
    with pytest.raises(ManifestError, match=r"expected a number, 0\.5 to 2"):
        read_manifest(path)
