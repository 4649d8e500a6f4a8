"""Whisper encoder: hidden states of transformers, cut to the clip, in any batch."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperFeatureExtractor, WhisperModel

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import whisper_frame_count
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.encoders.whisper import WhisperEncoder
from rellm_cache.errors import AudioError, ConfigError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def spec(whisper_folder: Path) -> EncoderSpec:
    return EncoderSpec(kind="whisper", model=str(whisper_folder))


def hidden_states(folder: Path, waveform: np.ndarray) -> tuple[torch.Tensor, ...]:
    """What transformers gives for one clip, padded to 30 s."""
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        waveform, sampling_rate=16_000, return_tensors="pt"
    )
    encoder = WhisperModel.from_pretrained(folder).encoder.eval()
    with torch.no_grad():
        return encoder(features.input_features, output_hidden_states=True).hidden_states


def test_frames_do_not_depend_on_the_batch(spec: EncoderSpec, waveforms: list[np.ndarray]) -> None:
    encoder = build_encoder(spec, CPU)
    assert isinstance(encoder, WhisperEncoder)
    for waveform, together in zip(waveforms, encoder.encode(waveforms), strict=True):
        (alone,) = encoder.encode([waveform])
        np.testing.assert_allclose(together.frames, alone.frames, atol=1e-5)
        assert together.frames.shape == (whisper_frame_count(len(waveform)), 16)
        assert together.frames.dtype == np.float32
        assert together.vad is None


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_a_layer_is_a_hidden_state_of_transformers(
    spec: EncoderSpec, waveforms: list[np.ndarray], layer: int
) -> None:
    (encoding,) = build_encoder(replace(spec, layer=layer), CPU).encode(waveforms[:1])
    expected = hidden_states(Path(spec.model), waveforms[0])[layer][0, :50]
    np.testing.assert_allclose(encoding.frames, expected, atol=1e-5)


def test_the_last_block_is_before_the_final_norm(
    spec: EncoderSpec, waveforms: list[np.ndarray]
) -> None:
    encoder = WhisperModel.from_pretrained(spec.model).encoder
    (block,) = build_encoder(replace(spec, layer=2), CPU).encode(waveforms[:1])
    (last,) = build_encoder(spec, CPU).encode(waveforms[:1])
    with torch.no_grad():
        normed = encoder.layer_norm(torch.from_numpy(block.frames))
    np.testing.assert_allclose(normed, last.frames, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(1, 1), (160, 1), (320, 1), (321, 2), (16_000, 50), (16_001, 51), (480_000, 1500)],
)
def test_the_length_rule(samples: int, frames: int) -> None:
    assert whisper_frame_count(samples) == frames


def test_more_than_30_seconds_is_refused(spec: EncoderSpec) -> None:
    with pytest.raises(AudioError, match=r"clip of 31.00 s: Whisper takes 30 s at most; cut it"):
        build_encoder(spec, CPU).encode([np.zeros(31 * 16_000, np.float32)])


def test_a_model_of_shorter_windows_is_refused(
    spec: EncoderSpec, whisper_folder: Path, tmp_path: Path
) -> None:
    """It would hear the beginning of a clip, and its frames would be too few."""
    folder = Path(shutil.copytree(whisper_folder, tmp_path / "copy"))
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chunk_length": 10}))
    with pytest.raises(ConfigError, match=r"chunk_length = \(16000, 10\); expected \(16000, 30\)"):
        build_encoder(replace(spec, model=str(folder)), CPU)


@pytest.mark.parametrize("window", ["30s", "clip"])
@pytest.mark.parametrize("samples", [16_000, 16_001, 16_160, 16_161, 16_319, 16_320, 16_321])
def test_lengths_at_the_edges_of_a_frame(spec: EncoderSpec, window: str, samples: int) -> None:
    waveform = np.random.default_rng(3).normal(0, 0.1, samples).astype(np.float32)
    encoder = build_encoder(replace(spec, layer=0, window=window), CPU)
    (encoding,) = encoder.encode([waveform])
    expected = hidden_states(Path(spec.model), waveform)[0][0]
    frames = -(-samples // 320)
    assert len(encoding.frames) == frames
    # The last frame hears what follows: silence in 30 s, nothing in the clip alone.
    np.testing.assert_allclose(encoding.frames[:-1], expected[: frames - 1], atol=1e-5)


@pytest.mark.parametrize("layer", [3, 9])
def test_a_missing_layer_is_refused(spec: EncoderSpec, layer: int) -> None:
    message = f"whisper .*: layer {layer} does not exist; expected 0 to 2, or -1 for the last"
    with pytest.raises(ConfigError, match=message):
        build_encoder(replace(spec, layer=layer), CPU)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(
    spec: EncoderSpec, whisper_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whisper_folder, folder)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"copy: {name} is missing from the model folder"):
        resolve(replace(spec, model=str(folder)))


def test_a_checkpoint_without_all_weights_is_refused(
    spec: EncoderSpec, whisper_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whisper_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if "encoder.conv1" not in k}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"copy: the checkpoint lacks \['encoder.conv1.bias', "):
        build_encoder(replace(spec, model=str(folder)), CPU)


def test_resolving_adds_the_digest_of_the_weights(
    spec: EncoderSpec, whisper_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(whisper_folder, tmp_path / "copy")
    here, copy = resolve(spec), resolve(replace(spec, model=str(tmp_path / "copy")))
    assert len(here.weights_sha256) == 64
    assert copy.fingerprint == here.fingerprint
    assert resolve(here) == here
    with pytest.raises(ConfigError, match=r"have digest \w{12}, the recipe pins ffffffffffff"):
        resolve(replace(spec, weights_sha256="f" * 64))


def test_other_weights_give_another_fingerprint(
    spec: EncoderSpec, whisper_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(whisper_folder, tmp_path / "copy")
    model = WhisperModel.from_pretrained(whisper_folder)
    torch.nn.init.ones_(model.encoder.conv1.bias)
    model.save_pretrained(tmp_path / "copy")
    other = resolve(replace(spec, model=str(tmp_path / "copy")))
    assert other.fingerprint != resolve(spec).fingerprint


def reference_clip_states(folder: Path, waveform: np.ndarray) -> tuple[torch.Tensor, ...]:
    """The library's own hidden states of a clip alone: its encoder told that this is its window."""
    frames = whisper_frame_count(len(waveform))
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        waveform, sampling_rate=16_000, return_tensors="pt"
    )
    encoder = WhisperModel.from_pretrained(folder).encoder.eval()
    encoder.config.max_source_positions = frames
    encoder.embed_positions = torch.nn.Embedding.from_pretrained(
        encoder.embed_positions.weight[:frames]
    )
    with torch.no_grad():
        mel = features.input_features[:, :, : 2 * frames]
        return encoder(mel, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_window_clip_encodes_only_the_clip(
    spec: EncoderSpec, waveforms: list[np.ndarray], layer: int
) -> None:
    encoder = build_encoder(replace(spec, layer=layer, window="clip"), CPU)
    for waveform in waveforms:
        (encoding,) = encoder.encode([waveform])
        expected = reference_clip_states(Path(spec.model), waveform)[layer][0]
        assert encoding.frames.shape == expected.shape
        np.testing.assert_allclose(encoding.frames, expected, atol=1e-5)


def test_window_clip_frames_do_not_depend_on_the_batch(
    spec: EncoderSpec, waveforms: list[np.ndarray]
) -> None:
    encoder = build_encoder(replace(spec, window="clip"), CPU)
    odd = [*waveforms, np.full(1, 0.1, np.float32), waveforms[0][:321]]
    for waveform, together in zip(odd, encoder.encode(odd), strict=True):
        (alone,) = encoder.encode([waveform])
        np.testing.assert_allclose(together.frames, alone.frames, atol=1e-5)
        assert together.frames.shape == (whisper_frame_count(len(waveform)), 16)


def test_window_clip_of_30_seconds_is_window_30s(spec: EncoderSpec) -> None:
    waveform = np.random.default_rng(2).normal(0, 0.1, 480_000).astype(np.float32)
    (clip,) = build_encoder(replace(spec, window="clip"), CPU).encode([waveform])
    (whole,) = build_encoder(spec, CPU).encode([waveform])
    np.testing.assert_allclose(clip.frames, whole.frames, atol=1e-4)


def test_windows_differ_in_fingerprint_and_the_default_is_unchanged() -> None:
    known = EncoderSpec(
        kind="whisper", model="openai/whisper-tiny.en", layer=2, weights_sha256="0" * 64
    )  # as in docs/cache-format.md
    assert known.window == "30s"
    assert known.fingerprint == "ad1f9449fbf1d625304ecfbaf2945c5d84401ddf232455e774b5fb2b930d28e6"
    clip = replace(known, window="clip")
    assert clip.fingerprint != known.fingerprint
    assert clip.differences(known) == ["window: wanted 'clip', found '30s'"]


@pytest.mark.parametrize("window", ["30s", "clip"])
@pytest.mark.parametrize("layers", [(0, 1, 2, -1), (0, 1)])
def test_several_layers_have_the_values_of_each_alone(
    spec: EncoderSpec, waveforms: list[np.ndarray], window: str, layers: tuple[int, ...]
) -> None:
    spec = replace(spec, window=window)
    together = build_encoder(replace(spec, layers=layers), CPU).encode(waveforms)
    for place, layer in enumerate(layers):
        alone = build_encoder(replace(spec, layer=layer), CPU).encode(waveforms)
        for one, several in zip(alone, together, strict=True):
            assert several.frames.shape == (len(one.frames), len(layers), 16)
            assert several.frames.dtype == np.float32
            np.testing.assert_array_equal(several.frames[:, place], one.frames)


def test_all_layers_are_counted_without_loading_the_model(
    spec: EncoderSpec, whisper_folder: Path, tmp_path: Path
) -> None:
    resolved = resolve(replace(spec, layers="all"))
    assert (resolved.layers, resolved.blocks) == ((0, 1, 2), 2)
    assert resolve(replace(spec, layers=(0, -1))).blocks == 2
    with pytest.raises(ConfigError, match="layer 3 does not exist; expected 0 to 2, or -1"):
        resolve(replace(spec, layers=(2, 3)))
    folder = Path(shutil.copytree(whisper_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    del config["encoder_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="found no number of blocks"):
        resolve(replace(spec, model=str(folder), layers="all"))
    assert resolve(replace(spec, model=str(folder), layers=(0, 1))).blocks == 0
