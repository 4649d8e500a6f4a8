"""Audio loading: accepted formats, and errors for unusable clips."""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rellm_cache.corpus.audio import audio_digest, audio_seconds, load_clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import AudioError

MakeClip = Callable[..., Path]


def clip(path: Path | str, segment: tuple[float, float] | None = None) -> Utterance:
    return Utterance(id="x", audio=str(path), segment=segment)


def cut(path: Path, share: float) -> Path:
    """Keep the first bytes of a file, as an interrupted copy does."""
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    return path


def test_a_16_khz_mono_clip_is_unchanged(make_clip: MakeClip) -> None:
    path = make_clip("a.wav", seconds=1.25)
    loaded = load_clip(clip(path))
    samples, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(loaded.waveform, samples)
    assert loaded.waveform.dtype == np.float32
    assert (loaded.seconds, loaded.rate, loaded.channels) == (1.25, 16_000, 1)
    assert loaded.digest.tobytes() == hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.wav"])
def test_stereo_at_48_khz_is_averaged_and_resampled(make_clip: MakeClip, name: str) -> None:
    mono = load_clip(clip(make_clip("mono.wav", seconds=2.0, hertz=300)))
    loaded = load_clip(clip(make_clip(name, seconds=2.0, hertz=300, rate=48_000, channels=2)))
    assert (loaded.rate, loaded.channels) == (48_000, 2)
    assert len(loaded.waveform) == 32_000
    assert np.corrcoef(loaded.waveform, mono.waveform)[0, 1] > 0.99


def test_eight_channels_are_averaged(make_clip: MakeClip) -> None:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (16_000, 8)).astype(np.float32)
    loaded = load_clip(clip(make_clip("a.wav", samples=samples, subtype="FLOAT")))
    np.testing.assert_allclose(loaded.waveform, samples.mean(axis=1), atol=1e-6)
    assert loaded.channels == 8


def test_a_segment_is_cut_and_has_a_digest_of_its_own(make_clip: MakeClip) -> None:
    path = make_clip("a.wav", seconds=3.0)
    whole, part = load_clip(clip(path)), load_clip(clip(path, (0.5, 2.0)))
    np.testing.assert_array_equal(part.waveform, whole.waveform[8_000:32_000])
    assert part.digest.tobytes() != whole.digest.tobytes()
    assert part.digest.tobytes() == audio_digest(path.read_bytes(), (0.5, 2.0)).tobytes()
    with pytest.raises(AudioError, match=r"segment 2-4 s ends after the file's 3.00 s"):
        load_clip(clip(path, (2.0, 4.0)))


def test_a_stored_member_of_a_zip_archive_is_read(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("a.wav")
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.writestr("readme.txt", "first")
        archive.write(path, "a.wav")
    data = path.read_bytes()
    offset = (tmp_path / "clips.zip").read_bytes().index(data)
    loaded = load_clip(clip(f"{tmp_path / 'clips.zip'}:{offset}:{len(data)}"))
    np.testing.assert_array_equal(loaded.waveform, load_clip(clip(path)).waveform)
    with pytest.raises(AudioError, match=r"clips.zip:\d+:\d+: truncated"):
        load_clip(clip(f"{tmp_path / 'clips.zip'}:{offset}:{len(data) // 2}"))
    with pytest.raises(AudioError, match=r"gone.zip: no such file"):
        load_clip(clip(f"{tmp_path / 'gone.zip'}:0:10"))


@pytest.mark.parametrize("share", [0.003, 0.05, 0.4, 0.7, 0.999])
def test_a_truncated_flac_is_refused(make_clip: MakeClip, share: float) -> None:
    path = cut(make_clip("a.flac", seconds=2.5), share)
    with pytest.raises(AudioError, match=r"a.flac: (cannot be decoded|truncated)"):
        load_clip(clip(path))


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.9999])
def test_a_truncated_wav_is_refused(make_clip: MakeClip, share: float, subtype: str) -> None:
    path = cut(make_clip("a.wav", seconds=2.5, subtype=subtype), share)
    with pytest.raises(AudioError, match=r"a.wav: truncated, found fewer than the \d+ bytes"):
        load_clip(clip(path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"a.wav: the file is empty \(0 bytes\); copy it again"),
        (b"<html>404 Not Found</html>" * 9, r"a.wav: cannot be decoded .* starting b'<html>40'"),
        (b"RIFF\x00\x00", r"a.wav: cannot be decoded"),
    ],
    ids=["empty", "not audio", "six bytes"],
)
def test_files_that_are_not_audio_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(AudioError, match=message):
        load_clip(clip(tmp_path / "a.wav"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone.wav: no such file; check the manifest's 'audio'"):
        load_clip(clip(tmp_path / "gone.wav"))
    with pytest.raises(AudioError, match="cannot be read: Is a directory"):
        load_clip(clip(tmp_path))


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (0.0, "a.wav: too short, 0.00 s < 1 s"),
        (0.2, "a.wav: too short, 0.20 s < 1 s"),
        (40.0, "a.wav: too long, 40.00 s > 30 s; cut it into segments"),
    ],
)
def test_a_clip_of_the_wrong_length_is_refused(
    make_clip: MakeClip, seconds: float, message: str
) -> None:
    with pytest.raises(AudioError, match=message):
        load_clip(clip(make_clip("a.wav", seconds=seconds)))


def test_the_duration_is_read_without_decoding(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("a.flac", seconds=2.5, rate=48_000)
    assert audio_seconds(clip(path)) == 2.5
    assert audio_seconds(clip("gone.wav", (0.5, 2.0))) == 1.5
    (tmp_path / "b.wav").write_text("no sound")
    with pytest.raises(AudioError, match=r"b.wav: not a sound file"):
        audio_seconds(clip(tmp_path / "b.wav"))


def test_samples_that_are_not_finite_are_refused(make_clip: MakeClip) -> None:
    samples = np.zeros(16_000, np.float32)
    samples[5:8] = np.nan, np.inf, -np.inf
    path = make_clip("a.wav", samples=samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a.wav: 3 samples are NaN or infinite"):
        load_clip(clip(path))


def test_a_real_clip_is_read(ravdess: Path) -> None:
    loaded = load_clip(clip(ravdess / "Actor_01/03-01-01-01-01-01-01.flac"))
    assert (loaded.rate, loaded.channels) == (16_000, 1)
    assert 3 < loaded.seconds < 4
