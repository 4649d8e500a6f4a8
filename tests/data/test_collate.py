"""Collation: padded frames of two streams, labels beside them."""

import numpy as np
import pytest
import torch

from rellm_cache.data.batch import IGNORED, Example, Target
from rellm_cache.data.collate import collate, fill, layout
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import StoreError
from rellm_cache.store.in_memory import InMemoryFrames

LENGTHS = {"a": 5, "b": 9, "c": 7}


def source(size: int, longer: int = 0) -> InMemoryFrames:
    """Random frames of the three clips, each `longer` frames longer."""
    random = np.random.default_rng(size)
    encoded = InMemoryFrames(size)
    for clip, length in LENGTHS.items():
        encoded.add(clip, random.normal(size=(length + longer, size)))
    return encoded


@pytest.fixture
def frames() -> StreamSet:
    return StreamSet(source(4), source(3, longer=-2))


def test_a_batch_is_padded_with_zeros(frames: StreamSet) -> None:
    target = Target("response_lm", (1, 2))
    examples = [Example("b", 2, (0.1, 0.2, 0.3), (target,)), Example("a")]
    batch = collate(examples, frames)
    assert batch.ids == ("b", "a")
    assert batch.speech.shape == (2, 9, 4)
    assert batch.emotion is not None
    assert frames.emotion is not None
    assert batch.emotion.shape == (2, 9, 3)
    assert batch.speech.dtype == batch.emotion.dtype == torch.float16
    assert batch.frame_lengths.tolist() == [9, 5]
    np.testing.assert_array_equal(batch.speech[1, :5], frames.speech.frames("a"))
    np.testing.assert_array_equal(batch.emotion[1, :3], frames.emotion.frames("a"))
    np.testing.assert_array_equal(batch.emotion[1, 2], batch.emotion[1, 4])
    assert not batch.speech[1, 5:].any()
    assert not batch.emotion[1, 5:].any()
    assert batch.emotions.tolist() == [2, IGNORED]
    assert batch.vad[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert batch.vad[1].isnan().all()
    assert batch.targets == ((target,), ())
    assert batch.speech_steps is batch.emotion_steps is None
    assert batch.to(torch.device("cpu")).ids == batch.ids


def test_without_an_emotion_stream_there_is_none() -> None:
    assert collate([Example("a")], StreamSet(source(4), None)).emotion is None


@pytest.mark.parametrize("longer", [-3, 0, 2])
@pytest.mark.parametrize("clips", ["a", "abc", "bb", "ca"])
def test_a_batch_equals_its_clips_one_by_one(clips: str, longer: int) -> None:
    frames = StreamSet(source(4), source(3, longer))
    batch = collate([Example(clip) for clip in clips], frames)
    assert batch.emotion is not None
    for row, clip in enumerate(clips):
        length = LENGTHS[clip]
        np.testing.assert_array_equal(batch.speech[row, :length], frames.speech.frames(clip))
        np.testing.assert_array_equal(batch.emotion[row, :length], frames.emotion_frames(clip))
        assert not batch.speech[row, length:].any()
        assert not batch.emotion[row, length:].any()


def test_streams_of_different_audio_make_no_batch() -> None:
    with pytest.raises(StoreError, match="b: 9 speech frames but 13 emotion frames"):
        collate([Example("b")], StreamSet(source(4), source(3, longer=4)))


def test_whatever_the_memory_held_is_overwritten(frames: StreamSet) -> None:
    examples = [Example("a"), Example("b"), Example("c")]
    memory = np.full(layout(frames, 3, 9).nbytes + 64, 0xFF, np.uint8)  # NaN as float16
    used = fill(memory, examples, [5, 9, 7], frames)
    fresh = collate(examples, frames)
    assert used.emotion is not None
    assert fresh.emotion is not None
    assert torch.equal(used.speech, fresh.speech)
    assert torch.equal(used.emotion, fresh.emotion)
    assert np.shares_memory(used.speech.numpy(), memory)
