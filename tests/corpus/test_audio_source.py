"""Audio sources: names that are not found, files that are not sound, files that are no files."""

import hashlib
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from miniature.containers import write_tar

from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.audio_source import audio_digest, open_audio
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import AudioError

MakeClip = Callable[..., Path]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS .*`git lfs pull`"),
        (b"../.git/annex/objects/xx/SHA256E-s1--0.wav", "git-annex .*`git annex get`"),
        (b"/annex/objects/SHA256E-s1--0.wav\n", "git-annex .*`git annex get`"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ", "macOS metadata .* use the file without ._"),
        (b"<!DOCTYPE html><html>", "an HTML or XML page; download the sound itself"),
        (b"\xef\xbb\xbf\n<?xml version='1.0'?><Error>", "an HTML or XML page"),
        (b'{"error": "quota exceeded"}', "JSON text"),
        (b"\0\0\0\x20ftypM4A ", "MPEG-4 sound .*`ffmpeg -i FILE FILE.wav`"),
        (b"\xff\xf1\x50\x80\x2e\x7f\xfc\x21", "AAC sound; .*ffmpeg"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81", "Matroska or WebM; .*ffmpeg"),
        (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9", "Windows Media"),
        (b"#!AMR-WB\n", "sound of another format"),
        (b"RIFF\x24\0\0\0AVI LIST", "a RIFF file that is not WAV"),
        (b"\x1f\x8b\x08\0\0\0", "a compressed archive; unpack it first"),
        (b"PK\x03\x04\x14\0", "a compressed archive"),
        (bytes(4096), "zero bytes, as an unfinished copy has"),
        (b"Ein Text", r"found \d+ bytes starting b'Ein Text', expected whole WAV"),
    ],
)
def test_a_file_that_is_not_sound_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data.ljust(2_000, b" ") if data[0] else data + bytes(100))
    with pytest.raises(AudioError, match=rf"a.wav: cannot be decoded \(.*\); .*{message}"):
        load_clip(Utterance("x", str(path)))


@pytest.mark.parametrize(
    ("written", "on_disk"),
    [
        (unicodedata.normalize("NFC", "café.wav"), unicodedata.normalize("NFD", "café.wav")),
        (unicodedata.normalize("NFD", "日本ガ.wav"), unicodedata.normalize("NFC", "日本ガ.wav")),
        ("a.WAV", "a.wav"),
        ("a.wav ", "a.wav"),
    ],
)
def test_a_name_that_is_spelled_otherwise_is_shown(
    make_clip: MakeClip, tmp_path: Path, written: str, on_disk: str
) -> None:
    make_clip(f"{on_disk}/b.wav")  # a folder, too
    with pytest.raises(AudioError, match=r"no such file; there is .* as it is on disk") as error:
        open_audio(str(tmp_path / written / "b.wav"))
    assert ascii(on_disk) in str(error.value)


def test_backslashes_broken_links_and_missing_folders_are_told_apart(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    make_clip("clips/a.wav")
    with pytest.raises(AudioError, match=r"write / in place of \\ in the manifest's .*clips/a.wav"):
        open_audio(f"{tmp_path}/clips\\a.wav")
    (tmp_path / "link.wav").symlink_to("../annex/objects/gone")
    with pytest.raises(AudioError, match=r"a link to ../annex/objects/gone, .*`git annex get`"):
        open_audio(str(tmp_path / "link.wav"))
    for path in (tmp_path / "none" / "a.wav", tmp_path / "clips/a.wav/b.wav"):
        with pytest.raises(AudioError, match="no such file; check the manifest's 'audio' paths"):
            open_audio(str(path))


def test_a_pipe_and_a_device_are_refused(tmp_path: Path) -> None:
    """Reading them would never end."""
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (str(tmp_path / "pipe.wav"), "/dev/zero"):
        with pytest.raises(AudioError, match="a pipe or a device; expected a regular file"):
            audio_digest(Utterance("x", path))


def test_absurd_zip_members_are_refused(make_clip: MakeClip, tmp_path: Path) -> None:
    path = tmp_path / "clips.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(make_clip("a.wav"), "a.wav")
    for offset, length, message in [
        (0, 10**30, "expected at most"),
        (10**30, 100, "cannot be read"),
        (10**9, 100, "the file is empty"),
        (0, 0, "the file is empty"),
    ]:
        with pytest.raises(AudioError, match=message):
            open_audio(f"{path}:{offset}:{length}")


def test_members_cut_off_by_the_end_and_changed_ones_are_named(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    data = make_clip("a.wav").read_bytes()
    path = write_tar(tmp_path / "a.tar", {"x/1.wav": data})
    audio = f"{path}:512:{len(data)}#x/1.wav"
    digest = hashlib.sha256(data).hexdigest()
    with open_audio(audio, digest) as file:
        assert file.read() == data
    with pytest.raises(
        AudioError, match=rf"{audio}: {path} changed since .*, expected 000000000000"
    ):
        open_audio(audio, "0" * 64)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        AudioError, match=rf"{audio}: truncated, the archive has 488 of its {len(data)}"
    ):
        open_audio(audio, digest)


def test_a_file_with_the_name_of_a_member_is_read_as_a_file(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    path = make_clip("a.tar:512:9#1.wav")
    assert load_clip(Utterance("x", str(path))).seconds == 1.5
