"""Manifest files: reading, writing, and errors with file and line."""

import json
import math
import os
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.corpus.manifest import (
    QuickRows,
    Utterance,
    parse_utterance,
    read_manifest,
    read_manifests,
    read_split,
    responses_path,
    write_manifest,
)
from rellm_cache.errors import ManifestError


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_a_row_with_audio_alone_is_an_utterance(tmp_path: Path) -> None:
    manifest = write(tmp_path / "train.jsonl", {"audio": "clips/a.wav"})
    assert read_manifest(manifest) == [
        Utterance(id=f"{tmp_path.name}/clips/a", audio=str(tmp_path / "clips/a.wav"), split="train")
    ]
    other = manifest.rename(tmp_path / "mine.jsonl")
    assert [u.split for u in read_manifest(other)] == [""]


def test_zero_is_an_id_and_null_is_none(tmp_path: Path) -> None:
    rows = [
        {"audio": "a.wav", "id": 0, "speaker": 0, "duration": 0},
        {"audio": "b.wav", "id": "", "speaker": None, "split": "", "vad_source": ""},
    ]
    first, second = read_manifest(write(tmp_path / "train.jsonl", *rows))
    assert (first.id, first.speaker, first.duration) == ("0", "0", 0)
    assert (second.id, second.speaker) == (f"{tmp_path.name}/b", "")
    write_manifest(tmp_path / "again/train.jsonl", [first])
    assert read_manifest(tmp_path / "again/train.jsonl") == [first]


def test_a_row_of_another_split_is_refused(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "split": "train"}, {"audio": "b.wav", "split": "test"}]
    manifest = write(tmp_path / "train.jsonl", *rows)
    with pytest.raises(
        ManifestError, match=r"train.jsonl:2: found split 'test' in the file of tra"
    ):
        read_manifest(manifest)
    mixed = manifest.rename(tmp_path / "all.jsonl")
    assert [u.split for u in read_manifest(mixed)] == ["train", "test"]


def test_round_trip(tmp_path: Path) -> None:
    utterances = [
        Utterance(
            id="a/1",
            audio=str(tmp_path / "a.wav"),
            segment=(0.5, 2.25),
            text="Größe \u2028 and \u0085 are one line \U0001f600",
            emotion="sad",
            vad=(0.1, 0.2, 0.3),
            vad_source="made",
            speaker="a/7",
            split="train",
            duration=1.75,
            response="Oh no.",
            early_stop=True,
        ),
        Utterance(id="a/2", audio="/elsewhere/b.flac", split="train"),
        Utterance(
            id="a/3",
            audio="/shards/a.tar:512:90#./x//50%25 %23%3A1.wav",
            split="train",
            source_sha256="0123456789abcdef" * 4,
        ),
        Utterance(id="a/4", audio=f"{tmp_path}/d.parquet:17#audio", split="train"),
    ]
    write_manifest(tmp_path / "train.jsonl", utterances)
    assert read_manifest(tmp_path / "train.jsonl") == utterances
    assert "response" not in (tmp_path / "train.jsonl").read_text("utf-8").splitlines()[-1]


@pytest.mark.parametrize("digest", ["0" * 63, "G" * 64, "A" * 64, 7, ["0" * 64]])
def test_a_digest_of_a_source_is_64_hex_digits(tmp_path: Path, digest: object) -> None:
    manifest = write(tmp_path / "train.jsonl", {"audio": "a.wav", "source_sha256": digest})
    with pytest.raises(ManifestError, match=r"found source_sha256 .*, expected 64 hex digits"):
        read_manifest(manifest)


def test_blsp_fields_are_read(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "train.jsonl",
        {
            "audio": "clips.zip:120:48044",
            "emotion": "ang",
            "text": "Go away.",
            "instruction": "Continue …",
            "output": "I understand.",
            "early_stop": True,
            "avd_ans": {"arousal": 0.9, "valence": 0.1, "dominance": 0.8},
        },
        {"audio": "clips.zip:48164:300"},
    )
    first, second = read_manifest(manifest)
    assert first.audio == str(tmp_path / "clips.zip:120:48044")
    assert first.emotion == "angry"
    assert first.vad == (0.9, 0.8, 0.1)  # arousal, dominance, valence
    assert first.vad_source == "human"
    assert (first.response, first.early_stop) == ("I understand.", True)
    assert first.id != second.id


