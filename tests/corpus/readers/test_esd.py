"""ESD reader: encodings, folder layouts, malformed lines, splits."""

import json
from collections import Counter
from pathlib import Path

import pytest
from trees import put, write_esd

from rellm_cache.corpus.readers.base import require_totals
from rellm_cache.corpus.readers.esd import EsdSplits, read_esd
from rellm_cache.errors import ManifestError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_esd(tmp_path_factory.mktemp("esd"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two sentences, to be changed."""
    return write_esd(tmp_path, sentences=2)


def edit(file: Path, old: str, new: str, encoding: str = "utf-8") -> None:
    text = file.read_bytes().decode(encoding)
    assert old in text
    file.write_bytes(text.replace(old, new).encode(encoding))


def test_every_encoding_and_both_layouts_are_read(tree: Path) -> None:
    corpus = read_esd(tree)
    (kind,) = corpus.problems.lines  # every transcript has an accent, those of 0016 in Latin-1
    assert kind == "lines that are not UTF-8, read as latin-1"
    assert len(corpus.problems.lines[kind]) == 60
    clips = {u.id: u for u in corpus.utterances}
    assert len(clips) == 4 * 4 * 12
    for speaker in ("0011", "0012", "0016", "0019"):
        clip = clips[f"esd/{speaker}_000352"]
        assert (clip.text, clip.emotion) == ("Sentence 2 of the café.", "angry")
        assert clip.speaker == f"esd/{speaker}"
    assert clips["esd/0011_000352"].audio == str(tree / "0011/Angry/0011_000352.wav")
    assert clips["esd/0012_000352"].audio == str(tree / "0012/Angry/test/0012_000352.wav")


def test_surprise_and_mandarin_are_left_out(tree: Path) -> None:
    corpus = read_esd(tree)
    found = Counter(u.emotion for u in corpus.utterances)
    assert found == {"neutral": 48, "angry": 48, "happy": 48, "sad": 48}
    assert corpus.notes == ["48 clips of surprise left out, as in the paper"]
    totals = {t.name: (t.found, t.expected) for t in corpus.totals}
    assert totals["all five emotions"] == (240, 17_500)
    assert totals["four emotions"] == (192, 14_000)
    assert totals["speaker 0011"] == (60, 1_750)
    assert totals["speaker 0020"] == (0, 1_750)


def test_own_labels_keep_surprise(tree: Path, tmp_path: Path) -> None:
    kept = read_esd(tree, EsdSplits(labels="keep"))
    names = ("neutral", "angry", "happy", "sad", "surprise")
    assert Counter(u.emotion for u in kept.utterances) == dict.fromkeys(names, 48)
    assert (kept.own_labels, kept.notes) == (True, [])
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"Neutral": "calm", "Surprise": "Wonder", "Sad": "sad"}))
    with pytest.raises(ManifestError, match=r"0011: 0011_000351: found emotion 'Angry', which "):
        read_esd(tree, EsdSplits(labels=str(file)))
    file.write_text(
        json.dumps(
            dict.fromkeys(("Neutral", "Angry", "Happy", "Sad"), "x") | {"Surprise": "Wonder"}
        )
    )
    mapped = read_esd(tree, EsdSplits(labels=str(file)))
    assert Counter(u.emotion for u in mapped.utterances) == {"x": 192, "wonder": 48}
    # counts of the corpus itself, and no total of the paper's four emotions
    assert mapped.totals == kept.totals
    totals = {t.name: (t.found, t.expected) for t in kept.totals}
    assert totals["surprise"] == (48, 3500)
    assert totals["all five emotions"] == (240, 17_500)
    assert "four emotions" not in totals


def test_paper_splits_share_no_sentence(tree: Path) -> None:
    corpus = read_esd(tree)
    of_split: dict[str, set[str]] = {}
    for utterance in corpus.utterances:
        of_split.setdefault(utterance.split, set()).add(utterance.text)
    assert of_split.keys() == {"train", "validation", "test"}
    assert sum(map(len, of_split.values())) == 12  # each sentence in one split
    assert corpus.seed == 1
    assert read_esd(tree).utterances == corpus.utterances
    assert read_esd(tree, EsdSplits(seed=2)).utterances != corpus.utterances


def test_speaker_splits_share_no_speaker(tree: Path) -> None:
    corpus = read_esd(tree, EsdSplits("speaker"))
    splits = {u.speaker[4:]: u.split for u in corpus.utterances}
    assert splits == {"0011": "train", "0012": "train", "0016": "train", "0019": "test"}
    assert (corpus.splits, corpus.seed) == ("speaker", None)


def test_malformed_lines_are_parsed_if_possible(small: Path) -> None:
    file = small / "0011/0011.txt"
    edit(file, "0011_000001\tSentence 1 of the café.\tNeutral", "0011_000001")
    edit(file, "0011_000351\tSentence 1 of the café.\tAngry", "0011_000351 Glass, please! Angry")
    edit(file, "0011_000352\tSentence 2 of the café.\tAngry", "0011_000352\tCup,  please.Angry")
    edit(file, "0011_000701\tSentence 1 of the café.\tHappy", "0011_000701\tSentence 1.")
    edit(file, "0011_000702\tSentence 2 of the café.\tHappy", "000702\tSentence 2.\tHappy")
    edit(file, "0011_001051\tSentence 1 of the café.\tSad", "0011_001051\tSo.\tAngry")
    corpus = read_esd(small)
    texts = {u.id[9:]: u.text for u in corpus.utterances if u.speaker == "esd/0011"}
    assert texts == {
        "000001": "Sentence 1 of the café.",  # as the others read it
        "000002": "Sentence 2 of the café.",
        "000351": "Glass, please!",
        "000352": "Cup, please.",
        "000701": "Sentence 1.",
        "000702": "Sentence 2 of the café.",
        "001051": "So.",
        "001052": "Sentence 2 of the café.",
    }
    assert {kind: len(lines) for kind, lines in corpus.problems.lines.items()} == {
        "malformed transcript lines": 2,
        "lines that are not UTF-8, read as latin-1": 10,
        "transcript lines with another emotion than their number": 2,
        "texts taken from other clips of the same sentence": 2,
    }
    assert corpus.problems.lines["malformed transcript lines"] == [
        f"{file}:1: '0011_000001'",
        f"{file}:6: '000702\\tSentence 2.\\tHappy'",
    ]


def test_missing_and_repeated_sentences_are_reported(small: Path) -> None:
    for speaker, encoding in (("0012", "utf-16"), ("0016", "latin-1"), ("0019", "utf-16-le")):
        put(small / speaker / f"{speaker}.txt", "".encode(encoding))
    lines = "0011_000002\tOne.\tNeutral\n0011_000002\tTwo.\tNeutral\n0011_000352\tTwo.\tAngry\n"
    put(small / "0011/0011.txt", lines.encode())
    corpus = read_esd(small)
    texts = {u.id[4:]: u.text for u in corpus.utterances}
    assert (texts["0011_000001"], texts["0011_000002"], texts["0012_000702"]) == (
        "",
        "Two.",
        "Two.",
    )
    assert {kind: len(lines) for kind, lines in corpus.problems.lines.items()} == {
        "clips transcribed twice, the last text used": 1,
        "clips without a transcript of their sentence": 4 * 5,
        "texts taken from other clips of the same sentence": 4 * 5 - 2,
    }


def test_missing_wavs_do_not_count_as_found(small: Path) -> None:
    gone = small / "0016/Sad/0016_001051.wav"
    gone.unlink()
    corpus = read_esd(small)
    assert str(gone) in [u.audio for u in corpus.utterances]
    with pytest.raises(ManifestError, match=r"four emotions: found 31, .*first .*0016_001051.wav"):
        require_totals(corpus)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        ("0011/Sad/0011_000003.wav", "0011_000003.wav: by its number it is Neutral, by .* Sad"),
        ("0011/Sad/0012_001053.wav", "0012_001053.wav: expected a name like 0011_000001.wav"),
        ("0011/Sad/0011_001751.wav", "number 001751, expected 000001 to 001750"),
        ("0011/Sad/test/0011_001051.wav", "the same clip as .*; remove one of them"),
    ],
)
def test_a_wav_in_the_wrong_place_is_named(small: Path, wav: str, message: str) -> None:
    put(small / wav, b"")
    with pytest.raises(ManifestError, match=message):
        read_esd(small)


def test_another_folder_is_refused(small: Path) -> None:
    with pytest.raises(ManifestError, match="found no folder 0011 … 0020; expected those of ESD"):
        read_esd(small / "0011")
    (small / "0012/0012.txt").write_bytes((small / "0012/0012.txt").read_bytes()[:101])
    with pytest.raises(ManifestError, match=r"0012.txt: not utf-16 text .*; copy it again"):
        read_esd(small)
    (small / "0012/0012.txt").unlink()
    with pytest.raises(ManifestError, match=r"0012.txt: no such file; is the corpus complete"):
        read_esd(small)
