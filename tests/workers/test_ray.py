"""Rows by actors of a Ray cluster on this machine are those of one process."""

from pathlib import Path

import pytest
from kills import actor_process_id, kill_first

from rellm_cache.annotation.responses import respond
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import write_lines
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
