"""The command `rellm doctor`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rellm_cache.doctor import storage

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELLM_MODELS", str(tmp_path))
    monkeypatch.setattr(storage, "local_folder", lambda model, revision: None)


def test_missing_models_of_a_named_recipe_are_errors(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--cache", tmp_path, "--offline", "--recipe", "heads")
    assert code == 1
    assert "ERROR openai/whisper-tiny.en" in out
    assert "-> it is downloaded" in out
    assert out.splitlines()[-1].startswith("1 error, ")


def test_json_has_every_check(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--cache", tmp_path, "--offline", "--json")
    found = json.loads(out)
    assert (code, found["healthy"]) == (0, True)
    assert {check["status"] for check in found["checks"]} <= {"ok", "warning"}
    assert all(check["fix"] for check in found["checks"] if check["status"] == "warning")
    assert "hub" not in {check["name"] for check in found["checks"]}
