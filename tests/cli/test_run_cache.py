"""Commands on a run use the cache that it was trained from, whatever the working folder is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.cache_admin.maintenance import copy_cache
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_manifest
from rellm_cache.qa.rows import QARow, questions_path, write_rows
from rellm_cache.runs.publish import publish
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.training.run import train

Run = Callable[..., tuple[int, str, str]]


def question(clip: str, emotion: str) -> QARow:
    return QARow(clip, "implicit", "content", 0, "What?", "A tone.", False, "", emotion, "corpus",
                 None, "m", "0", "w", "p", 1, "A tone.")  # fmt: skip


@pytest.fixture
def trained(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run whose cache was given by a relative path; the working folder is another one now."""
    monkeypatch.chdir(tmp_path)
    short = replace(quick, training=replace(quick.training, epochs=1))
    train(short, corpus, Path("cache"), Path("run"))
    test = corpus / "test.jsonl"
    write_rows(questions_path(test), [question(u.id, u.emotion or "") for u in read_manifest(test)])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return tmp_path / "run"


def commands(trained: Path, corpus: Path) -> list[tuple[Any, ...]]:
    test = corpus / "test.jsonl"
    return [
        ("evaluate", trained, test, "--samples", "0", "--json"),
        ("generate", trained, test, "--out", "answers.jsonl"),
        ("judge", trained, test, "--json"),
    ]


def test_evaluate_generate_and_judge_find_the_cache_of_the_run(
    run: Run, trained: Path, corpus: Path
) -> None:
    for command in commands(trained, corpus):
        code, out, err = run(*command)
        assert code == 0, err
        assert out


def test_a_cache_that_is_gone_is_named(run: Run, trained: Path, corpus: Path) -> None:
    cache = trained.parent / "cache"
    cache.rename(trained.parent / "moved")
    for command in commands(trained, corpus):
        code, _, err = run(*command)
        assert code == 1
        assert f"{trained}: was trained from the cache {cache}, which does not exist" in err
        code, _, err = run(*command, "--cache", trained.parent / "moved")
        assert code == 0, err
    sound = corpus.parent / "audio/00.wav"
    assert run("generate", trained, sound, "--out", "live.jsonl")[0] == 0  # needs no cache


def test_publish_leaves_the_cache_out(run: Run, trained: Path, corpus: Path, cache: Path) -> None:
    record = json.loads((trained / "training.json").read_text("utf-8"))
    assert record["cache"] == str(cache)
    fields = ("llm.model", "encoders.speech.model", "encoders.emotion.model")
    hub_ids = [f"{field}=owner/name" for field in fields]
    publish(trained, Path("published"), hub_ids, without_scores=True)
    assert "cache" not in json.loads(Path("published/training.json").read_text("utf-8"))
    code, _, err = run("evaluate", "published", corpus / "test.jsonl", "--out", "scores")
    assert code == 1
    assert "cache" in err


def test_a_cache_at_a_url_is_recorded_as_the_url(
    run: Run, corpus: Path, cache: Path, speech_recipe: Recipe, s3: Any, tmp_path: Path
) -> None:
    copy_cache(cache, open_mirror(s3.url))
    train(speech_recipe, corpus, open_mirror(s3.url), tmp_path / "run")
    assert json.loads((tmp_path / "run/training.json").read_text("utf-8"))["cache"] == s3.url
    code, _, err = run("evaluate", tmp_path / "run", corpus / "test.jsonl", "--json")
    assert code == 0, err
