"""Tar and zip archives: where a member's bytes are, and reading them there; nothing is unpacked.

Only the standard library is used. A member that cannot be read at an offset is refused by name: a
link, a sparse or an encrypted one, one of another compression than deflate, and a name that occurs
twice.
"""

import os
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from rellm_cache.corpus.audio_location import ArchiveMember
from rellm_cache.errors import AudioError
from rellm_cache.utils.regular_files import open_regular, why_unreadable

TAR_BLOCK = 512  # bytes
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # before a zip member's name and its bytes
_ENCRYPTED = 1  # flag of a zip member
_ZIP_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 98: "PPMd"}
_COMPRESSED_TARS = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
}
_DAMAGED = "copy it again from its source"
_opening = threading.Lock()


@dataclass
class Archive:
    """The members of an archive.

    Attributes:
        path: of the archive.
        members: those that can be read, by name, in the order of the archive.
        refused: name → why it cannot be read.
        ended: whether the end mark is there; without it, members may be missing.
    """

    path: Path
    members: dict[str, ArchiveMember] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    ended: bool = True

    def find(self, name: str) -> ArchiveMember:
        """A member by name; `AudioError` if there is none, or it cannot be read."""
        for known in (name, f"./{name}"):  # tar writes ./ before names in `tar cf a.tar .`
            if (member := self.members.get(known)) is not None:
                return member
            if reason := self.refused.get(known):
                raise AudioError(f"{self.path}#{name}: {reason}")
        file = name.rpartition("/")[2]
        near = (known for known in self.members if known.rpartition("/")[2] == file)
        shown = next(near, next(iter(self.members), "none that can be read"))
        raise AudioError(f"{self.path}#{name}: no such member; there is {shown}")

    def _add(self, member: ArchiveMember, reason: str) -> None:
        """Add a member; the second of a name makes both unreadable, since either may be meant."""
        name = member.name
        if name in self.members or name in self.refused:
            self.members.pop(name, None)
            self.refused[name] = "two members have this name; rename one"
        elif reason:
            self.refused[name] = reason
        else:
            self.members[name] = member


def open_archive(path: Path) -> Archive:
    """The members of a tar or zip archive; kept until the file changes.

    Raises:
        OSError: there is no such archive.
        AudioError: it is truncated, damaged, or a compressed tar.
    """
    found = path.stat()
    with _opening:  # threads that ask for one archive read it once
        return _open(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=8)
def _open(path: Path, changed: int, size: int) -> Archive:
    """As `open_archive`; `changed` and `size` tell one version of a file from the next."""
    read: Callable[[Path], Archive] = _read_zip if path.suffix.lower() == ".zip" else _read_tar
    try:
        return read(path)
    except OSError as error:
        raise AudioError(f"{path}: {why_unreadable(error, path)}; {_DAMAGED}") from error
    except Exception as error:  # of damaged archives, both libraries raise errors of many kinds
        raise AudioError(f"{path}: {_why_damaged(path, error)}") from error


def _read_tar(path: Path) -> Archive:
    archive = Archive(path)
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        end = 0
        for entry in tar:
            end = tar.offset
            if entry.isdir():
                continue
            reason = ""
            if entry.issparse():
                reason = "a sparse file, whose bytes are not in one piece; write the tar without -S"
            elif not entry.isreg():
                reason = "a link or a device; write the tar with --dereference --hard-dereference"
            location = ArchiveMember(str(path), entry.offset_data, entry.size, name=entry.name)
            archive._add(location, reason)
            tar.members.clear()  # type: ignore[attr-defined]  # else every header is kept twice
        file.seek(end)
        after = file.read(TAR_BLOCK)
        if after.strip(b"\0"):  # tarfile takes a damaged header for the end
            raise tarfile.ReadError(f"no header at byte {end}")
        archive.ended = len(after) == TAR_BLOCK
    return archive


def _read_zip(path: Path) -> Archive:
    archive = Archive(path)
    with open_regular(path) as file, zipfile.ZipFile(file) as listed:
        size = file.seek(0, os.SEEK_END)
        for entry in listed.infolist():
            if entry.is_dir():
                continue
            file.seek(entry.header_offset)
            head = file.read(_LOCAL_HEADER.size)
            reason = _why_not_in_zip(entry)
            offset = 0
            if len(head) < _LOCAL_HEADER.size or head[:4] != b"PK\x03\x04":
                reason = f"its header is not at byte {entry.header_offset}; {_DAMAGED}"
            else:
                *_, name_length, extra_length = _LOCAL_HEADER.unpack(head)
                offset = entry.header_offset + len(head) + name_length + extra_length
                if offset + entry.compress_size > size:
                    reason = f"truncated, the archive ends before it; {_DAMAGED}"
            deflated = entry.compress_type == zipfile.ZIP_DEFLATED
            archive._add(
                ArchiveMember(str(path), offset, entry.compress_size, deflated, entry.filename),
                reason,
            )
    return archive


def _why_not_in_zip(entry: zipfile.ZipInfo) -> str:
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted; write the zip without a password"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        kind = _ZIP_METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        return f"compressed with {kind}; write the zip with `zip -0`, or with deflate"
    return ""


def _why_damaged(path: Path, error: Exception) -> str:
    with open_regular(path) as file:
        head = file.read(8)
    for start, (kind, command) in _COMPRESSED_TARS.items():
        if head.startswith(start):
            return (
                f"a tar compressed with {kind}, whose members have no place of their own; "
                f"decompress it with `{command}`"
            )
    return f"truncated or no archive ({str(error)[:200]}); {_DAMAGED}"


def read_member(member: ArchiveMember, largest: int) -> bytes:
    """The bytes of a member, decompressed.

    Args:
        largest: bytes that a member may have.

    Raises:
        OSError, ValueError: as `regular_files.open_regular`.
        AudioError: the archive ends before the member does, the member is larger, or its compressed
            bytes are damaged.
    """
    if member.length > largest:
        raise AudioError(
            f"{member}: found a member of {member.length} bytes, expected at most {largest}; "
            "unpack the archive"
        )
    with open_regular(Path(member.container)) as file:
        file.seek(member.offset)
        data = file.read(member.length)
    if data and len(data) < member.length:
        raise AudioError(
            f"{member}: truncated, the archive has {len(data)} of its {member.length} bytes; "
            f"{_DAMAGED}"
        )
    return _inflated(member, data, largest) if member.deflated and data else data


def _inflated(member: ArchiveMember, data: bytes, largest: int) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        whole = inflate.decompress(data, largest + 1)
    except zlib.error as error:
        raise AudioError(
            f"{member}: its compressed bytes are damaged ({error}), or {member.container} changed; "
            f"{_DAMAGED}, or prepare again"
        ) from error
    if len(whole) > largest:
        raise AudioError(
            f"{member}: found a member of more than {largest} bytes, expected at most that; "
            "unpack the archive"
        )
    if not inflate.eof:
        raise AudioError(f"{member}: its compressed bytes end too early; {_DAMAGED}")
    return whole
