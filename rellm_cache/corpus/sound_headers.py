"""Headers of sound files: the length that they promise, and recordings that are joined in one file.

libsndfile believes a WAV header without a length (streamed by ffmpeg or sox), ends at the first of
two joined recordings, and does not tell a cut Ogg file from a whole one.
"""

import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import soundfile

from rellm_cache.corpus.audio_source import IN_MEMORY_BYTES
from rellm_cache.corpus.mp3_frames import read_mp3, with_true_count
from rellm_cache.errors import AudioError

UNKNOWN_BYTES = 0x7FFF_0000  # a program that streams sound writes this length or a larger one
UNKNOWN_FRAMES = 1 << 62  # libsndfile gives this number or a larger one
NO_LENGTH = "the header gives no length; read to the end of the file"
_MPEG_IN_WAV = (0x50, 0x55)
# First bytes → bytes that another recording of this format would start with.
_STARTS = {
    b"RIFF": rb"(?s)RIFF.{4}WAVE",
    b"RF64": rb"(?s)RF64.{4}WAVE",
    b"FORM": rb"(?s)FORM.{4}AIF[FC]",
    b"fLaC": rb"fLaC[\0\x80]\0\0\x22",
    b".snd": rb"(?s)\.snd\0\0.{6}\0\0\0[\x01-\x1b]\0",
    b"caff": rb"caff\0\x01\0\0desc",
    b"riff": rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb",
    b"NIST": rb"NIST_1A\n",
}
_CHUNK, _OVERLAP = 1 << 20, 64
# A length in libsndfile's log: what the header promises, and what the file has room for.
_PROMISE = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)")


@dataclass(frozen=True)
class Sound:
    """What has to be decoded.

    Attributes:
        file: the bytes, with a corrected header if it was wrong.
        notes: what was wrong, for the user.
        frames: samples a channel; None for the number that libsndfile gives.
        spare: how many of them may be missing without being a sign of damage.
    """

    file: BinaryIO
    notes: tuple[str, ...] = ()
    frames: int | None = None
    spare: int = 0


def inspect(file: BinaryIO, audio: str) -> Sound:
    """Read the header, and correct it where the length in it is missing or too small.

    Raises:
        AudioError: the file is cut, or has several recordings.
    """
    file.seek(0)
    head = file.read(16)
    if head[:4] in _STARTS:
        _require_one_recording(file, head[:4], audio)
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _inspect_wav(file, audio)
    if head[:4] == b"OggS":
        return _inspect_ogg(file, audio)
    if head[:8] == b"NIST_1A\n":
        file.seek(0)
        count = re.search(rb"sample_count -i (\d+)", file.read(1024))
        return Sound(file, frames=int(count[1]) if count else None)
    return _inspect_mp3(file, audio) or Sound(file)


def broken_promise(log: str) -> str:
    """The bytes that a header promises, if libsndfile's log says that the file has fewer."""
    for line in log.splitlines():
        if found := _PROMISE.match(line):
            promised, actual = map(int, found.groups())
            if actual < promised < UNKNOWN_BYTES:
                return f"fewer than the {promised} bytes of sound its header promises"
    return ""


def _require_one_recording(file: BinaryIO, start: bytes, audio: str) -> None:
    pattern = re.compile(_STARTS[start])
    position = len(start)
    while True:
        file.seek(position)
        chunk = file.read(_CHUNK + _OVERLAP)
        if found := pattern.search(chunk):
            raise AudioError(
                f"{audio}: two recordings in one file, the second at byte "
                f"{position + found.start()}; split them"
            )
        if len(chunk) < _CHUNK + _OVERLAP:
            return
        position += _CHUNK


