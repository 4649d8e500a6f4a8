"""Examples in batches: streams lined up, and an order that follows from seed and epoch alone."""

import itertools

import numpy as np
import pytest
import torch

from rellm_cache.data.batch import (
    Batch,
    Frames,
    Target,
    bucketed_batches,
    line_up,
    ordered_batches,
)
from rellm_cache.errors import StoreError
from rellm_cache.store.in_memory import EncodedFrames


@pytest.mark.parametrize("longer", [-3, -1, 0, 1, 3])
def test_the_emotion_stream_is_cut_or_its_last_frame_repeated(longer: int) -> None:
    own = np.random.default_rng(1).normal(size=(9 + longer, 3)).astype(np.float16)
    lined_up = np.concatenate(line_up(own, 9, "b"))
    kept = min(9, len(own))
    np.testing.assert_array_equal(lined_up[:kept], own[:kept])
    np.testing.assert_array_equal(lined_up[kept:], own[-1:].repeat(9 - kept, 0))


@pytest.mark.parametrize("longer", [-4, 4])
def test_streams_of_different_audio_are_refused(longer: int) -> None:
    with pytest.raises(StoreError, match=f"b: 9 speech frames but {9 + longer} emotion frames"):
        line_up(np.zeros((9 + longer, 3)), 9, "b")


def test_values_are_both_streams_side_by_side() -> None:
    speech, emotion = EncodedFrames(2), EncodedFrames(3)
    speech.add("a", np.ones((4, 2)))
    emotion.add("a", np.full((3, 3), 0.5))
    values = Frames(speech, emotion).values("a")
    np.testing.assert_array_equal(values, [[1, 1, 0.5, 0.5, 0.5]] * 4)
    np.testing.assert_array_equal(Frames(speech, None).values("a"), np.ones((4, 2)))


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


def test_a_wider_window_pads_less() -> None:
    lengths = np.random.default_rng(1).integers(50, 1500, 1000).tolist()

    def padded(window: int) -> int:
        batches = bucketed_batches(lengths, 8, 1, 0, window)
        assert sorted(itertools.chain(*batches)) == list(range(1000))
        return sum(max(lengths[i] for i in b) * len(b) for b in batches)

    assert sum(lengths) < padded(64) < padded(8) < padded(1)
    assert bucketed_batches(lengths, 8, 1, 0, 32) == bucketed_batches(lengths, 8, 1, 0)


def test_evaluation_goes_by_length() -> None:
    assert ordered_batches([5, 1, 4, 2, 3], 2) == [[1, 3], [4, 2], [0]]
    assert ordered_batches([], 2) == []


def test_a_part_of_a_batch_keeps_what_belongs_to_its_clips() -> None:
    says = [Target("response", (1, 2, 3)), Target("recognition", (4,)), Target("response", (5, 6))]
    batch = Batch(
        ids=("a", "b", "c"),
        speech=torch.arange(3 * 8 * 2).reshape(3, 8, 2).half(),
        emotion=None,
        frame_lengths=torch.tensor([8, 5, 3]),
        emotions=torch.tensor([0, 1, 2]),
        vad=torch.zeros(3, 3),
        targets=((says[0],), (says[1], says[2]), ()),
        teacher=torch.arange(5 * 3.0).reshape(5, 3),  # a row for each token of a response
    )
    first, rest = batch.part(slice(0, 1)), batch.part(slice(1, 3))
    assert (first.ids, rest.ids) == (("a",), ("b", "c"))
    assert torch.equal(rest.speech, batch.speech[1:, :5])  # padded no longer than they need
    assert rest.targets == batch.targets[1:]
    assert rest.frame_lengths.tolist() == [5, 3]
    assert first.teacher is not None
    assert rest.teacher is not None
    assert torch.equal(torch.cat([first.teacher, rest.teacher]), batch.teacher)
    assert len(rest.teacher) == 2
