"""Prosody encoder: pitch, energy, voicing and spectrum by signal processing, without a model.

A 16 kHz mono waveform (S,) gives frames (L, 65) at 50 Hz (hop 320 samples) with L = ceil(S / 320).
Whisper gives the same number of frames. In both, frame i is centered on sample 320 i.

Every dimension is ``(measure - center) / scale`` with the constants in ``DIMENSIONS``: rounded
means and standard deviations of speech, fixed so that frames do not depend on a corpus.

====== ============== ============================================================= ==============
index  name           measure                                                       before scaling
====== ============== ============================================================= ==============
0      energy         root mean square level of 32 ms                               dB full scale
1      energy_rel     the same, relative to the clip's 95th percentile              dB
2      pitch          F0, interpolated through unvoiced frames                      st. over 100 Hz
3      pitch_rel      the same, relative to the clip's median: speaker independent  semitones
4      voicing        autocorrelation of the frame at its pitch period              0 to 1
5      hnr            harmonics-to-noise ratio derived from voicing                 dB
6      voiced         pitch was measured here (1), not interpolated (0)             0 or 1
7      centroid       spectral centroid                                             octaves, 1 Hz
8      bandwidth      spectral bandwidth                                            kHz
9      rolloff        frequency below which 85 % of the magnitude lies              octaves, 1 Hz
10     flatness       spectral flatness: tone-like low, noise-like high             log10
11     alpha_ratio    spectral slope: energy of 1-5 kHz over 50-1000 Hz             dB
12     hammarberg     spectral slope: peak below 2 kHz over peak of 2-5 kHz         dB
13     flux           rise of the mel spectrum since the last frame                 log10 dB
14-26  mfcc1-mfcc13   mel cepstrum (26 bands) without its level                     dB
27-33  contrast0-6    spectral peak over valley in seven octave bands               dB
34-64  delta_*        slope over five frames of all but energy_rel, pitch_rel       scaled units
                      and voiced
====== ============== ============================================================= ==============

Pitch is YIN with voicing from the autocorrelation, not pYIN. YIN is three times faster. A linear
probe on utterance statistics of 720 RAVDESS clips scored no worse with YIN (docs/log.md).
"""

from collections.abc import Sequence
from typing import NamedTuple

import librosa
import numpy as np
from threadpoolctl import threadpool_limits

from rellm_cache.encoders.base import Encoding, FrameEncoder, whisper_frame_count
from rellm_cache.errors import AudioError

SAMPLE_RATE = 16_000
HOP = 320  # samples: 50 frames a second
WINDOW = 1024  # samples: 64 ms, almost four periods at MIN_PITCH
ENERGY_WINDOW = 512
MIN_PITCH, MAX_PITCH = 60.0, 1000.0  # Hz; a shouted vowel passes 600
VOICED_FROM = 0.75  # minimum voicing of a voiced frame
VOICED_RANGE_DB = 40.0  # a voiced frame is at most this much softer than the loudest frame
PITCH_SMOOTHING = 5  # frames of the median filter that removes octave jumps
SILENCE_POWER = 1e-9  # -90 dB full scale: white noise, added so that no clip has digital silence
MEL_BANDS = 26
MFCCS = 13
LIMIT = 8.0  # maximum |x| after scaling; only unusual sounds reach it
DELTA_WIDTH = 5  # frames
DELTA_SCALE = 0.25  # scaled units per frame: about the standard deviation of a slope


class Dimension(NamedTuple):
    """One measure; frames contain ``(measure - center) / scale``."""

    name: str
    center: float
    scale: float


