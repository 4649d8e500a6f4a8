"""wav2vec2 emotion encoder: masked batches, hidden states of transformers, dimensions."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.encoders.wav2vec2_emotion import Wav2Vec2EmotionEncoder
from rellm_cache.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def spec(emotion_folder: Path) -> EncoderSpec:
    return EncoderSpec(kind="wav2vec2-emotion", model=str(emotion_folder))


@pytest.fixture
def copy(emotion_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(emotion_folder, tmp_path / "copy"))


def reference(folder: Path, waveform: np.ndarray) -> Any:
    """What transformers gives for one clip alone."""
    tensors = load_file(folder / "model.safetensors")
    model = Wav2Vec2Model(Wav2Vec2Model.config_class.from_pretrained(folder)).eval()
    model.load_state_dict(
        {k.removeprefix("wav2vec2."): v for k, v in tensors.items() if k.startswith("wav2vec2.")}
    )
    features = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    inputs = features(waveform, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        return model(inputs.input_values, output_hidden_states=True)


def test_frames_do_not_depend_on_the_batch(spec: EncoderSpec, waveforms: list[np.ndarray]) -> None:
    encoder = build_encoder(spec, CPU)
    assert isinstance(encoder, Wav2Vec2EmotionEncoder)
    for waveform, together in zip(waveforms, encoder.encode(waveforms), strict=True):
        (alone,) = encoder.encode([waveform])
        np.testing.assert_allclose(together.frames, alone.frames, atol=1e-5)
        np.testing.assert_allclose(together.vad, alone.vad, atol=1e-5)
        assert together.frames.shape == ((len(waveform) - 400) // 320 + 1, 16)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_is_a_hidden_state_of_transformers(
    spec: EncoderSpec, waveforms: list[np.ndarray], layer: int
) -> None:
    encodings = build_encoder(replace(spec, layer=layer), CPU).encode(waveforms)
    for waveform, encoding in zip(waveforms, encodings, strict=True):
        expected = reference(Path(spec.model), waveform).hidden_states[layer][0]
        np.testing.assert_allclose(encoding.frames, expected, atol=1e-5)


def test_the_last_layer_is_the_last_block_after_the_final_norm(
    spec: EncoderSpec, waveforms: list[np.ndarray]
) -> None:
    (last,) = build_encoder(spec, CPU).encode(waveforms[:1])
    output = reference(Path(spec.model), waveforms[0])
    np.testing.assert_allclose(last.frames, output.last_hidden_state[0], atol=1e-5)
    (block,) = build_encoder(replace(spec, layer=2), CPU).encode(waveforms[:1])
    tensors = load_file(Path(spec.model) / "model.safetensors")
    norm = [tensors[f"wav2vec2.encoder.layer_norm.{n}"] for n in ("weight", "bias")]
    normed = torch.nn.functional.layer_norm(torch.from_numpy(block.frames), (16,), *norm)
    np.testing.assert_allclose(last.frames, normed, atol=1e-5)


@pytest.mark.parametrize("layer", [1, -1])
def test_the_head_gets_the_mean_of_the_last_frames(
    spec: EncoderSpec, waveforms: list[np.ndarray], layer: int
) -> None:
    """Whatever layer is stored: mean over valid frames, dense, tanh, projection."""
    head = {
        k.removeprefix("classifier."): v.numpy()
        for k, v in load_file(Path(spec.model) / "model.safetensors").items()
        if k.startswith("classifier.")
    }
    assert head.keys() == {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}
    encodings = build_encoder(replace(spec, layer=layer), CPU).encode(waveforms)
    for waveform, encoding in zip(waveforms, encodings, strict=True):
        last = reference(Path(spec.model), waveform).last_hidden_state
        mean = last[0].numpy().mean(axis=0)
        dense = np.tanh(head["dense.weight"] @ mean + head["dense.bias"])
        expected = head["out_proj.weight"] @ dense + head["out_proj.bias"]
        np.testing.assert_allclose(encoding.vad, expected, atol=1e-5)
        assert encoding.vad.dtype == np.float32


def test_loudness_and_offset_do_not_matter(spec: EncoderSpec, waveforms: list[np.ndarray]) -> None:
    encoder = build_encoder(spec, CPU)
    plain, changed = encoder.encode([waveforms[0], 0.5 * waveforms[0] + 0.1])
    np.testing.assert_allclose(plain.frames, changed.frames, atol=1e-3)


@pytest.mark.parametrize("layer", [3, 9])
def test_a_missing_layer_is_refused(spec: EncoderSpec, layer: int) -> None:
    message = f"wav2vec2-emotion .*: layer {layer} does not exist; expected 0 to 2"
    with pytest.raises(ConfigError, match=message):
        build_encoder(replace(spec, layer=layer), CPU)


def test_a_missing_preprocessor_is_named(spec: EncoderSpec, copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"copy: preprocessor_config.json is missing"):
        resolve(replace(spec, model=str(copy)))


def test_a_checkpoint_without_the_head_is_refused(spec: EncoderSpec, copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.startswith("classifier.out_proj")}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks \['classifier.out_proj.bias', .*audeering's"):
        build_encoder(replace(spec, model=str(copy)), CPU)


@pytest.mark.parametrize(("key", "value"), [("do_normalize", False), ("sampling_rate", 8_000)])
def test_another_preprocessing_is_refused(
    spec: EncoderSpec, copy: Path, key: str, value: object
) -> None:
    file = copy / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    message = r"copy/preprocessor_config.json: .* = \(.*\); expected \(16000, True\)"
    with pytest.raises(ConfigError, match=message):
        build_encoder(replace(spec, model=str(copy)), CPU)


@pytest.mark.parametrize("samples", [16_000, 16_079, 16_080, 16_081, 16_399, 16_400])
def test_lengths_at_the_edges_of_a_frame(spec: EncoderSpec, samples: int) -> None:
    """Alone and beside a longer clip: a frame for each 20 ms whose 25 ms the clip has."""
    noise = np.random.default_rng(3).normal(0, 0.1, 20_000).astype(np.float32)
    encoder = build_encoder(spec, CPU)
    (alone,) = encoder.encode([noise[:samples]])
    together, _ = encoder.encode([noise[:samples], noise])
    assert len(alone.frames) == len(together.frames) == (samples - 400) // 320 + 1
    np.testing.assert_allclose(together.frames, alone.frames, atol=1e-5)


def test_group_norm_is_refused(spec: EncoderSpec, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "feat_extract_norm": "group"}))
    with pytest.raises(ConfigError, match="feat_extract_norm = 'group'; expected 'layer'"):
        build_encoder(replace(spec, model=str(copy)), CPU)


def test_several_layers_have_the_values_of_each_alone(
    spec: EncoderSpec, waveforms: list[np.ndarray]
) -> None:
    layers = (0, 1, 2, -1)
    together = build_encoder(resolve(replace(spec, layers=layers)), CPU).encode(waveforms)
    assert resolve(replace(spec, layers="all")).layers == (0, 1, 2)
    for place, layer in enumerate(layers):
        alone = build_encoder(replace(spec, layer=layer), CPU).encode(waveforms)
        for one, several in zip(alone, together, strict=True):
            assert several.frames.shape == (len(one.frames), 4, 16)
            np.testing.assert_array_equal(several.frames[:, place], one.frames)
            np.testing.assert_array_equal(several.vad, one.vad)
