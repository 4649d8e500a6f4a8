"""Training with copies of clips at other speeds: extraction, plan, training, pruning."""

from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.cache_admin.maintenance import prune_cache
from rellm_cache.config.recipes import identity_toml, load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.data.epochs import open_loader
from rellm_cache.errors import StoreError
from rellm_cache.extraction.run import extract
from rellm_cache.planning.plan import plan
from rellm_cache.runs.provenance import load_training
from rellm_cache.training.run import train


@pytest.fixture
def copies(speech_recipe: Recipe) -> Recipe:
    return replace(speech_recipe, training=replace(speech_recipe.training, speed_copies=(0.9, 1.1)))


def test_copies_are_encoded_once_planned_trained_on_and_kept(
    corpus: Path, speech_recipe: Recipe, copies: Recipe, tmp_path: Path
) -> None:
    cache, clips = tmp_path / "cache", len(read_split(corpus, "train"))
    (before, *_) = extract(corpus, speech_recipe, cache)
    assert plan(corpus, copies, cache, clips=1).extraction.streams[0].missing == 2 * clips
    with pytest.raises(StoreError, match="@"):
        train(copies, corpus, cache, tmp_path / "early")
    (added, *_) = extract(corpus, copies, cache)
    assert (added.encoded, added.present) == (2 * clips, before.encoded)
    report = train(copies, corpus, cache, tmp_path / "run")
    own = train(speech_recipe, corpus, cache, tmp_path / "own")
    assert report.steps > own.steps
    assert load_training(tmp_path / "run").train.clips == clips
    seen = open_loader(copies, corpus, cache, "train", seed=1, device="cpu", shuffle=False)
    assert sum(len(batch.ids) for batch in seen) == 3 * clips
    assert sum(p.outside for p in prune_cache(cache, [corpus])) == 0


def test_the_field_changes_no_older_identity() -> None:
    recipe = load_recipe("heads")
    assert "speed_copies" not in identity_toml(recipe)
    assert "speed_copies" in identity_toml(load_recipe("heads", ["training.speed_copies=[0.9]"]))
