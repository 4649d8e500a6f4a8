"""Demo corpus generator: 650 clips spoken by espeak-ng, 13 voices x 5 emotions x 10 sentences.

    python tools/make_demo_clips.py            # writes rellm_cache/demo/clips, about a minute
    python tools/make_demo_clips.py --seed 2 --out /tmp/clips

It needs `espeak-ng` on the PATH (Debian: `apt install espeak-ng`) and writes 16 kHz mono Opus in
Ogg and `manifest.jsonl`. With the same espeak-ng, libsndfile and libopus, a seed always gives the
same bytes.

Every voice says half of the twenty sentences, each in every emotion, so neither words nor voice
reveal the emotion. It is in the delivery: pitch, pitch range, rate, level and brightness, each
drawn around the emotion's mean (`DELIVERIES`) with a jitter that makes emotions overlap, and a rise
at the end of some clips. Every clip has its own recording distance (`DISTANCE`), so that its level
is not the speaker's alone.

The speech is synthetic: it shows what the method does, but nothing about people. espeak-ng is GPL-3
software; its licence does not apply to its audio output.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

CLIPS: Final = Path(__file__).resolve().parent.parent / "rellm_cache" / "demo" / "clips"
RATE: Final = 16_000
SHORTEST, LONGEST = 1.0, 3.0  # seconds

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Voice:
    """A speaker: name, espeak-ng voice with accent and timbre, split, half of the sentences."""

    speaker: str
    espeak: str
    split: str
    half: int  # 0: the odd sentences, 1: the even ones


# espeak-ng ignores a variant after "en-gb", so British English is "en".
VOICES: Final = (
    Voice("mia", "en-us+f2", "train", 0),
    Voice("tom", "en-us-nyc+m3", "train", 1),
    Voice("una", "en-gb-scotland+f4", "train", 0),
    Voice("leo", "en-029+m7", "train", 1),
    Voice("ben", "en+m5", "train", 0),
    Voice("zoe", "en-us+f5", "train", 1),
    Voice("ada", "en-gb-x-rp+f1", "train", 0),
    Voice("max", "en-gb-x-gbclan+m1", "train", 1),
    Voice("ivy", "en-gb-x-gbclan+f1", "validation", 0),
    Voice("sam", "en-gb-x-rp+m6", "test", 0),
    Voice("eve", "en-gb-x-gbcwmd+f3", "test", 1),
    Voice("liz", "en+f2", "test", 0),
    Voice("ned", "en-us+m4", "test", 1),
)

# Sentences that a person could say in any of the emotions.
SENTENCES: Final = (
    "My brother is moving back home.",
    "They changed the date of the wedding.",
    "The letter from the school came today.",
    "My boss wants to see me tomorrow.",
    "The whole family is coming on Sunday.",
    "She sold the old house by the sea.",
    "I got the results of my exam.",
    "He took the dog with him.",
    "The neighbours bought a piano.",
    "We are having soup again tonight.",
    "They gave me a new desk at work.",
    "It has been snowing all night.",
    "My train leaves in ten minutes.",
    "The doctor called about my test.",
    "There is nobody else on the team.",
    "They played that song on the radio.",
    "My sister told everyone about the baby.",
    "I found his name on the list.",
    "The children painted the kitchen wall.",
    "I am going to meet her parents.",
)
# Replies that a kind friend could give, written by people: SmolLM2-135M does not write good ones,
# and does not hear words in the few steps of the demo (docs/log.md).
REPLIES: Final = {
    "neutral": "All right, thank you for telling me.",
    "happy": "How wonderful, I am so happy for you!",
    "angry": "That is unfair, no wonder you are angry.",
    "sad": "I am so sorry, I am here for you.",
    "surprise": "Wow, I did not expect that!",
}
EMOTIONS: Final = tuple(REPLIES)


@dataclass(frozen=True)
class Delivery:
    """How a sentence is spoken: steps from the normal delivery of the voice (0)."""

    pitch: float
    range: float
    rate: float
    level: float
    brightness: float


# Mean delivery of each emotion, after the reviews of acted speech by Scherer and by Juslin.
DELIVERIES: Final = {
    "neutral": Delivery(pitch=-0.1, range=-0.7, rate=0.0, level=-0.5, brightness=0.0),
    "happy": Delivery(pitch=0.8, range=1.3, rate=0.3, level=0.5, brightness=0.2),
    "angry": Delivery(pitch=0.3, range=-0.2, rate=0.8, level=1.7, brightness=0.7),
    "sad": Delivery(pitch=-0.8, range=-1.2, rate=-0.8, level=-1.7, brightness=-0.4),
    "surprise": Delivery(pitch=1.6, range=1.5, rate=-0.4, level=0.6, brightness=0.0),
}
# Part of valence; the other part is the pitch range.
PLEASANTNESS: Final = {"neutral": 0.0, "happy": 1.4, "angry": -1.2, "sad": -1.0, "surprise": 0.2}
# Share of clips that are spoken as a question, with a rise at the end.
RISING: Final = {"neutral": 0.05, "happy": 0.1, "angry": 0.1, "sad": 0.05, "surprise": 0.7}
INTENSITY: Final = (0.7, 1.3)  # a clip is a weak or a strong example of its emotion
JITTER: Final = 0.3  # steps, standard deviation

# Size of one step in each setting.
PITCH_STEP, RANGE_STEP = 16.0, 28.0  # on espeak-ng's scale 0..99, normal is 50
RATE_STEP = 0.10  # octaves of words a minute
LEVEL_STEP, DISTANCE = 3.5, 2.0  # dB; standard deviation of the distance, dB
BRIGHTNESS_STEP = 1.0  # dB an octave above 500 Hz
WORDS_A_MINUTE, LEVEL, NOISE = 180.0, -27.0, -68.0  # level and noise in dB full scale
COMPRESSION = 0.97  # of Opus, as libsndfile counts it: about 17 kbit/s


def draw_delivery(emotion: str, random: np.random.Generator) -> Delivery:
    """Draw the delivery of one clip: the emotion's mean times an intensity, plus a jitter."""
    intensity = random.uniform(*INTENSITY)
    mean = DELIVERIES[emotion]
    steps = {
        field.name: float(getattr(mean, field.name) * intensity + random.normal(0.0, JITTER))
        for field in fields(Delivery)
    }
    return Delivery(**steps)


