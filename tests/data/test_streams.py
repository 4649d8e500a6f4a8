"""Streams of frames: aligned to one length, or an error."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.data.streams import (
    FrameSource,
    StreamSet,
    align_length,
    frame_statistics,
    open_streams,
    resample,
)
from rellm_cache.errors import StoreError
from rellm_cache.extraction.run import extract
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.in_memory import InMemoryFrames


def source(frames: np.ndarray, rate: float = 50.0) -> FrameSource:
    """One utterance, "a", of frames (L, D)."""
    spec = EncoderSpec(kind="prosody", frame_rate=rate)
    made = InMemoryFrames(StoreInfo(spec, frames.shape[1], "none"))
    made.add("a", frames)
    return made


@pytest.mark.parametrize("longer", [-3, -1, 0, 1, 3])
def test_a_stream_is_cut_or_its_last_frame_repeated(longer: int) -> None:
    own = np.random.default_rng(1).normal(size=(9 + longer, 3)).astype(np.float16)
    aligned = np.concatenate(align_length(own, 9))
    kept = min(9, len(own))
    np.testing.assert_array_equal(aligned[:kept], own[:kept])
    np.testing.assert_array_equal(aligned[kept:], own[-1:].repeat(9 - kept, 0))


@pytest.mark.parametrize("longer", [-4, 4])
def test_streams_of_different_audio_are_refused(longer: int) -> None:
    streams = StreamSet(
        {"speech": source(np.ones((9, 2))), "pitch": source(np.ones((9 + longer, 3)))}
    )
    with pytest.raises(StoreError, match=f"a: 9 speech frames but {9 + longer} pitch frames"):
        streams.pieces("pitch", "a", 9)


@pytest.mark.parametrize(("rate", "frames"), [(25.0, 4), (40.0, 7), (100.0, 17), (100.0, 12)])
def test_a_stream_of_another_rate_is_resampled_by_the_nearest_frame(
    rate: float, frames: int
) -> None:
    own = np.arange(frames, dtype=np.float16).reshape(frames, 1)
    streams = StreamSet({"speech": source(np.ones((9, 2))), "own": source(own, rate)})
    ((resampled,),) = streams.pieces("own", "a", 9)
    nearest = [min(int((i + 0.5) * rate / 50), frames - 1) for i in range(9)]
    assert resampled[:, 0].tolist() == nearest
    quantized = resample(own.astype(np.int8), 9, rate / 50)
    assert (quantized.dtype, quantized[:, 0].tolist()) == (np.int8, nearest)


def test_the_gap_between_streams_of_two_rates_is_in_frames_of_the_first() -> None:
    for frames, refused in ((24, False), (26, True), (12, False), (11, True)):
        streams = StreamSet(
            {"speech": source(np.ones((9, 2))), "own": source(np.ones((frames, 1)), 100.0)}
        )
        if refused:
            with pytest.raises(StoreError, match=f"a: 9 speech frames but {frames} own frames"):
                streams.pieces("own", "a", 9)
        else:
            assert len(streams.pieces("own", "a", 9)[0][0]) == 9


def test_values_are_the_streams_side_by_side() -> None:
    streams = {
        "speech": source(np.ones((4, 2))),
        "emotion": source(np.full((3, 3), 0.5)),
        "pitch": source(np.arange(5.0).reshape(5, 1)),
    }
    assert StreamSet(streams).sizes == {"speech": 2, "emotion": 3, "pitch": 1}
    values = StreamSet(streams).values("a")
    np.testing.assert_array_equal(values[:, :5], [[1, 1, 0.5, 0.5, 0.5]] * 4)
    np.testing.assert_array_equal(values[:, 5], [0, 1, 2, 3])  # cut to the first stream's length
    mean, deviation = frame_statistics(StreamSet(streams), ["a"], lambda values: values)
    np.testing.assert_allclose(mean, [1, 1, 0.5, 0.5, 0.5, 1.5])
    np.testing.assert_allclose(deviation, [0, 0, 0, 0, 0, np.sqrt(1.25)], rtol=1e-6)
    mean, _ = frame_statistics(StreamSet(streams), ["a"], lambda values: 2 * values[:, 4:])
    np.testing.assert_allclose(mean, [1, 3])


def test_frames_in_memory_name_an_utterance_that_was_not_added() -> None:
    streams = StreamSet({"speech": source(np.ones((4, 2)))})
    streams.require(["a"], "rellm extract")
    assert streams.audio_sha256("a") is None
    with pytest.raises(StoreError, match="1 clips were not encoded, the first is 'b'; add them wi"):
        streams.require(["a", "b"], "rellm extract")


def test_clips_absent_from_the_cache_are_reported_with_the_command(
    corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    extract(corpus / "train.jsonl", recipe, tmp_path / "cache")
    streams = open_streams(recipe.encoders, tmp_path / "cache")
    message = "4 of 11 clips are absent from the cache, the first is 'tones/07'; add them with `rel"
    with pytest.raises(StoreError, match=message):
        streams.require([f"tones/{index:02d}" for index in range(11)], "rellm extract manifest")


def test_a_cache_with_another_layer_names_the_field(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    extract(corpus / "test.jsonl", speech_recipe, tmp_path / "cache")
    spec = replace(speech_recipe.encoders["speech"], layer=1)
    with pytest.raises(StoreError, match="another fingerprint; layer: wanted 1, found -1"):
        open_streams({"speech": spec}, tmp_path / "cache")
