"""Model folders: lookup, errors for missing files, and the digest."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.loading import load_chat
from rellm_cache.utils.model_files import (
    CODE_FILES,
    find_model,
    local_folder,
    model_errors,
    weight_files,
    weights_digest,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with weights in two shards."""
    folder = tmp_path / "owner/name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    for name in shards.values():
        save_file({"weight": np.zeros(4)}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return folder


def test_a_hub_id_is_found_under_the_models_root(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELLM_MODELS", str(model.parents[1]))
    assert find_model("owner/name", ()) == model
    assert find_model(str(model), ("config.json",)) == model


def test_the_error_for_an_unknown_model_names_the_places_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELLM_MODELS", str(tmp_path))
    message = rf"'owner/gone': no such folder, none at {tmp_path}/owner/gone, .* set \$RELLM_MODELS"
    with pytest.raises(ConfigError, match=message):
        find_model("owner/gone", ())


def test_a_name_too_long_for_a_file_is_an_unknown_model() -> None:
    with pytest.raises(ConfigError, match=r"x{300}': no such folder"):
        find_model("x" * 300, ())
    assert local_folder("x" * 300) is None


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "config.json is missing from the model folder; copy it there"),
        ("model-2.safetensors", "model-2.safetensors is missing; .*index.json names it"),
        ("model.safetensors.index.json", r"model.safetensors is missing .*pickled .bin weights"),
    ],
)
def test_a_missing_file_is_named(model: Path, missing: str, message: str) -> None:
    (model / missing).unlink()
    with pytest.raises(ConfigError, match=message):
        find_model(str(model), ())
    with pytest.raises(ConfigError, match="tokenizer.json is missing|" + message):
        find_model(str(model), ("tokenizer.json",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"weight_map": {', r"index\.json: not JSON .*; copy the file again"),
        (b"\xff\xfe", r"index\.json:1: not UTF-8 text .*; save it as UTF-8"),
        (b"[]", r"index\.json: expected a JSON object, found \[\]; copy the file again"),
        (b'{"weight_map": 3}', r"index\.json: found weight_map = 3, expected an object that names"),
        (b'{"weight_map": {"a": "%s"}}' % (b"x" * 300), r"x{300} is missing; .*index\.json"),
    ],
)
def test_a_damaged_index_is_named(model: Path, content: bytes, message: str) -> None:
    (model / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        find_model(str(model), ())


@pytest.mark.parametrize("kept", [0, 20, -1])
def test_truncated_weights_are_named(model: Path, kept: int) -> None:
    file = model / "model-2.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        ConfigError, match=r"model-2.safetensors: not complete .*copy the file again"
    ):
        find_model(str(model), ())


def test_the_digest_covers_all_that_decides_the_output(model: Path) -> None:
    digest = weights_digest(model)
    assert [path.name for path in weight_files(model)] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    (model / "README.md").write_text("says nothing")
    assert weights_digest(model) == digest
    for name in ("config.json", "preprocessor_config.json", "model-2.safetensors"):
        (model / name).write_text("changed")
        assert weights_digest(model) != digest
        digest = weights_digest(model)


@pytest.mark.parametrize("name", CODE_FILES)
@pytest.mark.parametrize("depth", [0, 2])
def test_a_folder_that_asks_for_code_is_refused_by_file(
    name: str, depth: int, tmp_path: Path
) -> None:
    found: dict[str, object] = {"auto_map": {"AutoTokenizer": ["own.Own", None]}}
    for _ in range(depth):
        found = {"inner": [found]}
    (tmp_path / name).write_text(json.dumps(found))
    with (
        pytest.raises(ConfigError, match=f"{name}: found 'auto_map', which asks for Python code"),
        model_errors(tmp_path),
    ):
        raise AssertionError("never reached")
    (tmp_path / name).write_text('{"auto_map": {}}')
    with model_errors(tmp_path):
        pass


@pytest.mark.parametrize(
    ("file", "content", "name", "expected"),
    [
        ("config.json", {"num_hidden_layers": 10**18}, "num_hidden_layers", "-1000 to 1000"),
        ("config.json", {"num_hidden_layers": 1001}, "num_hidden_layers", "-1000 to 1000"),
        ("config.json", {"encoder_layers": 10**9}, "encoder_layers", "-1000 to 1000"),
        ("config.json", {"num_labels": 10**12}, "num_labels", "0 to 100000"),
        ("config.json", {"text_config": {"num_experts": 10**7}}, "num_experts", "0 to 10000"),
        ("config.json", {"conv_dim": [512, 10**10]}, "conv_dim", "-2.14748e"),
        ("config.json", {"max_position_embeddings": -5}, "max_position_embeddings", "1 to "),
        ("config.json", {"rms_norm_eps": 1e300}, "rms_norm_eps", "0 to 1"),
        ("config.json", {"rope_parameters": {"rope_theta": -1e308}}, "rope_theta", "-1e"),
        ("preprocessor_config.json", {"n_fft": 10**18}, "n_fft", "-2.14748e"),
    ],
)
def test_a_config_with_absurd_numbers_is_refused_before_a_model_is_built(
    tmp_path: Path, file: str, content: dict[str, object], name: str, expected: str
) -> None:
    (tmp_path / file).write_text(json.dumps(content), "utf-8")
    message = rf"{file}: found {name} = \S+, expected {expected}"
    with pytest.raises(ConfigError, match=message), model_errors(tmp_path):
        raise AssertionError("built")


def test_a_config_with_ordinary_numbers_is_no_error(tmp_path: Path) -> None:
    content = {
        "num_train_timesteps": 1000, "max_steps": 50_000, "feature_layers": [-2],
        "rms_norm_eps": 1e-6, "rope_theta": 1e9, "attention_invalid_logits_value": -1e9,
        "max_position_embeddings": 131_072, "vocab_size": 262_400, "pad_token_id": -1,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(content), "utf-8")
    with model_errors(tmp_path):
        pass


def test_nobody_is_asked_whether_to_execute_code(
    llm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = shutil.copytree(llm_folder, tmp_path / "chat"), tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    path.write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: found 'auto_map'"):
        load_chat(LLMConfig(model=str(folder)))
    # Without our own check, transformers refuses: every call says so.
    monkeypatch.setattr("rellm_cache.llm.loading.refuse_custom_code", lambda folder: None)
    monkeypatch.setattr("rellm_cache.utils.model_files.refuse_custom_code", lambda folder: None)
    with pytest.raises(ConfigError, match="ValueError: The repository"):
        load_chat(LLMConfig(model=str(folder)))
    assert not ran.exists()
