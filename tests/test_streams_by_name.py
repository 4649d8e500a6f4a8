"""Recipes with one, two and three streams go through every step, from audio to answers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rellm_cache.cache_admin.audit import compare_audio, recompute
from rellm_cache.cache_admin.maintenance import verify_cache
from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.errors import RunError
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.extraction.run import extract
from rellm_cache.inference.generate import generate
from rellm_cache.planning.plan import plan
from rellm_cache.runs.weights import load_info
from rellm_cache.training.optim import Optimizer
from rellm_cache.training.run import train

pytestmark = pytest.mark.usefixtures("responses")

WEIGHTS = "adapter.safetensors"
SIZES = {
    "one": {"voice": 16},
    "two": {"speech": 16, "emotion": 16},
    "three": {"speech": 16, "pitch": 65, "mood-2": 16},
}


@pytest.fixture(params=SIZES)
def streams(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def recipe_of_streams(streams: str, quick: Recipe) -> Recipe:
    """The quick recipe with other streams; some give the utterance's mean."""
    whisper, emotion = quick.encoders.values()
    encoders = {
        "one": {"voice": whisper},
        "two": quick.encoders,
        "three": {
            "speech": whisper,
            "pitch": EncoderConfig(kind="prosody"),
            "mood-2": replace(emotion, pooling="utterance"),
        },
    }[streams]
    training = replace(quick.training, epochs=1, checkpoint_minutes=0.0)
    return replace(quick, encoders=encoders, training=training)


def test_streams_from_audio_to_answers(
    streams: str,
    recipe_of_streams: Recipe,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes, cache, run = SIZES[streams], tmp_path / "cache", tmp_path / "run"
    (tmp_path / "recipe.toml").write_text(to_toml(recipe_of_streams), "utf-8")
    recipe = load_recipe(str(tmp_path / "recipe.toml"))
    assert recipe == recipe_of_streams
    assert list(recipe.encoders) == list(sizes)  # in the order of the file

    planned = plan(corpus, recipe, cache).extraction.streams
    assert {s.name: s.frame_size for s in planned} == sizes
    assert [s.missing for s in planned] == [11] * len(sizes)
    assert [report.encoded for report in extract(corpus, recipe, cache)] == [11] * len(sizes)
    assert [s.present for s in plan(corpus, recipe, cache).extraction.streams] == [11] * len(sizes)

    train(recipe, corpus, cache, run)
    assert load_info(run).sizes == sizes
    assert list(load_recipe(str(run / "recipe.toml")).encoders) == list(sizes)
    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", interrupt_at(3))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, corpus, cache, tmp_path / "resumed")
    assert train(recipe, corpus, cache, tmp_path / "resumed").resumed_at == 3
    assert same_weights(run, tmp_path / "resumed")

    scores = evaluate(run, corpus / "test.jsonl", cache, EvaluationOptions(samples=1))
    assert scores.clips == 2
    clip = corpus.parent / "audio/09.wav"
    (heard,) = generate(run, clip, tmp_path / "heard.jsonl", cache)
    cached = {a.id: a for a in generate(run, corpus / "test.jsonl", tmp_path / "all.jsonl", cache)}
    assert heard.response == cached["tones/09"].response
    assert heard.emotion_probabilities == pytest.approx(cached["tones/09"].emotion_probabilities)

    assert all(check.is_intact for check in verify_cache(cache))
    assert [report.equal for report in compare_audio(cache, corpus)] == [11] * len(sizes)
    assert all(report.largest < 2e-3 for report in recompute(cache, corpus, count=1))


def interrupt_at(step: int) -> Callable[[Optimizer, int], float]:
    ordinary = Optimizer.step

    def step_or_interrupt(optimizer: Optimizer, number: int) -> float:
        if number == step:
            raise KeyboardInterrupt
        return ordinary(optimizer, number)

    return step_or_interrupt


def same_weights(a: Path, b: Path) -> bool:
    first, second = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    return first.keys() == second.keys() and all(
        torch.equal(t, second[n]) for n, t in first.items()
    )


def test_a_run_does_not_continue_with_other_streams(
    quick: Recipe, corpus: Path, tmp_path: Path
) -> None:
    recipe = replace(quick, training=replace(quick.training, epochs=1))
    speech, emotion = quick.encoders.items()
    extract(corpus, recipe, tmp_path / "cache")
    train(recipe, corpus, tmp_path / "cache", tmp_path / "run")
    for encoders, found in (
        (dict([emotion, speech]), "encoders: wanted emotion, speech, found speech, emotion"),
        (dict([speech]), "encoders: wanted speech, found speech, emotion"),
        (
            dict([speech, ("emotion", replace(emotion[1], pooling="utterance"))]),
            "encoders.emotion.pooling: wanted 'utterance', found 'frame'",
        ),
    ):
        with pytest.raises(RunError, match=found):
            train(replace(recipe, encoders=encoders), corpus, tmp_path / "cache", tmp_path / "run")


def test_streams_of_one_encoder_share_a_store(quick: Recipe, corpus: Path, tmp_path: Path) -> None:
    speech = quick.encoders["speech"]
    both = {"speech": speech, "mean": replace(speech, pooling="utterance")}
    recipe = replace(quick, encoders=both, training=replace(quick.training, epochs=1))
    cache = tmp_path / "cache"
    planned = plan(corpus, recipe, cache).extraction
    assert [stream.missing for stream in planned.streams] == [11, 0]
    assert planned.size == planned.streams[0].bytes
    extract(corpus, recipe, cache)
    assert len(list(cache.glob("*/zarr.json"))) == 1
    train(recipe, corpus, cache, tmp_path / "run")
    assert load_info(tmp_path / "run").sizes == {"speech": 16, "mean": 16}
