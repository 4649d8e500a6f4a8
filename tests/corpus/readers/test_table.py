"""Table reader: columns, dimensions, and errors with file and line."""

from pathlib import Path

import pytest

from rellm_cache.corpus.readers.table import TableOptions, read_table
from rellm_cache.demo.run import FOLDER, embedded_clips
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
    first, second = read_table(path).utterances
    assert (first.id, first.audio, first.text) == ("x/1", str(tmp_path / "a.wav"), "Hello, you.")
    assert (first.emotion, first.speaker, first.split) == ("happy", "7", "test")
    assert (first.vad, first.vad_source) == ((0.5, 0.6, 0.7), "human")
    assert second.id == f"{tmp_path.name}/sub/b"
    assert (second.split, second.emotion, second.vad) == ("train", None, None)


def test_a_response_is_what_the_llm_is_to_learn(tmp_path: Path) -> None:
    path = table(tmp_path, "audio,response\na.wav,I see.\nb.wav,\n")
    assert [u.response for u in read_table(path).utterances] == ["I see.", None]
    path = table(tmp_path, "audio,reply\na.wav,I see.\n")
    (clip,) = read_table(path, TableOptions(response_column="reply")).utterances
    assert clip.response == "I see."


@pytest.mark.parametrize(
    "heading",
    [
        "audio,Text,Emotion,Split",
        "AUDIO, TEXT, EMOTION, SPLIT",
        "audio , text , emotion , split",
        "\ufeffAudio,te xt,e motion,\u200bsplit",
        '"audio", "text", "emotion", "split"',
    ],
)
def test_columns_are_matched_without_case_and_spaces(tmp_path: Path, heading: str) -> None:
    rows = 'a.wav, "Hello, you.", Happy, Test\nb.wav, Oh , SAD , train\n'
    corpus = read_table(table(tmp_path, f"{heading}\n{rows}"))
    assert [(u.text, u.emotion, u.split) for u in corpus.utterances] == [
        ("Hello, you.", "happy", "test"),
        ("Oh", "sad", "train"),
    ]
    assert corpus.notes == []


def test_columns_that_are_not_used_and_rows_without_a_split_are_told(tmp_path: Path) -> None:
    path = table(tmp_path, ",audio,transcript,set\n0,a.wav,Hi,test\n1,b.wav,Ho,train\n")
    assert read_table(path).notes == [
        "Columns of the table that are not used: column 1, transcript, set",
        "2 rows have no split, counted as train: the table has no column for it",
    ]
    rows = '{"Audio": "a.wav", "Split": "test"}\n{"Audio": "b.wav", "Note": ""}\n'
    corpus = read_table(table(tmp_path, rows, "t.jsonl"), TableOptions(split="validation"))
    assert [u.split for u in corpus.utterances] == ["test", "validation"]
    assert corpus.notes == [
        "Columns of the table that are not used: Note",
        "1 row has no split, counted as validation: their cells are empty",
    ]


def test_two_columns_for_one_field_are_refused(tmp_path: Path) -> None:
    for text, name in (
        ("audio,text,Text\na.wav,x,y\n", "t.csv"),
        ('{"audio": "a.wav", "text": "x"}\n{"audio": "a.wav", " text": "x"}\n', "t.jsonl"),
    ):
        with pytest.raises(ManifestError, match=r"found columns 'text' and '.*ext', expected one"):
            read_table(table(tmp_path, text, name))


def test_words_for_a_missing_value_are_empty_and_reported(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "audio,text,emotion,speaker,arousal,dominance,valence\n"
        "a.wav,nan,None,NULL,nan,N/A,<NA>\nb.wav,Nan said none.,sad,n7,,,\n",
    )
    corpus = read_table(path)
    first, second = corpus.utterances
    assert (first.text, first.emotion, first.speaker, first.vad) == ("", None, "", None)
    assert (second.text, second.speaker) == ("Nan said none.", "n7")
    assert corpus.problems.lines["cells read as empty"][:2] == [
        f"{path}:2: text is 'nan'",
        f"{path}:2: emotion is 'None'",
    ]
    rows = '{"audio": "a.wav", "text": NaN, "emotion": null, "arousal": NaN, "split": NaN}\n'
    (utterance,) = read_table(table(tmp_path, rows, "t.jsonl")).utterances
    assert (utterance.text, utterance.emotion, utterance.vad) == ("", None, None)


