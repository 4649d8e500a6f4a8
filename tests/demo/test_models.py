"""The demo's models: converted once; an incomplete model is never left."""

from pathlib import Path

import pytest

from rellm_cache.demo.models import SMOLLM2, WHISPER_TINY_EN, ensure_models
from rellm_cache.errors import RellmError


def make_model(out: Path) -> None:
    out.mkdir()
    for name in ("config.json", "model.safetensors"):
        (out / name).write_text("made")


def test_a_complete_model_is_not_converted_again(tmp_path: Path) -> None:
    converters = {WHISPER_TINY_EN: make_model, SMOLLM2: make_model}
    folders = ensure_models(tmp_path, converters)
    assert folders == {name: tmp_path / name for name in (WHISPER_TINY_EN, SMOLLM2)}
    (folders[SMOLLM2] / "config.json").write_text("mine")
    assert ensure_models(tmp_path, converters) == folders
    assert (folders[SMOLLM2] / "config.json").read_text() == "mine"


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        make_model(out)
        raise RellmError("the disk is full")

    with pytest.raises(RellmError, match="the disk is full"):
        ensure_models(tmp_path, {WHISPER_TINY_EN: fail})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / WHISPER_TINY_EN
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(RellmError, match=r"whisper-tiny\.en: expected a model folder with config"):
        ensure_models(tmp_path)


def test_two_conversions_at_once_agree(tmp_path: Path) -> None:
    def slow(out: Path) -> None:
        make_model(out)
        make_model(out.parents[1] / out.name)  # the other process finishes first

    folders = ensure_models(tmp_path, {WHISPER_TINY_EN: slow})
    assert (folders[WHISPER_TINY_EN] / "model.safetensors").read_text() == "made"
