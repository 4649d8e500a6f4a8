"""EmoBox reader: five corpora of different shape, and the folds of RAVDESS."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from emobox_metadata import RAVDESS_FOLDS, write_fold, write_ravdess

from rellm_cache.corpus.manifest import read_split
from rellm_cache.corpus.prepare import prepare, prepare_folds
from rellm_cache.corpus.readers.emobox import EmoboxOptions, read_emobox, read_emobox_folds
from rellm_cache.errors import ManifestError

SECONDS = 1.5


def row(corpus: str, clip: str, wav: str, emo: object, **others: Any) -> dict[str, Any]:
    """A row of metadata."""
    own = {"key": f"{corpus}-{clip}", "dataset": corpus, "wav": wav, "task": "category", "emo": emo}
    return {**own, "length": SECONDS, **others}


def write_sound(path: Path, seconds: float = SECONDS) -> str:
    """Write noise that differs from file to file; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(sum(path.name.encode())).uniform(-0.1, 0.1, int(seconds * 16_000))
    soundfile.write(path, noise, 16_000)
    return str(path)


def test_relative_paths_below_downloads_and_flac_for_wav(tmp_path: Path) -> None:
    corpus = tmp_path / "data/mini"
    rows = [row("mini", f"{n}", f"downloads/mini/wav/{n}.wav", "Worried") for n in range(12)]
    write_fold(corpus, 1, {"train": rows[:10], "test": rows[10:]})
    (corpus / "label_map.json").write_text(json.dumps({"Worried": "Fear"}))
    for n in range(12):
        write_sound(tmp_path / f"copy/wav/{n}.flac")
    found = read_emobox(corpus, EmoboxOptions(str(tmp_path / "copy"))).utterances
    assert Counter(u.split for u in found) == {"train": 8, "validation": 2, "test": 2}
    assert {u.emotion for u in found} == {"fear"}
    assert (found[0].id, found[0].duration) == ("mini/0", SECONDS)
    assert Path(found[-1].audio) == tmp_path / "copy/wav/11.flac"


def test_absolute_paths_and_a_validation_set(tmp_path: Path) -> None:
    corpus = tmp_path / "meld"
    wavs = [write_sound(tmp_path / f"elsewhere/{n}.wav") for n in range(3)]
    one, two, three = (row("meld", Path(wav).stem, wav, "joy") for wav in wavs)
    write_fold(corpus, 1, {"train": [one], "valid": [two], "test": [three]})
    (corpus / "label_map.json").write_text('{"joy": "Happy"}')
    read = read_emobox(corpus, EmoboxOptions(str(tmp_path)))
    assert [u.split for u in read.utterances] == ["train", "validation", "test"]
    assert read.seed is None
    assert not any("fifth" in note for note in read.notes)
    assert prepare(read, tmp_path / "out").kept == {"train": 1, "validation": 1, "test": 1}


def test_segments_of_one_file_and_rows_of_other_tasks(tmp_path: Path) -> None:
    corpus = tmp_path / "radio"
    write_sound(tmp_path / "show.wav", 8)
    rows = [
        row("radio", f"{n}", "show.wav", "neutral", start_time=n * 2, end_time=n * 2 + SECONDS)
        for n in range(4)
    ]
    valence = {"key": "radio-v", "wav": "show.wav", "task": "valence", "emo": "0.5"}
    write_fold(corpus, 1, {"train": [*rows[:3], valence], "test": rows[3:]})
    read = read_emobox(corpus, EmoboxOptions(str(tmp_path)))
    assert [u.segment for u in read.utterances][-1] == (6.0, 7.5)
    assert "1 row of task 'valence' left out" in read.notes
    report = prepare(read, tmp_path / "out")
    assert (sum(report.kept.values()), report.excluded) == (4, [])


def test_json_files_of_old_folds_own_names_and_odd_file_names(tmp_path: Path) -> None:
    corpus = tmp_path / "emodb"
    names = ("03a01 Fa #1.wav", "ärger, né.wav", "Langeweile.wav")
    rows = [row("emodb", name[:-4], name, "L (Boredom)") for name in names]
    write_fold(corpus, 1, {"train": rows[:2], "test": rows[2:]}, place="fold", suffix="json")
    for name in names:
        write_sound(tmp_path / "wavs" / name)
    read = read_emobox(corpus, EmoboxOptions(str(tmp_path / "wavs")))
    assert [u.id for u in read.utterances] == [f"emodb/{name[:-4]}" for name in names]
    prepare(read, tmp_path / "out")
    assert [u.emotion for u in read_split(tmp_path / "out", "test")] == ["l (boredom)"]


