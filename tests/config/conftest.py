"""A small recipe file."""

from pathlib import Path

import pytest

MINIMAL = """
name = "mine"
[encoders.speech]
kind = "whisper"
model = "openai/whisper-tiny.en"
[llm]
model = "some/chat"
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return path
