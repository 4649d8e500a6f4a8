"""Progress goes to standard error: plain lines where it is no terminal."""

import pytest

from rellm_cache import progress as module
from rellm_cache.progress import progress


def test_plain_lines_when_piped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    with progress("Encoding", 4, "clips") as tick:
        tick(3, "0.5 h of audio")
    captured = capsys.readouterr()
    assert captured.err.startswith("Encoding: 3/4 clips, ")
    assert captured.err.endswith("s left 0.5 h of audio\n")
    assert captured.out == ""


def test_short_work_is_silent_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Encoding", 2, "clips") as tick:
        tick()
        tick()
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    with progress("Encoding", 2, "clips") as tick:
        tick(2, "all of it")
    shown = capsys.readouterr().err
    assert "Encoding" in shown
    assert "2/2 clips" in shown
    assert "all of it" in shown
