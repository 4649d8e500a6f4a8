"""The list of failed clips, updated by several extractions at once."""

import threading
from pathlib import Path

from rellm_cache.corpus.manifest import read_lines
from rellm_cache.extraction.failures import record_failures
from rellm_cache.extraction.messages import Failure
from rellm_cache.store.format import failures_path


def test_concurrent_updates_lose_no_failure(tmp_path: Path) -> None:
    store = tmp_path / "store"

    def fail(number: int) -> None:
        for again in range(20):
            failure = Failure(f"clip/{number}", "a.wav", f"try {again}")
            record_failures(store, {failure.id}, [failure])

    jobs = [threading.Thread(target=fail, args=(number,)) for number in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    rows = {row["id"]: row["reason"] for _, row in read_lines(failures_path(store))}
    assert rows == {f"clip/{number}": "try 19" for number in range(4)}
    for number in range(4):
        record_failures(store, {f"clip/{number}"}, [])
    assert not failures_path(store).exists()
