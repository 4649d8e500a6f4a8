"""A run on several layers: trained, continued and used like any other."""

from dataclasses import replace
from pathlib import Path

import pytest

import rellm_cache as rellm
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import RunError
from rellm_cache.extraction.run import extract
from rellm_cache.runs.weights import run_recipe
from rellm_cache.training.run import train


def test_a_run_on_all_layers_answers_alike_from_cache_and_audio(
    corpus: Path, quick: Recipe, tmp_path: Path
) -> None:
    speech = replace(quick.encoders["speech"], layers="all")
    every = replace(
        quick,
        encoders={"speech": speech},
        llm=None,
        losses=replace(quick.losses, response_lm=0.0, emotion_lm=0.0),
        adapter=replace(quick.adapter, output_size=32),
    )
    cache, out = tmp_path / "cache", tmp_path / "run"
    extract(corpus, every, cache)
    first = train(every, corpus, cache, out)
    assert run_recipe(out).encoders["speech"].layers == (0, 1, 2)
    again = train(every, corpus, cache, out)  # the same recipe, with its layers not resolved
    assert (again.steps, again.resumed_at) == (first.steps, first.steps)
    run = rellm.load_run(out)
    clip = corpus.parent / "audio" / "09.wav"
    stored, live = (run.recognise(source) for source in ("tones/09", clip))
    assert live.emotion == stored.emotion
    assert live.probabilities == pytest.approx(stored.probabilities, abs=1e-5)
    with pytest.raises(RunError, match=r"encoders.speech.layer: wanted 1, found -1"):
        train(
            replace(every, encoders={"speech": replace(speech, layers=(), layer=1)}),
            corpus,
            cache,
            out,
        )
