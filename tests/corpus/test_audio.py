"""Audio loading: accepted formats, and errors for unusable clips."""

import contextlib
import hashlib
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from rellm_cache.corpus.audio import clip_seconds, load_clip
from rellm_cache.corpus.audio_source import audio_digest
from rellm_cache.corpus.clip_limits import ClipLimits, UnsuitableAudioError
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


def forget_length(flac: Path) -> None:
    """Set the number of samples to 0, as a program does that writes to a pipe."""
    data = bytearray(flac.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    flac.write_bytes(data)


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
    source = hashlib.sha256(path.read_bytes() + b"segment:0.5:2.0").digest()
    assert part.digest.tobytes() == source == audio_digest(clip(path, (0.5, 2.0))).tobytes()
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
        (b"no sound in here" * 9, r"a.wav: cannot be decoded .* starting b'no sound'"),
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
    assert clip_seconds(clip(path)) == 2.5
    assert clip_seconds(clip("gone.wav", (0.5, 2.0))) == 1.5
    (tmp_path / "b.wav").write_text("no sound")
    with pytest.raises(AudioError, match=r"b.wav: cannot be decoded"):
        clip_seconds(clip(tmp_path / "b.wav"))


def test_samples_that_are_not_finite_are_refused(make_clip: MakeClip) -> None:
    samples = np.zeros(16_000, np.float32)
    samples[5:8] = np.nan, np.inf, -np.inf
    path = make_clip("a.wav", samples=samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a.wav: 3 samples are NaN or infinite"):
        load_clip(clip(path))


@pytest.mark.parametrize(
    ("name", "channels"),
    [("a.mp3", 1), ("a.mp3", 2), *((f"a.{f}", 6) for f in ("wav", "flac", "ogg", "aiff", "au"))],
)
def test_blocks_and_segments_have_the_samples_of_one_read(
    make_clip: MakeClip, name: str, channels: int
) -> None:
    """The samples that every existing cache was made from."""
    random = np.random.default_rng(1)
    noise = random.uniform(-0.5, 0.5, (20 * 16_000, channels)).astype(np.float32)
    path = make_clip(name, samples=noise)
    with soundfile.SoundFile(path) as file:
        samples = file.read(dtype="float32", always_2d=True)
    mono = samples.mean(axis=1, dtype=np.float32)
    np.testing.assert_array_equal(load_clip(clip(path)).waveform, mono)
    cut = load_clip(clip(path, (11.1, 18.7))).waveform
    np.testing.assert_array_equal(cut, mono[177_600:299_200])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["silence", "constant", "one step of 16 bits"])
def test_a_clip_without_a_signal_is_left_out_unless_asked_for(
    make_clip: MakeClip, name: str, channels: int
) -> None:
    samples = np.zeros((16_000, channels), np.float32)
    samples[::2] = {"silence": 0, "constant": 0.25, "one step of 16 bits": 2**-15}[name]
    samples[1::2] = {"silence": 0, "constant": 0.25, "one step of 16 bits": 0}[name]
    path = make_clip("a.wav", samples=samples)
    with pytest.raises(UnsuitableAudioError, match=r"a.wav: no signal, all 16000 .*-silent"):
        load_clip(clip(path))
    assert load_clip(clip(path), ClipLimits(keep_silent=True)).seconds == 1


@pytest.mark.parametrize("gains", [(1, -1), (1, -0.95), (1, -1, 1, -1), (0.5, 0.5, -1)])
def test_channels_that_cancel_are_named(make_clip: MakeClip, gains: tuple[float, ...]) -> None:
    tone = np.sin(np.arange(16_000) / 9).astype(np.float32)
    path = make_clip("a.wav", samples=0.5 * np.outer(tone, gains).astype(np.float32))
    with pytest.raises(UnsuitableAudioError, match=rf"its {len(gains)} channels cancel each other"):
        load_clip(clip(path))
    assert load_clip(clip(path), ClipLimits(keep_silent=True)).channels == len(gains)


@pytest.mark.parametrize("gains", [(1, 1), (1, 0), (1, -0.5), (0, 0, 0, 0.3)])
def test_channels_that_differ_are_averaged(make_clip: MakeClip, gains: tuple[float, ...]) -> None:
    tone = 0.5 * np.sin(np.arange(16_000) / 9)
    path = make_clip("a.wav", samples=np.outer(tone, gains).astype(np.float32), subtype="FLOAT")
    expected = tone * np.mean(gains)
    np.testing.assert_allclose(load_clip(clip(path)).waveform, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [1, 2_000, 3_999, 384_001, 2_000_000_000])
def test_an_unlikely_rate_is_refused_by_name(make_clip: MakeClip, rate: int) -> None:
    """A small file that claims 1 Hz would be resampled to gigabytes."""
    path = make_clip("a.wav", seconds=10.0)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 24, rate)
    path.write_bytes(data)
    for read in (load_clip, clip_seconds):
        with pytest.raises(AudioError, match=rf"sampling rate of {rate} Hz, expected 4000 to 384"):
            read(clip(path))


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 96_000])
def test_the_length_is_measured_after_resampling(make_clip: MakeClip, rate: int) -> None:
    """Less than half a sample at 16 kHz is no length; more is, and the message shows it."""
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, 30 * rate + rate // 8_000 + 1)
    fits = make_clip("fits.wav", samples=samples[: 30 * rate + rate // 32_001], rate=rate)
    longer = make_clip("longer.wav", samples=samples, rate=rate)
    assert len(load_clip(clip(fits)).waveform) == 480_000
    assert clip_seconds(clip(fits)) == pytest.approx(30)
    for read in (load_clip, clip_seconds):
        with pytest.raises(UnsuitableAudioError, match=r"too long, 30\.000\d+ s > 30 s"):
            read(clip(longer))


@pytest.mark.parametrize("known", [True, False], ids=["length known", "length unknown"])
def test_a_long_file_is_left_out_without_decoding_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    path = tmp_path / "hour.flac"
    with soundfile.SoundFile(path, "w", 44_100, 1) as file:
        for _ in range(60):
            file.write(np.zeros(2_646_000, np.int16))
    if not known:
        forget_length(path)
    read: list[int] = []
    original = soundfile.SoundFile.read

    def count(file: soundfile.SoundFile, *args: Any, **options: Any) -> np.ndarray:
        block: np.ndarray = original(file, *args, **options)
        read.append(block.size)
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", count)
    with pytest.raises(UnsuitableAudioError, match=r"too long, (3600.00 s|more than 30 s)"):
        load_clip(clip(path))
    assert sum(read) <= (0 if known else 31 * 44_100)
    assert max(read, default=0) <= 1 << 18


def test_a_flac_without_a_length_is_read_to_its_end(make_clip: MakeClip) -> None:
    path = make_clip("a.flac", seconds=12.5, rate=44_100)
    whole = load_clip(clip(path))
    forget_length(path)
    streamed = load_clip(clip(path))
    np.testing.assert_array_equal(streamed.waveform, whole.waveform)
    assert clip_seconds(clip(path)) == 12.5
    part = load_clip(clip(path, (10.0, 12.0))).waveform
    assert len(part) == 32_000
    with pytest.raises(AudioError, match=r"cannot be decoded|truncated"):
        load_clip(clip(cut(path, 0.7)))


@pytest.mark.parametrize(
    "subtype", ["GSM610", "G721_32", "NMS_ADPCM_16", "IMA_ADPCM", "MS_ADPCM", "ULAW", "PCM_U8"]
)
def test_codings_of_wav_are_read_and_cut_files_refused(make_clip: MakeClip, subtype: str) -> None:
    """libsndfile cannot seek in some of them."""
    path = make_clip("a.wav", seconds=2.0, rate=8_000, subtype=subtype)
    assert load_clip(clip(path)).seconds == pytest.approx(2, abs=0.15)
    assert load_clip(clip(path, (0.4, 1.9))).seconds == 1.5
    with pytest.raises(AudioError, match=r"a.wav: truncated"):
        load_clip(clip(cut(path, 0.5)))


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.wav"])
@pytest.mark.parametrize("seed", range(12))
def test_damaged_bytes_give_sound_or_an_audio_error(
    make_clip: MakeClip, name: str, seed: int
) -> None:
    """Whatever error a decoder raises is the reason of that clip."""
    path = make_clip(name, seconds=1.5)
    random = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    places = random.integers(0, 200 if seed % 2 else len(data), 20)
    for place in places:
        data[min(place, len(data) - 1)] = random.integers(256)
    path.write_bytes(data)
    with contextlib.suppress(AudioError):
        assert np.isfinite(load_clip(clip(path)).waveform).all()
    with contextlib.suppress(AudioError):
        clip_seconds(clip(path))


def test_a_real_clip_is_read(ravdess: Path) -> None:
    loaded = load_clip(clip(ravdess / "Actor_01/03-01-01-01-01-01-01.flac"))
    assert (loaded.rate, loaded.channels) == (16_000, 1)
    assert 3 < loaded.seconds < 4
