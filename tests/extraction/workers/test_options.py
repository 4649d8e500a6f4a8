"""Shards divide a corpus by id. Several jobs give the same cache as one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, read_lines
from rellm_cache.errors import ConfigError
from rellm_cache.extraction.run import extract
from rellm_cache.extraction.workers.options import Shard, WorkerOptions
from rellm_cache.store.format import failures_path


def test_a_clip_is_in_one_shard_that_depends_on_its_id_alone() -> None:
    clips = [Utterance(f"c/{i}", "a.wav") for i in range(1000)]
    shares = [WorkerOptions(shard=Shard(number, 8)).select(clips) for number in range(1, 9)]
    assert sorted(u.id for share in shares for u in share) == sorted(u.id for u in clips)
    assert all(90 < len(share) < 160 for share in shares)
    assert WorkerOptions(shard=Shard(3, 8)).select(clips[500:]) == [
        u for u in shares[2] if u in clips[500:]
    ]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/2/3", "-1/2"])
def test_a_malformed_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"shard '{text}': expected i/n with 1 <= i <= n"):
        Shard.parse(text)


def test_shards_fill_one_cache_and_one_list_of_failures(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Callable[[Path], dict[str, int]],
) -> None:
    broken = {"tones/02", "tones/05", "tones/09"}
    for key in broken:
        (corpus.parent / "audio" / f"{key[-2:]}.wav").unlink()
    encoded = 0
    for number in (1, 2, 3):
        options = WorkerOptions(shard=Shard.parse(f"{number}/3"))
        (report,) = extract(corpus, speech_recipe, tmp_path / "cache", options=options)
        encoded += report.encoded
    assert encoded == 8
    expected = {key: value for key, value in undisturbed.items() if key not in broken}
    assert checksums(report.path) == expected
    assert {row["id"] for _, row in read_lines(failures_path(report.path))} == broken
