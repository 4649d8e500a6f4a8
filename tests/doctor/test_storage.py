"""Checks of caches, models and the hub."""

import fcntl
import io
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from rellm_cache.config.recipes import load_recipe
from rellm_cache.doctor import storage
from rellm_cache.doctor.storage import check_cache, check_hub, check_models


def status(checks: list[storage.Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks}


def test_a_new_cache_folder_is_fine_and_nothing_is_left(tmp_path: Path) -> None:
    checks = check_cache(tmp_path / "not" / "yet")
    assert status(checks) == {"disk": "ok", "writing and locks": "ok", "stores": "ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LEAST_DISK", 1e30)
    assert status(check_cache(tmp_path))["disk"] == "warning"


def test_a_disk_without_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (check,) = (c for c in check_cache(tmp_path) if c.name == "writing and locks")
    assert check.status == "error"
    assert "Operation not supported" in check.found


def test_stores_larger_than_the_memory_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "list_stores", lambda cache: [cache])
    (tmp_path / "frames").write_bytes(bytes(2000))
    monkeypatch.setattr(storage, "machine_memory", lambda: (4000, 1000))
    assert status(check_cache(tmp_path))["stores"] == "warning"
    monkeypatch.setattr(storage, "machine_memory", lambda: (4000, 3000))
    assert status(check_cache(tmp_path))["stores"] == "ok"


def test_missing_models_are_errors_only_where_they_are_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELLM_MODELS", str(tmp_path))
    monkeypatch.setattr(storage, "local_folder", lambda model, revision: None)
    recipes = [load_recipe("small"), load_recipe("heads")]
    checks = check_models(recipes, required=False)
    assert status(checks) == {
        "openai/whisper-tiny.en": "warning",
        "HuggingFaceTB/SmolLM2-135M-Instruct": "warning",
    }
    assert checks[0].found == "missing, for small, heads"
    assert set(status(check_models(recipes, required=True)).values()) == {"error"}


def test_a_damaged_model_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "openai" / "whisper-tiny.en"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("RELLM_MODELS", str(tmp_path))
    (check,) = check_models([load_recipe("heads")], required=False)
    assert check.status == "error"
    assert "model.safetensors is missing" in check.found


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, "ok"),
        (HTTPError("", 403, "Forbidden", Message(), io.BytesIO()), "ok"),
        (URLError("no route"), "warning"),
        (TimeoutError(), "warning"),
    ],
)
def test_the_hub_is_asked(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, expected: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def answer(*_: object, **__: object) -> io.BytesIO:
        if error is not None:
            raise error
        return io.BytesIO()

    monkeypatch.setattr(storage, "urlopen", answer)
    assert check_hub().status == expected


def test_an_offline_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert check_hub().status == "warning"
