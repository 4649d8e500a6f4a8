"""Checks of installed libraries."""

import pytest
import soundfile

from rellm_cache.doctor import libraries
from rellm_cache.doctor.checks import Check, healthy
from rellm_cache.doctor.libraries import check_libraries


def test_this_environment_is_complete() -> None:
    checks = check_libraries()
    assert healthy(checks)
    assert "s3" in next(c.found for c in checks if c.name == "extras")


def test_missing_and_old_libraries_are_named_with_a_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs = ["torch>=99", "no-such-library>=1", 'also-missing>=1; extra == "s3"']
    monkeypatch.setattr(libraries, "requires", lambda name: needs)
    by_name = {check.name: check for check in check_libraries()}
    found = by_name["dependencies"]
    assert found.status == "error"
    assert "no-such-library is missing" in found.found
    assert "expected >=99" in found.found
    assert found.fix == 'pip install "torch>=99" "no-such-library>=1"'
    assert by_name["extras"].found == "complete: none"


def test_a_missing_sound_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "", "FLAC": "", "OGG": ""})
    (check,) = (c for c in check_libraries() if c.name == "sound files")
    assert check.status == "warning"
    assert "MP3" in check.found


def test_only_errors_make_a_machine_unhealthy() -> None:
    assert healthy([Check("a", "b", "ok", ""), Check("a", "b", "warning", "", "fix")])
    assert not healthy([Check("a", "b", "error", "", "fix")])