def test_responses_of_step_one_are_joined(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "train.jsonl", {"id": "a", "audio": "a.wav"}, {"id": "b", "audio": "b.wav"}
    )
    write(
        responses_path(manifest),
        {"id": "a", "response": "Yes.", "early_stop": False},
        {"id": "b", "dropped": "refusal"},
        {"id": "gone", "response": "No."},
    )
    assert [u.response for u in read_manifest(manifest)] == ["Yes.", None]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"response": "Yes."}, r"train.responses.jsonl:1: found no 'id', expected a row of `rellm"),
        ({"id": "a", "response": 3}, "train.responses.jsonl:1: found response 3, expected text"),
        ({"id": "a", "early_stop": "no"}, "found early_stop 'no', expected true or false"),
    ],
)
def test_a_bad_response_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    manifest = write(tmp_path / "train.jsonl", {"id": "a", "audio": "a.wav"})
    write(responses_path(manifest), row)
    with pytest.raises(ManifestError, match=message):
        read_manifest(manifest)


def test_a_response_is_joined_by_a_numeric_id(tmp_path: Path) -> None:
    manifest = write(tmp_path / "train.jsonl", {"id": 7, "audio": "a.wav"})
    write(responses_path(manifest), {"id": 7, "response": "Yes."})
    assert [(u.id, u.response) for u in read_manifest(manifest)] == [("7", "Yes.")]


def test_splits_are_read_from_a_folder(corpus: Path) -> None:
    assert [len(read_split(corpus, s)) for s in ("train", "validation", "test")] == [7, 2, 2]
    assert len(read_manifests(corpus)) == 11
    assert len(read_manifests(corpus / "test.jsonl")) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json}", r"train.jsonl:2: not JSON .*found '\{not json\}'"),
        ('["a.wav"]', r"train.jsonl:2: expected a JSON object, found "),
        ({"audio": None}, "train.jsonl:2: found no 'audio'"),
        ({"id": "first"}, "train.jsonl:2: id 'first' occurs twice"),
        ({"emotion": "blue"}, "train.jsonl:2: unknown emotion 'blue'; known are neutral, happy"),
        ({"emotion": 3}, "train.jsonl:2: found emotion 3, expected text"),
        ({"text": ["a"]}, r"train.jsonl:2: found text \['a'\], expected text"),
        ({"id": ["b"]}, r"train.jsonl:2: found id \['b'\], expected text or a number"),
        ({"speaker": True}, "train.jsonl:2: found speaker True, expected text or a number"),
        ({"split": "dev"}, "found split 'dev', expected one of train, validation, test"),
        ({"vad_source": "guess"}, "found vad_source 'guess', expected one of human, pseudo, made"),
        ({"early_stop": "false"}, "found early_stop 'false', expected true or false"),
        ({"duration": "2 s"}, "train.jsonl:2: found duration '2 s', expected seconds"),
        ({"duration": -1}, "train.jsonl:2: found duration -1, expected seconds"),
        ({"duration": float("inf")}, "train.jsonl:2: found duration inf, expected seconds"),
        ({"duration": True}, "train.jsonl:2: found duration True, expected seconds"),
        ({"vad": [True, False, 0.5]}, r"found dimensions \[True, False, 0.5\], expected three"),
        ({"vad": [0.1, 0.2, 1.2]}, r"train.jsonl:2: valence 1.2 is outside 0..1$"),
        (
            {"vad": [0.1, float("nan"), 0.2]},
            "found dimensions .0.1, None, 0.2., expected",
        ),
        ({"vad": [2.5, 3, 5]}, r"arousal 2.5 .* a 1 to 5 scale: store \(x - 1\) / 4"),
        ({"vad": [2.5, 3, 6.5]}, r"arousal 2.5 .* a 1 to 7 scale: store \(x - 1\) / 6"),
        ({"vad": [0.1, 0.2]}, r"found dimensions \[0.1, 0.2\], expected three numbers"),
        ({"vad": 0.5}, "found dimensions 0.5, expected three numbers"),
        ({"avd_ans": {"arousal": 0.5}}, r"found dimensions \[0.5, None, None\]"),
        ({"avd_ans": [0.1, 0.2, 0.3]}, "expected an object of arousal, dominance and valence"),
        ({"segment": [2, 1]}, r"found segment \[2, 1\], expected \[start, end\] in seconds"),
        (
            {"id": "a/\ud800"},
            r"id 'a/\\ud800' with a lone surrogate, .* expected Unicode text",
        ),
        (
            {"audio": "\udce9.wav"},
            r"jsonl:2: found audio '\\udce9.wav' with a lone surrogate",
        ),
        ({"segment": [0, float("inf")]}, r"found segment \[0, inf\], expected \[start, end\]"),
        ({"segment": [0, 1, 2]}, r"found segment \[0, 1, 2\], expected \[start, end\]"),
        ({"segment": 2}, r"found segment 2, expected \[start, end\] in seconds"),
        ({"segment": ["0", "1"]}, r"found segment \['0', '1'\], expected"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: dict[str, Any] | str, message: str) -> None:
    if isinstance(line, dict):
        line = {"audio": "b.wav", **line}
    manifest = write(tmp_path / "train.jsonl", {"id": "first", "audio": "a.wav"}, line)
    with pytest.raises(ManifestError, match=message):
        read_manifest(manifest)


