"""Extraction overhead: wall time of an extraction, divided by the time of the encoders alone."""

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import soundfile

from rellm_cache.config.recipes import load_recipe
from rellm_cache.extraction.run import extract

CLIPS = 32


def extract_overhead(models: Path, folder: Path, repetitions: int) -> float:
    """Median over repetitions, each into a new cache, after one that does not count.

    Args:
        models: root that holds openai/whisper-tiny.en.
        folder: scratch.
    """
    os.environ["RELLM_MODELS"] = str(models.resolve())
    manifest = make_clips(folder / "clips")
    recipe = load_recipe("heads")
    ratios = []
    for repetition in range(repetitions + 1):
        start = time.perf_counter()
        reports = extract(manifest, recipe, folder / f"extracted-{repetition}")
        wall = time.perf_counter() - start
        if repetition:
            ratios.append(wall / sum(report.seconds for report in reports))
    return statistics.median(ratios)


def make_clips(folder: Path) -> Path:
    """A manifest of clips of 2 to 7 seconds: noise with a moving tone."""
    folder.mkdir()
    random = np.random.default_rng(1)
    rows = []
    for index in range(CLIPS):
        time_axis = np.arange(int(random.uniform(2, 7) * 16_000)) / 16_000
        tone = 0.2 * np.sin(2 * np.pi * (120 + 40 * np.sin(time_axis)) * time_axis)
        clip = (tone + random.normal(0, 0.02, len(time_axis))).astype(np.float32)
        soundfile.write(folder / f"{index}.wav", clip, 16_000)
        rows.append({"id": f"made/{index:03d}", "audio": f"{index}.wav", "text": "-"})
    manifest = folder / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest
