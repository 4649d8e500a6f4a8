"""Prosody encoder: measures of synthetic tones with known values."""

import os
import warnings

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders import prosody
from rellm_cache.encoders.base import whisper_frame_count
from rellm_cache.encoders.prosody import DIMENSION_NAMES, ProsodyEncoder, prosody_frames
from rellm_cache.errors import AudioError

RATE = prosody.SAMPLE_RATE


def tone(hertz: float, seconds: float = 1.0, amplitude: float = 0.3) -> np.ndarray:
    """A voice-like tone of five harmonics, (S,) float32."""
    time = np.arange(int(RATE * seconds)) / RATE
    harmonics = [np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 6)]
    return np.asarray(amplitude * np.sum(harmonics, axis=0) / 2, dtype=np.float32)


def noise(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0, 0.1, int(RATE * seconds))
    return samples.astype(np.float32)


def measured(frames: np.ndarray, name: str) -> np.ndarray:
    """One dimension in its own unit, ends left out: (L,) -> (L - 10,)."""
    index = DIMENSION_NAMES.index(name)
    _, center, scale = prosody.DIMENSIONS[index]
    return (frames[:, index] * scale + center)[5:-5]


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 319, 320, 321, 1023, 5120, 15_999, 16_001])
def test_frame_count_equals_whispers(samples: int) -> None:
    frames = prosody_frames(noise(2)[:samples])
    assert frames.shape == (whisper_frame_count(samples), len(DIMENSION_NAMES))
    assert frames.dtype == np.float32


def test_every_dimension_is_named_once_and_documented() -> None:
    assert len(set(DIMENSION_NAMES)) == len(DIMENSION_NAMES) == ProsodyEncoder.frame_size == 65
    table = prosody.__doc__ or ""
    for index, name in enumerate(DIMENSION_NAMES[:14]):
        assert any(row.split()[:2] == [str(index), name] for row in table.splitlines() if row)
    assert [DIMENSION_NAMES.index(n) for n in ("mfcc1", "mfcc13", "contrast0", "contrast6")] == [
        14,
        26,
        27,
        33,
    ]
    assert DIMENSION_NAMES[34] == "delta_energy"
    assert DIMENSION_NAMES[64] == "delta_contrast6"
    for row in ("14-26", "27-33", "34-64"):
        assert row in table


@pytest.mark.parametrize("hertz", [80.0, 130.0, 220.0, 440.0, 800.0])
def test_the_pitch_of_a_tone(hertz: float) -> None:
    frames = prosody_frames(tone(hertz))
    semitones = measured(frames, "pitch")
    np.testing.assert_allclose(semitones, 12 * np.log2(hertz / 100), atol=0.2)
    np.testing.assert_allclose(measured(frames, "pitch_rel"), 0, atol=0.2)
    assert (measured(frames, "voiced") == 1).all()
    assert measured(frames, "voicing").min() > 0.95


def test_relative_pitch_depends_on_melody_not_on_speaker() -> None:
    low = prosody_frames(np.concatenate([tone(100), tone(150), tone(100)]))
    high = prosody_frames(np.concatenate([tone(200), tone(300), tone(200)]))
    middle = slice(60, 80)  # inside the second tone
    fifth = 12 * np.log2(1.5)
    for frames in (low, high):
        np.testing.assert_allclose(measured(frames, "pitch_rel")[middle], fifth, atol=0.3)
    np.testing.assert_allclose(
        measured(high, "pitch")[middle] - measured(low, "pitch")[middle], 12, atol=0.3
    )


def test_pitch_is_interpolated_in_unvoiced_frames() -> None:
    frames = prosody_frames(np.concatenate([tone(100), noise(0.5), tone(200)]))
    pitch, voiced = measured(frames, "pitch"), measured(frames, "voiced")
    gap = slice(53, 62)  # inside the noise
    assert (voiced[gap] == 0).mean() > 0.8
    assert (np.diff(pitch[gap]) >= 0).all()
    assert -0.5 < pitch.min() < pitch.max() < 12.5


