"""Adapter: published sizes, and outputs that do not depend on the batch."""

from dataclasses import replace

import pytest
import torch

from rellm_cache.config.schema import AdapterConfig
from rellm_cache.data.streams import QuantizationParams
from rellm_cache.model.adapter import ConvAdapter, concat_streams, dequantize

LITE = AdapterConfig(preset="lite", width=16, bottleneck=16)
REFERENCE = AdapterConfig(preset="reference", bottleneck=8)


@pytest.mark.parametrize("config", [LITE, REFERENCE], ids=["lite", "reference"])
def test_a_clip_alone_and_among_fifteen_longer_ones(config: AdapterConfig) -> None:
    torch.manual_seed(0)
    adapter = ConvAdapter(config, 24, 32).eval()
    lengths = torch.tensor([37, *range(50, 200, 10)])
    frames = torch.randn(16, 190, 24)  # whatever lies beyond a length must not matter
    together, counts = adapter(frames, lengths)
    alone, count = adapter(frames[:1, :37], lengths[:1])
    assert int(count) == int(counts[0]) == alone.shape[1] == 5
    torch.testing.assert_close(together[0, :5], alone[0], rtol=0, atol=1e-5)
    assert not together[0, 5:].any()


def test_the_reference_has_the_papers_size() -> None:
    with torch.device("meta"):
        adapter = ConvAdapter(AdapterConfig(), 1280 + 1024, 4096)
    sizes = [sum(p.numel() for p in conv.parameters()) for conv in adapter.convs]
    assert [round(size / 1e6) for size in sizes] == [53, 53, 94]
    assert round(sum(p.numel() for p in adapter.parameters()) / 1e6) == 205


def test_lengths_are_three_halvings() -> None:
    adapter = ConvAdapter(replace(LITE, crop_frames=20), 24, 32)
    lengths = torch.tensor([1, 2, 8, 9, 16, 17, 1500])
    expected = lengths
    for _ in range(3):
        expected = torch.floor((expected - 1) / 2 + 1).long()
    assert adapter.eval().output_lengths(lengths).tolist() == expected.tolist()
    assert adapter.train().output_lengths(lengths).tolist() == [1, 1, 1, 2, 2, 3, 3]
    stored = {"speech": torch.randn(2, 50, 24)}
    for mode in (True, False):
        cropped, kept = adapter.train(mode).crop(stored, torch.tensor([50, 9]))
        _, counts = adapter(cropped["speech"], kept)
        assert counts.tolist() == adapter.output_lengths(torch.tensor([50, 9])).tolist()


def test_streams_are_concatenated_by_frame_or_as_the_utterances_mean() -> None:
    streams = {"b": torch.arange(4.0).reshape(1, 4, 1), "a": torch.ones(1, 4, 2).half()}
    lengths = torch.tensor([3])
    assert concat_streams(streams, lengths, {"a": "frame"}).dtype == torch.float32
    by_frame = concat_streams(streams, lengths, {"a": "frame", "b": "frame"})
    assert by_frame[0].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 2], [1, 1, 3]]
    pooled = streams | {"b": torch.full((1, 1, 1), 1.5)}
    by_utterance = concat_streams(pooled, lengths, {"a": "frame", "b": "utterance"})
    assert by_utterance[0].tolist() == [[1, 1, 1.5]] * 4
    alone = concat_streams(pooled, lengths, {"b": "utterance"})
    assert alone[0].tolist() == [[1.5]] * 3
    for wrong, kind in ((streams, "utterance"), (pooled, "frame")):
        with pytest.raises(ValueError, match=f"stream 'b': . frames of 4, pooling '{kind}'"):
            concat_streams(wrong, lengths, {"a": "frame", "b": kind})


def test_scale_starts_from_the_data() -> None:
    torch.manual_seed(0)
    adapter = ConvAdapter(LITE, 24, 32)
    frames = 50 * torch.randn(1, 1000, 24) + 7
    assert adapter.needs_statistics
    adapter.start_from(frames[0].mean(0), frames[0].std(0))
    assert adapter.scale is not None
    scaled = adapter.scale(frames)[0]
    torch.testing.assert_close(scaled.mean(0), torch.zeros(24), rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled.std(0), torch.ones(24), rtol=1e-4, atol=0)


def test_crops_are_one_run_of_valid_frames() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([40, 100])
    frames = torch.arange(100.0).expand(2, 100)[..., None]  # each frame holds its place
    adapter = ConvAdapter(replace(LITE, crop_frames=60), 24, 32).train()
    for _ in range(20):
        streams, kept = adapter.crop({"a": frames, "b": frames.half().repeat(1, 1, 3)}, lengths)
        cropped = streams["a"]
        assert torch.equal(streams["b"], cropped.half().repeat(1, 1, 3))  # the same run
        assert kept.tolist() == [40, 60]
        assert cropped[0, :40, 0].tolist() == list(range(40))
        start = int(cropped[1, 0, 0])
        assert cropped[1, :, 0].tolist() == list(range(start, start + 60))
        assert start + 60 <= 100


def test_int8_frames_are_what_their_steps_say_and_their_padding_does_not_matter() -> None:
    steps = QuantizationParams(torch.rand(24) + 0.1, torch.randn(24))
    stored = torch.randint(-127, 128, (2, 40, 24), dtype=torch.int8)
    lengths = torch.tensor([40, 25])
    frames = dequantize(stored, steps)
    assert frames.dtype == torch.float32
    assert torch.allclose(frames[1, 3], stored[1, 3] * steps.scale + steps.mean)
    floats = torch.randn(1, 2, 24).half()
    assert dequantize(floats, None) is floats
    adapter = ConvAdapter(LITE, 24, 32).eval()
    stored[1, 25:] = 0
    again = dequantize(stored, steps)
    assert torch.equal(adapter(frames, lengths)[0], adapter(again, lengths)[0])