def test_cells_of_several_lines_are_reported(tmp_path: Path) -> None:
    path = table(tmp_path, 'audio,text\na.wav,"Oh\nb.wav, no"\nc.wav,Hm\n')
    corpus = read_table(path)
    assert [u.text for u in corpus.utterances] == ["Oh\nb.wav, no", "Hm"]
    assert corpus.problems.lines == {
        "cells of several lines; a stray quotation mark joins rows": [
            f"{path}:3: text is 'Oh\\nb.wav, no'"
        ]
    }


@pytest.mark.parametrize("name", ["clips.csv", "clips.jsonl"])
def test_an_empty_table_is_named(tmp_path: Path, name: str) -> None:
    for text in ("", "\n\n", "audio,text\n" if name == "clips.csv" else " \n"):
        with pytest.raises(ManifestError, match=f"{name}: found no rows, expected one for each"):
            read_table(table(tmp_path, text, name))


@pytest.mark.parametrize("value", ['["a", "b"]', "true", '{"a": 1}'])
@pytest.mark.parametrize("field", ["text", "audio", "id", "speaker", "split", "emotion"])
def test_values_that_are_no_text_are_refused(tmp_path: Path, field: str, value: str) -> None:
    if (field, value) == ("emotion", '{"a": 1}'):
        value = '{"unheard": 1}'  # an object holds shares of emotions
    other = "" if field == "audio" else '"audio": "b.wav", '
    row = f'{{"audio": "a.wav"}}\n{{{other}"{field}": {value}}}\n'
    expected = "unheard" if "unheard" in value else f"found {field} .*expected text or a numb"
    with pytest.raises(ManifestError, match=f"t.jsonl:2: .*{expected}"):
        read_table(table(tmp_path, row, "t.jsonl"))


