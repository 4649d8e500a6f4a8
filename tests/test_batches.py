"""Batches: padded frames of two streams, and an order that follows from seed and epoch alone."""

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from rellm_cache.batches import (
    Example,
    Frames,
    Target,
    bucketed_batches,
    collate,
    ordered_batches,
    prefetch,
)
from rellm_cache.errors import StoreError
from rellm_cache.llm.packing import IGNORED

LENGTHS = {"a": 5, "b": 9, "c": 7}


@dataclass
class Memory:
    """A source of frames that holds them: what a feature store is to a batch."""

    frame_size: int
    held: dict[str, np.ndarray] = field(default_factory=dict)

    def length(self, utterance_id: str, /) -> int:
        return len(self.held[utterance_id])

    def frames(self, utterance_id: str, /) -> np.ndarray:
        return self.held[utterance_id]


def source(size: int, longer: int = 0) -> Memory:
    """Random frames of the three clips, each `longer` frames longer."""
    random = np.random.default_rng(size)
    held = {k: random.normal(size=(n + longer, size)) for k, n in LENGTHS.items()}
    return Memory(size, {k: f.astype(np.float16) for k, f in held.items()})


@pytest.fixture
def frames() -> Frames:
    return Frames(source(4), source(3, longer=-2))


def test_a_batch_is_padded_with_zeros(frames: Frames) -> None:
    target = Target("response", (1, 2))
    examples = [Example("b", 2, (0.1, 0.2, 0.3), (target,)), Example("a")]
    batch = collate(examples, frames)
    assert batch.ids == ("b", "a")
    assert batch.speech.shape == (2, 9, 4)
    assert batch.emotion is not None
    assert batch.emotion.shape == (2, 9, 3)
    assert batch.speech.dtype == batch.emotion.dtype == torch.float16
    assert batch.frame_lengths.tolist() == [9, 5]
    np.testing.assert_array_equal(batch.speech[1, :5], frames.speech.frames("a"))
    assert not batch.speech[1, 5:].any()
    assert not batch.emotion[1, 5:].any()
    assert batch.emotions.tolist() == [2, IGNORED]
    assert batch.vad[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert batch.vad[1].isnan().all()
    assert batch.targets == ((target,), ())
    assert batch.to(torch.device("cpu")).ids == batch.ids


def test_without_an_emotion_stream_there_is_none() -> None:
    assert collate([Example("a")], Frames(source(4), None)).emotion is None


@pytest.mark.parametrize("longer", [-3, -1, 0, 1, 3])
def test_the_emotion_stream_is_cut_or_its_last_frame_repeated(longer: int) -> None:
    emotion = source(3, longer)
    lined_up = Frames(source(4), emotion).emotion_frames("b")
    own = emotion.frames("b")
    assert lined_up.shape == (9, 3)
    kept = min(9, len(own))
    np.testing.assert_array_equal(lined_up[:kept], own[:kept])
    np.testing.assert_array_equal(lined_up[kept:], own[-1:].repeat(9 - kept, 0))


@pytest.mark.parametrize("longer", [-4, 4])
def test_streams_of_different_audio_are_refused(longer: int) -> None:
    frames = Frames(source(4), source(3, longer))
    with pytest.raises(StoreError, match=f"b: 9 speech frames but {9 + longer} emotion frames"):
        frames.emotion_frames("b")


def test_every_example_is_in_one_batch_of_similar_length() -> None:
    lengths = np.random.default_rng(1).integers(50, 1500, 1000).tolist()
    batches = bucketed_batches(lengths, 16, seed=1, epoch=0)
    assert sorted(itertools.chain(*batches)) == list(range(1000))
    padded = sum(max(lengths[i] for i in b) * len(b) for b in batches)
    assert padded < 1.05 * sum(lengths)
    assert max(map(len, batches)) == 16


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    lengths = list(range(100, 200))
    first = bucketed_batches(lengths, 8, seed=1, epoch=0)
    assert bucketed_batches(lengths, 8, seed=1, epoch=0) == first
    assert bucketed_batches(lengths, 8, seed=1, epoch=1) != first
    assert bucketed_batches(lengths, 8, seed=2, epoch=0) != first


def test_evaluation_goes_by_length() -> None:
    assert ordered_batches([5, 1, 4, 2, 3], 2) == [[1, 3], [4, 2], [0]]
    assert ordered_batches([], 2) == []


def test_prefetching_changes_nothing(frames: Frames) -> None:
    examples = [Example(i) for i in LENGTHS]
    groups = [[[0], [1, 2]], [[2, 0]]]
    read = list(prefetch(groups, examples, frames))
    assert [[b.ids for b in group] for group in read] == [[("a",), ("b", "c")], [("c", "a")]]
    again = collate([examples[1], examples[2]], frames)
    assert torch.equal(read[0][1].speech, again.speech)
