"""IEMOCAP reader: labels, texts, dimensions, classes and splits."""

import json
from collections import Counter
from pathlib import Path

import pytest
from trees import write_iemocap

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.readers.base import require_totals
from rellm_cache.corpus.readers.iemocap import (
    LABEL_TOTALS,
    SESSION_TOTALS,
    IemocapSplits,
    read_iemocap,
)
from rellm_cache.corpus.splits import text_key
from rellm_cache.errors import ManifestError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_iemocap(tmp_path_factory.mktemp("iemocap"))


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """Session 5 alone, to be changed."""
    return write_iemocap(tmp_path, [5]) / "Session5"


def by_split(utterances: list[Utterance]) -> dict[str, list[Utterance]]:
    return {s: [u for u in utterances if u.split == s] for s in ("train", "validation", "test")}


def test_a_turn_has_label_text_audio_speaker_and_dimensions(tree: Path) -> None:
    clips = {u.id: u for u in read_iemocap(tree).utterances}
    assert len(clips) == 40
    clip = clips["iemocap/Ses03F_script01_1b_M000"]
    assert clip.audio == str(
        tree / "Session3/sentences/wav/Ses03F_script01_1b/Ses03F_script01_1b_M000.wav"
    )
    assert (clip.text, clip.emotion) == ("Don't you dare.", "angry")
    assert clip.speaker == "iemocap/3M"  # the session's F wore the markers; M speaks
    assert clip.vad == pytest.approx((0.75, 0.8, 0.2))  # arousal, dominance, valence
    assert clip.vad_source == "human"
    assert clips["iemocap/Ses03F_script01_1b_F002"].text == "Café number 3."  # Latin-1


def test_excited_is_happy_and_other_labels_are_left_out(tree: Path) -> None:
    found = Counter(u.emotion for u in read_iemocap(tree).utterances)
    assert found == {"neutral": 10, "happy": 10, "angry": 10, "sad": 10}


def test_kept_labels_are_the_corpus_own_names(tree: Path) -> None:
    corpus = read_iemocap(tree, IemocapSplits(labels="keep"))
    found = Counter(u.emotion for u in corpus.utterances)
    assert found == {"neu": 10, "hap": 5, "exc": 5, "ang": 10, "sad": 10, "fru": 5}
    assert corpus.notes == ["5 clips without agreement (xxx) left out"]
    assert corpus.own_labels
    totals = {t.name: (t.found, t.expected) for t in corpus.totals}
    assert totals["all"] == (45, 7532)
    assert totals["exc"] == (5, 1041)
    assert not [name for name in totals if name.startswith("session")]  # known of four classes


def test_mapped_labels_have_totals_by_their_new_names(tree: Path, tmp_path: Path) -> None:
    names = dict.fromkeys(LABEL_TOTALS, "other") | {"hap": "Happy", "exc": "Happy", "fru": "fury"}
    file = tmp_path / "map.json"
    file.write_text(json.dumps(names))
    corpus = read_iemocap(tree, IemocapSplits(labels=str(file)))
    assert Counter(u.emotion for u in corpus.utterances) == {"happy": 10, "fury": 5, "other": 30}
    assert [(t.name, t.found, t.expected) for t in corpus.totals] == [
        ("all", 45, 7532),
        ("other", 30, 4047),
        ("happy", 10, 1636),
        ("fury", 5, 1849),
    ]
    file.write_text(json.dumps({"neu": "neutral", "hap": "happy"}))
    message = r"impro01.txt:15: found emotion 'exc', which .*map.json does not map; it has neu, hap"
    with pytest.raises(ManifestError, match=message):
        read_iemocap(tree, IemocapSplits(labels=str(file)))


def test_paper_splits(tree: Path) -> None:
    corpus = read_iemocap(tree)
    parts = by_split(list(corpus.utterances))
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 29,
        "validation": 3,
        "test": 8,
    }
    assert {u.speaker for u in parts["test"]} == {"iemocap/5F", "iemocap/5M"}
    assert (corpus.splits, corpus.seed) == ("paper, session 5 tested", 1)
    assert read_iemocap(tree).utterances == corpus.utterances
    other = read_iemocap(tree, IemocapSplits(seed=2))
    assert by_split(list(other.utterances))["validation"] != parts["validation"]


