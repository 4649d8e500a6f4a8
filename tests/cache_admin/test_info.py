"""Summary of the stores of a cache."""

import json
from pathlib import Path

import pytest

from rellm_cache.cache_admin.info import cache_info
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import StoreError
from rellm_cache.extraction.run import extract


def test_counts_and_hours_of_each_store(corpus: Path, recipe: Recipe, tmp_path: Path) -> None:
    (corpus.parent / "audio/05.wav").unlink()
    extract(corpus, recipe, tmp_path / "cache")
    emotion, speech = cache_info(tmp_path / "cache")
    assert (speech.encoder, emotion.encoder) == ("whisper", "wav2vec2-emotion")
    assert (speech.clips, speech.parts, speech.failed, speech.frame_size) == (10, 1, 1, 16)
    assert speech.hours == pytest.approx(18.6 / 3600, rel=0.01)
    assert json.dumps(vars(speech))
    with pytest.raises(StoreError, match="found no store; `rellm extract` makes them"):
        cache_info(tmp_path / "nothing")
