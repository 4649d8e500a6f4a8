"""Provenance: counts of the data, and no ids, texts or speakers."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ManifestError, RunError
from rellm_cache.runs.provenance import (
    TrainingRecord,
    load_training,
    save_training,
    summarize_data,
)

UTTERANCES = [
    Utterance(
        "iemocap/Ses01F_1",
        "a.wav",
        text="Excuse me.",
        emotion="sad",
        vad=(0.1, 0.2, 0.3),
        vad_source="human",
        speaker="Ses01F",
        split="train",
        duration=1800.0,
    ),
    Utterance(
        "iemocap/Ses01M_1", "b.wav", text="What?", emotion="sad", speaker="Ses01M", split="train"
    ),
    Utterance(
        "alice/1", "c.wav", text="Secret.", vad=(0, 0, 0), vad_source="pseudo", speaker="alice"
    ),
]


def test_counts_without_names(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"splits": "paper", "seed": 1}))
    found = summarize_data(UTTERANCES, tmp_path / "train.jsonl")
    assert found.clips == 3
    assert found.hours == 0.5
    assert found.speakers == 3
    assert found.corpora == {"another corpus": 1, "iemocap": 2}
    assert found.splits == {"train": 2, "unnamed": 1}
    assert found.emotions == {"sad": 2}
    assert found.dimensions == {"human": 1, "pseudo": 1}
    assert found.prepared == "paper, seed 1"
    written = json.dumps(asdict(found))
    for private in ("Ses01", "alice", "Secret", "wav", "Excuse"):
        assert private not in written


def test_a_folder_without_a_report(tmp_path: Path) -> None:
    assert summarize_data(UTTERANCES, tmp_path).prepared == ""
    (tmp_path / "report.json").write_text("{}")
    assert summarize_data(UTTERANCES, tmp_path).prepared == ""


@pytest.mark.parametrize("content", ["[]", "{", ""])
def test_a_broken_report_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ManifestError, match=r"report\.json: .*remove it, or prepare again"):
        summarize_data(UTTERANCES, tmp_path)


def test_a_record_is_read_back_and_a_missing_one_explained(tmp_path: Path) -> None:
    data = summarize_data(UTTERANCES, tmp_path)
    record = TrainingRecord("0.1.0", data, None, 9, 1.5, 1, {"device": "x"}, "", "", {"ua": 0.5})
    save_training(tmp_path, record)
    assert load_training(tmp_path) == record
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(RunError, match=r"training\.json: cannot be read .*trains nothing twice"):
        load_training(tmp_path)
