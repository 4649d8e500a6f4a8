"""Probes of stores with a known answer: each layer carries one thing."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from probes import PROSODY, RECIPE, SPEECH, clips, write_known, write_layers, write_store

from rellm_cache.corpus.manifest import write_manifest
from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.probing.run import probe
from rellm_cache.probing.targets import Target, find_targets


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_known(tmp_path_factory.mktemp("known"))


def test_each_layer_shows_what_it_carries(known: tuple[Path, Path], tmp_path: Path) -> None:
    report = probe(known[0], RECIPE, known[1], out=tmp_path / "probe")
    assert report.clips == 89
    assert report.notes == ["1 of 90 clips are not in every store"]
    layers = ["tiny-layer0", "tiny-layer1", "tiny-last", "prosody", "all together"]
    assert report.names == layers
    assert {"valence", "dominance"} == report.skipped.keys()
    assert report.skipped["valence"] == "all clips have the same value, 0.5"
    with pytest.raises(
        ConfigError, match="target 'valence' was not probed: all clips have the same"
    ):
        report.best("valence")
    found = {(s.name, s.target): s for s in report.scores}
    best = {"emotion": "tiny-layer1", "speaker": "tiny-layer0", "arousal": "prosody"}
    for target, name in best.items():
        assert report.best(target).name == name
        assert found[name, target].value > 0.9
        assert found["all together", target].value > 0.85
        assert found["tiny-last", target].value < 0.6
        low, high = found[name, target].low, found[name, target].high
        assert low <= found[name, target].value <= high
    assert abs(found["tiny-last", "text"].value - 0.5) < 0.2  # nothing carries the text
    described = {t.name: (t.measure, t.clips, t.classes, t.folds_by) for t in report.targets}
    assert described == {
        "emotion": ("UA", 88, 3, "speaker"),
        "arousal": ("CCC", 88, 0, "speaker"),
        "speaker": ("UA", 89, 6, "clip"),
        "text": ("UA", 89, 2, "clip"),
    }
    assert [t.chance for t in report.targets] == [1 / 3, 0.0, 1 / 6, 1 / 2]
    assert json.loads((tmp_path / "probe/probe.json").read_text()) == report.to_json()
    page = (tmp_path / "probe/probe.html").read_text()
    drawings = [f"<svg{part.partition('</svg>')[0]}</svg>" for part in page.split("<svg")[1:]]
    for drawing, target in zip(drawings, report.targets, strict=True):
        marks = ElementTree.fromstring(drawing).findall(".//circle")
        places = [float(mark.attrib["cx"]) for mark in marks]
        values = [score.value for score in report.of(target.name)]
        assert np.argsort(places).tolist() == np.argsort(values).tolist()


def test_folds_by_speaker_never_train_on_a_test_speaker() -> None:
    (target,), skipped = find_targets(clips(), ["emotion"])
    assert not skipped
    tested = []
    for train, test in target.folds():
        assert target.speakers is not None
        assert not set(target.speakers[train]) & set(target.speakers[test])
        fit, choose = target.held_out(train)
        assert not set(target.speakers[fit]) & set(target.speakers[choose])
        assert set(fit) | set(choose) == set(train)
        tested += test.tolist()
    assert sorted(tested) == list(range(89))


def test_folds_of_speakers_have_every_speaker_in_training() -> None:
    (target,), _ = find_targets(clips(), ["speaker"])
    for train, _ in target.folds():
        assert set(target.values[train]) == set(range(6))


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (
            "arousal",
            {"vad_source": "pseudo"},
            "no clip is labelled (pseudo labels do not count)",
        ),
        ("emotion", {"emotion": None}, "no clip is labelled"),
        ("emotion", {"speaker": ""}, "no clip is labelled (and of a known speaker)"),
        ("emotion", {"speaker": "s"}, "1 speakers have labels, expected 3 or more"),
        ("emotion", {"emotion": "sad"}, "all clips have the same value, sad"),
        ("text", {"text": "The same."}, "fewer than two texts have 5 clips or more"),
    ],
)
def test_a_target_without_labels_is_skipped_with_the_reason(
    name: str, change: dict[str, str], reason: str
) -> None:
    changed = [replace(clip, **change) for clip in clips()]  # type: ignore[arg-type]
    targets, skipped = find_targets(changed, [name])
    assert targets == []
    assert reason in skipped[name]


def test_rare_speakers_are_left_out() -> None:
    (target,), _ = find_targets(clips()[11:], ["speaker"])  # four clips of the first speaker
    assert isinstance(target, Target)
    assert target.labels == ("s1", "s2", "s3", "s4", "s5")
    assert target.rows.min() == 4


def test_a_store_with_few_clips_is_left_out(known: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, _ = known
    write_store(tmp_path, SPEECH, clips(), "emotion")
    write_store(tmp_path, replace(SPEECH, layer=2), clips()[:9], "emotion")
    recipe = replace(RECIPE, encoders={"speech": SPEECH})
    report = probe(manifest, recipe, tmp_path, ["emotion"])
    assert report.names == ["tiny-layer1"]  # alone: nothing to put together
    assert report.notes == [
        "tiny-layer2 is left out: it has 9 of 90 clips; run `rellm extract` with its layer for the "
        "others"
    ]


def test_layers_of_one_store_are_probed_one_by_one(
    known: tuple[Path, Path], tmp_path: Path
) -> None:
    """A layer that two stores hold is read from the one with more clips."""
    manifest, _ = known
    carried = {0: "speaker", 1: "nothing", -1: "emotion"}
    write_layers(tmp_path, SPEECH, clips(), carried)
    write_store(tmp_path, replace(SPEECH, layer=1), clips()[:85], "emotion")
    every = replace(SPEECH, layer=-1, layers="all")
    for encoder in (SPEECH, every):
        recipe = replace(RECIPE, encoders={"speech": encoder})
        report = probe(manifest, recipe, tmp_path, ["emotion"])
        names = ["tiny-layer0", "tiny-layer1", "tiny-last"]
        assert report.names == [*names, "all together"]
        assert (report.clips, report.notes) == (90, [])
        found = [score.value for score in report.scores]
        assert min(found[2:]) > 0.9 > 0.6 > max(found[:2])
        assert report.best("emotion").name == "tiny-last"


def test_what_cannot_be_probed_is_an_error(known: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, cache = known
    with pytest.raises(ConfigError, match=r"targets: found 'age', expected some of emotion, arou"):
        probe(manifest, RECIPE, cache, ["age"])
    write_store(tmp_path, PROSODY, clips(), "arousal")
    with pytest.raises(StoreError, match="found no store of encoder whisper owner/tiny"):
        probe(manifest, RECIPE, tmp_path)
    for layer, weights in ((0, "c"), (1, "d")):
        write_store(tmp_path, replace(SPEECH, layer=layer), clips(), "emotion", weights)
    with pytest.raises(
        StoreError, match=r"2 different weights; pin one as encoders.speech.weights"
    ):
        probe(manifest, RECIPE, tmp_path)
    pinned = replace(RECIPE, encoders={"speech": replace(SPEECH, weights_sha256="c" * 64)})
    assert probe(manifest, pinned, tmp_path, ["text"]).names == ["tiny-layer0"]
    elsewhere = tmp_path / "other.jsonl"
    write_manifest(elsewhere, [replace(clip, id=f"{clip.id}-x") for clip in clips()])
    with pytest.raises(StoreError, match=r"found none of the manifest's 90 clips in tiny-layer0"):
        probe(elsewhere, RECIPE, cache)
