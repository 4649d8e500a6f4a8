"""Counts read rightly for one, none and many."""

import ast
import re
from pathlib import Path

from rellm_cache.utils.console_wording import counted

PACKAGE = Path(__file__).parents[1] / "rellm_cache"
# In a message, right after a number that may be 1. `7 of 9 clips` is no such number.
COUNTED = re.compile(
    r"(?<! of )(?<! all )\{\} (clips|ids|replies|responses|answers|questions|rows|utterances|"
    r"transcripts|parts|files|exchanges) "
)


def test_one_none_and_many() -> None:
    assert [counted(n, "clip") for n in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert counted(1, "reply", "replies") == "1 reply"
    assert counted(3, "clip is", "clips are") == "3 clips are"


def test_commands_count_with_it() -> None:
    """A plural that stands right after a number in a message of a command would read `1 clips`."""
    found = []
    for path in sorted((PACKAGE / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
                text = f"{''.join(map(str, pieces))} "
                found += [f"{path.name}:{node.lineno}: {m[0]}" for m in COUNTED.finditer(text)]
    assert found == []
