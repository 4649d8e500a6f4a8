"""Streams of several layers: a frame holds the values of all layers, one layer after the other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rellm_cache as rellm
from rellm_cache.cache_admin.quantize import quantize
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.data.batch import Example
from rellm_cache.data.collate import collate
from rellm_cache.data.copy_padded import copy_padded
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.streams import StreamSet, frame_statistics
from rellm_cache.extraction.run import extract
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.in_memory import InMemoryFrames
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter

LENGTHS = {"a": 5, "b": 9, "c": 7}
SPEC = EncoderSpec(kind="whisper", model="m", layers=(1, 2, -1))


def frames_of(clip: str, longer: int = 0) -> np.ndarray:
    """(L, 3, 4) float16 frames of three layers."""
    random = np.random.default_rng(LENGTHS[clip])
    return random.normal(size=(LENGTHS[clip] + longer, 3, 4)).astype(np.float16)


def in_memory(longer: int = 0, rate: float = 50.0) -> InMemoryFrames:
    made = InMemoryFrames(StoreInfo(replace(SPEC, frame_rate=rate), 4, "none"))
    for clip in LENGTHS:
        made.add(clip, frames_of(clip, longer))
    return made


def pitch() -> InMemoryFrames:
    made = InMemoryFrames(StoreInfo(EncoderSpec(kind="prosody"), 1, "none"))
    for clip, length in LENGTHS.items():
        made.add(clip, np.arange(length).reshape(-1, 1))
    return made


def stored(path: Path) -> FeatureStore:
    with StoreWriter(path, StoreInfo(SPEC, 4, "none")) as writer:
        for clip in LENGTHS:
            writer.add(clip, np.zeros(32, np.uint8), frames_of(clip))
    return FeatureStore(writer.path)


def test_a_batch_holds_the_layers_side_by_side(tmp_path: Path) -> None:
    for source in (in_memory(), stored(tmp_path)):
        streams = StreamSet({"speech": source, "pitch": pitch()})
        assert streams.sizes == {"speech": 12, "pitch": 1}
        assert streams.layers == {"speech": (1, 2, -1), "pitch": ()}
        batch = collate([Example("b"), Example("a")], streams)
        speech = batch.streams["speech"]
        assert speech.shape == (2, 9, 12)
        by_layer = speech.unflatten(-1, (3, 4))  # (B, T, K D) -> (B, T, K, D)
        np.testing.assert_array_equal(by_layer[0], frames_of("b"))
        np.testing.assert_array_equal(by_layer[1, :5], frames_of("a"))
        assert not speech[1, 5:].any()


def test_a_shorter_stream_repeats_its_last_frame_in_each_layer() -> None:
    streams = StreamSet({"pitch": pitch(), "speech": in_memory(longer=-2)})
    speech = collate([Example("c")], streams).streams["speech"].unflatten(-1, (3, 4))
    own = frames_of("c", -2)
    np.testing.assert_array_equal(speech[0], np.concatenate([own, own[-1:], own[-1:]]))


def test_another_rate_is_resampled_in_each_layer() -> None:
    streams = StreamSet({"pitch": pitch(), "speech": in_memory(rate=25.0, longer=-3)})
    speech = collate([Example("a")], streams).streams["speech"].unflatten(-1, (3, 4))
    np.testing.assert_array_equal(speech[0], frames_of("a", -3)[[0, 0, 1, 1, 1]])


def test_values_and_statistics_are_of_all_layers(tmp_path: Path) -> None:
    streams = StreamSet({"speech": stored(tmp_path), "pitch": pitch()})
    expected = np.concatenate([frames_of("a").reshape(5, 12), np.arange(5)[:, None]], 1)
    np.testing.assert_array_equal(streams.values("a"), expected)
    mean, deviation = frame_statistics(streams, ["a"], lambda values: values)
    torch.testing.assert_close(mean, torch.from_numpy(expected.mean(0)).float())
    torch.testing.assert_close(deviation, torch.from_numpy(expected.std(0)).float())


def test_int8_layers_keep_their_own_scales(tmp_path: Path) -> None:
    source = FeatureStore(quantize(stored(tmp_path).path).path)
    for pooled in ((), ("speech",)):
        streams = StreamSet({"speech": source}, pooled=frozenset(pooled))
        batch = collate([Example("b")], streams)
        values = batch.streams["speech"][0].float()
        expected = frames_of("b").reshape(9, 12).astype(np.float32)
        if pooled:
            expected = expected.mean(0, keepdims=True)
        else:
            params = batch.quantization["speech"]
            assert params.scale.shape == params.mean.shape == (12,)
            values = values * params.scale + params.mean
        np.testing.assert_allclose(values, expected, atol=0.02)
    np.testing.assert_allclose(streams.values("b"), frames_of("b").reshape(9, 12), atol=0.02)


def test_a_pooled_stream_has_the_mean_of_each_layer() -> None:
    streams = StreamSet({"speech": in_memory()}, pooled=frozenset(["speech"]))
    pooled = collate([Example("a"), Example("b")], streams).streams["speech"]
    assert pooled.shape == (2, 1, 12)
    means = [frames_of(clip).astype(np.float64).mean(0).reshape(1, 12) for clip in "ab"]
    np.testing.assert_array_equal(pooled, np.stack(means).astype(np.float32))


def test_reused_memory_holds_nothing_of_the_batch_before(tmp_path: Path) -> None:
    streams = StreamSet({"speech": stored(tmp_path), "pitch": pitch()})
    examples = [Example(clip) for clip in "abc"]
    loader = BatchLoader(examples, streams)
    plan = [[1, 2], [0], [2, 0], [0, 1, 2]] * 3
    for indices, batch in zip(plan, loader.batches(plan, reuse_memory=True), strict=True):
        fresh = collate([examples[i] for i in indices], streams)
        assert torch.equal(batch.streams["speech"], fresh.streams["speech"])


def test_a_column_is_written_and_its_neighbours_are_not() -> None:
    out = np.full((2, 4, 6), 9, np.float16)
    pieces = [[np.ones((2, 2), np.float16), np.ones((1, 2), np.float16) * 3], []]
    copy_padded(pieces, [3, 0], out[:, :, 2:4])
    assert out[0, :, 2].tolist() == [1, 1, 3, 0]
    assert not out[1, :, 2:4].any()
    assert (out[:, :, :2] == 9).all()
    assert (out[:, :, 4:] == 9).all()


@pytest.mark.parametrize(
    "out",
    [np.zeros((2, 4, 6), np.float16)[:, :, ::3], np.zeros((4, 4, 2), np.float16)[::2]],
    ids=["values left out", "clips left out"],
)
def test_other_strides_are_refused(out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected writable, contiguous memory"):
        copy_padded([[np.ones((1, 2), np.float16)], []], [1, 0], out)
    assert not out.any()


def test_the_loader_of_a_recipe_reads_some_layers_of_more(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    speech = speech_recipe.encoders["speech"]
    every = replace(speech_recipe, encoders={"speech": replace(speech, layers="all")})
    (report,) = extract(corpus, every, tmp_path / "cache")
    some = replace(speech_recipe, encoders={"speech": replace(speech, layers=(0, 2))})
    loader = rellm.loader(some, corpus, tmp_path / "cache", shuffle=False)
    assert (loader.sizes, loader.layers) == ({"speech": 32}, {"speech": (0, 2)})
    store = rellm.open_store(report.path)
    batch = next(iter(loader))
    for row, name in enumerate(batch.ids):
        length = int(batch.frame_lengths[row])
        found = batch.streams["speech"][row, :length].unflatten(-1, (2, 16))
        np.testing.assert_array_equal(found, store[name][:, [0, 2]])
