"""Sound in containers: the same manifest, digests and frames as of files, and errors by clip."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from miniature.containers import KINDS, prepared, without_place, write_table, write_zip

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.audio import clip_seconds
from rellm_cache.corpus.audio_source import audio_digest
from rellm_cache.corpus.manifest import Utterance, read_manifest, read_manifests
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.ravdess import RavdessOptions, read_ravdess_speakers
from rellm_cache.corpus.readers.table import read_table
from rellm_cache.errors import AudioError
from rellm_cache.extraction.run import extract
from rellm_cache.store.format import failures_path
from rellm_cache.store.reader import FeatureStore

MakeClip = Callable[..., Path]


@pytest.fixture
def clips(make_clip: MakeClip) -> list[Utterance]:
    """Six clips of other lengths, rates and channels."""
    made = [make_clip(f"clips/{i}.wav", 1.0 + i / 8, 200 + 30 * i, 16_000) for i in range(4)]
    made.append(make_clip("clips/4.flac", 1.2, 330, 44_100, channels=2))
    made.append(make_clip("clips/5.ogg", 1.3, 350, 24_000))
    splits = ["train"] * 4 + ["validation", "test"]
    return [
        Utterance(f"c/{i}", str(path), text=f"Say {i}.", emotion=("happy", "sad")[i % 2],
                  speaker=f"c/{i % 3}", split=split)
        for i, (path, split) in enumerate(zip(made, splits, strict=True))
    ]  # fmt: skip


def test_containers_give_the_manifest_digests_and_frames_of_files(
    clips: list[Utterance], speech_recipe: Recipe, tmp_path: Path
) -> None:
    files = prepared("files", tmp_path, clips)
    (of_files,) = extract(files, speech_recipe, tmp_path / "files")
    assert of_files.encoded == 6
    expected = FeatureStore(of_files.path)
    before = {path: path.stat() for path in tmp_path.rglob("*.*") if path.parent == tmp_path}
    for kind in KINDS:
        manifest = prepared(kind, tmp_path, clips)
        assert without_place(manifest) == without_place(files)
        for utterance in read_manifests(manifest):
            assert utterance.source_sha256 == audio_digest(utterance).tobytes().hex()
        (again,) = extract(manifest, speech_recipe, tmp_path / "files")
        assert (again.encoded, again.present, again.failed) == (0, 6, 0)  # the digests are equal
        if kind not in ("parquet", "tar"):
            continue
        (report,) = extract(manifest, speech_recipe, tmp_path / kind)
        store = FeatureStore(report.path)
        for clip in clips:
            assert store.audio_sha256(clip.id) == expected.audio_sha256(clip.id)
            np.testing.assert_array_equal(
                store.verified_frames(clip.id), expected.verified_frames(clip.id)
            )
    assert all(path.stat().st_mtime_ns == was.st_mtime_ns for path, was in before.items())


def test_ravdess_in_containers_is_ravdess(
    ravdess: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    """One speaker of each split, every fifteenth clip."""
    options = RavdessOptions("all", "1", "17", "19")
    clips = [*read_ravdess_speakers(ravdess, options).utterances][::15]
    files = prepared("files", tmp_path, clips)
    (of_files,) = extract(files, speech_recipe, tmp_path / "cache")
    assert of_files.encoded == len(clips) == 12
    for kind in KINDS:
        manifest = prepared(kind, tmp_path, clips)
        assert without_place(manifest) == without_place(files)
        (report,) = extract(manifest, speech_recipe, tmp_path / "cache")
        assert (report.encoded, report.present) == (0, 12)


@pytest.mark.parametrize("kind", ["parquet", "tar", "deflated"])
def test_a_container_that_changed_is_an_error_of_each_clip(
    clips: list[Utterance], speech_recipe: Recipe, tmp_path: Path, kind: str
) -> None:
    """Other clips at the same places would get the labels of these."""
    manifest = prepared(kind, tmp_path, clips)
    old = {u.id: u for u in read_manifests(manifest)}
    files = [clip.audio for clip in clips[:4]]
    swapped = [
        dataclasses.replace(c, audio=files[3 - i]) if i < 4 else c for i, c in enumerate(clips)
    ]
    (tmp_path / "other").mkdir()
    other = prepared(kind, tmp_path / "other", swapped)
    moved = {Path(a.audio.partition(":")[0]) for a in old.values()}
    for container in moved:
        new = tmp_path / "other" / container.relative_to(tmp_path)
        container.write_bytes(new.read_bytes())
    with pytest.raises(AudioError) as error:
        audio_digest(old["c/0"])
    assert str(error.value).startswith(f"{old['c/0'].audio}: ")
    if kind != "deflated":
        message = r"changed since the manifest was prepared: found bytes with the SHA-256 \w{12}…, "
        with pytest.raises(AudioError, match=message):
            clip_seconds(dataclasses.replace(old["c/0"], duration=None))
    (report,) = extract(manifest, speech_recipe, tmp_path / "cache")
    assert report.failed >= 3
    rows = map(json.loads, failures_path(report.path).read_text("utf-8").splitlines())
    assert all(row["audio"] == old[row["id"]].audio for row in rows)
    assert len(read_manifests(other)) == 6


def test_a_missing_container_and_a_missing_member_are_errors_of_the_clip(
    clips: list[Utterance], tmp_path: Path
) -> None:
    write_zip(tmp_path / "a.zip", clips[:2])
    cells = iter(["a.zip#clips/0.wav", "a.zip#clips/9.wav", "b.zip#clips/0.wav", "b.zip:0:9",
                  "c.parquet:0#audio", "../x.tar:512:9#1.wav"])  # fmt: skip
    table = write_table(tmp_path / "table.csv", clips, lambda _: next(cells))
    report = prepare(read_table(table), tmp_path / "out")
    assert report.kept == {"train": 1}
    reasons = {row["id"]: row["reason"] for row in report.excluded}
    assert (report.missing, report.unreadable) == (4, 1)
    assert reasons["c/1"].startswith(f"{tmp_path}/a.zip#clips/9.wav: no such member; there is ")
    for name, file in (("c/2", "b.zip"), ("c/3", "b.zip"), ("c/4", "c.parquet")):
        assert reasons[name].startswith(f"{tmp_path}/{file}: no such file; check the manifest")


def test_a_manifest_with_relative_containers_can_be_moved(
    clips: list[Utterance], tmp_path: Path
) -> None:
    manifest = prepared("tar", tmp_path, clips) / "train.jsonl"
    folder = tmp_path / "moved"
    (tmp_path / "tar").rename(folder)
    text = manifest.read_text("utf-8").replace(f"{tmp_path}/tar/", "")
    (folder / "train.jsonl").write_text(text, "utf-8")
    first = read_manifest(folder / "train.jsonl")[0]
    assert first.audio.startswith(f"{folder}/train-000.tar:")
    assert clip_seconds(first) == 1.0
