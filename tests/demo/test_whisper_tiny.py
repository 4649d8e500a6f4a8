"""Whisper tiny.en: names of variables, and the real conversion."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from rellm_cache.config.specs import TranscriberSpec
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.demo.models import WHISPER_TINY_EN
from rellm_cache.demo.wheels import WHISPER_BINARY, WHISPER_SETTINGS
from rellm_cache.demo.whisper_tiny import (
    WhisperVariables,
    convert_whisper_tiny_en,
    suppressed_tokens,
    whisper_state_dict,
)
from rellm_cache.encoders.whisper_transcriber import WhisperTranscriber
from rellm_cache.errors import RellmError
from rellm_cache.utils.model_files import weights_digest

CLIPS = Path(__file__).parents[2] / "rellm_cache/demo/clips"


def test_an_absent_variable_is_named():
    with pytest.raises(RellmError, match=r"no variable 'encoder/position_encodings/encodings'"):
        whisper_state_dict({}, WhisperConfig())


def test_a_fused_projection_is_split_and_its_k_bias_dropped():
    fused = {"x/weight": np.arange(12.0).reshape(6, 2), "x/bias": np.array([1.0, 2, 0, 0, 5, 6])}
    state = WhisperVariables(fused).fused("x", "attention", ("q_proj", "k_proj", "v_proj"))
    assert "attention.k_proj.bias" not in state
    assert state["attention.k_proj.weight"].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert state["attention.v_proj.bias"].tolist() == [5.0, 6.0]


def test_a_k_bias_is_refused():
    fused = {"x/weight": np.ones((4, 2)), "x/bias": np.array([1.0, 0, 0, 0])}
    with pytest.raises(RellmError, match="x/bias of the CTranslate2 binary: expected zeros for k"):
        WhisperVariables(fused).fused("x", "attention", ("k_proj", "v_proj"))


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, str]:
    """A clip of the demo's (S,) at 16 kHz, and what it says."""
    waveform, _ = soundfile.read(CLIPS / "mia-neutral-1.ogg", dtype="float32")
    return waveform, "My brother is moving back home."


def test_whisper_transcribes_a_clip(folders, speech):
    folder, (waveform, said) = folders[WHISPER_TINY_EN], speech
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    assert model.dtype == torch.float32
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        waveform, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    tokens = model.generate(features)
    heard = WhisperTokenizer.from_pretrained(folder).decode(tokens[0], skip_special_tokens=True)
    assert heard.strip() == said


def test_a_conversion_suppresses_the_tokens_of_the_wheel(folders, tmp_path):
    convert_whisper_tiny_en(tmp_path)  # the other folder may be older than this
    generation = GenerationConfig.from_pretrained(tmp_path)
    settings = json.loads(WHISPER_SETTINGS.locate().read_text("utf-8"))
    assert generation.suppress_tokens == settings["suppress_ids"]
    assert generation.begin_suppress_tokens == settings["suppress_ids_begin"]
    assert weights_digest(tmp_path) == weights_digest(folders[WHISPER_TINY_EN])


def test_settings_without_their_list_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"suppress_ids": 3}')
    with pytest.raises(RellmError, match=r"config.json: found no list 'suppress_ids'"):
        suppressed_tokens(tmp_path / "config.json")


def test_whisper_transcribes_real_speech_as_ctranslate2_does(folders, ravdess):
    """A neutral clip and an angry one."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    folder = folders[WHISPER_TINY_EN]
    files = [next(iter(sorted(ravdess.rglob(f"03-01-0{e}-01-*.flac")))) for e in (1, 5)]
    waveforms = [load_clip(Utterance(file.stem, str(file))).waveform for file in files]
    transcriber = WhisperTranscriber(TranscriberSpec(str(folder)), torch.device("cpu"))
    said = [text.text for text in transcriber.transcribe(waveforms)]
    original = ctranslate2.models.Whisper(
        str(WHISPER_BINARY.locate().parent), compute_type="float32", intra_threads=1
    )
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        waveforms, sampling_rate=16_000, return_tensors="np"
    ).input_features
    prompt = ["<|startoftranscript|>", "<|notimestamps|>"]
    results = original.generate(
        ctranslate2.StorageView.from_array(features), [prompt] * len(files), beam_size=1
    )
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    assert said == [tokenizer.decode(result.sequences_ids[0]).strip() for result in results]
    assert all("by the door" in text for text in said)


def test_whisper_encodes_as_ctranslate2_does(folders, speech):
    ctranslate2 = pytest.importorskip("ctranslate2")
    folder = folders[WHISPER_TINY_EN]
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        speech[0], sampling_rate=16_000, return_tensors="np"
    ).input_features
    original = ctranslate2.models.Whisper(
        str(WHISPER_BINARY.locate().parent), compute_type="float32", intra_threads=1
    )
    view = ctranslate2.StorageView.from_array(features)
    expected = np.array(original.encode(view, to_cpu=True))  # (1, 1500, 384)
    encoder = WhisperForConditionalGeneration.from_pretrained(folder).model.encoder
    with torch.inference_mode():
        found = encoder(torch.from_numpy(features)).last_hidden_state.numpy()
    # Both differ from a run in float64 by up to 1e-3 on single values of scale 12.
    assert np.abs(expected).max() > 10
    assert np.abs(found - expected).max() < 5e-3
    assert np.abs(found - expected).mean() < 2e-5
