"""Audio loading: decodes a clip to 16 kHz mono float32 and hashes its source.

libsndfile reads WAV, FLAC, OGG, MP3 and others at any rate and channel count; soxr resamples. Rate
and length are looked at first, and at most what the limits allow is decoded, in blocks. A clip that
cannot be used raises `AudioError`. Clips are never padded, cut or replaced.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from rellm_cache.corpus.audio_source import (
    describe_bytes,
    open_audio,
    source_sha256,
    utterance_digest,
)
from rellm_cache.corpus.clip_limits import (
    CUT,
    DEFAULT_LIMITS,
    SAMPLE_RATE,
    ClipLimits,
    TooLongError,
    UnsuitableAudioError,
)
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.sound_headers import UNKNOWN_FRAMES, Sound, broken_promise, inspect
from rellm_cache.errors import AudioError

MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz
LEVEL_SECONDS = 0.01
BLOCK_VALUES = 1 << 18  # samples of all channels that are decoded at a time
# Largest range of a waveform that has no signal: one step of 16-bit samples.
SILENT_RANGE = 2.0**-15
# Channels cancel if their average has less than this part of the power that it has in channels
# without any correlation.
CANCELLED_POWER = 0.01
_SEEKABLE = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # codings with samples of a fixed size


@dataclass(frozen=True)
class Clip:
    """A decoded clip.

    Attributes:
        waveform: (S,) float32, 16 kHz, mono.
        digest: (32,) uint8, SHA-256 of the source file's bytes, and of segment and speed, if any.
        rate: sampling rate of the file, in Hz.
        channels: number of channels in the file; their average is the waveform.
        notes: what was wrong with the file without making the clip unusable.
        source_sha256: SHA-256 (hex) of the source's bytes alone.
    """

    waveform: np.ndarray
    digest: np.ndarray
    rate: int
    channels: int
    notes: tuple[str, ...] = ()
    source_sha256: str = ""

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.waveform) / SAMPLE_RATE


@dataclass(frozen=True)
class Levels:
    """Loudness of a recording over time.

    Attributes:
        values: (N,) float64, mean square of the average of the channels in each step.
        step: seconds, about 0.01.
    """

    values: np.ndarray
    step: float


class _SequentialFile(soundfile.SoundFile):
    """A sound file read from front to back.

    Else soundfile seeks after each block, which fails in files of unknown length and is slow.
    """

    def seekable(self) -> bool:
        """Always False."""
        return False


@dataclass(frozen=True)
class _Block:
    """Some samples of a clip: (s,) float32, and the power of all channels before averaging."""

    mono: np.ndarray
    power: float  # sum of squares
    channels: int


@dataclass(frozen=True)
class _OpenClip:
    """A clip before decoding: the open file, and which of its samples are wanted."""

    utterance: Utterance
    sound: Sound
    file: _SequentialFile

    @property
    def rate(self) -> int:
        return int(self.file.samplerate)

    @property
    def played_rate(self) -> float:
        """Samples a second at the speed of the utterance."""
        return self.rate * self.utterance.speed

    @property
    def start(self) -> int:
        """The first wanted sample."""
        return round(self.utterance.segment[0] * self.rate) if self.utterance.segment else 0

    @property
    def frames(self) -> int | None:
        """Number of wanted samples a channel; None if only decoding can tell."""
        if segment := self.utterance.segment:
            return round(segment[1] * self.rate) - self.start
        if self.sound.frames is not None:
            return self.sound.frames
        return self.file.frames if self.file.frames < UNKNOWN_FRAMES else None

    def require_length(self, limits: ClipLimits) -> None:
        """Raise `AudioError` if it is known to be too short or too long."""
        if self.frames is not None:
            samples = round(self.frames * SAMPLE_RATE / self.played_rate)
            limits.require_length(samples, self.utterance.audio)


def load_clip(utterance: Utterance, limits: ClipLimits = DEFAULT_LIMITS) -> Clip:
    """Decode the clip of an utterance.

    Args:
        limits: those of its manifest (`clip_limits.read_limits`).

    Raises:
        AudioError: the file is missing, empty, truncated or not audio, has several recordings, an
            unlikely rate, or samples that are not finite.
        UnsuitableAudioError: the limits leave the clip out.
    """
    with _open_source(utterance) as source:
        return decode_clip(source, utterance, limits)


def decode_clip(
    source: BinaryIO, utterance: Utterance, limits: ClipLimits = DEFAULT_LIMITS
) -> Clip:
    """Decode a clip from an open file; `utterance.audio` is its name in messages.

    Raises like `load_clip`.
    """
    audio = utterance.audio
    with _open(source, utterance, limits) as clip:
        sha = source_sha256(source, audio)  # before decoding: a file may be written meanwhile
        waveform = _finish(_decode(clip, limits), clip.played_rate, audio, limits)
        digest = utterance_digest(sha, utterance)
        channels, notes = clip.file.channels, clip.sound.notes
        return Clip(waveform, digest, clip.rate, channels, notes, sha.hexdigest())


def make_waveform(
    samples: np.ndarray, rate: float, name: str, limits: ClipLimits = DEFAULT_LIMITS
) -> np.ndarray:
    """Average channels and resample to 16 kHz: (S, channels) float32 at `rate` Hz -> (S',) float32.

    Raises:
        AudioError: samples are not finite, or the limits leave the clip out; the message begins
            with `name`.
    """
    return _finish([_average(samples, name)], rate, name, limits)


def clip_seconds(utterance: Utterance, limits: ClipLimits = DEFAULT_LIMITS) -> float:
    """Duration of a clip in seconds: from the manifest or the file's header, if it is known there.

    Raises:
        AudioError: the clip is not usable, as far as that is known without decoding it.
    """
    seconds = utterance.duration or None
    if seconds is None and utterance.segment:
        seconds = (utterance.segment[1] - utterance.segment[0]) / utterance.speed
    if seconds is not None:
        limits.require_length(round(seconds * SAMPLE_RATE), utterance.audio)
        return seconds
    with _open_source(utterance) as source, _open(source, utterance, limits) as clip:
        if clip.frames is not None:
            return clip.frames / clip.played_rate
    return load_clip(utterance, limits).seconds


def read_levels(utterance: Utterance) -> Levels:
    """Loudness of a recording of any length, read in blocks.

    Raises:
        AudioError: the file is missing, empty, truncated or not audio.
    """
    with _open_source(utterance) as source, _open(source, utterance, None) as clip:
        size = max(1, round(clip.rate * LEVEL_SECONDS))
        means: list[np.ndarray] = []
        rest = np.zeros(0, np.float32)

        def add(block: _Block) -> None:
            nonlocal rest
            samples = np.concatenate([rest, block.mono])
            whole = len(samples) // size * size
            means.append(np.square(samples[:whole], dtype=np.float64).reshape(-1, size).mean(1))
            rest = samples[whole:]

        _read(clip, math.inf if clip.frames is None else clip.frames, add)
        values = np.concatenate([np.zeros(0), *means])
        return Levels(values, size / clip.rate)


def _open_source(utterance: Utterance) -> BinaryIO:
    return open_audio(utterance.audio, utterance.source_sha256)


@contextmanager
def _open(source: BinaryIO, utterance: Utterance, limits: ClipLimits | None) -> Iterator[_OpenClip]:
    """Open a sound file; every error, also one of a decoder in the block, is an `AudioError`.

    Without limits a recording may have any length.
    """
    audio = utterance.audio
    try:
        sound = inspect(source, audio)
        sound.file.seek(0)
        with _SequentialFile(sound.file) as file:
            clip = _OpenClip(utterance, sound, file)
            if not MIN_RATE <= clip.rate <= MAX_RATE:
                raise AudioError(
                    f"{audio}: found a sampling rate of {clip.rate} Hz, expected {MIN_RATE} to "
                    f"{MAX_RATE} Hz; correct its header"
                )
            if promise := broken_promise(file.extra_info):
                raise AudioError(
                    f"{audio}: truncated, found {promise}; copy it again from its source"
                )
            if limits is not None:
                clip.require_length(limits)
            yield clip
    except AudioError:
        raise
    except Exception as error:  # decoders raise errors of many kinds
        reason = getattr(error, "error_string", None) or f"{type(error).__name__}: {error}"
        raise AudioError(
            f"{audio}: cannot be decoded ({reason}); {describe_bytes(source)}"
        ) from error


def _decode(clip: _OpenClip, limits: ClipLimits) -> list[_Block]:
    """The wanted samples, averaged over channels, in blocks; a truncated file is an error."""
    longest = int((limits.max_seconds + 1) * clip.played_rate)
    blocks: list[_Block] = []
    found = _read(clip, longest if clip.frames is None else clip.frames, blocks.append)
    if clip.frames is None and found >= longest:
        raise TooLongError(
            f"{clip.utterance.audio}: too long, more than {limits.max_seconds:g} s; {CUT}"
        )
    return blocks


def _read(clip: _OpenClip, wanted: float, use: Callable[[_Block], object]) -> int:
    """Give the wanted samples to `use`, in blocks; return their number a channel.

    Raises `AudioError` if the file has fewer than its header or the segment says.
    """
    file, skip = clip.file, clip.start
    if skip and file.subtype.startswith(_SEEKABLE):
        skip -= file.seek(min(skip, file.frames))
    size = max(BLOCK_VALUES // file.channels, 1)
    found = -skip
    while found < wanted:
        samples = file.read(int(min(size, wanted - found)), dtype="float32", always_2d=True)
        if not len(samples):
            break
        found += len(samples)
        if found > 0:
            use(_average(samples[-found:], clip.utterance.audio))
    _require_all(clip, found)
    return found


def _average(samples: np.ndarray, name: str) -> _Block:
    """(S, channels) float32 -> (S,); `AudioError` for samples that are not finite."""
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise AudioError(
            f"{name}: {bad} samples are NaN or infinite; expected finite numbers: export the file "
            "again"
        )
    power = float(np.square(samples, dtype=np.float64).sum())
    return _Block(samples.mean(axis=1, dtype=np.float32), power, samples.shape[1])


def _finish(blocks: Sequence[_Block], rate: float, name: str, limits: ClipLimits) -> np.ndarray:
    """The waveform (S,) float32 at 16 kHz; `UnsuitableAudioError` if the limits leave it out."""
    mono = np.concatenate([np.empty(0, np.float32), *(block.mono for block in blocks)])
    limits.require_length(round(len(mono) * SAMPLE_RATE / rate), name)
    if not limits.keep_silent:
        _require_signal(mono, sum(b.power for b in blocks), blocks[0].channels, name)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    limits.require_length(len(mono), name)
    return mono


def _require_all(clip: _OpenClip, found: int) -> None:
    """Raise `AudioError` if the file has fewer samples than its header or the segment says."""
    audio, segment = clip.utterance.audio, clip.utterance.segment
    if clip.frames is None or found >= clip.frames - (0 if segment else clip.sound.spare):
        return
    if segment:
        raise AudioError(
            f"{audio}: segment {segment[0]:g}-{segment[1]:g} s ends after the file's "
            f"{(clip.start + found) / clip.rate:.2f} s"
        )
    raise AudioError(
        f"{audio}: truncated or damaged, found {found} of {clip.frames} samples; copy it again "
        "from its source"
    )


def _require_signal(mono: np.ndarray, power: float, channels: int, audio: str) -> None:
    """Raise `UnsuitableAudioError` for silence, a constant, and channels that cancel each other.

    Args:
        mono: (S,) float32, the average of the channels.
        power: sum of squares of all channels.
    """
    hint = "prepare with --keep-silent to keep such clips"
    if channels > 1:
        mean = float(np.square(mono, dtype=np.float64).sum())
        if mean * channels**2 < CANCELLED_POWER * power and power > 0:
            raise UnsuitableAudioError(
                f"{audio}: its {channels} channels cancel each other in their average; export one "
                f"of them, for example with `ffmpeg -i FILE -af pan=mono|c0=c0 FILE.wav`, or {hint}"
            )
    if np.ptp(mono) <= SILENT_RANGE:
        raise UnsuitableAudioError(
            f"{audio}: no signal, all {len(mono)} samples are between {mono.min():.2g} and "
            f"{mono.max():.2g}; {hint}"
        )
