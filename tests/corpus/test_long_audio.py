"""Long recordings: cut in pauses, read in place, and never longer or shorter than the limits."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rellm_cache.cli import main
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.audio import load_clip, read_levels
from rellm_cache.corpus.clip_limits import ClipLimits
from rellm_cache.corpus.long_audio import cut_recording
from rellm_cache.corpus.manifest import Utterance, read_manifests, read_split
from rellm_cache.corpus.prepare import prepare
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.table import read_table
from rellm_cache.errors import AudioError
from rellm_cache.extraction.run import extract
from rellm_cache.store.mapping import Store

PAUSES = (12.0, 24.5, 41.0, 55.0, 78.0)  # seconds at which half a second of silence begins
SECONDS = 90
MakeRecording = Callable[..., Utterance]


@pytest.fixture
def make_recording(tmp_path: Path) -> MakeRecording:
    """`make_recording(rate=8000)` writes 90 s of noise with a rhythm and pauses."""

    def make(
        name: str = "long.wav", rate: int = 16_000, pauses: tuple[float, ...] = PAUSES
    ) -> Utterance:
        random = np.random.default_rng(3)
        times = np.arange(SECONDS * rate) / rate
        samples = random.normal(size=len(times)) * 0.1 * (1 + 0.5 * np.sin(2 * np.pi * 3 * times))
        for start in pauses:
            samples[round(start * rate) : round((start + 0.5) * rate)] *= 0.01
        soundfile.write(tmp_path / name, samples, rate)
        return Utterance(
            f"x/{Path(name).stem}",
            str(tmp_path / name),
            text="All that was said.",
            emotion="sad",
            vad=(0.1, 0.2, 0.3),
            speaker="eva",
            split="train",
            duration=90.0,
        )

    return make


@pytest.mark.parametrize(
    ("name", "rate"), [("a.wav", 8_000), ("b.flac", 44_100), ("c.ogg", 22_050)]
)
def test_cuts_are_in_pauses(make_recording: MakeRecording, name: str, rate: int) -> None:
    recording = make_recording(name, rate)
    cuts = cut_recording(recording, ClipLimits())
    assert cuts.in_speech == 0
    found = [clip.segment for clip in cuts.clips]
    ends = [end for _, end in found if end is not None]
    assert ends[:-1] == pytest.approx([24.75, 41.25, 55.25, 78.25], abs=0.3)
    assert ends[-1] == pytest.approx(SECONDS, abs=0.011)
    assert [start for start, _ in found] == [0.0, *ends[:-1]]
    assert [clip.id for clip in cuts.clips] == [f"{recording.id}#{n}" for n in range(1, 6)]
    one = cuts.clips[1]
    assert (one.parent, one.audio, one.text) == (recording.id, recording.audio, "")
    assert (one.emotion, one.vad, one.speaker, one.split) == (
        "sad",
        (0.1, 0.2, 0.3),
        "eva",
        "train",
    )
    # Nothing is lost, and nothing is in two clips.
    parts = [load_clip(clip).waveform for clip in cuts.clips]
    whole = sum(map(len, parts))
    assert whole == pytest.approx(SECONDS * 16_000, abs=400)


def test_without_pauses_clips_end_at_the_quietest_place(make_recording: MakeRecording) -> None:
    recording = make_recording(pauses=())
    limits = ClipLimits(min_seconds=2.0, max_seconds=7.0)
    cuts = cut_recording(recording, limits)
    assert cuts.in_speech == len(cuts.clips) - 1
    durations = [load_clip(clip, limits).seconds for clip in cuts.clips]
    assert all(2.0 <= seconds <= 7.0 for seconds in durations)
    assert sum(durations) == pytest.approx(SECONDS, abs=0.02)


@pytest.mark.parametrize("seconds", [30.02, 30.5, 31.0, 59.99, 60.0])
def test_no_clip_is_outside_the_limits(tmp_path: Path, seconds: float) -> None:
    samples = np.random.default_rng(1).normal(size=round(seconds * 4000)) * 0.1
    soundfile.write(tmp_path / "a.wav", samples, 4000)
    clips = cut_recording(Utterance("a", str(tmp_path / "a.wav")), ClipLimits()).clips
    found = [load_clip(clip).seconds for clip in clips]  # raises outside the limits
    assert sum(found) == pytest.approx(seconds, abs=0.02)


def test_a_segment_and_a_speed_are_kept(make_recording: MakeRecording) -> None:
    recording = replace(make_recording(), segment=(10.0, 60.0), speed=1.25)  # 40 s as played
    clips = cut_recording(recording, ClipLimits()).clips
    assert [clip.segment for clip in clips] == [
        (10.0, pytest.approx(41.25, abs=0.3)),
        (pytest.approx(41.25, abs=0.3), pytest.approx(60.0, abs=0.011)),
    ]
    assert all(clip.speed == 1.25 and load_clip(clip).seconds < 30 for clip in clips)


def test_levels_are_mean_squares(make_recording: MakeRecording, tmp_path: Path) -> None:
    levels = read_levels(make_recording(rate=22_050))
    samples, _ = soundfile.read(tmp_path / "long.wav", dtype="float32")
    size = round(levels.step * 22_050)
    assert size == 220
    expected = np.square(samples[: len(samples) // size * size].reshape(-1, size)).mean(1)
    np.testing.assert_allclose(levels.values, expected, rtol=1e-4)


def test_prepare_puts_clips_in_place_of_their_recording(
    make_recording: MakeRecording, tmp_path: Path
) -> None:
    long, short = make_recording(), make_recording("short.wav")
    with soundfile.SoundFile(short.audio) as file:
        samples = file.read(16_000 * 5)
    soundfile.write(short.audio, samples, 16_000)
    short = replace(short, duration=5.0)
    broken = Utterance("x/broken", str(tmp_path / "broken.wav"), split="train")
    data = Path(long.audio).read_bytes()
    Path(broken.audio).write_bytes(data[: len(data) // 2])  # the header says 90 s
    corpus = Corpus("x", [long, short, broken])
    left_out = prepare(corpus, tmp_path / "whole")
    assert left_out.kept == {"train": 1}
    assert "rellm prepare --split-long" in left_out.excluded[0]["reason"]
    report = prepare(corpus, tmp_path / "cut", split_long=True)
    found = read_split(tmp_path / "cut", "train")
    assert [u.id for u in found] == [*(f"x/long#{n}" for n in range(1, 6)), "x/short"]
    assert [u.parent for u in found] == ["x/long"] * 5 + [""]
    assert sum(u.duration or 0 for u in found[:5]) == pytest.approx(SECONDS, abs=0.02)
    assert report.forms[-1] == (
        "1 recording longer than 30 s cut into 5 clips, 0 cuts of them where no pause was found; "
        "clips have the labels of their recording, and no text"
    )
    assert [row["id"] for row in report.excluded] == ["x/broken"]
    assert "truncated" in report.excluded[0]["reason"]
    rows = (tmp_path / "cut/train.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["parent"] == "x/long"
    assert "parent" not in json.loads(rows[-1])
    again = prepare(corpus, tmp_path / "cut", split_long=True)
    assert again.kept == report.kept
    assert (tmp_path / "cut/train.jsonl").read_text().splitlines() == rows


def test_a_recording_in_an_archive_is_cut_in_place(
    make_recording: MakeRecording, tmp_path: Path
) -> None:
    plain = make_recording("long.flac")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(plain.audio, "sounds/long.flac")
    (tmp_path / "table.csv").write_text("audio,emotion,split\na.tar#sounds/long.flac,sad,train\n")
    prepare(read_table(tmp_path / "table.csv"), tmp_path / "m", split_long=True)
    found = read_split(tmp_path / "m", "train")
    assert len(found) == 5
    assert len({u.parent for u in found}) == 1
    for clip, expected in zip(found, cut_recording(plain, ClipLimits()).clips, strict=True):
        assert clip.audio.startswith(f"{tmp_path}/a.tar:")
        assert clip.segment == expected.segment
        own, other = load_clip(clip), load_clip(expected)
        np.testing.assert_array_equal(own.waveform, other.waveform)
        np.testing.assert_array_equal(own.digest, other.digest)


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        cut_recording(Utterance("a", str(tmp_path / "gone.wav")), ClipLimits())


def test_clips_are_encoded_once(
    make_recording: MakeRecording, speech_recipe: Recipe, tmp_path: Path
) -> None:
    audio = Path(make_recording().audio)
    (tmp_path / "table.csv").write_text("audio,emotion,split\nlong.wav,sad,train\n")
    words = ["prepare", "folder", f"{tmp_path}/table.csv", "--out", f"{tmp_path}/m", "--split-long"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    (report,) = extract(tmp_path / "m", speech_recipe, tmp_path / "cache")
    assert (report.encoded, report.failed) == (5, 0)
    assert extract(tmp_path / "m", speech_recipe, tmp_path / "cache")[0].encoded == 0
    found = read_manifests(tmp_path / "m")
    frames = Store(report.path)
    assert sorted(frames.ids) == sorted(u.id for u in found)
    assert len({u.audio for u in found} | {str(audio)}) == 1
    assert [*tmp_path.glob("*.wav")] == [audio]
