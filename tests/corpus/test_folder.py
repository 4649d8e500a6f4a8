"""Any folder: a table beside audio files becomes utterances."""

from pathlib import Path

import pytest

from rellm_cache.corpus.folder import Columns, read_folder
from rellm_cache.errors import ManifestError


def table(folder: Path, text: str, name: str = "clips.csv") -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


def test_a_csv_becomes_utterances(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "id,audio,text,emotion,speaker,split,arousal,dominance,valence\n"
        'x/1,a.wav,"Hello, you.",hap,7,test,0.5,0.6,0.7\n'
        ",sub/b.wav,,,,,,,\n",
    )
    first, second = read_folder(path, Columns()).utterances
    assert (first.id, first.audio, first.text) == ("x/1", str(tmp_path / "a.wav"), "Hello, you.")
    assert (first.emotion, first.speaker, first.split) == ("happy", "7", "test")
    assert (first.vad, first.vad_source) == ((0.5, 0.6, 0.7), "human")
    assert second.id == f"{tmp_path.name}/sub/b"
    assert (second.split, second.emotion, second.vad) == ("train", None, None)


def test_columns_have_the_names_they_are_given(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label\na.wav,S\n")
    (utterance,) = read_folder(path, Columns(audio="file", emotion="label")).utterances
    assert utterance.emotion == "sad"


def test_json_lines_may_hold_numbers(tmp_path: Path) -> None:
    path = table(tmp_path, '{"audio": "a.wav", "id": 7, "speaker": 3, "text": 12}\n', "t.jsonl")
    (utterance,) = read_folder(path, Columns()).utterances
    assert (utterance.id, utterance.speaker, utterance.text) == ("7", "3", "12")


def test_dimensions_are_brought_to_0_to_1(tmp_path: Path) -> None:
    path = table(tmp_path, "audio,arousal,dominance,valence\na.wav,1,3,5\n")
    (utterance,) = read_folder(path, Columns(), vad_scale=(1, 5)).utterances
    assert utterance.vad == (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "scale", "message"),
    [
        ("file\na.wav\n", (0, 1), "found columns file, expected one named 'audio'; .*--audio-col"),
        ("audio,text\n,hi\n", (0, 1), r"clips.csv:2: column 'audio' is empty"),
        ("audio,split\na.wav,dev\n", (0, 1), r"clips.csv:2: split 'dev', expected one of train"),
        ("audio,emotion\na.wav,blue\n", (0, 1), r"clips.csv:2: unknown emotion 'blue'; known are"),
        (
            "audio,arousal,dominance,valence\na.wav,2,3,4\n",
            (0.0, 1.0),
            r"clips.csv:2: arousal 2.0 is outside 0..1; this looks like a 1 to 5 scale",
        ),
        (
            "audio,arousal,dominance,valence\na.wav,2,3,6\n",
            (1.0, 5.0),
            r"clips.csv:2: valence 6 is outside the scale 1..5",
        ),
        ("audio,arousal,dominance,valence\na.wav,low,1,1\n", (0, 1), "are not numbers"),
    ],
)
def test_a_bad_table_is_named(
    tmp_path: Path, text: str, scale: tuple[float, float], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        read_folder(table(tmp_path, text), Columns(), vad_scale=scale)


def test_an_absent_and_a_foreign_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.csv: no such file; expected a CSV"):
        read_folder(tmp_path / "none.csv", Columns())
    (tmp_path / "old.csv").write_bytes("audio,text\na.wav,Größe\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"old.csv: not UTF-8 text"):
        read_folder(tmp_path / "old.csv", Columns())
