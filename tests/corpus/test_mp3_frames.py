"""MP3 frames: all sound is read, whatever length the header gives."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rellm_cache.corpus.audio import clip_seconds, load_clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.mp3_frames import read_mp3
from rellm_cache.errors import AudioError

SECONDS = 3.5
TOO_FEW = ("the MP3 header gives too few frames; all frames were read",)
FORMS = [(44_100, 1), (48_000, 2), (16_000, 1), (22_050, 2), (8_000, 1)]


def clip(path: Path) -> Utterance:
    return Utterance(id="x", audio=str(path))


def encode(rate: int = 44_100, channels: int = 1, seconds: float = SECONDS) -> bytes:
    """A variable bit rate, which grows, behind a Xing header."""
    times = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(1).normal(size=(len(times), channels))
    tone = 0.3 * np.sin(2 * np.pi * 220 * times)[:, None] + 0.05 * noise * (times > 1)[:, None]
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, rate, format="MP3", bitrate_mode="VARIABLE")
    return buffer.getvalue()


def constant(rate: int = 44_100, channels: int = 1) -> bytes:
    """A constant bit rate, without a Xing header."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, (round(SECONDS * rate), channels))
    soundfile.write(buffer, noise, rate, format="MP3", bitrate_mode="CONSTANT")
    return buffer.getvalue()


def without_xing(data: bytes) -> bytes:
    mp3 = read_mp3(io.BytesIO(data), "x")
    assert mp3 is not None
    assert mp3.promised is not None
    return data[mp3.start + mp3.first.size :]


def with_count(data: bytes, frames: int) -> bytes:
    place = max(data.find(b"Xing"), data.find(b"Info"))
    return data[: place + 8] + struct.pack(">I", frames) + data[place + 12 :]


@pytest.mark.parametrize(("rate", "channels"), FORMS)
def test_frames_are_counted(rate: int, channels: int) -> None:
    mp3 = read_mp3(io.BytesIO(encode(rate, channels)), "x")
    assert mp3 is not None
    assert (mp3.promised, mp3.cut, mp3.truncated) == (mp3.frames, False, False)
    assert 0 <= mp3.samples - SECONDS * rate <= 4 * mp3.first.samples


@pytest.mark.parametrize(("rate", "channels"), FORMS)
@pytest.mark.parametrize("before", [b"", b"ID3\x03\0\0\0\0\x02\x01" + bytes(257)], ids=["", "ID3"])
def test_an_mp3_without_a_header_is_whole(
    tmp_path: Path, rate: int, channels: int, before: bytes
) -> None:
    """libsndfile estimates the length from the first bit rate: here less than half."""
    path = tmp_path / "a.mp3"
    for data in (without_xing(encode(rate, channels)), constant(rate, channels)):
        path.write_bytes(before + data)
        loaded = load_clip(clip(path))
        added = 4 * 1152 / rate  # by the encoder, at both ends
        assert SECONDS - 0.001 <= loaded.seconds <= SECONDS + added
        assert clip_seconds(clip(path)) == pytest.approx(loaded.seconds, abs=1152 / rate)
        tail = loaded.waveform[round((SECONDS - 0.5) * 16_000) : round(SECONDS * 16_000)]
        assert np.square(tail).mean() > 1e-3  # the sound goes on to the end


def test_a_count_that_is_too_small_is_corrected(tmp_path: Path) -> None:
    whole = encode()
    path = tmp_path / "a.mp3"
    path.write_bytes(whole)
    expected = load_clip(clip(path))
    assert (expected.seconds, expected.notes) == (SECONDS, ())
    for count in (0, 1, 60, 133):
        path.write_bytes(with_count(whole, count))
        loaded = load_clip(clip(path))
        np.testing.assert_array_equal(loaded.waveform, expected.waveform)
        assert loaded.notes == TOO_FEW


def test_joined_files_are_read_to_their_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    tags = b"TAG" + bytes(125)
    for first, second in [
        (encode(), encode()),
        (encode() + tags, b"ID3\x03\0\0\0\0\0\x05" + bytes(5) + encode()),
        (without_xing(encode()), without_xing(encode())),
        (encode(), without_xing(encode())),
    ]:
        path.write_bytes(first + second)
        loaded = load_clip(clip(path))
        assert 2 * SECONDS <= loaded.seconds <= 2 * SECONDS + 0.15
        assert loaded.notes == TOO_FEW


@pytest.mark.parametrize("second", [(16_000, 1), (44_100, 2)])
def test_joined_files_of_two_kinds_are_refused(tmp_path: Path, second: tuple[int, int]) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(encode() + encode(*second))
    with pytest.raises(AudioError, match=r"two MP3 recordings .* 44100 Hz mono, the next"):
        load_clip(clip(path))


@pytest.mark.parametrize("lost", [1, 200, 5_000, 20_000])
def test_a_cut_file_is_refused_if_its_header_promises_more(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(encode()[:-lost])
    with pytest.raises(AudioError, match=r"a.mp3: truncated, found \d+ of \d+ MP3 frames"):
        load_clip(clip(path))
    path.write_bytes(without_xing(encode())[:-lost])
    notes = load_clip(clip(path)).notes
    assert "the MP3 ends within a frame; the whole ones were read" in notes


@pytest.mark.parametrize(
    "after", [bytes(5_000), b"TAG" + bytes(125), b"LYRICSBEGIN" + b"la " * 999]
)
def test_other_bytes_after_the_frames_do_no_harm(tmp_path: Path, after: bytes) -> None:
    path = tmp_path / "a.mp3"
    for data in (encode(), constant()):
        path.write_bytes(data)
        plain = load_clip(clip(path)).waveform
        path.write_bytes(data + after)
        np.testing.assert_array_equal(load_clip(clip(path)).waveform, plain)


def test_an_encoder_that_counts_its_header_frame_is_believed(tmp_path: Path) -> None:
    whole = encode()
    mp3 = read_mp3(io.BytesIO(whole), "x")
    assert mp3 is not None
    path = tmp_path / "a.mp3"
    path.write_bytes(with_count(whole, mp3.frames + 1))
    assert load_clip(clip(path)).seconds == pytest.approx(SECONDS, abs=0.06)
    path.write_bytes(with_count(whole, mp3.frames + 2))
    with pytest.raises(AudioError, match="truncated"):
        load_clip(clip(path))


def test_mp3_in_wav_is_read(tmp_path: Path) -> None:
    """The form that ffmpeg writes; its length is an estimate."""
    data = without_xing(encode(16_000))
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16_000, 4_000, 1, 0, 12, 1, 2, 144, 1, 0)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data"
    chunks += struct.pack("<I", len(data)) + data
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    assert load_clip(clip(tmp_path / "a.wav")).seconds == pytest.approx(SECONDS, abs=0.15)
