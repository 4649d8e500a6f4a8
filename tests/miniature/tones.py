"""Clips of the corpus of tones that change."""

from pathlib import Path

import soundfile


def change_audio(corpus: Path, index: int) -> None:
    """Overwrite one clip with another of the same length."""
    path = corpus.parent / f"audio/{index:02d}.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)
