"""Label check: a loss without labels stops a run before its first step, or is told first."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.config.schema import LossesConfig, Recipe
from rellm_cache.corpus.manifest import responses_path
from rellm_cache.data.batch import Example, Target
from rellm_cache.errors import ManifestError
from rellm_cache.training.label_check import require_labels
from rellm_cache.training.run import train

RESPONSE = Target("response_lm", (1, 2))
SPOKEN = Example("a", emotion=0, vad=(0.1, 0.2, 0.3), targets=(RESPONSE, Target("qa_lm", (1,))))
BARE = Example("b")


def losses(recipe: Recipe, **weights: float) -> Recipe:
    """The recipe with these losses only."""
    none = {"response_lm": 0.0, "emotion_ce": 0.0, "vad": 0.0, "emotion_lm": 0.0}
    adapter = replace(recipe.adapter, output_size=32)
    wanted = LossesConfig(**(none | weights))  # type: ignore[arg-type]
    return replace(recipe, losses=wanted, adapter=adapter)


@pytest.mark.parametrize(
    ("weights", "label"),
    [
        ({"response_lm": 1.0}, "a response that is not blank; `rellm respond` makes them"),
        ({"response_kl": 0.5}, "a response that is not blank"),
        ({"emotion_ce": 2.0}, "an emotion of heads.emotions"),
        ({"emotion_lm": 1.0, "vad": 1.0}, "an emotion of heads.emotions"),
        ({"qa_lm": 1.0}, "a question of the recipe's .qa.; `rellm qa` writes them"),
    ],
)
def test_a_loss_without_labels_is_named(
    recipe: Recipe, weights: dict[str, float], label: str
) -> None:
    (name, weight), *_ = weights.items()
    message = f"m: losses.{name} = {weight:g}, but none of the 2 clips of train has {label}"
    with pytest.raises(ManifestError, match=f"{message}.*or set losses.{name}=0"):
        require_labels([BARE, replace(BARE, id="c")], losses(recipe, **weights), Path("m"))
    empty = replace(BARE, targets=(Target("response_lm", ()), Target("qa_lm", ())))
    with pytest.raises(ManifestError, match="but none of the 1 clips"):
        require_labels([empty], losses(recipe, **weights), Path("m"))


def test_whole_data_gives_no_warning(recipe: Recipe) -> None:
    all_losses = losses(recipe, response_lm=1.0, qa_lm=1.0, emotion_ce=1.0, vad=1.0)
    other = replace(SPOKEN, id="b", emotion=1)
    assert require_labels([SPOKEN, other, BARE], all_losses, Path("m")) == []


def test_one_emotion_and_missing_dimensions_are_told(recipe: Recipe) -> None:
    heads = losses(recipe, emotion_ce=1.0, vad=1.0)
    assert require_labels([replace(SPOKEN, vad=None), BARE], heads, Path("m")) == [
        "losses.vad learns nothing, as no clip of train has dimensions; `rellm annotate` adds "
        "predictions of the emotion encoder",
        "every labelled clip of train is 'neutral': the losses of emotions can only learn to give "
        "this answer",
    ]
    assert require_labels([SPOKEN], losses(recipe, vad=1.0), Path("m")) == []


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    rows = [change(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def test_training_stops_before_its_first_step(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    responses = responses_path(corpus / "train.jsonl")
    written = responses.read_text("utf-8")
    for blank in ("", "  \n"):
        rewrite(responses, lambda row, text=blank: row | {"response": text})  # type: ignore[misc]
        with pytest.raises(ManifestError, match=r"manifest: losses.response_lm = 1, but none of"):
            train(quick, corpus, cache, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    responses.write_text(written, "utf-8")
    rewrite(corpus / "train.jsonl", lambda row: row | {"emotion": "sad", "vad": None})
    once = replace(quick, training=replace(quick.training, epochs=1))
    train(once, corpus, cache, tmp_path / "one")
    said = capsys.readouterr().err
    assert "Warning: losses.vad learns nothing" in said
    assert "Warning: every labelled clip of train is 'sad'" in said


def test_an_example_too_long_for_the_llm_is_named_before_the_first_step(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    def lengthened(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"response": "word " * 500} if row["id"] == "tones/03" else row

    rewrite(responses_path(corpus / "train.jsonl"), lengthened)
    with pytest.raises(ManifestError, match=r"tones/03: prompt, .* of response_lm take 2\d{3} tok"):
        train(quick, corpus, cache, tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()
