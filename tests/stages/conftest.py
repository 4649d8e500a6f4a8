"""A corpus with cached frames and responses, and a recipe whose prompts are a few bytes long."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.config import PromptsConfig, Recipe
from rellm_cache.corpus.manifest import manifest_files, read_manifest, responses_path
from rellm_cache.stages.extract import extract


@pytest.fixture
def quick(recipe: Recipe) -> Recipe:
    """The tiny recipe with short prompts: the test tokenizer has a token for every byte."""
    prompts = PromptsConfig(
        empathetic_system="Be kind.",
        plain_system="Help.",
        alignment="Go on: {speech}",
        recognition="Tone? {speech}",
        answer_tokens=12,
    )
    return replace(recipe, prompts=prompts)


@pytest.fixture
def cache(corpus: Path, quick: Recipe, tmp_path: Path) -> Path:
    """Both streams of the corpus; every utterance has a response beside its manifest."""
    for file in manifest_files(corpus):
        rows = [{"id": u.id, "response": f"So {u.emotion}!"} for u in read_manifest(file)]
        responses_path(file).write_text("".join(json.dumps(r) + "\n" for r in rows))
    extract(corpus, quick, tmp_path / "cache")
    return tmp_path / "cache"
