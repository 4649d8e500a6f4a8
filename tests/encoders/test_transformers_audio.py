"""Audio encoders of transformers: every family equals its own pipeline, alone and in a batch."""

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    Data2VecAudioConfig,
    HubertConfig,
    PretrainedConfig,
    SeamlessM4TFeatureExtractor,
    SEWConfig,
    SEWDConfig,
    UniSpeechConfig,
    UniSpeechSatConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WavLMConfig,
)

from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.data.streams import open_streams
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.encoders.transformers_audio import FAMILIES
from rellm_cache.errors import AudioError, ConfigError
from rellm_cache.extraction.run import extract

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,
}
WAVEFORM: dict[str, Any] = {
    **SIZES,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
LAYER_NORM = {**WAVEFORM, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
SEW = {
    **WAVEFORM,
    "conv_dim": (8,) * 13,
    "num_conv_pos_embeddings": 16,
    "squeeze_factor": 2,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "wav2vec2": Wav2Vec2Config(**LAYER_NORM),
    "wav2vec2-group": Wav2Vec2Config(**WAVEFORM),
    "wav2vec2-mms": Wav2Vec2Config(**LAYER_NORM, adapter_attn_dim=4),
    "hubert": HubertConfig(**LAYER_NORM),
    "hubert-group": HubertConfig(**WAVEFORM),
    "hubert-batch-norm": HubertConfig(**LAYER_NORM, conv_pos_batch_norm=True),
    "wavlm": WavLMConfig(**LAYER_NORM),
    "wavlm-group": WavLMConfig(**WAVEFORM),
    "unispeech": UniSpeechConfig(**LAYER_NORM),
    "unispeech-sat": UniSpeechSatConfig(**LAYER_NORM),
    "wav2vec2-conformer": Wav2Vec2ConformerConfig(
        **{**LAYER_NORM, "conv_depthwise_kernel_size": 5, "position_embeddings_type": "rotary"}
    ),
    "data2vec-audio": Data2VecAudioConfig(
        **{**WAVEFORM, "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 5}
    ),
    "sew": SEWConfig(**SEW),
    "sew-d": SEWDConfig(**SEW, max_position_embeddings=64, position_buckets=16),
    "wav2vec2-bert": Wav2Vec2BertConfig(**SIZES, conv_depthwise_kernel_size=5),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of each family, made when it is first asked for."""
    root = tmp_path_factory.mktemp("audio")

    class Folders(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = save_model(root / name, CONFIGS[name])
            return self[name]

    return Folders()


def save_model(folder: Path, config: PretrainedConfig) -> Path:
    torch.manual_seed(4)
    AutoModel.from_config(config).save_pretrained(folder)
    if config.model_type == "wav2vec2-bert":
        SeamlessM4TFeatureExtractor().save_pretrained(folder)
    else:
        masked = getattr(config, "feat_extract_norm", "layer") == "layer"
        Wav2Vec2FeatureExtractor(return_attention_mask=masked).save_pretrained(folder)
    return folder


def spec_of(folder: Path, layer: int = -1) -> EncoderSpec:
    config = EncoderConfig(kind="transformers-audio", model=str(folder), layer=layer)
    return resolve(config.spec)


def pipeline(folder: Path, *waveforms: np.ndarray) -> Iterator[Any]:
    """What transformers gives for each clip alone: feature extractor, then model."""
    features = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    for waveform in waveforms:
        inputs = features(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            yield model(**inputs, output_hidden_states=True)


def test_every_family_is_tested() -> None:
    assert {config.model_type for config in CONFIGS.values()} == FAMILIES.keys()


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # in WavLM's own
@pytest.mark.parametrize("name", CONFIGS)
def test_frames_are_those_of_transformers_alone_and_in_a_batch(
    folders: dict[str, Path], waveforms: list[np.ndarray], name: str
) -> None:
    """Every hidden state and the last one; with another clip of the same length among them."""
    folder = folders[name]
    clips = [waveforms[0][:9_000], waveforms[1][:6_789], waveforms[2][:6_789]]
    expected = list(pipeline(folder, *clips))
    for layer in (-1, 0, 1, 2):
        spec = spec_of(folder, layer)
        encoder = build_encoder(spec, CPU)
        for clip, theirs, ours in zip(clips, expected, encoder.encode(clips), strict=True):
            states = theirs.last_hidden_state if layer == -1 else theirs.hidden_states[layer]
            (alone,) = encoder.encode([clip])
            length = len(ours.frames)
            np.testing.assert_allclose(alone.frames, states[0, :length], atol=1e-5)
            np.testing.assert_allclose(ours.frames, alone.frames, atol=3e-5)
            assert 0 <= states.shape[1] - length <= 1  # SEW's padding, a masked mel frame
            assert length == pytest.approx(len(clip) / 16_000 * spec.frame_rate, abs=3)
            assert ours.frames.dtype == np.float32
            assert ours.frames.shape[1] == encoder.frame_size == 16


@pytest.mark.parametrize(
    ("name", "layer", "rate"),
    [("hubert", -1, 50.0), ("wav2vec2-bert", 1, 50.0), ("sew", -1, 50.0), ("sew", 1, 25.0)],
)
def test_the_frame_rate_is_that_of_the_model(
    folders: dict[str, Path], name: str, layer: int, rate: float
) -> None:
    config = EncoderConfig(kind="transformers-audio", model=str(folders[name]), layer=layer)
    assert config.frame_rate == 0  # not known before the model is
    spec = resolve(config.spec)
    assert spec.frame_rate == rate
    assert config.differences(spec) == []  # so a recipe finds the store


@pytest.mark.parametrize(
    ("name", "samples"),
    [("wav2vec2", 400), ("hubert-group", 400), ("sew", 720), ("wav2vec2-bert", 560)],
)
def test_a_too_short_clip_gets_the_reason(
    folders: dict[str, Path], waveforms: list[np.ndarray], name: str, samples: int
) -> None:
    for layer in (-1, 1):
        encoder = build_encoder(spec_of(folders[name], layer), CPU)
        (encoding,) = encoder.encode([waveforms[0][:samples]])
        assert len(encoding.frames) >= 1
        assert np.isfinite(encoding.frames).all()
        message = rf"clip of {samples - 1} samples .*: {name}-.* needs {samples} .* for a frame"
        with pytest.raises(AudioError, match=message):
            encoder.encode([waveforms[0], waveforms[0][: samples - 1]])


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["wav2vec2"], tmp_path / "copy"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_normalisation_is_that_of_the_preprocessor(copy: Path, waveforms: list[np.ndarray]) -> None:
    clip = waveforms[0]
    (normalised,) = build_encoder(spec_of(copy), CPU).encode([clip])
    change(copy / "preprocessor_config.json", do_normalize=False)
    (plain,) = build_encoder(spec_of(copy), CPU).encode([clip])
    assert np.abs(plain.frames - normalised.frames).max() > 0.01
    (expected,) = pipeline(copy, clip)
    np.testing.assert_allclose(plain.frames, expected.last_hidden_state[0], atol=1e-5)


def test_clips_are_not_padded_without_a_mask(copy: Path, waveforms: list[np.ndarray]) -> None:
    change(copy / "preprocessor_config.json", return_attention_mask=False)
    encoder = build_encoder(spec_of(copy), CPU)
    for clip, together in zip(waveforms, encoder.encode(waveforms), strict=True):
        (alone,) = encoder.encode([clip])
        np.testing.assert_allclose(together.frames, alone.frames, atol=1e-5)


def test_whisper_and_other_models_are_refused(whisper_folder: Path, llm_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model_type = 'whisper': use kind = \"whisper\""):
        spec_of(whisper_folder)
    shutil.copy(whisper_folder / "preprocessor_config.json", llm_folder)
    try:
        with pytest.raises(ConfigError, match=r"model_type = 'llama': expected wav2vec2, hubert"):
            spec_of(llm_folder)
    finally:
        (llm_folder / "preprocessor_config.json").unlink()


def test_another_sampling_rate_is_refused(copy: Path) -> None:
    change(copy / "preprocessor_config.json", sampling_rate=8_000)
    with pytest.raises(ConfigError, match=r"sampling_rate = 8000, expected 16000"):
        spec_of(copy)


def test_a_length_adapter_is_refused_and_left_out_below(
    tmp_path: Path, waveforms: list[np.ndarray]
) -> None:
    config = Wav2Vec2BertConfig(**SIZES, conv_depthwise_kernel_size=5, add_adapter=True)
    folder = save_model(tmp_path / "adapter", config)
    with pytest.raises(ConfigError, match=r"add_adapter = true.*; set layer = 2, the last block"):
        spec_of(folder)
    (encoding,) = build_encoder(spec_of(folder, 2), CPU).encode(waveforms[:1])
    (expected,) = pipeline(folder, waveforms[0])
    states = expected.hidden_states[2][0, : len(encoding.frames)]
    np.testing.assert_allclose(encoding.frames, states, atol=1e-5)


@pytest.mark.parametrize("layer", [3, 9])
def test_a_missing_layer_is_refused(copy: Path, layer: int) -> None:
    message = f"transformers-audio .*: layer {layer} does not exist; expected 0 to 2"
    with pytest.raises(ConfigError, match=message):
        spec_of(copy, layer)


def test_a_task_head_is_ignored_and_a_missing_weight_is_not(
    folders: dict[str, Path], tmp_path: Path, waveforms: list[np.ndarray]
) -> None:
    folder = tmp_path / "classifier"
    torch.manual_seed(4)
    Wav2Vec2ForSequenceClassification(CONFIGS["wav2vec2"]).save_pretrained(folder)
    shutil.copy(folders["wav2vec2"] / "preprocessor_config.json", folder)
    (encoding,) = build_encoder(spec_of(folder), CPU).encode(waveforms[:1])
    (expected,) = pipeline(folder, waveforms[0])
    np.testing.assert_allclose(encoding.frames, expected.last_hidden_state[0], atol=1e-5)
    tensors = load_file(folder / "model.safetensors")
    del tensors["wav2vec2.encoder.layers.0.attention.k_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks \['encoder.layers.0.attention.k_proj.weight'\]"):
        build_encoder(spec_of(folder), CPU)


def test_old_names_of_the_weight_norm_and_a_missing_mask_vector(
    folders: dict[str, Path], copy: Path, waveforms: list[np.ndarray]
) -> None:
    tensors = load_file(copy / "model.safetensors")
    convolution = "encoder.pos_conv_embed.conv"
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        tensor = tensors.pop(f"{convolution}.parametrizations.weight.{new}")
        tensors[f"{convolution}.{old}"] = tensor
    del tensors["masked_spec_embed"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    (expected,) = build_encoder(spec_of(folders["wav2vec2"]), CPU).encode(waveforms[:1])
    (found,) = build_encoder(spec_of(copy), CPU).encode(waveforms[:1])
    np.testing.assert_array_equal(found.frames, expected.frames)


def test_pickled_weights_are_read_without_executing_them(
    folders: dict[str, Path], copy: Path, waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model.safetensors is missing .*and pytorch_model.bin"):
        spec_of(copy)
    torch.save(tensors, copy / "pytorch_model.bin")
    (expected,) = build_encoder(spec_of(folders["wav2vec2"]), CPU).encode(waveforms[:1])
    (found,) = build_encoder(spec_of(copy), CPU).encode(waveforms[:1])
    np.testing.assert_array_equal(found.frames, expected.frames)
    assert spec_of(copy).fingerprint != spec_of(folders["wav2vec2"]).fingerprint

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Payload()}))
    with pytest.raises(ConfigError, match="copy: transformers cannot load this model folder"):
        build_encoder(spec_of(copy), CPU)
    assert not (tmp_path / "executed").exists()


def test_the_licence_is_that_of_the_model_card(copy: Path) -> None:
    assert build_encoder(spec_of(copy), CPU).licence == "unknown"
    (copy / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    assert build_encoder(spec_of(copy), CPU).licence == "cc-by-nc-4.0"


def test_streams_of_another_rate_are_read_at_the_rate_of_the_first(
    folders: dict[str, Path], speech_recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    kind = "transformers-audio"
    slow = EncoderConfig(kind=kind, model=str(folders["sew"]), layer=1)  # 25 Hz
    for first in (EncoderConfig(kind="prosody"), slow):
        encoders = {
            "speech": first,
            "emotion": slow if first is not slow else EncoderConfig("prosody"),
        }
        recipe = replace(speech_recipe, encoders=encoders)
        extract(corpus / "test.jsonl", recipe, tmp_path / "cache")
        streams = open_streams(recipe.encoders, tmp_path / "cache")
        length = streams.lengths(["tones/09"])[0]  # of 1.7 s
        assert length == (85 if first is not slow else 42)
        assert streams.values("tones/09").shape == (length, 65 + 16)
    assert len(list((tmp_path / "cache").glob("sew-layer1-*"))) == 1  # made once, found again


def test_a_layer_is_part_of_the_identity(folders: dict[str, Path]) -> None:
    spec = spec_of(folders["hubert"], 1)
    assert spec.slug == "hubert-layer1"
    assert replace(spec, layer=2).fingerprint != spec.fingerprint
    assert spec.normalisation == "preprocessor"


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # in WavLM's own
@pytest.mark.parametrize("name", CONFIGS)
def test_several_layers_have_the_values_of_each_alone(
    folders: dict[str, Path], waveforms: list[np.ndarray], name: str
) -> None:
    folder, joins = folders[name], name.startswith("sew")
    clips = [waveforms[0][:9_000], waveforms[1][:6_789]]
    for layers in ((0, 1, 2) if joins else (0, 1, 2, -1), (0, 1)):
        config = EncoderConfig(kind="transformers-audio", model=str(folder), layers=layers)
        spec = resolve(config.spec)
        together = build_encoder(spec, CPU).encode(clips)
        for place, layer in enumerate(layers):
            alone = spec_of(folder, layer)
            assert (spec.frame_rate, spec.blocks) == (alone.frame_rate, 2)
            for one, several in zip(build_encoder(alone, CPU).encode(clips), together, strict=True):
                assert several.frames.shape == (len(one.frames), len(layers), 16)
                np.testing.assert_array_equal(several.frames[:, place], one.frames)
    every = replace(spec, layers="all", blocks=0)
    assert resolve(every).layers == (0, 1, 2)


def test_layers_of_different_frame_rates_are_refused(folders: dict[str, Path]) -> None:
    config = EncoderConfig(
        kind="transformers-audio", model=str(folders["sew"]), layers=(0, 1, 2, -1)
    )
    with pytest.raises(ConfigError, match="layer -1 has more frames than the blocks; leave it out"):
        resolve(config.spec)
