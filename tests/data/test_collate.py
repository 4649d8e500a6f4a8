"""Collation: padded frames of any number of streams, with labels."""

import numpy as np
import pytest
import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.data.batch import IGNORED, Example, Target
from rellm_cache.data.collate import collate, fill, layout
from rellm_cache.data.streams import StreamSet
from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.in_memory import InMemoryFrames

LENGTHS = {"a": 5, "b": 9, "c": 7}


def source(size: int, longer: int = 0) -> InMemoryFrames:
    """Random frames of the three clips, each `longer` frames longer."""
    random = np.random.default_rng(size)
    encoded = InMemoryFrames(StoreInfo(EncoderSpec(kind="prosody"), size, "none"))
    for clip, length in LENGTHS.items():
        encoded.add(clip, random.normal(size=(length + longer, size)))
    return encoded


@pytest.fixture
def streams() -> StreamSet:
    return StreamSet({"speech": source(4), "emotion": source(3, longer=-2), "pitch": source(1, 1)})


def test_shares_of_raters_are_nan_where_there_are_none(streams: StreamSet) -> None:
    batch = collate([Example("b", 0, shares=(0.75, 0.25)), Example("a", 1)], streams)
    assert batch.shares is not None
    assert batch.shares[0].tolist() == [0.75, 0.25]
    assert batch.shares[1].isnan().all()
    assert batch.part(slice(0, 1)).shares.shape == (1, 2)
    assert collate([Example("a", 1)], streams).shares is None


def test_a_batch_is_padded_with_zeros(streams: StreamSet) -> None:
    target = Target("response_lm", (1, 2))
    examples = [Example("b", 2, (0.1, 0.2, 0.3), (target,)), Example("a")]
    batch = collate(examples, streams)
    speech, emotion, _ = batch.streams.values()
    assert batch.ids == ("b", "a")
    assert speech.shape == (2, 9, 4)
    assert emotion.shape == (2, 9, 3)
    assert speech.dtype == emotion.dtype == torch.float16
    assert batch.frame_lengths.tolist() == [9, 5]
    np.testing.assert_array_equal(speech[1, :5], streams.sources["speech"].frames("a"))
    np.testing.assert_array_equal(emotion[1, :3], streams.sources["emotion"].frames("a"))
    np.testing.assert_array_equal(emotion[1, 2], emotion[1, 4])
    assert not speech[1, 5:].any()
    assert not emotion[1, 5:].any()
    assert batch.emotions.tolist() == [2, IGNORED]
    assert batch.vad[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert batch.vad[1].isnan().all()
    assert batch.targets == ((target,), ())
    assert batch.quantization == {}
    assert batch.to(torch.device("cpu")).ids == batch.ids


def test_a_pooled_stream_is_the_mean_of_its_own_frames() -> None:
    """Values from the definition: the mean over the frames of the stream, before alignment."""
    frames = {"long": [[1.0], [3.0], [8.0]], "short": [[2.0], [5.0]]}
    base, mood = (InMemoryFrames(StoreInfo(EncoderSpec(kind="prosody"), 1, "")) for _ in range(2))
    for clip, values in frames.items():
        base.add(clip, np.zeros((5 if clip == "short" else 2, 1)))
        mood.add(clip, np.array(values))
    streams = StreamSet({"speech": base, "mood": mood}, pooled=frozenset({"mood"}))
    batch = collate([Example("long"), Example("short")], streams)
    assert batch.streams["mood"].tolist() == [[[4.0]], [[3.5]]]  # not (1 + 3) / 2 and 4.4
    assert batch.streams["mood"].dtype == torch.float32
    assert batch.streams["speech"].shape == (2, 5, 1)
    assert batch.part(slice(1, 2)).streams["mood"].tolist() == [[[3.5]]]
    base.add("far", np.zeros((9, 1)))
    mood.add("far", np.zeros((5, 1)))
    with pytest.raises(StoreError, match="9 speech frames but 5 mood frames"):
        collate([Example("far")], streams)


@pytest.mark.parametrize("names", [["speech"], ["speech", "emotion"], ["pitch", "speech"]])
def test_a_batch_has_the_streams_of_the_recipe_in_order(
    streams: StreamSet, names: list[str]
) -> None:
    some = StreamSet({name: streams.sources[name] for name in names})
    batch = collate([Example("a")], some)
    assert list(batch.streams) == names
    assert batch.frame_lengths.tolist() == [6 if names[0] == "pitch" else 5]


@pytest.mark.parametrize("longer", [-3, 0, 2])
@pytest.mark.parametrize("clips", ["a", "abc", "bb", "ca"])
def test_a_batch_equals_its_clips_one_by_one(clips: str, longer: int) -> None:
    streams = StreamSet({"speech": source(4), "emotion": source(3, longer), "pitch": source(1)})
    batch = collate([Example(clip) for clip in clips], streams)
    for row, clip in enumerate(clips):
        length = LENGTHS[clip]
        for name, frames in batch.streams.items():
            expected = np.concatenate(streams.pieces(name, clip, length)[0])
            np.testing.assert_array_equal(frames[row, :length], expected)
            assert not frames[row, length:].any()


def test_streams_of_different_audio_make_no_batch() -> None:
    with pytest.raises(StoreError, match="b: 9 speech frames but 13 emotion frames"):
        collate([Example("b")], StreamSet({"speech": source(4), "emotion": source(3, longer=4)}))


def test_whatever_the_memory_held_is_overwritten(streams: StreamSet) -> None:
    examples = [Example("a"), Example("b"), Example("c")]
    memory = np.full(layout(streams, 3, 9).nbytes + 64, 0xFF, np.uint8)  # NaN as float16
    used = fill(memory, examples, [5, 9, 7], streams)
    fresh = collate(examples, streams)
    for name, frames in used.streams.items():
        assert torch.equal(frames, fresh.streams[name])
        assert np.shares_memory(frames.numpy(), memory)
