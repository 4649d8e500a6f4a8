"""Rows of predictions.csv."""

import csv
from pathlib import Path

import numpy as np

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.evaluation.predictions import (
    EmotionPredictions,
    prediction_rows,
    read_predictions,
)
from rellm_cache.inference.emotion_recognition import Label
from rellm_cache.utils.atomic_files import write_csv

CLIPS = [Utterance("a", "a.wav", emotion="sad", speaker="S"), Utterance("c", "c.wav")]
PREDICTIONS = EmotionPredictions(
    head=["sad", "sad"],
    dimensions=np.array([[0.5, 0.2, 0.1], [0.5, 0.9, 0.9]], np.float32),
    llm=[Label("sad", None), Label("angry", "angry")],
    in_words=True,
    losses={},
)


def test_a_cell_without_a_value_is_empty(tmp_path: Path) -> None:
    write_csv(tmp_path / "predictions.csv", *prediction_rows(CLIPS, PREDICTIONS))
    assert read_predictions(tmp_path / "predictions.csv")["a"] == {
        "id": "a",
        "speaker": "S",
        "emotion": "sad",
        "head": "sad",
        "llm": "sad",
        "llm_in_words": "",
        "arousal": "0.5000",
        "dominance": "0.2000",
        "valence": "0.1000",
    }
    _, rows = prediction_rows(CLIPS[1:], EmotionPredictions(None, None, None, False, {}))
    assert rows == [["c", *[""] * 8]]


def test_no_text_is_a_formula_and_every_text_is_read_back(tmp_path: Path) -> None:
    signs = ("=", "+", "-", "@", "\t", "\r")
    ids = [f"{prefix}{sign}cmd|' /c'!A0" for prefix in ("", "'", "''", "a", " ") for sign in signs]
    ids += ["'", "''", "'a", "a'=b", "", "c/1"]
    clips = [Utterance(name, "a.wav", speaker=name, emotion="sad") for name in ids]
    below = np.full((len(ids), 3), -0.25, np.float32)
    found = EmotionPredictions(["sad"] * len(ids), below, None, False, {})
    write_csv(tmp_path / "predictions.csv", *prediction_rows(clips, found))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert not [cell for row in rows for cell in row[:2] if cell.startswith(signs)]
    assert [row[0] for row in rows[18:]] == ids[18:]
    assert rows[0][-3:] == ["-0.2500"] * 3
    read = read_predictions(tmp_path / "predictions.csv")
    assert list(read) == ids
    assert [row["speaker"] for row in read.values()] == ids
    assert {row["arousal"] for row in read.values()} == {"-0.2500"}
