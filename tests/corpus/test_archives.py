"""Tar and zip archives: members are read in place, and what cannot be is refused by name."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from miniature.containers import write_tar

from rellm_cache.corpus.archives import open_archive, read_member
from rellm_cache.corpus.audio_location import ArchiveMember
from rellm_cache.errors import AudioError

MEMBERS = {"a.wav": b"first" * 300, "x/b.wav": b"second", "../../c.wav": b"third"}
LIMIT = 1 << 20


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_of_a_tar_are_read_where_they_are(tmp_path: Path, tar_format: int) -> None:
    members = {**MEMBERS, "é" * 90 + "/long.wav": b"fourth"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tar_format) as tar:
        tar.addfile(directory := tarfile.TarInfo("x"))
        assert directory.size == 0
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    archive = open_archive(tmp_path / "a.tar")
    assert archive.ended
    whole = (tmp_path / "a.tar").read_bytes()
    for name, data in members.items():
        found = archive.find(name)
        assert whole[found.offset : found.offset + found.length] == data
        assert read_member(found, LIMIT) == data
    assert [*tmp_path.iterdir()] == [tmp_path / "a.tar"]  # nothing is unpacked, nor beside it


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip_are_read_where_they_are(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.mkdir("x")
        for name, data in MEMBERS.items():
            archive.writestr(name, data)
    with (
        zipfile.ZipFile(tmp_path / "b.zip", "w", compression) as other,
        other.open("streamed.wav", "w", force_zip64=True) as file,  # an extra field
    ):
        file.write(b"bytes" * 9)
    for name, data in MEMBERS.items():
        found = open_archive(tmp_path / "a.zip").find(name)
        assert found.deflated == (compression == zipfile.ZIP_DEFLATED)
        assert read_member(found, LIMIT) == data
    streamed = open_archive(tmp_path / "b.zip").find("streamed.wav")
    assert read_member(streamed, LIMIT) == b"bytes" * 9


def test_names_with_a_dot_before_are_found(tmp_path: Path) -> None:
    archive = open_archive(write_tar(tmp_path / "a.tar", {"./x/1.wav": b"one"}))
    assert archive.find("x/1.wav") == archive.find("./x/1.wav")


def test_a_member_that_is_not_there_is_named(tmp_path: Path) -> None:
    archive = open_archive(write_tar(tmp_path / "a.tar", MEMBERS))
    with pytest.raises(AudioError, match=r"a.tar#y/b.wav: no such member; there is x/b.wav"):
        archive.find("y/b.wav")
    empty = open_archive(write_tar(tmp_path / "b.tar", {}))
    with pytest.raises(AudioError, match=r"no such member; there is none that can be read"):
        empty.find("a.wav")


def test_names_that_occur_twice_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for data in (b"one", b"other", b"third"):
            member = tarfile.TarInfo("1.wav")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1.wav", "one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("1.wav", "other")
    for path in (tmp_path / "a.tar", tmp_path / "a.zip"):
        with pytest.raises(AudioError, match=rf"{path}#1.wav: two members have this name"):
            open_archive(path).find("1.wav")


def test_links_and_sparse_files_of_a_tar_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.wav": b"data"})
    with tarfile.open(path, "a") as tar:
        for name, kind in (("s.wav", tarfile.SYMTYPE), ("h.wav", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        sparse = tarfile.TarInfo("sparse.wav")
        sparse.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": "9"}
        sparse.size = 4
        tar.addfile(sparse, io.BytesIO(b"data"))
    archive = open_archive(path)
    assert [*archive.members] == ["a.wav"]
    for name, message in (("s", "a link"), ("h", "a link"), ("sparse", "a sparse file, .* -S")):
        with pytest.raises(AudioError, match=rf"a.tar#{name}.wav: {message}"):
            archive.find(f"{name}.wav")


def test_encrypted_and_rare_compressions_are_refused(tmp_path: Path) -> None:
    for name, method in (("bzip2", zipfile.ZIP_BZIP2), ("LZMA", zipfile.ZIP_LZMA)):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
            archive.writestr("1.wav", b"data" * 99)
        with pytest.raises(AudioError, match=rf"compressed with {name}; write the zip with `zip"):
            open_archive(tmp_path / "a.zip").find("1.wav")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("1.wav", b"data")
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(AudioError, match=r"b.zip#1.wav: encrypted; .* without a password"):
        open_archive(tmp_path / "b.zip").find("1.wav")


def test_compressed_and_damaged_archives_are_told_apart(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    (tmp_path / "b.tar").write_bytes(gzip.compress(tar))
    with pytest.raises(AudioError, match=r"b.tar: a tar compressed with gzip, .*`gunzip`"):
        open_archive(tmp_path / "b.tar")
    (tmp_path / "c.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(AudioError, match=r"c.zip: truncated or no archive .*; copy it again"):
        open_archive(tmp_path / "c.zip")
    (tmp_path / "d.tar").write_bytes(b"")
    with pytest.raises(AudioError, match=r"d.tar: truncated or no archive"):
        open_archive(tmp_path / "d.tar")
    (tmp_path / "pipe").mkdir()
    with pytest.raises(AudioError, match=r"found a folder, expected a regular file"):
        open_archive(tmp_path / "pipe")


def test_a_truncated_tar_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.wav": b"x" * 700, "b.wav": b"y" * 700})
    whole = path.read_bytes()
    for size in (100, 900, 1600, 2000, 2700):  # in headers and in data
        path.write_bytes(whole[:size])
        with pytest.raises(AudioError, match=r"a.tar: truncated or no archive"):
            open_archive(path)
    path.write_bytes(whole[:1536])  # after the first member: only the end mark is missing
    assert not open_archive(path).ended
    path.write_bytes(whole[:1536] + b"no header" * 99 + whole[1536:])
    with pytest.raises(AudioError, match=r"no header at byte 1536"):
        open_archive(path)


def test_a_large_member_is_refused_compressed_or_not(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
            archive.writestr("1.wav", bytes(LIMIT + 1))
        found = open_archive(tmp_path / "a.zip").find("1.wav")
        with pytest.raises(AudioError, match=r"a member of .*\d+ bytes, expected at most"):
            read_member(found, LIMIT)
        assert len(read_member(found, LIMIT + 1)) == LIMIT + 1


def test_damaged_compressed_bytes_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.wav", bytes(range(256)) * 9)
    found = open_archive(tmp_path / "a.zip").find("1.wav")
    short = ArchiveMember(found.container, found.offset, found.length - 5, True, "1.wav")
    with pytest.raises(AudioError, match=r"#1.wav: its compressed bytes end too early"):
        read_member(short, LIMIT)
    wrong = ArchiveMember(found.container, found.offset + 2, found.length, True, "1.wav")
    with pytest.raises(AudioError, match=r"its compressed bytes (are damaged|end)"):
        read_member(wrong, LIMIT)


def test_an_archive_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.wav": b"one"})
    assert [*open_archive(path).members] == ["a.wav"]
    write_tar(path, {"b.wav": b"one", "c.wav": b"one" * 9999})
    assert [*open_archive(path).members] == ["b.wav", "c.wav"]
