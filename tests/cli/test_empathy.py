"""rellm empathy: what it prints."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_train_then_score(
    run: Run, text_encoder_folder: Path, epitome_folder: Path, tmp_path: Path
) -> None:
    changes = ("tokens=8", "long_tokens=32", "training_tokens=16", "trained_layers=0", "epochs=1")
    options = [part for change in changes for part in ("--set", change)]
    train = ("empathy", "train", epitome_folder, "--out", tmp_path / "scorer")
    code, out, _ = run(*train, "--encoder", text_encoder_folder, *options)
    assert code == 0
    assert "exchanges held out, texts cut at 8 tokens" in out
    assert "texts cut at 32 tokens" in out
    assert f"Scorer: {tmp_path / 'scorer'}" in out
    code, out, _ = run(*train, "--encoder", text_encoder_folder, *options, "--json")
    printed = json.loads(out)
    assert printed["counts"]["train"] > 0
    assert printed["scores"]["test"].keys() == {"ER", "IP", "EX"}

    source, scored = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(
        "seeker_post,response_post\ni am sorry,why?\nwhy?,get up and take a walk ! !\n"
    )
    score = ("empathy", "score", tmp_path / "scorer", source, "--out", scored)
    code, out, _ = run(*score)
    assert (code, "1 of 2 replies are longer than 8 tokens" in out) == (0, True)
    assert "2 replies, mean level (SD)" in out
    with scored.open(newline="") as file:
        assert [row["ER_label"] in "012" for row in csv.DictReader(file)] == [True, True]
    code, out, _ = run(*score, "--json")
    assert json.loads(out)["rows"] == 2


def test_errors_name_what_is_wrong(run: Run, tmp_path: Path) -> None:
    code, _, err = run("empathy", "train", tmp_path, "--out", tmp_path / "x", "--set", "epoch=1")
    assert (code, "did you mean 'epochs'?" in err) == (1, True)
    code, _, err = run("empathy", "train", tmp_path, "--out", tmp_path / "x")
    assert (code, "no EPITOME tables" in err) == (1, True)
