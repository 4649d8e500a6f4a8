"""The demo corpus is complete, small and balanced, with unseen test voices."""

from collections import Counter
from pathlib import Path

import pytest
import soundfile

from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.demo.run import FOLDER, demo_recipes, embedded_clips, shown_ids
from rellm_cache.metrics.replies import repeats_itself

CLIPS = FOLDER / "clips"
EMOTIONS = {"neutral", "happy", "angry", "sad", "surprise"}


@pytest.fixture(scope="module")
def clips() -> list[Utterance]:
    return embedded_clips()


def test_the_folder_holds_the_manifests_clips_and_nothing_else(clips: list[Utterance]) -> None:
    listed = {Path(u.audio).name for u in clips} | {"manifest.jsonl"}
    assert {p.name for p in CLIPS.iterdir()} == listed
    assert sum(p.stat().st_size for p in CLIPS.iterdir()) <= 4_000_000


def test_every_voice_says_its_sentences_in_every_emotion(clips: list[Utterance]) -> None:
    assert len(clips) >= 640
    assert len({u.speaker for u in clips}) >= 10
    assert len({u.text for u in clips}) >= 20
    takes = Counter((u.speaker, u.text) for u in clips)
    assert set(takes.values()) == {len(EMOTIONS)}
    assert set(Counter((u.speaker, u.text, u.emotion) for u in clips).values()) == {1}
    assert {u.emotion for u in clips} == EMOTIONS


def test_test_voices_are_unseen(clips: list[Utterance]) -> None:
    splits = {
        s: {u.speaker for u in clips if u.split == s} for s in ("train", "validation", "test")
    }
    assert all(splits.values())
    assert sum(len(s) for s in splits.values()) == len(set().union(*splits.values()))
    assert sum(u.split == "test" for u in clips) >= 160


def test_each_emotion_has_a_reply_that_fits_any_sentence(clips: list[Utterance]) -> None:
    replies = {u.emotion: u.response for u in clips}
    assert len(set(replies.values())) == len(replies) == len(EMOTIONS)
    assert all(u.response and u.response == replies[u.emotion] for u in clips)
    assert not any(repeats_itself(reply or "") for reply in replies.values())


def test_dimensions_are_marked_as_made(clips: list[Utterance]) -> None:
    assert all(u.vad is not None and u.vad_source == "made" for u in clips)


def test_clips_are_opus_and_load_at_their_stated_length(clips: list[Utterance]) -> None:
    for clip in clips[::13]:  # one of each voice and some more; decoding all takes seconds
        info = soundfile.info(clip.audio)
        assert (info.format, info.subtype, info.samplerate, info.channels) == (
            "OGG", "OPUS", 16_000, 1,
        )  # fmt: skip
        assert load_clip(clip).seconds == pytest.approx(clip.duration, abs=0.01)


def test_shown_clips_differ_in_emotion_alone(clips: list[Utterance]) -> None:
    by_id = {u.id: u for u in clips}
    shown = [by_id[name] for name in shown_ids()]
    assert len(shown) == 6
    assert all(clip.split == "test" for clip in shown)
    for one, other in zip(shown[::2], shown[1::2], strict=True):
        assert (one.speaker, one.text) == (other.speaker, other.text)
        assert one.emotion != other.emotion


def test_recipes_read_the_same_frames_and_emotions(tmp_path: Path) -> None:
    recipes = demo_recipes(tmp_path)
    assert list(recipes) == ["heads", "heads-speech-only", "small"]
    assert {frozenset(r.heads.emotions) for r in recipes.values()} == {frozenset(EMOTIONS)}
    assert recipes["heads"].encoders == recipes["small"].encoders
    assert set(recipes["heads-speech-only"].encoders) == {"speech"}
    assert recipes["small"].training.init_from == str((tmp_path / "heads").resolve())