DIMENSIONS = (
    Dimension("energy", -48.0, 22.0),
    Dimension("energy_rel", -25.0, 22.0),
    Dimension("pitch", 14.0, 8.0),
    Dimension("pitch_rel", 0.0, 6.0),
    Dimension("voicing", 0.55, 0.35),
    Dimension("hnr", 0.0, 10.0),
    Dimension("voiced", 0.0, 1.0),
    Dimension("centroid", 11.0, 0.8),
    Dimension("bandwidth", 1.9, 0.5),
    Dimension("rolloff", 11.8, 0.9),
    Dimension("flatness", -1.6, 1.1),
    Dimension("alpha_ratio", -6.0, 10.0),
    Dimension("hammarberg", 18.0, 13.0),
    Dimension("flux", 0.0, 0.6),
    Dimension("mfcc1", 30.0, 28.0),
    *(Dimension(f"mfcc{i}", 0.0, 20.0 / i**0.5) for i in range(2, MFCCS + 1)),
    *(Dimension(f"contrast{i}", 12.0, 8.0) for i in range(7)),
)
_WITHOUT_DELTA = ("energy_rel", "pitch_rel", "voiced")
_DELTA_OF = tuple(i for i, d in enumerate(DIMENSIONS) if d.name not in _WITHOUT_DELTA)
DIMENSION_NAMES: tuple[str, ...] = (
    *(d.name for d in DIMENSIONS),
    *(f"delta_{DIMENSIONS[i].name}" for i in _DELTA_OF),
)
_CENTERS = np.array([d.center for d in DIMENSIONS], dtype=np.float32)
_SCALES = np.array([d.scale for d in DIMENSIONS], dtype=np.float32)


class ProsodyEncoder(FrameEncoder):
    """The ``prosody`` encoder: ``prosody_frames`` of each waveform."""

    needs_model = False
    normalisations = ("fixed-scale",)
    frame_size = len(DIMENSION_NAMES)
    licence = "none (no model)"

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        """Encode 16 kHz mono waveforms (S,) float32, each independent of the others."""
        return [Encoding(frames=prosody_frames(waveform)) for waveform in waveforms]


def prosody_frames(waveform: np.ndarray) -> np.ndarray:
    """Measure prosody at 50 Hz; bit-identical for any number of NumPy threads.

    Args:
        waveform: (S,) float32, 16 kHz mono, S >= 1.

    Returns:
        (ceil(S / 320), 65) float32 in the order of ``DIMENSION_NAMES``; finite and within ±8.

    Raises:
        AudioError: the waveform is empty, has several channels, or has values that are not finite.
    """
    if waveform.ndim != 1 or waveform.size == 0:
        raise AudioError(
            f"a waveform of shape {waveform.shape} has no prosody: expected (S,) with S >= 1 "
            "samples of 16 kHz mono; mix the channels down and drop empty clips"
        )
    if not np.isfinite(waveform).all():
        raise AudioError(
            f"{np.count_nonzero(~np.isfinite(waveform))} of {waveform.size} samples are not "
            "finite: expected numbers, about -1 to 1; decode the clip again"
        )
    with threadpool_limits(1, "blas"):  # more threads round differently
        return _measure(waveform)


def _measure(waveform: np.ndarray) -> np.ndarray:
    """(S,) -> (ceil(S / 320), 65)."""
    length = whisper_frame_count(waveform.size)
    # librosa needs at least one window; its centering pads with the same zeros.
    short = max(0, WINDOW - waveform.size)
    signal = np.pad(waveform.astype(np.float32, copy=False), (0, short))
    energy = _energy(signal)[:length]  # (L,)
    measures = np.column_stack(
        [
            energy,
            energy - np.percentile(energy, 95),
            *_pitch(signal, energy),
            *_spectrum(signal, length),
        ]
    )  # (L, 34)
    static = np.clip((measures - _CENTERS) / _SCALES, -LIMIT, LIMIT).astype(np.float32)
    delta = librosa.feature.delta(
        static[:, _DELTA_OF], width=DELTA_WIDTH, axis=0, mode="nearest"
    )  # (L, 31)
    delta = np.clip(delta / DELTA_SCALE, -LIMIT, LIMIT)
    return np.concatenate([static, delta], axis=1, dtype=np.float32)


def _energy(signal: np.ndarray) -> np.ndarray:
    """Level of each frame in dB full scale, (S,) -> (S // 320 + 1,)."""
    rms = librosa.feature.rms(y=signal, frame_length=ENERGY_WINDOW, hop_length=HOP)[0]
    return _decibels(rms**2)


