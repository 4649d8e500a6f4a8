"""Scores of predictions and their JSON."""

import json

import numpy as np
import pytest

from rellm_cache.cli.evaluate import print_scores
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.evaluation.predictions import EmotionPredictions
from rellm_cache.evaluation.scores import make_scores
from rellm_cache.inference.emotion_recognition import Label
from rellm_cache.runs.provenance import DataSummary

DATA = DataSummary(3, 0.0, 0, {}, {}, {}, {})
SAID = EmotionPredictions(
    head=["sad", "happy", "sad"],
    dimensions=np.array([[0.5, 0.2, 0.1], [0.5, 0.4, 0.2], [0.5, 0.9, 0.9]], np.float32),
    llm=[Label("sad", None), Label("sad", "happy"), Label("angry", "angry")],
    in_words=True,
    losses={"vad": float("nan"), "emotion_ce": 0.5},
)
CLIPS = [
    Utterance("a", "a.wav", emotion="sad", vad=(0.5, 0.1, 0.2), speaker="S"),
    Utterance("b", "b.wav", emotion="happy", vad=(0.5, 0.3, 0.1)),
    Utterance("c", "c.wav", emotion=None),
]


def test_a_score_without_a_value_is_null_not_nan(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    told = make_scores(DATA, CLIPS, SAID, recipe.heads.emotions, None).to_json()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(json.dumps(told), parse_constant=refuse) == json.loads(json.dumps(told))
    assert told["head"]["ccc"]["arousal"] is None  # of one constant and itself
    assert told["head"]["ccc_intervals"]["arousal"] == [None, None]
    assert -1 <= told["head"]["ccc"]["dominance"] <= 1
    assert told["losses"] == {"vad": None, "emotion_ce": 0.5}
    print_scores(told)
    shown = next(line for line in capsys.readouterr().out.splitlines() if "arousal" in line)
    assert shown.split() == ["arousal", "–", "–"]


def test_labels_are_scored_where_there_is_an_emotion(recipe: Recipe) -> None:
    scores = make_scores(DATA, CLIPS, SAID, recipe.heads.emotions, None)
    assert scores.head.recognition is not None
    assert scores.head.recognition.accuracy == 1
    assert scores.llm is not None
    assert scores.llm.likelihood.accuracy == 0.5
    assert scores.llm.generation is not None
    assert scores.llm.generation.accuracy == 0.5
    assert scores.llm.unparsable == pytest.approx(1 / 3)  # of all that were asked
