"""Actors of a Ray cluster on this machine give the content of one process, also after a kill."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kills import actor_process_id

from rellm_cache.config.schema import Recipe
from rellm_cache.encoders.registry import resolve
from rellm_cache.errors import ConfigError
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.pipeline import ExtractionTask
from rellm_cache.extraction.run import extract
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.workers.messages import Aborted, Event, Finished
from rellm_cache.workers.ray import (
    ActorWorker,
    RayPool,
    cpu_share,
    offered_cpus,
)

ray = pytest.importorskip("ray", reason="ray is not installed: pip install -e '.[test]'")

# Ray leaves files and sockets to the garbage collector and warns of future changes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster(s3_server: object) -> Iterator[None]:
    """A cluster of one CPU, which actors share, that finds the S3 server."""
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_actors_with_one_killed_give_the_content_of_one_process(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Callable[[Path], dict[str, int]],
    kill_one: Callable[..., list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    killed = kill_one(RayPool, actor_process_id)
    options = ExtractionOptions(workers=2, ray="auto", commit_seconds=0)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache", batch_size=1, options=options)
    assert len(killed) == 1
    assert "died (" in capsys.readouterr().err
    assert (report.encoded, report.present, report.failed) == (11, 0, 0)
    assert checksums(report.path) == undisturbed
    assert sum(len(part.ids) for part in FeatureStore(report.path).parts) == 11
    assert ray.is_initialized()  # a cluster that was joined before is not left


@pytest.mark.usefixtures("cluster")
def test_actors_fill_a_url(
    corpus: Path,
    speech_recipe: Recipe,
    undisturbed: dict[str, int],
    checksums: Callable[[Path], dict[str, int]],
    s3: Any,
) -> None:
    options = ExtractionOptions(workers=2, ray="auto")
    (report,) = extract(corpus, speech_recipe, open_mirror(s3.url), batch_size=1, options=options)
    assert (report.encoded, report.failed) == (11, 0)
    s3.forget_copies()
    assert open_mirror(s3.url) == report.path.parent
    assert checksums(report.path) == undisturbed


@pytest.mark.parametrize(
    ("cpus", "actors", "share"),
    [([8], 2, 4), ([8, 8], 3, 4), ([4, 16], 2, 4), ([1, 8], 4, 1), ([2], 4, 0.5), ([3, 3], 7, 0.5)],
)
def test_every_actor_gets_a_share_of_the_cpus(cpus: list[int], actors: int, share: float) -> None:
    assert cpu_share(cpus, actors) == share
    assert sum(int(count / share) for count in cpus) >= actors


def test_a_head_that_offers_no_cpu_is_not_counted() -> None:
    assert offered_cpus([{"memory": 1e9}, {"CPU": 0.0}, {"CPU": 16.0}]) == [16]
    with pytest.raises(ConfigError, match="no machine of the cluster offers a CPU"):
        offered_cpus([{"CPU": 0.0}])


def test_finished_is_the_last_event_of_an_actor(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/.writing").write_text("in the way of every part")
    spec = resolve(speech_recipe.encoders["speech"])
    worker = ActorWorker(ExtractionTask((spec,), tmp_path / "cache"), str(tmp_path))
    events: list[Event] = []
    while not any(isinstance(event, Finished) for event in events):
        events += worker.events()
    assert [type(event) for event in events] == [Aborted, Finished]


def test_an_unreachable_cluster_is_named(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    if ray.is_initialized():
        ray.shutdown()
    options = ExtractionOptions(ray="no-such-scheme://x")
    with pytest.raises(ConfigError, match="--ray no-such-scheme://x: no cluster answers"):
        extract(corpus, speech_recipe, tmp_path / "cache", options=options)