def dimensions(emotion: str, delivery: Delivery) -> list[float]:
    """Arousal, dominance and valence in 0..1, from the delivery of a clip.

    With s the logistic function and a delivery in steps:

        arousal   = s(0.9 rate + 0.7 pitch + 0.6 level + 0.4 brightness)
        dominance = s(0.9 level + 0.7 brightness + 0.5 rate - 0.4 pitch)
        valence   = s(pleasantness(emotion) + 0.5 range)
    """
    d = delivery
    scores = (
        0.9 * d.rate + 0.7 * d.pitch + 0.6 * d.level + 0.4 * d.brightness,
        0.9 * d.level + 0.7 * d.brightness + 0.5 * d.rate - 0.4 * d.pitch,
        PLEASANTNESS[emotion] + 0.5 * d.range,
    )
    return [round(1.0 / (1.0 + math.exp(-score)), 3) for score in scores]


def make_clip(text: str, voice: Voice, delivery: Delivery, random: np.random.Generator) -> Waveform:
    """Synthesize one clip: (S,) float32 at 16 kHz, within -1..1."""
    spoken = trim(speak(text, voice, delivery))
    tilted = tilt(spoken, BRIGHTNESS_STEP * delivery.brightness)
    level = LEVEL + LEVEL_STEP * delivery.level + float(random.normal(0.0, DISTANCE))
    loud = tilted * (decibels(level) / max(float(np.sqrt(np.mean(tilted**2))), 1e-6))
    noisy = loud + random.normal(0.0, decibels(NOISE), loud.size)
    return np.tanh(noisy).astype(np.float32)  # soft clipping


def speak(text: str, voice: Voice, delivery: Delivery) -> Waveform:
    """Speech of espeak-ng: (S,) at 16 kHz, at its own level."""
    pitch = _setting(50.0 + PITCH_STEP * delivery.pitch)
    pitch_range = _setting(50.0 + RANGE_STEP * delivery.range)
    rate = round(WORDS_A_MINUTE * 2.0 ** (RATE_STEP * delivery.rate))
    # "\x01 40R" is espeak-ng's embedded command for the pitch range, which has no option
    command = ["espeak-ng", "-v", voice.espeak, "-p", str(pitch), "-s", str(rate), "--stdout"]
    spoken = subprocess.run(
        [*command, f"\x01{pitch_range}R{text}"], check=True, capture_output=True
    )
    samples, rate_of_voice = soundfile.read(BytesIO(spoken.stdout), dtype="float32")
    return np.asarray(soxr.resample(samples, rate_of_voice, RATE), dtype=np.float32)


def _setting(value: float) -> int:
    return round(min(max(value, 0.0), 99.0))


def trim(waveform: Waveform, margin: float = 0.08) -> Waveform:
    """Cut the silence at both ends down to `margin` seconds."""
    loud = np.flatnonzero(np.abs(waveform) > 0.01)
    edge = round(margin * RATE)
    return waveform[max(int(loud[0]) - edge, 0) : int(loud[-1]) + edge]