def test_noise_is_unvoiced_and_flat() -> None:
    hiss, voice = prosody_frames(noise()), prosody_frames(tone(150))
    assert measured(hiss, "voicing").mean() < 0.5
    assert measured(hiss, "flatness").mean() > measured(voice, "flatness").mean() + 1
    assert measured(hiss, "centroid").mean() > measured(voice, "centroid").mean() + 1
    assert measured(hiss, "alpha_ratio").mean() > measured(voice, "alpha_ratio").mean() + 6


def test_ten_times_the_amplitude_is_twenty_decibels() -> None:
    soft, loud = (prosody_frames(tone(150, amplitude=a)) for a in (0.03, 0.3))
    np.testing.assert_allclose(measured(loud, "energy") - measured(soft, "energy"), 20, atol=0.1)
    np.testing.assert_allclose(measured(loud, "energy_rel"), measured(soft, "energy_rel"), atol=0.1)


def test_a_steady_tone_has_no_slope_and_a_rising_one_has() -> None:
    slope = DIMENSION_NAMES.index("delta_energy")
    steady = tone(150)
    rising = steady * np.geomspace(0.01, 1, steady.size, dtype=np.float32)
    assert abs(prosody_frames(steady)[5:-5, slope]).max() < 0.05
    assert prosody_frames(rising)[5:-5, slope].min() > 0.05


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(RATE, np.float32),
        np.zeros(1, np.float32),
        np.sign(tone(150)) * np.float32(1),
        1000 * tone(150),
        np.eye(1, RATE, RATE // 2, dtype=np.float32)[0],
        np.ones(RATE, np.float32),
        np.concatenate([tone(150), np.zeros(RATE, np.float32)]),
    ],
    ids=["silence", "one sample", "square", "far too loud", "click", "constant", "then silence"],
)
def test_unusual_sounds_give_finite_small_frames_without_warnings(waveform: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = prosody_frames(waveform)
    assert np.isfinite(frames).all()
    assert abs(frames).max() <= prosody.LIMIT


def test_silence_is_constant_and_unvoiced() -> None:
    frames = prosody_frames(np.zeros(RATE, np.float32))
    np.testing.assert_allclose(frames, np.broadcast_to(frames[0], frames.shape), atol=1e-6)
    assert (measured(frames, "voiced") == 0).all()


def test_frames_do_not_depend_on_batch_or_run() -> None:
    spec = EncoderSpec(kind="prosody")
    waveforms = [tone(120, 1.3), noise(0.4), tone(300, 0.7)]
    encoder = ProsodyEncoder(spec, None, torch.device("cpu"))
    together = encoder.encode(waveforms)
    assert encoder.spec is spec
    for waveform, encoding in zip(waveforms, together, strict=True):
        assert encoding.vad is None
        np.testing.assert_array_equal(encoding.frames, prosody_frames(waveform))
        np.testing.assert_array_equal(encoding.frames, encoder.encode([waveform])[0].frames)


def test_frames_do_not_depend_on_blas_threads() -> None:
    random = np.random.default_rng(1)
    waveform = random.normal(0, 0.1, 6 * 16_000).astype(np.float32)
    with threadpool_limits(1, "blas"):
        one = prosody_frames(waveform)
    with threadpool_limits(max(2, len(os.sched_getaffinity(0))), "blas"):
        more = prosody_frames(waveform)
    np.testing.assert_array_equal(one, more)


def test_the_waveform_is_not_modified() -> None:
    waveform = tone(150)
    before = waveform.copy()
    prosody_frames(waveform)
    np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("shape", [(0,), (2, 16_000)])
def test_several_channels_and_empty_waveforms_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioError, match="expected \\(S,\\) with S >= 1"):
        prosody_frames(np.zeros(shape, np.float32))


def test_samples_that_are_not_finite_are_refused() -> None:
    waveform = tone(150)
    waveform[7] = np.nan
    with pytest.raises(AudioError, match="1 of 16000 samples are not finite"):
        prosody_frames(waveform)