def test_numbers_as_labels_and_other_field_names(tmp_path: Path) -> None:
    corpus = tmp_path / "asvp"
    rows = [
        {"key": 7, "audio": write_sound(tmp_path / "7.wav"), "label": "11"},
        {"key": 8, "audio": write_sound(tmp_path / "8.wav"), "label": 13},
    ]
    write_fold(corpus, 1, {"train": rows[:1], "test": rows[1:]})
    (corpus / "label_map.json").write_text('{"11": "pain, groan", "13": "Breath"}')
    read = read_emobox(corpus, EmoboxOptions(str(tmp_path)))
    assert [(u.id, u.emotion) for u in read.utterances] == [
        ("asvp/7", "pain, groan"),
        ("asvp/8", "breath"),
    ]
    (corpus / "label_map.json").write_text('{"11": "pain"}')
    with pytest.raises(ManifestError, match=r"asvp_test_fold_1.jsonl:1: found emotion '13', which"):
        read_emobox(corpus, EmoboxOptions(str(tmp_path)))
    kept = read_emobox(corpus, EmoboxOptions(str(tmp_path), labels="keep"))
    assert [u.emotion for u in kept.utterances] == ["11", "13"]


def test_ravdess_folds_need_all_actors_or_skip_missing(tmp_path: Path, ravdess: Path) -> None:
    corpus = write_ravdess(tmp_path)
    options = EmoboxOptions(str(ravdess))
    with pytest.raises(ManifestError, match=r"240 of 1440 clips is missing, .*--skip-missing"):
        read_emobox_folds(corpus, options)
    folds = read_emobox_folds(corpus, EmoboxOptions(str(ravdess), skip_missing=True))
    assert list(folds) == [1, 2, 3, 4, 5, 6]
    for read, actors in zip(folds.values(), RAVDESS_FOLDS, strict=True):
        tested = {u.speaker for u in read.utterances if u.split == "test"}
        assert tested == {f"ravdess/{n:02d}" for n in actors if n <= 20}  # 21 to 24 are not there
        assert not tested & {u.speaker for u in read.utterances if u.split != "test"}
        counts = Counter(u.split for u in read.utterances)
        assert counts["test"] == 60 * len(tested)
        assert counts["validation"] == round((1200 - counts["test"]) / 5)
        assert counts.total() == 1200
        assert len({u.emotion for u in read.utterances}) == 8
        assert [(t.name, t.found, t.expected) for t in read.totals] == [
            ("train", 1200 - counts["test"], 1200),
            ("test", counts["test"], 240),
        ]
        assert any("240 clips without audio left out: " in note for note in read.notes)


def test_folds_are_decoded_once_and_written_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "mini"
    rows = [row("mini", f"{n}", write_sound(tmp_path / f"{n}.wav"), "sad") for n in range(4)]
    rows[3]["length"] = 9.0
    write_fold(corpus, 1, {"train": rows[:3], "test": rows[3:]})
    write_fold(corpus, 2, {"train": rows[1:], "test": rows[:1]})
    folds = read_emobox_folds(corpus, EmoboxOptions(str(tmp_path)))
    opened: list[str] = []
    from rellm_cache.corpus import prepare as module

    load = module.load_clip
    monkeypatch.setattr(
        module, "load_clip", lambda u, limits: opened.append(u.id) or load(u, limits)
    )
    reports = prepare_folds({f"fold_{k}": c for k, c in folds.items()}, tmp_path / "out")
    assert sorted(opened) == ["mini/0", "mini/1", "mini/2", "mini/3"]
    assert [r.kept["test"] for r in reports.values()] == [1, 1]
    assert [u.id for u in read_split(tmp_path / "out/fold_2", "test")] == ["mini/0"]
    (lines,) = reports["fold_1"].corpus.problems.lines.values()
    assert lines == ["mini/3: 1.50 s, expected 9.00 s"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([], [{"key": "a", "wav": "a.wav"}], "expected the fields key, wav and emo"),
        ([{"key": "a", "wav": 3, "emo": "sad"}], [], "found wav 3, expected text"),
        (["a"], ["a"], "clip 'mini/a' is in train and in test"),
    ],
)
def test_damaged_metadata_is_refused(
    tmp_path: Path, train: list[Any], test: list[Any], message: str
) -> None:
    corpus = tmp_path / "mini"
    wav = write_sound(tmp_path / "a.wav")
    splits = {"train": train, "test": test}
    rows = {
        name: [row("mini", r, wav, "sad") if isinstance(r, str) else r for r in own]
        for name, own in splits.items()
    }
    write_fold(
        corpus, 1, {name: own or [row("mini", "z", wav, "sad")] for name, own in rows.items()}
    )
    with pytest.raises(ManifestError, match=message):
        read_emobox(corpus, EmoboxOptions(str(tmp_path)))


def test_a_missing_fold_and_a_clip_tested_twice(tmp_path: Path) -> None:
    corpus = tmp_path / "mini"
    rows = [row("mini", f"{n}", write_sound(tmp_path / f"{n}.wav"), "sad") for n in range(3)]
    for fold in (1, 2):
        write_fold(corpus, fold, {"train": rows[1:], "test": rows[:1]})
    with pytest.raises(ManifestError, match=r"1 clip is tested in fold 1 and in fold 2"):
        read_emobox_folds(corpus, EmoboxOptions(str(tmp_path)))
    with pytest.raises(ManifestError, match="expected the train set of fold 3; folds are 1, 2"):
        read_emobox(corpus, EmoboxOptions(str(tmp_path), fold=3))
    with pytest.raises(ManifestError, match="found no folder fold_1"):
        read_emobox(tmp_path / "fold_none", EmoboxOptions(str(tmp_path)))