def test_columns_can_be_renamed(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label\na.wav,S\n")
    options = TableOptions(audio_column="file", emotion_column="label")
    (utterance,) = read_table(path, options).utterances
    assert utterance.emotion == "sad"


def test_json_lines_with_numbers(tmp_path: Path) -> None:
    path = table(tmp_path, '{"audio": "a.wav", "id": 7, "speaker": 3, "text": 12}\n', "t.jsonl")
    (utterance,) = read_table(path).utterances
    assert (utterance.id, utterance.speaker, utterance.text) == ("7", "3", "12")


def test_speaker_zero_and_ids_of_zip_members(tmp_path: Path) -> None:
    rows = '{"audio": "c.zip:0:9", "speaker": 0}\n{"audio": "c.zip:9:9", "id": 0}\n'
    first, second = read_table(table(tmp_path, rows, "t.jsonl")).utterances
    assert (first.id, first.speaker) == (f"{tmp_path.name}/c.zip:0:9", "0")
    assert (second.id, second.speaker) == ("0", "")


def test_incomplete_dimensions_are_reported(tmp_path: Path) -> None:
    path = table(tmp_path, "audio,arousal,dominance,valence\na.wav,1,,0\nb.wav,,,\n")
    corpus = read_table(path)
    assert [u.vad for u in corpus.utterances] == [None, None]
    assert corpus.problems.lines == {
        "rows without all three dimensions": [f"{path}:2: no dominance"]
    }


def test_a_named_column_must_exist(tmp_path: Path) -> None:
    path = table(tmp_path, "audio,label\na.wav,sad\n")
    with pytest.raises(
        ManifestError, match=r"columns audio, label, expected one named 'lable'; nam"
    ):
        read_table(path, TableOptions(emotion_column="lable"))
    rows = '{"audio": "a.wav"}\n{"audio": "b.wav", "label": "sad"}\n'
    corpus = read_table(table(tmp_path, rows, "t.jsonl"), TableOptions(emotion_column="label"))
    assert [u.emotion for u in corpus.utterances] == [None, "sad"]


def test_dimensions_are_rescaled(tmp_path: Path) -> None:
    path = table(tmp_path, "audio,arousal,dominance,valence\na.wav,1,3,5\n")
    (utterance,) = read_table(path, TableOptions(vad_scale=(1, 5))).utterances
    assert utterance.vad == (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "scale", "message"),
    [
        ("file\na.wav\n", (0, 1), "found columns file, expected one named 'audio'; .*--audio-col"),
        ("audio,text\n,hi\n", (0, 1), r"clips.csv:2: found no audio path"),
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
        ("audio,text\na.wav,Oh\n", (1, 0), "--vad-scale 1 0: expected the lowest, then the highe"),
    ],
)
def test_a_bad_table_is_named(
    tmp_path: Path, text: str, scale: tuple[float, float], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        read_table(table(tmp_path, text), TableOptions(vad_scale=scale))


def test_json_values_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    row = '{"audio": "a.wav", "arousal": [1], "dominance": 1, "valence": 1}\n'
    with pytest.raises(ManifestError, match=r"t.jsonl:1: found arousal \[1\], expected text"):
        read_table(table(tmp_path, row, "t.jsonl"))
    with pytest.raises(ManifestError, match=r"t.jsonl:1: unknown emotion '0'; known are neutral"):
        read_table(table(tmp_path, '{"audio": "a.wav", "emotion": 0}', "t.jsonl"))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.csv: no such file; expected a CSV"):
        read_table(tmp_path / "none.csv")


def test_dimensions_in_one_list(tmp_path: Path) -> None:
    rows = '{"audio": "a.wav", "vad": [0.1, 0.2, 0.3]}\n{"audio": "b.wav", "vad": null}\n'
    first, second = read_table(table(tmp_path, rows, "t.jsonl")).utterances
    assert (first.vad, first.vad_source, second.vad) == ((0.1, 0.2, 0.3), "human", None)
    cells = 'audio,VAD\na.wav,"[1, 2, 5]"\nb.wav,\nc.wav,nan\n'
    options = TableOptions(vad_scale=(1, 5))
    found = read_table(table(tmp_path, cells), options).utterances
    assert [u.vad for u in found] == [(0.0, 0.25, 1.0), None, None]
    for value in ("[0.1, 0.2]", "0.5", '"high"', '{"arousal": 1}', '[0.1, 0.2, "x"]', "[0, 0, 7]"):
        row = f'{{"audio": "a.wav", "vad": {value}}}\n'
        with pytest.raises(ManifestError, match=r"t\.jsonl:1: .*(vad|valence)"):
            read_table(table(tmp_path, row, "t.jsonl"))
    both = '{"audio": "a.wav", "vad": [0, 0, 0], "arousal": 0.5}\n'
    with pytest.raises(ManifestError, match="vad and arousal: found both"):
        read_table(table(tmp_path, both, "t.jsonl"))


def test_the_source_of_dimensions_is_kept(tmp_path: Path) -> None:
    cells = "audio,vad,VAD_source\n" + "".join(
        f"{name}.wav,{vad},{source}\n"
        for name, vad, source in [
            ("a", '"[0, 0, 1]"', "made"),
            ("b", '"[0, 0, 1]"', "Pseudo"),
            ("c", '"[0, 0, 1]"', ""),
            ("d", "", "pseudo"),
        ]
    )
    found = read_table(table(tmp_path, cells)).utterances
    assert [u.vad_source for u in found] == ["made", "pseudo", "human", None]
    renamed = table(tmp_path, 'audio,vad,who\na.wav,"[0, 0, 1]",guessed\n')
    message = r"clips.csv:2: vad_source 'guessed', expected one of human, pseudo, made"
    with pytest.raises(ManifestError, match=message):
        read_table(renamed, TableOptions(vad_source_column="who"))
    with pytest.raises(ManifestError, match=r"name it with --vad-source-column"):
        read_table(renamed, TableOptions(vad_source_column="source"))


def test_the_clips_of_the_demo_stay_as_they_are() -> None:
    path = FOLDER / "clips" / "manifest.jsonl"
    assert [u.vad_source for u in read_table(path).utterances] == ["made"] * len(embedded_clips())
