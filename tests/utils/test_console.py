"""Console output: progress on standard error, counts and number ranges in messages."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import rellm_cache
from rellm_cache.errors import ConfigError
from rellm_cache.utils import console as module
from rellm_cache.utils.console import counted, parse_ranges, progress

# In a message, right after a number that may be 1. `7 of 9 clips` is no such number.
COUNTED = re.compile(
    r"(?<! of )(?<! all )\{\} (clips|ids|replies|responses|answers|questions|rows|utterances|"
    r"transcripts|parts|files|exchanges) "
)


def test_plain_lines_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Encoding", 4, "clips", plain_seconds=0) as tick:
        tick(3, "0.5 h of audio")
    captured = capsys.readouterr()
    assert captured.err.startswith("Encoding: 3/4 clips, ")
    assert captured.err.endswith("s left, 0.5 h of audio\n")
    assert captured.out == ""


def test_a_slow_rate_keeps_its_digits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter((0.0, 80.0))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    with progress("Responding", 5, "prompts", plain_seconds=0) as tick:
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


def test_one_none_and_many() -> None:
    assert [counted(n, "clip") for n in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert counted(1, "reply", "replies") == "1 reply"
    assert counted(3, "clip is", "clips are") == "3 clips are"


def test_commands_use_it_for_counts() -> None:
    """A plural right after a number in a message would read `1 clips`."""
    commands = (Path(rellm_cache.__file__).parent / "cli").rglob("*.py")
    found = []
    for path in sorted(commands):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
                text = f"{''.join(map(str, pieces))} "
                found += [f"{path.name}:{node.lineno}: {m[0]}" for m in COUNTED.finditer(text)]
    assert found == []


def test_numbers_and_ranges_in_their_order_each_once() -> None:
    assert parse_ranges("1-3, 5,7-8", "speakers") == (1, 2, 3, 5, 7, 8)
    assert parse_ranges("4,1-2,2", "seeds") == (4, 1, 2)
    assert parse_ranges("", "speakers") == ()


@pytest.mark.parametrize("text", ["one", "1-", "-2", "1;2", "3-1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"speakers '{text}': expected numbers and ranges"):
        parse_ranges(text, "speakers")


def test_a_range_has_an_end() -> None:
    assert len(parse_ranges("1-10000", "seeds")) == 10_000
    for text in ("1-99999", "5-999999999"):
        with pytest.raises(ConfigError, match=r"seeds '.*': found a range of \d+ .* at most 10000"):
            parse_ranges(text, "seeds")
    for text in ("1-99999999999", "9" * 5000):
        with pytest.raises(ConfigError, match=r"seeds '.*: expected numbers and ranges"):
            parse_ranges(text, "seeds")
