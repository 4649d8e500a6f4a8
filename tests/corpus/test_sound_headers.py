"""Headers of sound files: lengths that are missing or wrong, joined and cut files."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.sound_headers import NO_LENGTH
from rellm_cache.errors import AudioError

MakeClip = Callable[..., Path]
STREAMED = [0, 0x7FFF_0000, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF]
FORMATS = ["WAV", "WAVEX", "RF64", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "NIST"]
LIST = b"LIST\x04\0\0\0INFO"  # a chunk of tags


def clip(path: Path) -> Utterance:
    return Utterance(id="x", audio=str(path))


def with_data_length(path: Path, length: int) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"data") + 4, length)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("length", STREAMED)
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "ULAW"])
def test_a_streamed_wav_is_read_to_its_end(make_clip: MakeClip, length: int, subtype: str) -> None:
    path = make_clip("a.wav", channels=2, subtype=subtype)
    whole = load_clip(clip(path))
    streamed = load_clip(clip(with_data_length(path, length)))
    np.testing.assert_array_equal(streamed.waveform, whole.waveform)
    assert (whole.notes, streamed.notes) == ((), (NO_LENGTH,))


def test_a_streamed_rf64_is_read_to_its_end(tmp_path: Path, make_clip: MakeClip) -> None:
    whole = load_clip(clip(make_clip("a.wav")))
    samples, rate = soundfile.read(make_clip("a.wav"))
    path = tmp_path / "b.wav"
    soundfile.write(path, samples, rate, format="RF64")
    data = bytearray(path.read_bytes())
    at = data.index(b"ds64")
    data[at + 8 : at + 32] = bytes(24)
    path.write_bytes(data)
    streamed = load_clip(clip(path))
    np.testing.assert_array_equal(streamed.waveform, whole.waveform)
    assert streamed.notes == (NO_LENGTH,)


@pytest.mark.parametrize(
    "tags", [b"", b"LIST\x04\0\0\0INFO", b"LIST\x04\0\0\0INFOid3 \x01\0\0\0x\0"]
)
def test_a_wav_without_sound_is_too_short(make_clip: MakeClip, tags: bytes) -> None:
    path = make_clip("a.wav", seconds=0.0)
    path.write_bytes(path.read_bytes() + tags)
    with pytest.raises(AudioError, match=r"a.wav: too short, 0.00 s < 1 s"):
        load_clip(clip(path))


@pytest.mark.parametrize(
    "tags", [b"LIST\x04\0\0\0INFO", b"id3 \x03\0\0\0abc\0", b"id3 \x03\0\0\0abc"]
)
def test_tags_after_the_sound_are_no_reason_for_a_note(make_clip: MakeClip, tags: bytes) -> None:
    path = make_clip("a.wav")
    path.write_bytes(path.read_bytes() + tags)
    assert load_clip(clip(path)).notes == ()


@pytest.mark.parametrize("claimed", [40_000, 32_000])
def test_sound_after_the_promised_length_is_noted(make_clip: MakeClip, claimed: int) -> None:
    loaded = load_clip(clip(with_data_length(make_clip("a.wav"), claimed)))
    assert len(loaded.waveform) == claimed // 2
    assert loaded.notes == ("bytes after the sound that its header promises were left out",)


@pytest.mark.parametrize("share", [0.2, 0.7, 0.999])
@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.caf", "a.w64", "a.ogg", "a.sph"])
def test_a_cut_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    """Also formats whose reader ends without a word at the last whole sample."""
    path = tmp_path / name
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, 40_000)
    soundfile.write(path, samples, 16_000, format="NIST" if name == "a.sph" else None)
    assert load_clip(clip(path)).seconds == 2.5
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    with pytest.raises(AudioError, match=f"{name}: (truncated|cannot be decoded|too short)"):
        load_clip(clip(path))


@pytest.mark.parametrize(
    "format", ["WAV", "WAVEX", "RF64", "FLAC", "OGG", "AIFF", "AU", "CAF", "W64", "NIST"]
)
def test_joined_recordings_are_refused(tmp_path: Path, format: str) -> None:
    """libsndfile would give the first alone, or the header of the second as noise."""
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 20_000))
    first, second = io.BytesIO(), io.BytesIO()
    soundfile.write(first, samples[0], 16_000, format=format)
    soundfile.write(second, samples[1], 16_000, format=format)
    path = tmp_path / "a.bin"
    path.write_bytes(first.getvalue())
    assert load_clip(clip(path)).seconds == 1.25
    path.write_bytes(first.getvalue() + second.getvalue())
    size = len(first.getvalue())
    with pytest.raises(AudioError, match=f"two recordings in one file, the second at byte {size}"):
        load_clip(clip(path))


def test_an_ogg_without_an_end_mark_is_noted(make_clip: MakeClip) -> None:
    path = make_clip("a.ogg", seconds=3.0)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"OggS")])  # a copy that ends between two pages
    loaded = load_clip(clip(path))
    assert 1 < loaded.seconds < 3
    assert loaded.notes == ("the Ogg stream has no end mark; read as it is",)