def test_missing_empty_and_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.jsonl: no such file; expected a JSON Lines"):
        read_manifest(tmp_path / "none.jsonl")
    empty = write(tmp_path / "train.jsonl")
    with pytest.raises(ManifestError, match=r"train.jsonl: found no utterance"):
        read_manifest(empty)
    empty.write_bytes('{"audio": "é.wav"}'.encode("latin-1"))
    with pytest.raises(ManifestError, match=r"train.jsonl:1: not UTF-8 text .* save it as UTF-8"):
        read_manifest(empty)
    empty.unlink()
    with pytest.raises(ManifestError, match=r"found none of train.jsonl, .* `rellm prepare`"):
        read_manifests(tmp_path)


def test_a_byte_order_mark_and_nan_are_read(tmp_path: Path) -> None:
    manifest = tmp_path / "train.jsonl"
    manifest.write_text(
        '\ufeff{"audio": "a.wav", "text": NaN, "duration": NaN, "vad": NaN, "emotion": NaN}\r\n',
        "utf-8",
    )
    (utterance,) = read_manifest(manifest)
    assert (utterance.text, utterance.duration, utterance.vad) == ("", None, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio": "a.wav", "text": "x", "text": "y"}', "the name 'text' occurs twice"),
        ("[" * 100_000, "brackets are nested too deep"),
        (f'{{"audio": "a.wav", "duration": {"9" * 400}}}', "an integer of 400 digits"),
        (f'{{"audio": "a.wav", "duration": {"9" * 5000}}}', "an integer of 5000 digits"),
        ('{"audio": "a.wav", "Emotion": "sad"}', "found field 'Emotion', expected 'emotion'"),
        ('{"audio": "a.wav", " text": "Hi"}', "found field ' text', expected 'text'"),
        ('{"audio": "a.wav", "VAD": [0, 0, 0]}', "found field 'VAD', expected 'vad'; rename it"),
        ("\0\0\0", r"not JSON \(found '\\x00"),
    ],
    ids=range(8),
)
def test_a_line_that_would_be_misread_is_refused(tmp_path: Path, line: str, message: str) -> None:
    manifest = write(tmp_path / "train.jsonl", {"audio": "0.wav"}, line)
    with pytest.raises(ManifestError, match=f"train.jsonl:2: .*{message}"):
        read_manifest(manifest)


def test_fields_that_are_not_used_are_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write(tmp_path / "train.jsonl", {"audio": "a.wav", "transcript": "Hi", "gender": 1})
    read_manifest(manifest)
    read_manifest(manifest)
    assert capsys.readouterr().err == f"{manifest}: fields that are not used: transcript, gender\n"