@pytest.mark.parametrize(("tested", "validated"), [(1, 5), (3, 2), (5, 4)])
def test_speaker_splits_share_no_speaker(tree: Path, tested: int, validated: int) -> None:
    corpus = read_iemocap(tree, IemocapSplits("speaker", tested))
    parts = by_split(list(corpus.utterances))
    assert {u.speaker[8] for u in parts["test"]} == {str(tested)}
    assert {u.speaker[8] for u in parts["validation"]} == {str(validated)}
    assert len(parts["train"]) == 24
    assert corpus.seed is None


def test_the_validation_session_is_one_that_exists(tmp_path: Path) -> None:
    write_iemocap(tmp_path, [1, 2, 5])
    parts = by_split(list(read_iemocap(tmp_path, IemocapSplits("speaker")).utterances))
    found = {split: {u.speaker[8] for u in part} for split, part in parts.items()}
    assert found == {"train": {"1"}, "validation": {"2"}, "test": {"5"}}


def test_a_single_session_is_the_test(session: Path) -> None:
    corpus = read_iemocap(session.parent, IemocapSplits("speaker"))
    assert {u.split for u in corpus.utterances} == {"test"}


def test_a_turn_transcribed_twice_is_reported(session: Path) -> None:
    texts = session / "dialog/transcriptions/Ses05F_impro01.txt"
    again = "Ses05F_impro01_F000 [000.2901-001.2357]: Pardon me."
    texts.write_text(f"{texts.read_text('latin-1')}\n{again}\n{again}\n", "latin-1")
    corpus = read_iemocap(session.parent)
    (line,) = corpus.problems.lines["turns transcribed twice, the last text used"]
    assert line.startswith(str(texts))
    assert line.endswith(": Ses05F_impro01_F000")
    assert {u.id: u.text for u in corpus.utterances}["iemocap/Ses05F_impro01_F000"] == "Pardon me."


def test_text_splits_share_no_text(tree: Path) -> None:
    paper = by_split(list(read_iemocap(tree).utterances))
    corpus = read_iemocap(tree, IemocapSplits("text"))
    parts = by_split(list(corpus.utterances))
    assert parts["test"] == paper["test"]
    texts = [{text_key(u.text) for u in part} for part in parts.values()]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert all(texts)
    # "Excuse me." and "Don't you dare." of four sessions each
    assert corpus.notes == [
        "8 clips of other sessions are in no split, as the test has the same text"
    ]


def test_a_complete_corpus_has_the_expected_totals(tmp_path: Path) -> None:
    labels = [label for label, count in LABEL_TOTALS.items() for _ in range(count)]
    sessions = [n for n, count in SESSION_TOTALS.items() for _ in range(count)]
    sessions += ["5"] * (len(labels) - len(sessions))  # frustrated and rarer labels
    lines: dict[str, list[str]] = {n: [] for n in SESSION_TOTALS}
    for i, (label, n) in enumerate(zip(labels, sessions, strict=True)):
        clip = f"Ses0{n}F_impro01_F{i:04d}"
        lines[n].append(f"[6.29 - 8.23]\t{clip}\t{label}\t[2.5, 2.5, 2.5]")
        wav = tmp_path / f"Session{n}/sentences/wav/Ses0{n}F_impro01/{clip}.wav"
        if len(lines[n]) == 1:
            wav.parent.mkdir(parents=True)
            (tmp_path / f"Session{n}/dialog/EmoEvaluation").mkdir(parents=True)
        wav.touch()
    for n, rows in lines.items():
        file = tmp_path / f"Session{n}/dialog/EmoEvaluation/Ses0{n}F_impro01.txt"
        file.write_text("\n".join(rows))
    corpus = read_iemocap(tmp_path)
    require_totals(corpus)
    assert [t.found for t in corpus.totals] == [
        5531, 1708, 1636, 1103, 1084, 1085, 1023, 1151, 1031, 1241,
    ]  # fmt: skip
    assert Counter(u.split for u in corpus.utterances) == {
        "train": 3861, "validation": 429, "test": 1241,
    }  # fmt: skip
    kept = read_iemocap(tmp_path, IemocapSplits(labels="keep"))
    require_totals(kept)
    assert [t.found for t in kept.totals] == [7532, *LABEL_TOTALS.values()]
    (tmp_path / kept.utterances[-1].audio).unlink()
    with pytest.raises(ManifestError, match=r"all: found 7531, expected 7532; dis: found 1, exp"):
        require_totals(read_iemocap(tmp_path, IemocapSplits(labels="keep")))
    (tmp_path / corpus.utterances[-1].audio).unlink()
    message = (
        rf"{tmp_path}: not the whole of iemocap. all: found 5530, expected 5531; .*session 5: "
        r"found 1240, expected 1241. The audio of 1 clips is missing, first .*\.wav. .*"
        "--allow-partial"
    )
    with pytest.raises(ManifestError, match=message):
        require_totals(read_iemocap(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1.0 - 2.0] Ses05F_impro09_F000 neu", "expected .start - end., id, label and"),
        ("[1.0 - 2.0]\tSes05F_impro09_F000\tmad\t[1, 2, 3]", "label 'mad', expected one of neu, "),
        ("[1.0 - 2.0]\tSes05F_impro09_F000\tneu\t[1, 2]", r"dimensions \[1, 2\], expected three"),
        ("[1.0 - 2.0]\tclip\tneu\t[1, 2, 3]", "id 'clip', expected one like Ses01F_impro01_F000"),
    ],
)
def test_a_bad_label_is_named(session: Path, line: str, message: str) -> None:
    (session / "dialog/EmoEvaluation/Ses05F_impro09.txt").write_text(f"% heading\n{line}\n")
    with pytest.raises(ManifestError, match=rf"Ses05F_impro09.txt:2: .*{message}"):
        read_iemocap(session.parent)


