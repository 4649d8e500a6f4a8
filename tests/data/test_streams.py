"""Streams of frames: aligned to one length, or refused."""

import numpy as np
import pytest

from rellm_cache.data.streams import StreamSet, align_length
from rellm_cache.errors import StoreError
from rellm_cache.store.in_memory import InMemoryFrames


@pytest.mark.parametrize("longer", [-3, -1, 0, 1, 3])
def test_the_emotion_stream_is_cut_or_its_last_frame_repeated(longer: int) -> None:
    own = np.random.default_rng(1).normal(size=(9 + longer, 3)).astype(np.float16)
    lined_up = np.concatenate(align_length(own, 9, "b"))
    kept = min(9, len(own))
    np.testing.assert_array_equal(lined_up[:kept], own[:kept])
    np.testing.assert_array_equal(lined_up[kept:], own[-1:].repeat(9 - kept, 0))


@pytest.mark.parametrize("longer", [-4, 4])
def test_streams_of_different_audio_are_refused(longer: int) -> None:
    with pytest.raises(StoreError, match=f"b: 9 speech frames but {9 + longer} emotion frames"):
        align_length(np.zeros((9 + longer, 3)), 9, "b")


def test_values_are_both_streams_side_by_side() -> None:
    speech, emotion = InMemoryFrames(2), InMemoryFrames(3)
    speech.add("a", np.ones((4, 2)))
    emotion.add("a", np.full((3, 3), 0.5))
    values = StreamSet(speech, emotion).values("a")
    np.testing.assert_array_equal(values, [[1, 1, 0.5, 0.5, 0.5]] * 4)
    np.testing.assert_array_equal(StreamSet(speech, None).values("a"), np.ones((4, 2)))