def _inspect_wav(file: BinaryIO, audio: str) -> Sound:
    end = file.seek(0, os.SEEK_END)
    length_at, length_form, coding = 0, "<I", 0
    for name, position, _ in _chunks(file, 12):
        if name == b"ds64":
            length_at, length_form = position + 16, "<Q"
        elif name == b"fmt ":
            coding = _unpack(file, position + 8, "<H")
        elif name == b"data":
            start = position + 8
            break
    else:
        return Sound(file)
    length_at = length_at or start - 4
    claimed, rest = _unpack(file, length_at, length_form), end - start
    notes: tuple[str, ...] = ()
    ends_well = claimed <= rest and _are_chunks(file, start + claimed + claimed % 2, end)
    if claimed >= UNKNOWN_BYTES or (claimed == 0 and not ends_well):
        claimed, notes = rest, (NO_LENGTH,)
        file = _patched(file, length_at, struct.pack(length_form, rest), audio)
    elif claimed < rest and not ends_well:
        notes = ("bytes after the sound that its header promises were left out",)
    if coding in _MPEG_IN_WAV and claimed <= IN_MEMORY_BYTES:
        file.seek(start)
        if mp3 := _inspect_mp3(io.BytesIO(file.read(claimed)), audio):
            return mp3
    return Sound(file, notes)


def _patched(file: BinaryIO, position: int, value: bytes, audio: str) -> BinaryIO:
    if file.seek(0, os.SEEK_END) > IN_MEMORY_BYTES:
        raise AudioError(
            f"{audio}: its header gives no length; write one with `ffmpeg -i FILE -c copy FILE.wav`"
        )
    file.seek(0)
    data = bytearray(file.read())
    data[position : position + len(value)] = value
    return io.BytesIO(data)


def _chunks(file: BinaryIO, position: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, position and length of each RIFF chunk, up to bytes that are none."""
    while True:
        file.seek(position)
        head = file.read(8)
        if not re.fullmatch(rb"(?s)[\x20-\x7e]{4}.{4}", head):
            return
        name, length = struct.unpack("<4sI", head)
        yield name, position, length
        position += 8 + length + length % 2


def _are_chunks(file: BinaryIO, position: int, end: int) -> bool:
    """Whether the bytes up to the end of a file are RIFF chunks, as those of tags are."""
    for _, start, length in _chunks(file, position):
        position = start + 8 + length + length % 2
    return position in (end, end + 1)


def _unpack(file: BinaryIO, position: int, form: str) -> int:
    file.seek(position)
    return int.from_bytes(file.read(struct.calcsize(form)), "little")


def _inspect_ogg(file: BinaryIO, audio: str) -> Sound:
    """Walk through the pages: one recording, and a last page that is whole."""
    end = file.seek(0, os.SEEK_END)
    position, flags, begun = 0, 0, False
    while position < end:
        file.seek(position)
        head = file.read(27)
        if head[:4] != b"OggS"[: len(head)]:
            break
        table = file.read(head[26]) if len(head) == 27 else b""
        following = position + 27 + len(table) + sum(table)
        if len(head) < 27 or len(table) < head[26] or following > end:
            raise AudioError(
                f"{audio}: truncated within an Ogg page; copy it again from its source"
            )
        flags = head[5]
        if begun and flags & 2:
            raise AudioError(
                f"{audio}: two recordings in one file, the second at byte {position}; split them"
            )
        begun, position = not flags & 2, following
    ended = bool(flags & 4)
    return Sound(file, () if ended else ("the Ogg stream has no end mark; read as it is",))


def _inspect_mp3(file: BinaryIO, audio: str) -> Sound | None:
    mp3 = read_mp3(file, audio)
    if mp3 is None:
        return None
    if mp3.truncated:
        raise AudioError(
            f"{audio}: truncated, found {mp3.frames} of {mp3.promised} MP3 frames; copy it again "
            "from its source"
        )
    notes: tuple[str, ...] = ()
    if mp3.cut:
        notes = ("the MP3 ends within a frame; the whole ones were read",)
    added = 2 * mp3.first.samples  # by encoder and decoder, at most
    if mp3.promised is None:
        file.seek(0)
        with soundfile.SoundFile(file) as estimated:
            if estimated.frames >= mp3.samples:
                return Sound(file, notes, mp3.samples, added)
    elif mp3.promised >= mp3.frames:
        return Sound(file, notes, spare=0 if mp3.promised == mp3.frames else added)
    notes += ("the MP3 header gives too few frames; all frames were read",)
    return Sound(with_true_count(mp3, audio), notes, spare=added)
