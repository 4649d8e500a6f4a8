"""Manifest preparation: kept clips, excluded clips with reasons, the report."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from trees import FELT, write_esd, write_iemocap

from rellm_cache.corpus.clip_limits import ClipLimits, read_limits
from rellm_cache.corpus.manifest import Utterance, read_manifests, read_split
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.esd import EsdSplits, read_esd
from rellm_cache.corpus.readers.iemocap import IemocapSplits, read_iemocap
from rellm_cache.corpus.readers.ravdess import read_ravdess
from rellm_cache.corpus.readers.table import read_table
from rellm_cache.corpus.statistics import update_report
from rellm_cache.errors import ManifestError

MakeClip = Callable[..., Path]


def utterance(path: Path, split: str = "train") -> Utterance:
    return Utterance(id=f"x/{path.name}", audio=str(path), emotion="sad", split=split)


def of(utterances: Iterable[Utterance]) -> Corpus:
    return Corpus("x", list(utterances))


def test_a_corpus_becomes_a_manifest_folder(corpus: Path, tmp_path: Path) -> None:
    report = prepare(of(read_manifests(corpus)), tmp_path / "out")
    assert report.kept == {"train": 7, "validation": 2, "test": 2}
    assert report.hours == pytest.approx(21.2 / 3600)
    assert report.survey.emotions["test"] == {"surprise": 1, "neutral": 1}
    assert (report.excluded, report.unreadable, report.forms) == ([], 0, [])
    assert [u.duration for u in read_split(tmp_path / "out", "test")] == [1.7, 2.4]
    assert read_manifests(tmp_path / "out") == read_manifests(corpus)


def test_a_relative_path_is_one_of_the_working_directory(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_clip("clips/a.wav").parent)
    prepare(of([utterance(Path("a.wav"))]), tmp_path / "out")
    (found,) = read_split(tmp_path / "out", "train")
    assert Path(found.audio) == tmp_path / "clips/a.wav"


def test_conversions_of_audio_are_noted(make_clip: MakeClip, tmp_path: Path) -> None:
    paths = [
        make_clip("plain.wav"),
        make_clip("eight.wav", channels=8),
        make_clip("a.wav", rate=48_000, channels=2),
        make_clip("b.wav", rate=48_000, channels=2),
        make_clip("phone.wav", rate=8_000),
    ]
    report = prepare(of(map(utterance, paths)), tmp_path / "out")
    assert report.kept == {"train": 5}
    assert report.forms == [
        "2 clips: 2 channels averaged to mono, 48000 Hz resampled to 16000 Hz",
        "1 clip: 8 channels averaged to mono",
        "1 clip: 8000 Hz resampled to 16000 Hz",
    ]


def test_unusable_clips_are_excluded_with_a_reason(make_clip: MakeClip, tmp_path: Path) -> None:
    good = make_clip("good.wav")
    cut = make_clip("cut.flac", seconds=2.0)
    cut.write_bytes(cut.read_bytes()[:2000])
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not audio " * 20)
    nan = make_clip("nan.wav", samples=np.full(16_000, np.nan, np.float32), subtype="FLOAT")
    reasons = {
        make_clip("short.wav", seconds=0.2): "short.wav: too short, 0.20 s < 1 s",
        make_clip("long.wav", seconds=40): "long.wav: too long, 40.00 s > 30 s",
        cut: "cannot be decoded",
        nan: "16000 samples are NaN",
        tmp_path / "empty.wav": "the file is empty (0 bytes)",
        tmp_path / "text.wav": "cannot be decoded",
        tmp_path / "gone.wav": "no such file",
        tmp_path / "nul\0.wav": "nul\\x00.wav': found a NUL character, which no file name can hold",
    }
    report = prepare(of(map(utterance, (good, *reasons))), tmp_path / "out")
    assert report.kept == {"train": 1}
    assert (report.missing, report.unreadable) == (2, 4)  # the short and the long can be read
    rows = [json.loads(r) for r in (tmp_path / "out/excluded.jsonl").read_text().splitlines()]
    assert rows == report.excluded
    for row, (path, reason) in zip(rows, reasons.items(), strict=True):
        assert row["id"] == f"x/{path.name}"
        assert row["audio"] == str(path)
        assert reason in row["reason"]


def test_the_limits_can_be_changed(make_clip: MakeClip, tmp_path: Path) -> None:
    paths = [make_clip("a.wav", seconds=0.5), make_clip("b.wav", seconds=2.5)]
    report = prepare(of(map(utterance, paths)), tmp_path / "out", ClipLimits(0.4, 2))
    assert report.kept == {"train": 1}
    assert "b.wav: too long, 2.50 s > 2 s" in report.excluded[0]["reason"]
    assert read_limits(tmp_path / "out") == read_limits(tmp_path / "out/train.jsonl")
    assert read_limits(tmp_path / "out") == ClipLimits(0.4, 2)


def test_what_was_wrong_with_kept_files_is_noted(make_clip: MakeClip, tmp_path: Path) -> None:
    streamed = make_clip("a.wav", rate=8_000)
    data = streamed.read_bytes()
    at = data.index(b"data") + 4
    streamed.write_bytes(data[:at] + b"\xff" * 4 + data[at + 4 :])
    silent = make_clip("silent.wav", samples=np.zeros(16_000))
    paths = [streamed, silent, make_clip("b.wav")]
    report = prepare(of(map(utterance, paths)), tmp_path / "out")
    assert (report.kept, report.unreadable) == ({"train": 2}, 0)
    assert report.forms == [
        "1 clip: 8000 Hz resampled to 16000 Hz",
        "1 clip: the header gives no length; read to the end of the file",
    ]
    assert "silent.wav: no signal" in report.excluded[0]["reason"]
    every = prepare(of(map(utterance, paths)), tmp_path / "out", ClipLimits(keep_silent=True))
    assert (every.kept, every.excluded) == ({"train": 3}, [])


def test_the_file_of_a_removed_split_is_deleted(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("a.wav")
    prepare(of([utterance(path, "test")]), tmp_path / "out")
    prepare(of([utterance(path, "train")]), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "train.jsonl",
        "excluded.jsonl",
        "report.json",
    }


def test_no_usable_clip_and_a_repeated_id_are_errors(make_clip: MakeClip, tmp_path: Path) -> None:
    short = make_clip("a.wav", seconds=0.2)
    with pytest.raises(ManifestError, match=r"no usable clip among 1 clip; .* too short, 0.20 s"):
        prepare(of([utterance(short)]), tmp_path / "out")
    with pytest.raises(ManifestError, match=r"no usable clip among 0 clips; .* corpus is empty"):
        prepare(of([]), tmp_path / "out")
    with pytest.raises(ManifestError, match=r"1 ids occur more than once, the first is 'x/a.wav'"):
        prepare(of([utterance(short)] * 2), tmp_path / "out")


def test_a_file_name_that_is_not_unicode_is_refused(make_clip: MakeClip, tmp_path: Path) -> None:
    """Latin-1 bytes, which no manifest could hold; nothing is written."""
    path = make_clip("a.wav").rename(tmp_path / os.fsdecode(b"h\xe9.wav"))
    with pytest.raises(
        ManifestError, match=r"x: found id 'x/h\\udce9.wav' .*rename the file to UTF-8"
    ):
        prepare(of([utterance(path)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_real_speakers_are_prepared(ravdess: Path, tmp_path: Path) -> None:
    splits = {"train": frozenset({1}), "test": frozenset({2})}
    report = prepare(read_ravdess(ravdess, splits), tmp_path)
    assert report.kept == {"train": 36, "test": 36}
    assert report.survey.emotions["train"]["neutral"] == 4
    assert report.excluded == []


def test_an_incomplete_corpus_is_an_error_unless_allowed(tmp_path: Path) -> None:
    corpus = read_iemocap(write_iemocap(tmp_path / "iemocap"))
    with pytest.raises(
        ManifestError,
        match=r"iemocap: not the whole of iemocap. all: found 40,",
    ):
        prepare(corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # nothing was decoded or written
    report = prepare(corpus, tmp_path / "out", allow_partial=True)
    assert report.kept == {"train": 29, "validation": 3, "test": 8}


def test_the_report_is_written_beside_the_manifest(tmp_path: Path) -> None:
    tree = write_iemocap(tmp_path / "iemocap")
    (tree / "Session5/sentences/wav/Ses05F_impro01/Ses05F_impro01_F000.wav").unlink()
    (tree / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav").write_bytes(b"RIFF")
    prepare(read_iemocap(tree, IemocapSplits(seed=7)), tmp_path / "out", allow_partial=True)
    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    assert (report["corpus"], report["seed"]) == ("iemocap", 7)
    assert report["splits"] == "paper, session 5 tested"
    assert report["totals"][0] == {"name": "all", "found": 39, "expected": 5531}
    assert (report["excluded"], report["missing"], report["unreadable"]) == (2, 1, 1)
    assert report["emotions"]["test"] == {"angry": 2, "happy": 2, "neutral": 1, "sad": 2}
    assert report["speakers"]["test"] == {"iemocap/5F": 4, "iemocap/5M": 3}
    assert report["durations"] == {"1-2 s": 38}
    human = report["dimensions"]["human"]
    assert human["clips"] == 38
    assert human["warnings"] == []
    valence, arousal, dominance = FELT["angry"]
    assert human["means"]["angry"] == pytest.approx(
        {"arousal": arousal, "dominance": dominance, "valence": valence}
    )
    overlaps = [o for o in report["overlaps"] if o["kind"] == "texts" and o["second"] == "test"]
    # "Don't you dare.", said in every session
    assert overlaps == [
        {"kind": "texts", "first": "train", "second": "test", "shared": 1, "clips": 1, "total": 7}
    ]


def test_parallel_sentences_and_speakers_are_reported(tmp_path: Path) -> None:
    tree = write_esd(tmp_path / "esd")
    paper = prepare(read_esd(tree), tmp_path / "paper", allow_partial=True).survey
    assert {o.kind for o in paper.overlaps} == {"speakers", "sounds"}
    speaker = prepare(
        read_esd(tree, EsdSplits("speaker")), tmp_path / "speaker", allow_partial=True
    ).survey
    assert [(o.kind, o.first, o.second, o.shared) for o in speaker.overlaps] == [
        ("texts", "train", "test", 12),
        ("sounds", "train", "test", 1),
    ]
    assert paper.dimensions == {}


def test_the_same_sound_in_two_splits_is_counted_and_named(
    tmp_path: Path, make_clip: MakeClip
) -> None:
    make_clip("a.wav", hertz=200)
    make_clip("b.wav", hertz=300)
    shutil.copy(tmp_path / "a.wav", tmp_path / "a2.wav")
    make_clip("a3.flac", samples=soundfile.read(tmp_path / "a.wav", dtype="int16")[0])
    table = tmp_path / "clips.csv"
    table.write_text("audio,split\na.wav,train\na2.wav,validation\na3.flac,test\nb.wav,test\n")
    report = prepare(read_table(table), tmp_path / "out")
    name = tmp_path.name
    assert report.corpus.problems.lines == {
        "clips with the sound of a clip in another split": [
            f"validation {name}/a2 = train {name}/a",
            f"test {name}/a3 = train {name}/a",
        ]
    }
    assert [(o.kind, o.first, o.second, o.clips) for o in report.survey.overlaps] == [
        ("sounds", "train", "validation", 1),
        ("sounds", "train", "test", 1),
        ("sounds", "validation", "test", 1),
    ]
    written = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    update_report(tmp_path / "out", written)  # as `rellm annotate` does
    assert json.loads((tmp_path / "out/report.json").read_text("utf-8")) == written