def tilt(waveform: Waveform, slope: float) -> Waveform:
    """Tilt the spectrum above 500 Hz by `slope` dB an octave."""
    spectrum = np.fft.rfft(waveform)
    frequencies = np.fft.rfftfreq(waveform.size, 1.0 / RATE)
    octaves = np.log2(np.maximum(frequencies, 500.0) / 500.0)
    tilted = np.fft.irfft(spectrum * 10.0 ** (slope * octaves / 20.0), waveform.size)
    return tilted.astype(np.float32)


def decibels(level: float) -> float:
    """Amplitude of a level in dB full scale."""
    return float(10.0 ** (level / 20.0))


@dataclass(frozen=True)
class Take:
    """One clip to make: its place in the manifest, voice, emotion and number of the sentence."""

    place: int
    voice: Voice
    emotion: str
    number: int  # from 1

    @property
    def text(self) -> str:
        """The sentence."""
        return SENTENCES[self.number - 1]

    @property
    def name(self) -> str:
        """Name of the file and end of the id."""
        return f"{self.voice.speaker}-{self.emotion}-{self.number}"


def takes() -> list[Take]:
    """Every voice says half of the sentences in every emotion, in the order of the manifest."""
    numbers = range(1, len(SENTENCES) + 1)
    found = [
        (voice, emotion, number)
        for voice in VOICES
        for emotion in EMOTIONS
        for number in numbers[voice.half :: 2]
    ]
    return [Take(place, *take) for place, take in enumerate(found)]


def make_corpus(out: Path, seed: int) -> list[dict[str, object]]:
    """Write every clip into `out` and return the manifest's rows."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # espeak-ng runs in its own processes
        return list(pool.map(lambda take: make_row(out, take, seed), takes()))


def make_row(out: Path, take: Take, seed: int) -> dict[str, object]:
    """Write one clip into `out` and return its row of the manifest."""
    random = np.random.default_rng((seed, take.place))
    delivery = draw_delivery(take.emotion, random)
    rises = random.random() < RISING[take.emotion]
    spoken = take.text.replace(".", "?") if rises else take.text
    waveform = make_clip(spoken, take.voice, delivery, random)
    seconds = waveform.size / RATE
    if not SHORTEST <= seconds <= LONGEST:
        raise SystemExit(
            f"{take.name}: expected {SHORTEST} to {LONGEST} s, found {seconds:.2f}; change its "
            "sentence or RATE_STEP"
        )
    (out / f"{take.name}.ogg").write_bytes(encode(waveform, serial=take.place))
    return {
        "id": f"demo/{take.name}",
        "audio": f"{take.name}.ogg",
        "text": take.text,
        "emotion": take.emotion,
        "response": REPLIES[take.emotion],
        "vad": dimensions(take.emotion, delivery),
        "vad_source": "made",
        "speaker": take.voice.speaker,
        "split": take.voice.split,
        "duration": round(seconds, 3),
    }


def encode(waveform: Waveform, serial: int) -> bytes:
    """Opus in Ogg with `serial` as stream number, which libsndfile would draw at random."""
    file = BytesIO()
    soundfile.write(
        file, waveform, RATE, format="OGG", subtype="OPUS", compression_level=COMPRESSION
    )
    data = bytearray(file.getvalue())
    start = 0
    while start < len(data):  # pages: 27 bytes of header, sizes of segments, segments
        body = start + 27 + data[start + 26]
        end = body + sum(data[start + 27 : body])
        data[start + 14 : start + 18] = serial.to_bytes(4, "little")
        data[start + 22 : start + 26] = bytes(4)  # the checksum counts as zero
        data[start + 22 : start + 26] = ogg_checksum(bytes(data[start:end])).to_bytes(4, "little")
        start = end
    return bytes(data)


def ogg_checksum(page: bytes) -> int:
    """CRC-32 of OGG: zlib's polynomial with reversed bits and without inversions."""
    mirrored = bytes(MIRRORED[byte] for byte in page)
    # zlib inverts the value before and after; a start value of all ones cancels the first.
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


MIRRORED: Final = [int(f"{byte:08b}"[::-1], 2) for byte in range(256)]


def main() -> None:
    """Write the corpus and print its size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=CLIPS, help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("*.ogg"):
        old.unlink()
    rows = make_corpus(options.out, options.seed)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (options.out / "manifest.jsonl").write_text(lines, encoding="utf-8")
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    minutes = sum(float(str(row["duration"])) for row in rows) / 60
    print(f"{options.out}: {len(rows)} clips, {minutes:.1f} minutes, {size:.2f} MB")


if __name__ == "__main__":
    main()
