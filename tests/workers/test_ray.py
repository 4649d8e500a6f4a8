"""Rows by actors of a Ray cluster on this machine are those of one process."""

import os
from pathlib import Path

import pytest
from kills import actor_process_id, kill_first

from rellm_cache.annotation.responses import respond
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import write_lines
from rellm_cache.errors import ConfigError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate, evaluate_by_workers
from rellm_cache.training.run import train
from rellm_cache.workers.messages import Result
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.ray import RayPool

ray = pytest.importorskip("ray", reason="ray is not installed: pip install -e '.[test]'")

# Ray leaves files and sockets to the garbage collector and warns of future changes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_actors_with_one_killed_write_what_one_process_writes(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        {"id": f"c/{i}", "audio": "a.wav", "text": f"I lost {i} keys.", "emotion": "sad"}
        for i in range(6)
    ]
    write_lines(tmp_path / "train.jsonl", rows)
    (alone,) = respond(tmp_path, recipe)
    content = alone.path.read_bytes()
    alone.path.unlink()
    killed = kill_first(monkeypatch, RayPool, actor_process_id, Result)
    (report,) = respond(tmp_path, recipe, 4, options=WorkerOptions(workers=1, ray="local"))
    assert len(killed) == 1
    assert "actor 1 died (" in capsys.readouterr().err
    assert report == alone
    assert report.path.read_bytes() == content
    assert not ray.is_initialized()


def test_actors_evaluate_as_one_process_does(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    run, asked = tmp_path / "run", EvaluationOptions(samples=1)
    train(quick, corpus, cache, run)
    alone = evaluate(run, corpus, cache, asked, tmp_path / "alone")
    cores = len(os.sched_getaffinity(0))  # one thread each, as in a test: sums round alike
    options = WorkerOptions(workers=cores, ray="local")
    found = evaluate_by_workers(run, corpus, cache, asked, tmp_path / "actors", options)
    assert found is not None
    assert found.to_json() == alone.to_json()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere.invalid", "a:b:c"]
)
def test_an_address_where_nothing_listens_is_told_at_once(
    recipe: Recipe, tmp_path: Path, address: str
) -> None:
    row = {"id": "c/0", "audio": "a.wav", "text": "I lost my keys.", "emotion": "sad"}
    write_lines(tmp_path / "train.jsonl", [row])
    with pytest.raises(ConfigError, match=f"--ray {address}: no cluster answers"):
        respond(tmp_path, recipe, options=WorkerOptions(ray=address))
