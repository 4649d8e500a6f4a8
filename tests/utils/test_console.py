"""Progress goes to standard error: plain lines where it is no terminal."""

from types import SimpleNamespace

import pytest

from rellm_cache.utils import console as module
from rellm_cache.utils.console import progress


def test_plain_lines_when_piped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    with progress("Encoding", 4, "clips") as tick:
        tick(3, "0.5 h of audio")
    captured = capsys.readouterr()
    assert captured.err.startswith("Encoding: 3/4 clips, ")
    assert captured.err.endswith("s left, 0.5 h of audio\n")
    assert captured.out == ""


def test_a_slow_rate_keeps_its_digits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    moments = iter((0.0, 80.0))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    with progress("Responding", 5, "prompts") as tick:
        tick()
    assert capsys.readouterr().err == "Responding: 1/5 prompts, 0.013 prompts/s, 320 s left\n"


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
