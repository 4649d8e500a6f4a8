"""Folds of corpora, and shuffled labels."""

from collections import Counter
from pathlib import Path

import pytest
from trees import write_esd, write_iemocap, write_msp

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ConfigError, ManifestError
from rellm_cache.reproduction.folds import (
    Source,
    read_folds,
    shuffle_labels,
    speaker_groups,
    split_utterances,
)


def test_every_speaker_is_tested_once_and_never_trained_on() -> None:
    folds = speaker_groups(range(1, 21))
    assert len(folds) == 5
    assert Counter(s for fold in folds for s in fold["test"]) == Counter(range(1, 21))
    assert folds[0] == {
        "train": frozenset(range(7, 21)),
        "validation": frozenset({5, 6}),
        "test": frozenset({1, 2, 3, 4}),
    }
    assert folds[-1]["validation"] == frozenset({1, 2})
    for fold in folds:
        assert fold["train"] | fold["validation"] | fold["test"] == set(range(1, 21))
        assert sum(map(len, fold.values())) == 20


def test_the_corpora_of_the_paper_have_one_fold(tmp_path: Path) -> None:
    sources = (
        Source("iemocap", write_iemocap(tmp_path / "iemocap")),
        Source("esd", write_esd(tmp_path / "esd")),
        Source("msp-podcast", write_msp(tmp_path / "msp")),
    )
    for source in sources:
        (fold,) = read_folds(source)
        assert (source.splits, fold.name) == ("paper", "fold-1")
        assert set(fold.split_of.values()) == {"train", "validation", "test"}


def test_each_session_is_tested_in_turn(tmp_path: Path) -> None:
    source = Source("iemocap", write_iemocap(tmp_path), cross_validate=True)
    folds = read_folds(source)
    tested = [i for fold in folds for i, split in fold.split_of.items() if split == "test"]
    assert len(folds) == 5
    assert Counter(tested) == Counter(dict.fromkeys(folds[0].split_of, 1))


def test_invalid_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--splits text: esd has paper, speaker"):
        Source("esd", tmp_path, "text")
    with pytest.raises(ConfigError, match="--cross-validate: expected iemocap, found"):
        Source("ravdess", tmp_path, cross_validate=True)
    with pytest.raises(ManifestError, match=r"found 0 folders Actor_NN, expected RAVDESS"):
        read_folds(Source("ravdess", tmp_path))


def test_a_fold_leaves_out_unknown_utterances(tmp_path: Path) -> None:
    (fold,) = read_folds(Source("iemocap", write_iemocap(tmp_path)))
    own = list(fold.corpus.utterances)
    parts = split_utterances([*own, Utterance("other/1", "x.wav", split="train")], fold)
    assert sorted(u.id for part in parts.values() for u in part) == sorted(u.id for u in own)
    assert all(u.split == split for split, part in parts.items() for u in part)
    trained = [u for u in own if u.split == "train"]
    expected = rf"iemocap, fold-1: none of its {len(own)} clips is left in test; excluded\.jsonl"
    with pytest.raises(ManifestError, match=expected):
        split_utterances(trained, fold)


def test_shuffled_labels_keep_words_and_counts() -> None:
    clips = [
        Utterance(
            id=f"{i}",
            audio=f"{i}.wav",
            text=f"Sentence {i % 2}." if i < 40 else f"Said once, number {i}.",
            emotion=("sad", "happy")[i // 20 % 2],
            vad=(0.1, 0.2, i / 100),
            response=f"to {i % 2 if i < 40 else i}",
        )
        for i in range(50)
    ]
    dealt = shuffle_labels(clips, seed=1)
    assert [(u.id, u.audio, u.text) for u in dealt] == [(u.id, u.audio, u.text) for u in clips]
    assert Counter(u.emotion for u in dealt) == Counter(u.emotion for u in clips)
    # What was said in both emotions keeps a response to those words.
    assert all(u.response == f"to {i % 2}" for i, u in enumerate(dealt[:40]))
    by_dimensions = {u.vad: u.emotion for u in clips}
    assert all(by_dimensions[u.vad] == u.emotion for u in dealt)
    kept = sum(u.emotion == v.emotion for u, v in zip(clips[:40], dealt[:40], strict=True))
    assert 10 < kept < 30  # half by chance
    assert dealt == shuffle_labels(clips, seed=1) != shuffle_labels(clips, seed=2)