def test_pipes_and_utf16_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ManifestError, match=r"pipe\.jsonl: found a pipe, expected a r"):
        read_manifest(tmp_path / "pipe.jsonl")
    with pytest.raises(ManifestError, match="found a folder, expected a regular file"):
        read_manifest(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}", "utf-16")
    with pytest.raises(ManifestError, match=r"a.jsonl:1: not UTF-8 text .*: UTF-16\? Then `iconv"):
        read_manifest(tmp_path / "a.jsonl")


def test_an_id_in_two_splits_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.jsonl", {"id": "same", "audio": "a.wav"})
    with pytest.raises(ManifestError, match="1 ids occur in more than one split, the first is 'sa"):
        read_manifests(tmp_path)


ODD: dict[str, list[Any]] = {
    "id": ["a", "", None, 0, 1.5, True, []],
    "audio": ["a.wav", "/x/a.wav", "/x//a.wav", "../a.wav", "a/", ".", "", None, 7],
    "text": ["x", "", None, 0, False, 1.0, []],
    "emotion": ["happy", "HAPPY ", "", None, "odd", 1, [0.5], True],
    "speaker": ["s", "", None, 0, 2.5, False],
    "split": ["train", "", None, "test", "dev", 0, []],
    "duration": [1.5, 0.0, None, 2, -1.0, math.inf, True, "1"],
    "vad": [None, [0.1, 0.5, 1.0], [0, 0.5, 1.0], [0.1, 0.2], [0.1, 0.2, 1.5], "x", [True, 0, 0]],
    "vad_source": ["human", "pseudo", "", None, "mine", 0],
    "response": ["Yes.", "", None, 1, True],
    "early_stop": [False, True, None, "", 1],
    "segment": [None, [0.0, 1.0], [1.0, 0.0], [], ""],
    "mine": ["x", None, 1],
    "instruction": ["x", None],
}


@pytest.mark.parametrize("split", ["train", ""])
def test_quick_rows_are_those_of_the_full_parser(tmp_path: Path, split: str) -> None:
    """Random rows: the quick parser gives the same utterance, or leaves the row to the other."""
    source, taken = random.Random(1), 0
    for _ in range(4000):
        names = [n for n in ODD if n in ("audio", "id") or source.random() < 0.6]
        usual = {name: ODD[name][0] for name in names if name not in ("early_stop", "segment")}
        quick = QuickRows(tmp_path, split)
        quick.learn(usual, parse_utterance(usual, tmp_path, "a:1"))
        row = {n: source.choice(ODD[n]) if source.random() < 0.1 else usual.get(n) for n in names}
        if (found := quick.parse(row)) is not None:
            taken += 1
            expected = parse_utterance(row, tmp_path, "a:1")
            assert found == replace(expected, split=expected.split or split)
            assert type(found) is Utterance
            assert asdict(found).keys() == asdict(expected).keys()
            assert repr(found) == repr(replace(expected, split=found.split))
    assert taken > 400


def test_a_wrong_row_after_many_plain_ones_is_named(tmp_path: Path) -> None:
    rows: list[dict[str, Any] | str] = [
        {"id": f"a/{number}", "audio": "a.wav", "emotion": "sad", "duration": 1.5}
        for number in range(1500)
    ]
    path = write(tmp_path / "train.jsonl", *rows)
    assert [u.id for u in read_manifest(path)] == [f"a/{number}" for number in range(1500)]
    for line, message in (
        ('{"id": "a/b", "audio": "a.wav", "emotion": "sad", "duration": -1.5}', "duration -1.5"),
        ('{"id": "a/b", "audio": "a.wav", "emotion": "sed", "duration": 1.5}', "sed"),
        ('{"id": "a/7", "audio": "a.wav", "emotion": "sad", "duration": 1.5}', "occurs twice"),
        ('{"id": "a/b", "audio": "a.wav", "emotion": "sad", "id": "a/c"}', "occurs twice"),
        ('{"id": "a/b", "audio": "a.wav", "Emotion": "sad", "duration": 1.5}', "'emotion'"),
        ('{"id": "a/b"', "not JSON"),
    ):
        with pytest.raises(ManifestError, match=rf"train\.jsonl:1234: .*{message}"):
            read_manifest(write(path, *rows[:1233], line, *rows[1233:]))
