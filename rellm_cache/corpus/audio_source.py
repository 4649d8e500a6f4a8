"""Bytes of audio files and of zip members, their digest, and why a file is missing or not sound."""

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

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import AudioError

IN_MEMORY_BYTES = 64 << 20  # a larger file is read in blocks
_BLOCK_BYTES = 1 << 20

_ZIP_MEMBER = re.compile(r"(?P<archive>.+\.zip):(?P<offset>\d+):(?P<length>\d+)")
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


def open_audio(audio: str) -> BinaryIO:
    """Open a sound file, or a stored member of a zip archive; small ones are read into memory.

    Raises:
        AudioError: there is no such regular file, it is empty, or it cannot be read.
    """
    if "\0" in audio:
        raise AudioError(
            f"{audio!r}: found a NUL character, which no file name can hold; correct the "
            "manifest's 'audio' path"
        )
    member = _ZIP_MEMBER.fullmatch(audio)
    path = Path(member["archive"] if member else audio)
    offset, length = (int(member["offset"]), int(member["length"])) if member else (0, 0)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) and not path.is_dir():
            raise AudioError(f"{path}: a pipe or a device; expected a regular file")
        file = path.open("rb")
        if not member and found.st_size > IN_MEMORY_BYTES:
            return file
        with file:
            if length > IN_MEMORY_BYTES:
                raise AudioError(
                    f"{audio}: a zip member of {length} bytes, expected at most {IN_MEMORY_BYTES}; "
                    "unpack the archive"
                )
            file.seek(offset)
            data = file.read(length if member else IN_MEMORY_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError(f"{path}: no such file; {_why_missing(path)}") from error
    except (OSError, OverflowError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{path}: cannot be read: {reason}") from error
    if not data:
        raise AudioError(f"{audio}: the file is empty (0 bytes); copy it again from its source")
    return io.BytesIO(data)


def audio_digest(utterance: Utterance) -> np.ndarray:
    """(32,) uint8 SHA-256 of a file's bytes, followed by the segment's text if there is one.

    Raises:
        AudioError: the file cannot be read.
    """
    with open_audio(utterance.audio) as file:
        return file_digest(file, utterance)


def file_digest(file: BinaryIO, utterance: Utterance) -> np.ndarray:
    """The digest of an open file, which is left where it was."""
    try:
        before = file.tell()
        file.seek(0)
        sha = hashlib.sha256()
        while block := file.read(_BLOCK_BYTES):
            sha.update(block)
        file.seek(before)
    except OSError as error:
        raise AudioError(f"{utterance.audio}: cannot be read: {error.strerror or error}") from error
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
