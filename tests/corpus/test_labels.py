"""Label names: kept, mapped or known, from a table to a manifest that is read again."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rellm_cache.corpus.labels import LabelRule, label_rule, read_labels
from rellm_cache.corpus.manifest import read_manifest, write_manifest
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.table import TableOptions, read_table
from rellm_cache.errors import ManifestError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two clips with labels that are not known names."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 20_000)
    rows = ["audio,emotion"]
    for name, emotion in (("a", "Boredom"), ("b", " Non-Neutral ")):
        soundfile.write(tmp_path / f"{name}.wav", noise, 16_000)
        rows.append(f"{name}.wav,{emotion}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    return path


def test_kept_names_are_read_again_from_the_manifest(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest"
    report = prepare(read_table(table, TableOptions(labels="keep")), out)
    assert report.survey.emotions == {"train": {"boredom": 1, "non-neutral": 1}}
    assert [u.emotion for u in read_manifest(out / "train.jsonl")] == ["boredom", "non-neutral"]
    assert read_labels(out) == {"boredom", "non-neutral"}


def test_a_map_gives_names_and_must_have_every_label(table: Path, tmp_path: Path) -> None:
    names = tmp_path / "map.json"
    names.write_text(json.dumps({"Boredom": "Sad", "Non-Neutral": "happy"}))
    read = read_table(table, TableOptions(labels=str(names))).utterances
    assert [u.emotion for u in read] == ["sad", "happy"]
    names.write_text(json.dumps({"Boredom": "Sad"}))
    with pytest.raises(
        ManifestError, match=r"table.csv:3: found emotion 'Non-Neutral', which .* map"
    ):
        read_table(table, TableOptions(labels=str(names)))


def test_known_names_only_leave_no_list_in_the_report(table: Path, tmp_path: Path) -> None:
    table.write_text("audio,emotion\na.wav,Anger\nb.wav,hap")
    report = prepare(read_table(table, TableOptions()), tmp_path / "manifest")
    assert report.survey.emotions == {"train": {"angry": 1, "happy": 1}}
    assert "labels" not in json.loads((tmp_path / "manifest/report.json").read_text())


def test_unknown_names_are_refused_with_both_ways_out(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"unknown emotion .Boredom.*--labels keep.*map.json"):
        read_table(table, TableOptions())
    (tmp_path / "train.jsonl").write_text('{"audio": "a.wav", "emotion": "boredom"}')
    with pytest.raises(ManifestError, match=r"train.jsonl:1: unknown emotion 'boredom'"):
        read_manifest(tmp_path / "train.jsonl")


def test_a_name_that_the_report_does_not_list_is_refused(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "manifest"
    prepare(read_table(table, TableOptions(labels="keep")), out)
    rows = read_manifest(out / "train.jsonl")
    write_manifest(out / "train.jsonl", rows)
    (out / "train.jsonl").write_text('{"audio": "a.wav", "emotion": "bordom"}')
    with pytest.raises(ManifestError, match="unknown emotion 'bordom'"):
        read_manifest(out / "train.jsonl")


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"labels": "boredom"}')
    with pytest.raises(
        ManifestError, match=r"report.json: found labels 'boredom', expected a list"
    ):
        read_labels(tmp_path)


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}'])
def test_maps_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(ManifestError, match="expected `keep` or a JSON object"):
        label_rule(str(tmp_path / "map.json"))
    with pytest.raises(ManifestError, match="no such file; expected `keep` or a JSON object"):
        label_rule("kept")


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ManifestError, match="here: found an empty emotion"):
        LabelRule(keep=True).emotion(" ", "here")
