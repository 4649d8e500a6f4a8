"""The demo's models: made once, whole or not at all."""

from pathlib import Path

import pytest

from rellm_cache.demo import models
from rellm_cache.demo.models import SMOLLM2, WHISPER_TINY_EN, ensure_models
from rellm_cache.errors import RellmError


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
