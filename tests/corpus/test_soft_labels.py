"""Soft labels: shares of raters in manifests, ties, and tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from rellm_cache.corpus.manifest import Utterance, read_manifest, write_manifest
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.table import TableOptions, read_table
from rellm_cache.corpus.soft_labels import listed_shares, majority, shares_of_votes
from rellm_cache.errors import ManifestError


def test_shares_and_votes_are_read_and_written(tmp_path: Path) -> None:
    rows = [
        {"angry": 0.6, "sadness": 0.4},
        {"happy": 3, "sad": 1, "fear": 0},
        {"sad": 2, "fear": 2},
    ]
    file = tmp_path / "test.jsonl"
    file.write_text(
        "\n".join(json.dumps({"audio": f"{n}.wav", "emotion": r}) for n, r in enumerate(rows))
    )
    one, two, tie = read_manifest(file)
    assert (one.emotion, one.soft_emotion) == ("angry", {"angry": 0.6, "sad": 0.4})
    assert (two.emotion, two.soft_emotion) == ("happy", {"happy": 0.75, "sad": 0.25})
    assert (tie.emotion, tie.soft_emotion) == (None, {"sad": 0.5, "fear": 0.5})
    write_manifest(file, [one, two, tie])
    assert read_manifest(file) == [one, two, tie]


@pytest.mark.parametrize(
    "emotion", [{"angry": 0.6, "sad": 0.6}, {"angry": -1, "sad": 2}, {"angry": "1"}, {"sad": 0}]
)
def test_numbers_that_are_no_shares_are_refused(tmp_path: Path, emotion: dict[str, Any]) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps({"audio": "a.wav", "emotion": emotion}))
    with pytest.raises(
        ManifestError, match=r"test.jsonl:1: found emotion .*expected shares that sum"
    ):
        read_manifest(file)


def test_an_unknown_name_among_shares_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps({"audio": "a.wav", "emotion": {"bored": 0.5, "sad": 0.5}}))
    with pytest.raises(ManifestError, match="unknown emotion 'bored'"):
        read_manifest(file)
    file.write_text(json.dumps({"audio": "a.wav", "emotion": ["sad"]}))
    with pytest.raises(ManifestError, match="expected text, or an object of shares"):
        read_manifest(file)


def test_a_table_of_shares_becomes_a_manifest_that_says_its_ties(tmp_path: Path) -> None:
    rows = []
    for n, emotion in enumerate(({"Bored": 2, "sad": 1}, {"Bored": 1, "sad": 1})):
        noise = np.random.default_rng(n).uniform(-0.1, 0.1, 20_000)
        soundfile.write(tmp_path / f"{n}.wav", noise, 16_000)
        rows.append(json.dumps({"audio": f"{n}.wav", "emotion": emotion}))
    (tmp_path / "table.jsonl").write_text("\n".join(rows))
    corpus = read_table(tmp_path / "table.jsonl", TableOptions(labels="keep"))
    report = prepare(corpus, tmp_path / "out")
    assert report.survey.emotions == {"train": {"bored": 1, "none": 1}}
    assert "2 of 2 clips have shares of raters; 1 of them have no majority" in report.notes[-1]
    read = read_manifest(tmp_path / "out/train.jsonl")
    assert [u.soft_emotion for u in read] == [u.soft_emotion for u in corpus.utterances]


def test_shares_of_the_emotions_of_a_recipe() -> None:
    shares = shares_of_votes(["sad", "sad", "fear", "other"])
    assert list(shares.items()) == [("sad", 0.5), ("fear", 0.25), ("other", 0.25)]
    assert majority(shares) == "sad"
    assert listed_shares(shares, ("fear", "sad", "happy")) == pytest.approx((1 / 3, 2 / 3, 0))
    assert listed_shares(shares, ("happy", "angry")) is None
    assert Utterance("a/1", "a.wav").soft_emotion is None