def test_unknown_lines_are_reported_and_no_clip_is_lost(session: Path) -> None:
    labels = session / "dialog/EmoEvaluation/Ses05F_impro01.txt"
    labels.write_text(labels.read_text() + "\nstray words\n")
    texts = session / "dialog/transcriptions/Ses05F_impro01.txt"
    lines = [line for line in texts.read_text().splitlines() if "_M000" not in line]
    texts.write_text("\n".join([*lines, "stray words"]))
    corpus = read_iemocap(session.parent)
    assert len(corpus.utterances) == 8
    assert list(corpus.problems.lines) == [
        "unknown lines in transcripts",
        "lines that are not UTF-8, read as latin-1",
        "labeled turns without a transcript",
        "unknown lines in label files",
    ]
    (without,) = corpus.problems.lines["labeled turns without a transcript"]
    assert without.startswith(f"{labels}:9: Ses05F_impro01_M000")
    assert [u.id for u in corpus.utterances if not u.text] == ["iemocap/Ses05F_impro01_M000"]


def test_one_rating_off_the_scale_is_reported_and_many_are_an_error(
    tmp_path: Path,
) -> None:
    write_iemocap(tmp_path, [5])
    labels = tmp_path / "Session5/dialog/EmoEvaluation/Ses05F_impro02.txt"
    rows = [f"[1.0 - 2.0]\tSes05F_impro02_F{i:03d}\tneu\t[2.5, 2.5, 2.5]" for i in range(200)]
    labels.write_text("\n".join([*rows[:-1], rows[-1].replace("[2.5", "[5.5")]))
    corpus = read_iemocap(tmp_path)
    (line,) = corpus.problems.lines["dimensions outside the scale, not used"]
    assert line == f"{labels}:200: valence 5.5 is outside the scale 1..5"
    assert [u.id for u in corpus.utterances if u.vad is None] == ["iemocap/Ses05F_impro02_F199"]
    labels.write_text("\n".join(row.replace("[2.5", "[6") for row in rows))
    with pytest.raises(ManifestError, match=r"valence 6 is outside.*, as in 200 of 208 clips"):
        read_iemocap(tmp_path)


def test_another_folder_is_refused(tmp_path: Path, session: Path) -> None:
    with pytest.raises(ManifestError, match="found no folder Session1 … Session5; expected IEMO"):
        read_iemocap(session)
    with pytest.raises(ManifestError, match=r"test session 4 is missing; found .* 5$"):
        read_iemocap(tmp_path, IemocapSplits(test_session=4))
    for file in (session / "dialog/EmoEvaluation").glob("Ses*"):
        file.unlink()
    with pytest.raises(ManifestError, match=r"EmoEvaluation: found no Ses….txt; expected one file"):
        read_iemocap(tmp_path)
