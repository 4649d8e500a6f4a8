"""rellm prepare and annotate on corpora in miniature: what is printed, and exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from miniature.containers import write_parquet, write_tars
from tones import tone
from trees import msp_name, write_esd, write_iemocap, write_msp

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, read_manifests

Run = Callable[..., tuple[int, str, str]]


def test_a_corpus_that_is_not_whole_stops_unless_allowed(run: Run, tmp_path: Path) -> None:
    tree, out = write_iemocap(tmp_path / "iemocap"), tmp_path / "out"
    code, text, err = run("prepare", "iemocap", tree, "--out", out)
    assert (code, text) == (1, "")
    assert err.startswith(f"Error: {tree}: not the whole of iemocap. all: found 40, expected 5531")
    assert "session 5: found 8, expected 1241" in err
    assert "prepare what is here with --allow-partial" in err
    code, text, err = run("prepare", "iemocap", tree, "--out", out, "--allow-partial")
    assert code == 0
    assert "Warning: all: found 40, expected 5531" in err
    assert "iemocap, splits: paper, session 5 tested, seed 1; 0.01 hours of audio" in text
    assert "human dimensions of 40 clips, means by emotion" in text
    assert "train and test share 2 texts: 2 of 8 clips of test (25.0 %)" in text
    assert "   1-2 s      40 " in text
    assert "0 sound files missing, 0 unreadable" in text
    assert f"Report: {out}/report.json" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["iemocap", "--splits", "text", "--seed", "3"], "train and validation share 2 speakers: "),
        (["iemocap", "--splits", "speaker", "--test-session", "2"], "speaker, session 2 tested; 0"),
        (["iemocap", "--labels", "keep"], "5 clips without agreement (xxx) left out"),
        (["esd"], "train and test share 4 speakers: "),
        (["esd", "--splits", "speaker"], "train and test share 12 texts: 48 of 48 clips of test"),
        (["msp-podcast"], "2 clips of Test3, whose labels are hidden, left out"),
        (["msp-podcast", "--splits", "full"], "msp-podcast, splits: full; 0"),
    ],
    ids=" ".join,
)
def test_every_split_of_every_corpus(
    run: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    write = {"iemocap": write_iemocap, "esd": write_esd, "msp-podcast": write_msp}[arguments[0]]
    write(tmp_path / "tree")
    command, *options = arguments
    out = tmp_path / "out"
    code, text, _ = run(
        "prepare", command, tmp_path / "tree", "--out", out, "--allow-partial", *options
    )
    assert code == 0
    assert said in text
    if "text" in options:
        assert "texts: " not in text
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["corpus"] == command
    assert sum(report["clips"].values()) == len(read_manifests(out))


def test_missing_audio_is_3(run: Run, tmp_path: Path) -> None:
    tree = write_msp(tmp_path / "msp")
    (tree / f"Audios/{msp_name(0)}.wav").unlink()
    (tree / f"Audios/{msp_name(1)}.wav").write_bytes(b"RIFF")
    code, text, _ = run(
        "prepare", "msp-podcast", tree, "--out", tmp_path / "out", "--splits", "full",
        "--allow-partial",
    )  # fmt: skip
    assert code == 3
    assert "1 sound file missing, 1 unreadable" in text


def test_data_sets_and_shards_are_prepared_in_place(run: Run, tmp_path: Path) -> None:
    clips = [
        Utterance(f"c/{i}", str(tmp_path / f"{i}.wav"), emotion="sad", split=split)
        for i, split in enumerate(("train", "test"))
    ]
    for number, clip in enumerate(clips):
        soundfile.write(clip.audio, tone(1.2, 200 + 50 * number), 16_000)
    write_parquet(tmp_path / "hub", clips)
    shards = write_tars(tmp_path / "shards", clips) / "{train,test}-{000..000}.tar"
    for number, (name, source) in enumerate(
        [("datasets", tmp_path / "hub"), ("webdataset", shards)]
    ):
        code, text, err = run("prepare", name, source, "--out", tmp_path / f"out{number}")
        assert (code, err) == (0, "")
        assert "0 sound files missing, 0 unreadable" in text
        assert len(read_manifests(tmp_path / f"out{number}")) == 2
    code, _, err = run("prepare", "datasets", tmp_path / "gone", "--out", tmp_path / "out")
    assert code == 1
    assert f"Error: {tmp_path}/gone: expected a folder, a parquet or Arrow file, or a hub id" in err
    code, _, err = run("prepare", "webdataset", tmp_path / "{0..1}.tar", "--out", tmp_path / "out")
    assert code == 1
    assert f"Error: {tmp_path}/0.tar: no such file; expected a tar file" in err


def test_annotate_says_whose_dimensions_these_are(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    tree, out, cache = write_esd(tmp_path / "esd", 3), tmp_path / "out", tmp_path / "cache"
    (tmp_path / "tiny.toml").write_text(to_toml(recipe))
    run("prepare", "esd", tree, "--out", out, "--allow-partial", "--splits", "speaker")
    options = ("--recipe", tmp_path / "tiny.toml", "--cache", cache)
    code, _, err = run("annotate", out, *options)
    assert code == 1
    assert "or make them with `rellm extract`" in err
    assert run("extract", out, *options)[0] == 0
    code, text, _ = run("annotate", out, *options)
    assert code == 0
    assert f"{out}: 48 clips filled, 0 renewed" in text
    assert "pseudo dimensions of 48 clips, means by emotion" in text
    assert "Note: pseudo dimensions are a function of the emotion encoder's frames" in text
    assert {u.vad_source for u in read_manifests(out)} == {"pseudo"}
