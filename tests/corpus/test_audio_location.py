"""Locations of audio: every form is read back, and paths with `:` and `#` stay paths."""

from pathlib import Path

import pytest

from rellm_cache.corpus.audio_location import (
    ArchiveMember,
    NamedMember,
    TableCell,
    audio_below,
    default_id,
    file_of,
    parse_location,
)


@pytest.mark.parametrize(
    ("audio", "location"),
    [
        ("c.zip:120:48044", ArchiveMember("c.zip", 120, 48044)),
        ("s/a.tar:512:9#x/1.flac", ArchiveMember("s/a.tar", 512, 9, name="x/1.flac")),
        ("s/a.tar:512:9#./1.flac", ArchiveMember("s/a.tar", 512, 9, name="./1.flac")),
        ("c.zip:1:9:deflate#1.wav", ArchiveMember("c.zip", 1, 9, True, "1.wav")),
        ("C.ZIP:1:9", ArchiveMember("C.ZIP", 1, 9)),
        ("a:b.tar:1:2#c%3Ad.tar%3A3%3A4", ArchiveMember("a:b.tar", 1, 2, name="c:d.tar:3:4")),
        ("a.tar:1:2#50%25 %231.wav", ArchiveMember("a.tar", 1, 2, name="50% #1.wav")),
        ("d/t-0.parquet:17#audio", TableCell("d/t-0.parquet", 17, "audio")),
        ("d.arrow:0#%23 sound", TableCell("d.arrow", 0, "# sound")),
        ("c.zip#x/1.wav", NamedMember("c.zip", "x/1.wav")),
        ("c.tar#a#b.wav", NamedMember("c.tar", "a#b.wav")),
    ],
)
def test_locations_are_read_back(audio: str, location: object) -> None:
    assert parse_location(audio) == location
    assert str(location) == audio
    assert file_of(audio) == location.container  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "audio",
    ["a.wav", "a:1:2", "x.tar", "x.tar:1", "x.tar:1:2:3", "x.parquet:1:2", "x.parquet:1#",
     "x.tar:-1:2", "clip #1.wav", "x.tgz#1.wav", "10:30.flac", "x.tar:1:2\n", ""],
)  # fmt: skip
def test_other_paths_are_sound_files(audio: str) -> None:
    assert parse_location(audio) is None
    assert file_of(audio) == audio


def test_a_file_that_exists_is_a_sound_file_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a.tar:1:2", "b.zip#c.wav", "d.parquet:3#audio"):
        path = tmp_path / name
        assert parse_location(str(path)) is not None
        path.write_bytes(b"")
        assert parse_location(str(path)) is None


def test_only_the_path_of_a_container_is_joined() -> None:
    folder = Path("/m")
    for audio, joined in [
        ("a.wav", "/m/a.wav"),
        ("./x//a.wav", "/m/x/a.wav"),
        ("/s/a.wav", "/s/a.wav"),
        ("/s/./a.wav", "/s/a.wav"),
        ("a.tar:1:2#./x//1.wav", "/m/a.tar:1:2#./x//1.wav"),
        ("./s/a.tar:1:2#/etc/1.wav", "/m/s/a.tar:1:2#/etc/1.wav"),
        ("/s/a.tar#x/1.wav", "/s/a.tar#x/1.wav"),
        ("../d.parquet:3#audio", "/m/../d.parquet:3#audio"),
        ("10:30.flac", "/m/10:30.flac"),
        (".", "/m"),
    ]:
        assert audio_below(folder, audio) == joined
        assert audio_below(folder, joined) == joined


def test_ids_are_names_without_suffix() -> None:
    folder = Path("/data/mine")
    for audio, name in [
        ("x/a.wav", "mine/x/a"),
        ("c.zip:0:9", "mine/c.zip:0:9"),
        ("c.zip#x/a.b.wav", "mine/x/a.b"),
        ("c.tar:0:9#./x/a.wav", "mine/x/a"),
        ("d.parquet:3#audio", "mine/d.parquet:3#audio"),
        (".", "mine/."),
    ]:
        assert default_id(audio, folder) == name
