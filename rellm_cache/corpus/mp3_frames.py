"""MP3 frames: counts them, because the length that an MP3 header gives is often wrong.

libsndfile stops at the length of the Xing or Info header of the first frame, or at an estimate from
the first bit rate. Both can be too small, and sound would be lost. `with_true_count` gives bytes
whose header has the true count.
"""

import io
import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from rellm_cache.corpus.audio_source import IN_MEMORY_BYTES
from rellm_cache.errors import AudioError

# Bit rates in kbit/s by (MPEG-1 or later, layer).
_BIT_RATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_CHUNK = 1 << 16
_XING = (b"Xing", b"Info")
_COUNTED = 1  # flag of a Xing header that has the number of frames


@dataclass(frozen=True)
class _Header:
    kind: tuple[int, int, int, bool]  # version, layer, rate, mono: equal in all frames of a sound
    size: int  # bytes of the frame
    samples: int
    side: int  # bytes between header and the place of `Xing`

    @classmethod
    def parse(cls, head: bytes) -> "_Header | None":
        """The header in the first four bytes, if they are one."""
        if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
            return None
        version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
        bits, rate_index = head[2] >> 4, head[2] >> 2 & 3
        if version == 1 or layer == 4 or bits in (0, 15) or rate_index == 3:
            return None
        first, mono = version == 3, head[3] >> 6 == 3  # MPEG-1; 2 is MPEG-2, 0 is MPEG-2.5
        rate = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
        samples = 384 if layer == 1 else 1152 if layer == 2 or first else 576
        unit = 4 if layer == 1 else 1
        size = samples // 8 // unit * _BIT_RATES[first, layer][bits] * 1000 // rate
        side = (17 if mono else 32) if first else (9 if mono else 17)
        return cls((version, layer, rate, mono), (size + (head[2] >> 1 & 1)) * unit, samples, side)


@dataclass(frozen=True)
class Mp3:
    """What the frames of an MP3 file hold.

    Attributes:
        file: the bytes to decode.
        start: position of the first frame.
        first: its header.
        frames: number of frames, without the one of a Xing or Info header.
        promised: frames that this header promises; None without it.
        cut: whether the file ends within a frame.
    """

    file: BinaryIO
    start: int
    first: _Header
    frames: int
    promised: int | None
    cut: bool

    @property
    def samples(self) -> int:
        """Samples in all frames, with those that encoder and decoder add at both ends."""
        return self.frames * self.first.samples

    @property
    def truncated(self) -> bool:
        """Whether frames are missing. Some encoders count the frame of the header too."""
        return (self.promised or 0) - self.frames > (0 if self.cut else 1)


def read_mp3(file: BinaryIO, audio: str) -> Mp3 | None:
    """Walk through all frames; None if the file does not start with one.

    Raises:
        AudioError: the frames change their sampling rate or channels, as those of joined files do.
    """
    end = file.seek(0, os.SEEK_END)
    start = _skip_tags(file, 0)
    first = _header_at(file, start)
    if first is None:
        return None
    frames, promised, cut = 0, None, False
    position: int | None = start
    while position is not None and position < end:
        head = _header_at(file, position)
        if head is None or head.kind != first.kind:
            position = _next_frame(file, position, first, audio)
            continue
        file.seek(position + 4 + head.side)
        tag = file.read(12)
        if position == start and tag[:4] in _XING and tag[7] & _COUNTED:
            promised = int.from_bytes(tag[8:], "big")
        elif position + head.size <= end:
            frames += 1
        else:
            cut = True
        position += head.size
    return Mp3(file, start, first, frames, promised, cut)


def with_true_count(mp3: Mp3, audio: str) -> BinaryIO:
    """The bytes with a Xing header that has the true number of frames.

    Raises:
        AudioError: the file is too large to be corrected.
    """
    if mp3.file.seek(0, os.SEEK_END) > IN_MEMORY_BYTES:
        raise AudioError(
            f"{audio}: an MP3 header is missing or wrong: {mp3.frames} frames were found; convert "
            "it with `ffmpeg -i FILE FILE.wav`"
        )
    mp3.file.seek(mp3.start)
    data = bytearray(mp3.file.read())
    place = 4 + mp3.first.side
    if mp3.promised is None:
        # A frame without sound, at a bit rate that leaves room for the tag; decoders skip it.
        silent = bytes((data[0], data[1] | 1, data[2] & 0x0C | 0x80, data[3]))
        header = _Header.parse(silent)
        data[:0] = silent.ljust(header.size if header else 0, b"\0")
        data[place : place + 8] = struct.pack(">4sI", b"Xing", _COUNTED)
    struct.pack_into(">I", data, place + 8, mp3.frames)
    return io.BytesIO(data)


def _header_at(file: BinaryIO, position: int) -> _Header | None:
    file.seek(position)
    return _Header.parse(file.read(4))


def _skip_tags(file: BinaryIO, position: int) -> int:
    """The position after ID3v2 and APE tags."""
    while True:
        file.seek(position)
        head = file.read(32)
        if head[:3] == b"ID3" and len(head) >= 10:
            size = sum((head[6 + i] & 127) << (21 - 7 * i) for i in range(4))
            position += 10 + size + (10 if head[5] & 0x10 else 0)
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            position += struct.unpack("<I", head[12:16])[0] + (32 if head[23] & 0x20 else 0)
        else:
            return position


def _next_frame(file: BinaryIO, position: int, first: _Header, audio: str) -> int | None:
    """The position of the next frame after bytes that are none; None if there is no more.

    Two headers in a row make a frame, since sound may hold the bytes of one by chance.
    """
    after = _skip_tags(file, position)
    if after != position:
        return after
    while True:
        file.seek(position)
        chunk = file.read(_CHUNK)
        at = chunk.find(b"\xff")
        while at >= 0:
            head = _header_at(file, position + at)
            if head is not None:
                after = position + at + head.size
                following = _header_at(file, _skip_tags(file, after))
                if following is not None and following.kind == head.kind:
                    if head.kind == first.kind:
                        return position + at
                    raise AudioError(
                        f"{audio}: two MP3 recordings in one file, the first at "
                        f"{_form(first)}, the next at {_form(head)}; split them"
                    )
            at = chunk.find(b"\xff", at + 1)
        if len(chunk) < _CHUNK:
            return None
        position += len(chunk)


def _form(header: _Header) -> str:
    return f"{header.kind[2]} Hz {'mono' if header.kind[3] else 'stereo'}"
