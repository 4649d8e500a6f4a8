"""Shards of an extraction: several jobs give the same cache as one."""

from collections.abc import Callable
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_lines
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.run import extract
from rellm_cache.store.format import failures_path
from rellm_cache.workers.options import Shard


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
        options = ExtractionOptions(shard=Shard.parse(f"{number}/3"))
        (report,) = extract(corpus, speech_recipe, tmp_path / "cache", options=options)
        encoded += report.encoded
    assert encoded == 8
    expected = {key: value for key, value in undisturbed.items() if key not in broken}
    assert checksums(report.path) == expected
    assert {row["id"] for _, row in read_lines(failures_path(report.path))} == broken
