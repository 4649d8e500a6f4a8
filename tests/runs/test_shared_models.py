"""Shared models: each store is opened once, the LLM is loaded once."""

from dataclasses import replace
from pathlib import Path

import torch

from rellm_cache.config.schema import LoraConfig, Recipe
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.utils.model_files import weights_digest

CPU = torch.device("cpu")


def test_stores_are_opened_once(cache: Path, quick: Recipe) -> None:
    resources = SharedModels()
    streams = resources.streams(quick.encoders, cache)
    speech = quick.encoders["speech"]
    digest = weights_digest(Path(speech.model))
    pinned = replace(speech, weights_sha256=digest)  # as a run's own recipe
    again = resources.streams({"speech": pinned}, cache)
    assert again.sources == {"speech": streams.sources["speech"]}


def test_an_llm_is_kept_until_another_is_asked_for(quick: Recipe) -> None:
    assert quick.llm is not None
    resources, other = SharedModels(), replace(quick.llm, quantization="nf4")
    first = resources.llm(quick.llm, CPU)
    assert resources.llm(replace(quick.llm), CPU) is first
    assert resources.llm(replace(quick.llm, lora=LoraConfig()), CPU) is first
    assert resources.llm(other, CPU).config == other
    assert resources.llm(quick.llm, CPU) is not first
