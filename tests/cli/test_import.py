"""rellm import: messages without a traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("kind", ["qwen", "blsp"])
def test_another_folder_is_refused(run: Run, llm_folder: Path, tmp_path: Path, kind: str) -> None:
    code, out, err = run("import", kind, str(llm_folder), "--out", str(tmp_path / "out"))
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {llm_folder / 'config.json'}: ")
    assert "expected" in err
    assert not (tmp_path / "out").exists()
    code, _, err = run("import", kind, str(tmp_path), "--out", str(tmp_path / "out"))
    assert code == 1
    assert f"{tmp_path / 'config.json'}: no such file" in err
