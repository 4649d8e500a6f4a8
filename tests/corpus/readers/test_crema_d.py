"""CREMA-D reader: votes on the voice, ties, intended emotions, and damaged tables."""

import json
from pathlib import Path
from typing import Literal

import pytest

from rellm_cache.corpus.readers.crema_d import TABLE, CremaDOptions, read_crema_d
from rellm_cache.errors import ConfigError, ManifestError

HEADING = '"","A","D","F","H","N","S","fileName","numResponses","agreement","emoVote"'
ROWS = (
    '"100001",0,0,0,1,10,0,"1001_IEO_NEU_XX",11,0.9,"N"',
    '"100009",5,5,0,0,1,1,"1074_TIE_ANG_MD",12,0.41,"A:D"',
    '"100010",0,0,0,6,2,0,"1083_WSI_SAD_HI",8,0.75,"H"',
    '"200001",9,0,0,0,0,0,"1001_IEO_NEU_XX",9,1,"A"',  # raters who saw the face alone
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "AudioWAV").mkdir()
    for row in ROWS[:3]:
        (tmp_path / "AudioWAV" / f"{row.split(chr(34))[3]}.wav").touch()
    (tmp_path / TABLE).parent.mkdir()
    (tmp_path / TABLE).write_text("\n".join((HEADING, *ROWS)))
    return tmp_path


def test_votes_on_the_voice_are_soft_labels(root: Path) -> None:
    corpus = read_crema_d(root)
    first, tie, heard = corpus.utterances
    assert (first.id, first.emotion, first.split) == ("crema-d/1001_IEO_NEU_XX", "neutral", "train")
    assert first.soft_emotion == pytest.approx({"neutral": 10 / 11, "happy": 1 / 11}, abs=1e-6)
    assert (first.text, first.speaker) == ("It's eleven o'clock.", "crema-d/1001")
    assert (tie.emotion, tie.split) == (None, "validation")
    assert (heard.emotion, heard.split) == ("happy", "test")  # meant to be sad
    assert [(t.found, t.expected) for t in corpus.totals] == [(3, 7442)]


def test_intended_emotions_need_no_table(root: Path) -> None:
    (root / TABLE).unlink()
    found = read_crema_d(root, CremaDOptions(label_source="intended")).utterances
    assert [u.emotion for u in found] == ["neutral", "angry", "sad"]
    assert {u.soft_emotion for u in found} == {None}


@pytest.mark.parametrize("source", ["votes", "intended"])
def test_a_map_names_the_emotions(root: Path, source: Literal["votes", "intended"]) -> None:
    names = dict.fromkeys(("angry", "disgust", "fear", "sad"), "bad")
    file = root / "map.json"
    file.write_text(json.dumps(names | {"neutral": "neutral", "happy": "Good"}))
    corpus = read_crema_d(root, CremaDOptions(source, labels=str(file)))
    found = [u.emotion for u in corpus.utterances]
    assert found == ["neutral", "bad", "good" if source == "votes" else "bad"]
    assert corpus.own_labels
    kept = read_crema_d(root, CremaDOptions(source, labels="keep"))
    assert kept.utterances == read_crema_d(root, CremaDOptions(source)).utterances
    file.write_text(json.dumps(names))
    with pytest.raises(
        ManifestError, match=r"found emotion '(neutral|happy)', which .*map.json does"
    ):
        read_crema_d(root, CremaDOptions(source, labels=str(file)))


def test_a_clip_without_votes_and_damaged_votes_are_refused(root: Path) -> None:
    (root / TABLE).write_text("\n".join((HEADING, *ROWS[:2])))
    with pytest.raises(ManifestError, match="found no votes on the voice of 1083_WSI_SAD_HI"):
        read_crema_d(root)
    (root / TABLE).write_text("\n".join((HEADING, ROWS[0].replace(",10,", ",ten,"))))
    with pytest.raises(ManifestError, match=r"tabulatedVotes.csv:2: found votes .*whole numbers"):
        read_crema_d(root)


def test_other_names_and_speakers(root: Path) -> None:
    one = read_crema_d(
        root,
        CremaDOptions(
            train_speakers="1001", test_speakers="1074"[:4] + ",1083", validation_speakers="1075"
        ),
    )
    assert [u.split for u in one.utterances] == ["train", "test", "test"]
    with pytest.raises(ManifestError, match="speaker 1074 is in both train and validation"):
        read_crema_d(root, CremaDOptions(train_speakers="1074"))
    with pytest.raises(ConfigError):
        read_crema_d(root, CremaDOptions(train_speakers="x"))
    (root / "AudioWAV/1001_ABC_NEU_XX.wav").touch()
    with pytest.raises(ManifestError, match=r"ABC_NEU_XX.wav: expected a name like"):
        read_crema_d(root)
    with pytest.raises(ManifestError, match="found no AudioWAV"):
        read_crema_d(root / "processedResults")