def _pitch(signal: np.ndarray, energy: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pitch, pitch_rel, voicing, hnr and voiced of a clip, each (L,); energy is (L,)."""
    length = energy.size
    f0 = librosa.yin(
        signal,
        fmin=MIN_PITCH,
        fmax=MAX_PITCH,
        sr=SAMPLE_RATE,
        frame_length=WINDOW,
        hop_length=HOP,
    )[:length]
    voicing = _voicing(signal, SAMPLE_RATE / f0)
    voiced = (voicing > VOICED_FROM) & (energy > energy.max() - VOICED_RANGE_DB)
    bounded = np.clip(voicing, 0.01, 0.99)
    hnr = 10.0 * np.log10(bounded / (1.0 - bounded))
    if not voiced.any():
        center = np.full(length, DIMENSIONS[2].center)
        return center, np.zeros(length), voicing, hnr, voiced
    pitch = _median_filter(12.0 * np.log2(f0 / 100.0), PITCH_SMOOTHING)
    frames = np.arange(length)
    pitch = np.interp(frames, frames[voiced], pitch[voiced])
    return pitch, pitch - np.median(pitch[voiced]), voicing, hnr, voiced


def _voicing(signal: np.ndarray, period: np.ndarray) -> np.ndarray:
    """Normalized autocorrelation of each frame at its period (L,) in samples: (L,) in 0..1."""
    padded = np.pad(signal, WINDOW // 2)
    frames = librosa.util.frame(padded, frame_length=WINDOW, hop_length=HOP, axis=0)
    frames = frames[: period.size]  # (L, 1024)
    span = WINDOW - int(SAMPLE_RATE / MIN_PITCH) - 1  # samples left after a shift by any period
    here = frames[:, :span]  # (L, span)
    best = np.zeros(period.size)
    for shift in (np.floor(period), np.ceil(period)):
        columns = shift.astype(np.int64)[:, None] + np.arange(span)
        there = np.take_along_axis(frames, np.minimum(columns, WINDOW - 1), axis=1)
        energy = np.sqrt((here**2).sum(axis=1) * (there**2).sum(axis=1))
        best = np.maximum(best, (here * there).sum(axis=1) / (energy + span * SILENCE_POWER))
    return np.clip(best, 0.0, 1.0)


def _spectrum(signal: np.ndarray, length: int) -> list[np.ndarray]:
    """Dimensions 7 to 33 of a clip in order: 27 arrays (L,)."""
    magnitude = np.abs(librosa.stft(signal, n_fft=WINDOW, hop_length=HOP))[:, :length]  # (513, L)
    magnitude += (SILENCE_POWER * WINDOW * 3 / 8) ** 0.5  # |STFT| of this noise; 3/8 is for Hann
    power = magnitude**2
    frequency = librosa.fft_frequencies(sr=SAMPLE_RATE, n_fft=WINDOW)
    below_1k = power[(frequency >= 50) & (frequency < 1000)]
    from_1k = power[(frequency >= 1000) & (frequency < 5000)]
    below_2k = power[frequency < 2000]
    from_2k = power[(frequency >= 2000) & (frequency < 5000)]
    bands = librosa.feature.melspectrogram(S=power, sr=SAMPLE_RATE, n_mels=MEL_BANDS)
    mel = _decibels(bands)  # (26, L)
    rise = np.maximum(0.0, np.diff(mel, axis=1, prepend=mel[:, :1])).mean(axis=0)
    centroid = librosa.feature.spectral_centroid(S=magnitude, sr=SAMPLE_RATE)[0]
    rolloff = librosa.feature.spectral_rolloff(S=magnitude, sr=SAMPLE_RATE)[0]
    return [
        np.log2(centroid),
        librosa.feature.spectral_bandwidth(S=magnitude, sr=SAMPLE_RATE)[0] / 1000.0,
        np.log2(rolloff),
        np.log10(librosa.feature.spectral_flatness(S=magnitude)[0]),
        _decibels(from_1k.sum(axis=0)) - _decibels(below_1k.sum(axis=0)),
        _decibels(below_2k.max(axis=0)) - _decibels(from_2k.max(axis=0)),
        np.log10(rise + 0.1),
        *librosa.feature.mfcc(S=mel, n_mfcc=MFCCS + 1)[1:],  # coefficient 0 is the level
        *librosa.feature.spectral_contrast(S=magnitude, sr=SAMPLE_RATE),
    ]


def _decibels(power: np.ndarray) -> np.ndarray:
    decibels: np.ndarray = librosa.power_to_db(power, amin=SILENCE_POWER, top_db=None)
    return decibels


def _median_filter(values: np.ndarray, width: int) -> np.ndarray:
    """Median over ``width`` (odd) neighbours, the ends repeated: (L,) -> (L,)."""
    padded = np.pad(values, width // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)  # (L, width)
    return np.asarray(np.median(windows, axis=-1))
