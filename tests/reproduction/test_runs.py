"""Jobs of a reproduction: killed workers and finished models."""

import os
import signal
from pathlib import Path
from typing import Any, cast

import pytest

from rellm_cache.config.recipes import load_recipe
from rellm_cache.errors import RunError
from rellm_cache.reproduction.paper import ROWS
from rellm_cache.reproduction.runs import Job, Model, run_jobs


class Manifest:
    """A manifest folder in which something happens as soon as a worker looks into it."""

    def __init__(self, happening: str, seen: Path) -> None:
        self.happening, self.seen = happening, seen

    def __truediv__(self, name: str) -> Any:
        with self.seen.open("a") as file:
            file.write(f"{self.happening}\n")
        if self.happening == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(f"no {name} of what is {self.happening}")


def test_a_killed_worker_fails_only_its_own_model(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    jobs = [
        Job(
            fold=happening,
            row=ROWS[0],
            model=Model(load_recipe("small")),
            manifest=cast("Path", Manifest(happening, seen)),
            cache=tmp_path,
            out=tmp_path / happening,
            batch_size=1,
        )
        for happening in ("killed", "broken")
    ]
    reasons = {failure.title.split(",")[0]: failure.reason for failure in run_jobs(jobs, 2)}
    assert reasons["killed"] == "its worker was killed, perhaps for lack of memory"
    assert reasons["broken"] == "ValueError: no test.jsonl of what is broken"
    assert seen.read_text().count("killed") == 2  # once together, once by itself


def test_a_truncated_done_file_is_named(tmp_path: Path) -> None:
    job = Job(
        fold="fold-1",
        row=ROWS[0],
        model=Model(load_recipe("small")),
        manifest=tmp_path / "manifest",
        cache=tmp_path,
        out=tmp_path,
        batch_size=1,
    )
    assert not job.is_done()
    (tmp_path / "done.json").write_text('{"identity": "12')
    with pytest.raises(RunError, match=r"done\.json: not JSON .*remove it"):
        list(run_jobs([job], 1))
    (tmp_path / "done.json").write_text("{}")
    with pytest.raises(RunError, match="holds results of another recipe"):
        job.is_done()
