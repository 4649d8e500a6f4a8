"""Model folders: lookup, errors for missing files, and the digest."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rellm_cache.errors import ConfigError
from rellm_cache.utils.model_files import find_model, weight_files, weights_digest


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
        (b"\xff\xfe", r"index\.json: not JSON .*; copy the file again"),
        (b"[]", r"index\.json: expected a JSON object, found \[\]; copy the file again"),
        (b'{"weight_map": 3}', r"index\.json: found weight_map = 3, expected an object that names"),
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
