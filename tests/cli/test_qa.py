"""rellm qa as the shell would run it; its rows are tested in tests/annotation/test_questions.py."""

import shlex
from collections.abc import Callable
from pathlib import Path

from rellm_cache.cli.commands import rellm
from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import write_lines


def test_the_next_command_is_one_that_a_shell_takes(
    run: Callable[..., tuple[int, str, str]], recipe: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "two words"
    write_lines(folder / "train.jsonl", [{"id": "a", "audio": "a.wav", "text": "No feeling."}])
    (folder / "mine.toml").write_text(to_toml(recipe))
    options = ("--recipe", folder / "mine.toml", "--set", "name=it's", "--mode", "implicit")
    code, out, _ = run("qa", folder / "train.jsonl", *options)
    assert code == 0
    assert "skipped 1 utterance: no emotion" in out
    words = shlex.split(out.partition("Next: rellm ")[2])
    context = rellm.make_context("rellm", words, resilient_parsing=True)
    name, command, rest = rellm.resolve_command(context, words)
    assert (name, command is None) == ("train", False)
    given = command.make_context("train", rest).params if command else {}
    assert given["manifest"] == folder
    settings = load_recipe(given["recipe"], given["overrides"])
    assert (settings.name, settings.qa.mode, settings.losses.qa_lm) == ("it's", "implicit", 1.0)
