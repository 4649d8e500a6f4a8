"""Audio loading: decodes a clip to 16 kHz mono float32 and hashes its source.

libsndfile reads WAV, FLAC, OGG and MP3 at any rate and channel count; soxr resamples. A clip that
cannot be used raises `AudioError`. Clips are never padded, cut or replaced.
"""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import AudioError

SAMPLE_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 1.0, 30.0

_ZIP_MEMBER = re.compile(r"(?P<archive>.+\.zip):(?P<offset>\d+):(?P<length>\d+)")


@dataclass(frozen=True)
class Clip:
    """A decoded clip.

    Attributes:
        waveform: (S,) float32, 16 kHz, mono.
        digest: (32,) uint8, SHA-256 of the source file's bytes and of the segment, if any.
        rate: sampling rate of the file, in Hz.
        channels: number of channels in the file; their average is the waveform.
    """

    waveform: np.ndarray
    digest: np.ndarray
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.waveform) / SAMPLE_RATE


def read_bytes(audio: str) -> bytes:
    """The bytes of a sound file, or of a stored member of a zip archive."""
    if "\0" in audio:
        raise AudioError(
            f"{audio!r}: found a NUL character, which no file name can hold; correct the "
            "manifest's 'audio' path"
        )
    member = _ZIP_MEMBER.fullmatch(audio)
    path = Path(member["archive"] if member else audio)
    try:
        if not member:
            data = path.read_bytes()
        else:
            with path.open("rb") as file:
                file.seek(int(member["offset"]))
                data = file.read(int(member["length"]))
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file; check the manifest's 'audio' paths") from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise AudioError(f"{audio}: the file is empty (0 bytes); copy it again from its source")
    return data


def audio_digest(data: bytes, segment: tuple[float, float] | None) -> np.ndarray:
    """(32,) uint8 SHA-256 of the file's bytes, followed by the segment's text if there is one."""
    sha = hashlib.sha256(data)
    if segment:
        sha.update(f"segment:{segment[0]!r}:{segment[1]!r}".encode())
    return np.frombuffer(sha.digest(), np.uint8)


def load_clip(
    utterance: Utterance,
    data: bytes | None = None,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
) -> Clip:
    """Decode the clip of an utterance.

    Args:
        data: bytes of its file, if the caller has read them already.

    Raises:
        AudioError: the file is missing, empty, truncated or not audio, has samples that are not
            finite, or lasts less than `min_seconds` or more than `max_seconds`.
    """
    data = read_bytes(utterance.audio) if data is None else data
    samples, rate = _decode(data, utterance.audio)  # (S, channels)
    if utterance.segment:
        samples = _cut(samples, rate, utterance)
    waveform = make_waveform(samples, rate, utterance.audio, min_seconds, max_seconds)
    return Clip(waveform, audio_digest(data, utterance.segment), rate, samples.shape[1])


def make_waveform(
    samples: np.ndarray,
    rate: int,
    name: str,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
) -> np.ndarray:
    """Average channels and resample to 16 kHz: (S, channels) float32 at `rate` Hz -> (S',) float32.

    Raises:
        AudioError: samples are not finite, or last less than `min_seconds` or more than
            `max_seconds`; the message begins with `name`.
    """
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise AudioError(
            f"{name}: {bad} samples are NaN or infinite; expected finite numbers: export the file "
            "again"
        )
    seconds = len(samples) / rate
    if seconds < min_seconds:
        raise AudioError(f"{name}: too short, {seconds:.2f} s < {min_seconds:g} s")
    if seconds > max_seconds:
        raise AudioError(
            f"{name}: too long, {seconds:.2f} s > {max_seconds:g} s; cut it into segments"
        )
    mono: np.ndarray = samples.mean(axis=1, dtype=np.float32)  # (S, channels) -> (S,)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return mono


def audio_seconds(utterance: Utterance) -> float:
    """Duration of a clip in seconds, from its segment or its file's header, without decoding.

    Raises:
        AudioError: the file is missing or not audio.
    """
    if utterance.segment:
        return utterance.segment[1] - utterance.segment[0]
    try:
        with soundfile.SoundFile(io.BytesIO(read_bytes(utterance.audio))) as file:
            return float(file.frames / file.samplerate)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{utterance.audio}: not a sound file ({error.error_string})") from error


def _decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """All samples (S, channels) float32 and the sampling rate; a truncated file is an error."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            expected, rate, log = file.frames, file.samplerate, file.extra_info
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{name}: cannot be decoded ({error.error_string}); found {len(data)} bytes starting "
            f"{data[:8]!r}, expected whole WAV, FLAC, OGG or MP3 data"
        ) from error
    # For WAV, libsndfile uses the real file size and only logs the size in the header.
    promised = re.search(r"data : (\d+) \(should be \d+\)", log)
    if len(samples) < expected or promised:
        found = f"{len(samples)} of {expected} samples"
        if promised:
            found = f"fewer than the {promised[1]} bytes of sound its header promises"
        raise AudioError(f"{name}: truncated, found {found}; copy it again from its source")
    return samples, rate


def _cut(samples: np.ndarray, rate: int, utterance: Utterance) -> np.ndarray:
    start, end = utterance.segment or (0.0, 0.0)
    if round(end * rate) > len(samples):
        raise AudioError(
            f"{utterance.audio}: segment {start:g}-{end:g} s ends after the file's "
            f"{len(samples) / rate:.2f} s"
        )
    return samples[round(start * rate) : round(end * rate)]
