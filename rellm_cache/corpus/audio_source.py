"""Bytes of audio files and of parts of containers, their digest, and why one is no sound."""

import hashlib
import io
import os
import re
import stat
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rellm_cache.corpus.archives import open_archive, read_member
from rellm_cache.corpus.arrow_tables import read_cell
from rellm_cache.corpus.audio_location import (
    ArchiveMember,
    Location,
    NamedMember,
    parse_location,
)
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import AudioError

IN_MEMORY_BYTES = 64 << 20  # a larger file is read in blocks
_BLOCK_BYTES = 1 << 20
DIGITS = 12  # hex digits of a digest in a message

_CONVERT = "convert it with `ffmpeg -i FILE FILE.wav`"
_UNPACK = "unpack it first"
_DOWNLOAD = "download the sound itself"
# First bytes of files that are often found in place of sound → what they are, what to do.
_NOT_SOUND: list[tuple[bytes, str, str]] = [
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch the sound with `git lfs pull`"),
    (rb"[./]*(\.git)?/annex/", "a git-annex pointer", "fetch the sound with `git annex get`"),
    (rb"\0\x05\x16[\0\x07]", "macOS metadata (AppleDouble)", "use the file without ._"),
    (rb"(\xef\xbb\xbf)?\s*<", "an HTML or XML page", _DOWNLOAD),
    (rb"(\xef\xbb\xbf)?\s*[\[{]", "JSON text", _DOWNLOAD),
    (rb"(?s).{4}ftyp", "MPEG-4 sound (m4a, mp4)", _CONVERT),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "AAC sound", _CONVERT),
    (rb"\x1aE\xdf\xa3", "Matroska or WebM", _CONVERT),
    (rb"0&\xb2u", "Windows Media sound", _CONVERT),
    (rb"#!AMR|wvpk|MAC |ajkg|FLV|DSD |FRM8|BW64|ADIF|\.RMF", "sound of another format", _CONVERT),
    (rb"(?s)RIFF.{4}(?!WAVE)", "a RIFF file that is not WAV", _CONVERT),
    (rb"\x1f\x8b|PK\x03\x04|Rar!|7z\xbc\xaf|BZh|\xfd7zXZ", "a compressed archive", _UNPACK),
    (rb"\0{16}", "zero bytes, as an unfinished copy has", "copy it again from its source"),
]


class _Part(io.BytesIO):
    """Bytes of a part of a container, with their digest."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.sha256 = hashlib.sha256(data)


def open_audio(audio: str, sha256: str | None = None) -> BinaryIO:
    """Open a sound file, or a part of a container; small files and parts are read into memory.

    Args:
        sha256: what the digest of a part must be; None for any.

    Raises:
        AudioError: there is no such regular file or part, it is empty, or it cannot be read; or a
            container changed since the digest was recorded.
        ConfigError: it needs a library that is not installed.
    """
    if "\0" in audio:
        raise AudioError(
            f"{audio!r}: found a NUL character, which no file name can hold; correct the "
            "manifest's 'audio' path"
        )
    location = parse_location(audio)
    path = Path(location.container if location else audio)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) and not path.is_dir():
            raise AudioError(f"{path}: a pipe or a device; expected a regular file")
        if location is not None:
            return _open_part(location, audio, sha256)
        file = path.open("rb")
        if found.st_size > IN_MEMORY_BYTES:
            return file
        with file:
            data = file.read(IN_MEMORY_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError(f"{path}: no such file; {_why_missing(path)}") from error
    except (OSError, OverflowError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{path}: cannot be read: {reason}") from error
    if not data:
        raise AudioError(f"{audio}: the file is empty (0 bytes); copy it again from its source")
    return io.BytesIO(data)


def _open_part(location: Location, audio: str, sha256: str | None) -> _Part:
    if isinstance(location, NamedMember):
        location = open_archive(Path(location.container)).find(location.name)
    if isinstance(location, ArchiveMember):
        data = read_member(location, IN_MEMORY_BYTES)
    else:
        data = read_cell(location, IN_MEMORY_BYTES)
    part = _Part(data)
    if sha256 is not None and (found := part.sha256.hexdigest()) != sha256:
        raise AudioError(
            f"{audio}: {location.container} changed since the manifest was prepared: found bytes "
            f"with the SHA-256 {found[:DIGITS]}…, expected {sha256[:DIGITS]}…; prepare again"
        )
    if not data:
        raise AudioError(f"{audio}: the file is empty (0 bytes); copy it again from its source")
    return part


def audio_digest(utterance: Utterance) -> np.ndarray:
    """(32,) uint8 SHA-256 of a file's bytes, followed by the segment's text if there is one.

    Raises:
        AudioError: the file cannot be read.
    """
    with open_audio(utterance.audio, utterance.source_sha256) as file:
        return utterance_digest(source_sha256(file, utterance.audio), utterance)


def source_sha256(file: BinaryIO, audio: str) -> "hashlib._Hash":
    """SHA-256 of all bytes of an open file, which is left where it was."""
    if isinstance(file, _Part):
        return file.sha256
    try:
        before = file.tell()
        file.seek(0)
        sha = hashlib.sha256()
        while block := file.read(_BLOCK_BYTES):
            sha.update(block)
        file.seek(before)
    except OSError as error:
        raise AudioError(f"{audio}: cannot be read: {error.strerror or error}") from error
    return sha


def utterance_digest(source: "hashlib._Hash", utterance: Utterance) -> np.ndarray:
    """(32,) uint8 digest of an utterance: of its source, and of segment and speed, if any."""
    sha = source.copy()
    if segment := utterance.segment:
        sha.update(f"segment:{segment[0]!r}:{segment[1]!r}".encode())
    if utterance.speed != 1.0:
        sha.update(f"speed:{utterance.speed!r}".encode())
    return np.frombuffer(sha.digest(), np.uint8)


def describe_bytes(file: BinaryIO) -> str:
    """What a file that cannot be decoded is, and what to do about it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64)
    for pattern, what, fix in _NOT_SOUND:
        if re.match(pattern, head):
            return f"this is {what}; {fix}"
    return f"found {size} bytes starting {head[:8]!r}, expected whole WAV, FLAC, OGG or MP3 data"


def _why_missing(path: Path) -> str:
    """A hint for a path that does not exist: a broken link, `\\`, or a name spelled otherwise."""
    if path.is_symlink():
        return (
            f"it is a link to {os.readlink(path)}, which does not exist; restore that file, for "
            "example with `git annex get`"
        )
    slashes = Path(str(path).replace("\\", "/"))
    if slashes != path and slashes.exists():
        return rf"write / in place of \ in the manifest's 'audio' paths: {slashes} exists"
    folder, name = path.parent, path.name  # the first part that is missing, and its folder
    while not folder.is_dir() and folder.name:
        folder, name = folder.parent, folder.name
    found = _similar_names(folder).get(_plain(name), name)
    if found != name:
        return (
            f"there is {found!a}, which differs from {name!a} only in case, spaces or "
            "the Unicode form of its accents (NFC or NFD); write the name as it is on disk"
        )
    return "check the manifest's 'audio' paths"


@lru_cache(maxsize=16)
def _similar_names(folder: Path) -> dict[str, str]:
    """Names in a folder by their plain form; kept, as a table may have many missing files."""
    try:
        return {_plain(name): name for name in os.listdir(folder)}
    except OSError:
        return {}


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()
