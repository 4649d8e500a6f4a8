"""rellm publish: wrong usage and a missing run are reported before anything is written."""

from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_usage(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = run("publish", tmp_path, "--out", out, "--private")
    assert code == 2
    assert "--private needs --upload" in err
    code, _, err = run("publish", tmp_path, "--out", out, "--upload", "adapter")
    assert code == 1
    assert "expected OWNER/NAME" in err
    code, _, err = run("publish", tmp_path, "--out", out, "--json")
    assert code == 1
    assert "not the folder of a finished run" in err
    assert not out.exists()
