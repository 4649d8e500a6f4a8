"""Rows by actors of a Ray cluster on this machine are those of one process."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from rellm_cache.annotation.responses import respond
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import write_lines
from rellm_cache.workers.coordinator import WorkerEvents, WorkerHandle
from rellm_cache.workers.messages import Result
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.ray import ActorHandle, RayPool

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
    killed: list[int] = []
    wait = RayPool.wait

    def wait_and_kill(
        pool: RayPool, handles: Sequence[WorkerHandle], seconds: float | None
    ) -> WorkerEvents:
        found = wait(pool, handles, seconds)
        for handle, event in found:
            if isinstance(event, Result) and isinstance(handle, ActorHandle) and not killed:
                killed.append(ray.get(handle.actor.__ray_call__.remote(lambda actor: os.getpid())))
                os.kill(killed[0], signal.SIGKILL)
        return found

    monkeypatch.setattr(RayPool, "wait", wait_and_kill)
    (report,) = respond(tmp_path, recipe, 4, options=WorkerOptions(workers=1, ray="local"))
    assert len(killed) == 1
    assert "actor 1 died (" in capsys.readouterr().err
    assert report == alone
    assert report.path.read_bytes() == content
    assert not ray.is_initialized()
