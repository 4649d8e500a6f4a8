"""RAVDESS reader: file names and speaker splits."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.corpus.readers.ravdess import (
    EMOTIONS,
    RavdessOptions,
    read_ravdess,
    read_ravdess_speakers,
)
from rellm_cache.errors import ManifestError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Empty files with RAVDESS names: two speakers, one calm and one song clip among them."""
    for name in (
        "Actor_01/03-01-05-02-01-01-01.flac",
        "Actor_01/03-01-02-01-01-01-01.flac",
        "Actor_01/03-02-05-02-01-01-01.flac",
        "Actor_01/notes.txt",
        "Actor_02/03-01-08-01-02-02-02.WAV",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_file_names_give_emotion_statement_and_speaker(root: Path) -> None:
    splits = {"train": frozenset({1}), "test": frozenset({2})}
    first, second = read_ravdess(root, splits).utterances
    assert (first.id, first.emotion, first.split) == (
        "ravdess/03-01-05-02-01-01-01",
        "angry",
        "train",
    )
    assert first.text == "Kids are talking by the door."
    assert (second.emotion, second.split, second.speaker) == ("surprise", "test", "ravdess/02")
    assert second.text == "Dogs are sitting by the door."
    assert first.vad is None


def test_clips_of_speakers_in_no_split_are_counted(root: Path) -> None:
    corpus = read_ravdess(root, {"test": frozenset({2})})
    assert [u.speaker for u in corpus.utterances] == ["ravdess/02"]
    assert corpus.notes == ["1 clip of speakers in no split left out"]  # calm and songs are none


def test_all_eight_emotions(ravdess: Path) -> None:
    options = RavdessOptions(emotions="all")
    corpus = read_ravdess_speakers(ravdess, options)
    counts = Counter(u.emotion for u in corpus.utterances)
    assert counts == {**dict.fromkeys(EMOTIONS.values(), 160), "neutral": 80}
    assert {(total.found, total.expected) for total in corpus.totals} == {(60, 60)}


def test_own_labels_read_all_eight_emotions(root: Path, tmp_path: Path) -> None:
    two = RavdessOptions("paper", "1", "2", "", labels="keep")
    kept = read_ravdess_speakers(root, two)
    assert [u.emotion for u in kept.utterances] == ["calm", "angry", "surprise"]
    assert kept.own_labels
    assert {t.expected for t in kept.totals} == {60}
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"calm": "Serene", "angry": "angry", "surprise": "angry"}))
    mapped = read_ravdess_speakers(root, replace(two, labels=str(file)))
    assert [u.emotion for u in mapped.utterances] == ["serene", "angry", "angry"]
    file.write_text(json.dumps({"angry": "angry", "surprise": "angry"}))
    with pytest.raises(ManifestError, match=r"01.flac: found emotion 'calm', which .* does not"):
        read_ravdess_speakers(root, replace(two, labels=str(file)))


def test_a_speaker_in_two_splits_is_refused(root: Path) -> None:
    splits = {"train": frozenset({1, 2}), "test": frozenset({2})}
    with pytest.raises(ManifestError, match="speaker 2 is in both train and test"):
        read_ravdess(root, splits)


def test_a_split_without_clips_is_refused(root: Path) -> None:
    with pytest.raises(ManifestError, match=r"found no clip of the test speakers \[3\], expected"):
        read_ravdess(root, {"train": frozenset({1}), "test": frozenset({3})})


def test_the_real_corpus_is_split_by_speaker(ravdess: Path) -> None:
    corpus = read_ravdess(ravdess, RavdessOptions().splits)
    utterances = corpus.utterances
    assert Counter(u.split for u in utterances) == {"train": 576, "validation": 72, "test": 72}
    assert {u.emotion for u in utterances} == {"neutral", "happy", "sad", "angry", "surprise"}
    assert len({u.id for u in utterances}) == 720
    assert len(corpus.totals) == 20
    assert corpus.notes == []
    assert all(total.found == total.expected == 36 for total in corpus.totals)
