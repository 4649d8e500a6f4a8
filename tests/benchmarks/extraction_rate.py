"""Extraction rate around the encoder: clips that are decoded and written in a second.

    python tests/benchmarks/extraction_rate.py --json rate.json

The encoder takes no time, as a GPU that is never the limit: it returns frames of Whisper large's
size (1280 values, 50 a second) that are already made. What is left is decoding in threads,
rounding to float16, checksums, Zarr and fsync. Clips have 5 s of noise, mono, 16 kHz.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from options import make_parser, rounded, write_figures

import rellm_cache as rellm
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import FrameEncoder

SECONDS, SIZE = 5, 1280


@rellm.register_encoder("instant")
class InstantEncoder(FrameEncoder):
    """Frames that are the same for every clip of one length, made before."""

    needs_model = False
    frame_size = SIZE
    licence = "none (no model)"

    def __init__(self, spec: EncoderSpec, options: Any, device: torch.device) -> None:
        super().__init__(spec, options, device)
        random = np.random.default_rng(1)
        self.frames = random.normal(size=(50 * SECONDS, SIZE)).astype(np.float32)

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[rellm.Encoding]:
        return [rellm.Encoding(self.frames) for _ in waveforms]


def make_clips(folder: Path, suffix: str, count: int) -> Path:
    """A manifest of clips that differ in one sample, so that their digests differ."""
    folder.mkdir()
    noise = np.random.default_rng(1).normal(0, 0.1, SECONDS * 16_000).astype(np.float32)
    rows = []
    for index in range(count):
        noise[index] = 0.5
        soundfile.write(folder / f"{index}.{suffix}", noise, 16_000)
        rows.append({"id": f"made/{index:05d}", "audio": f"{index}.{suffix}"})
    manifest = folder / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return manifest


def main() -> None:
    """Measure each format in turn, and print the medians."""
    parser = make_parser(__doc__)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    recipe = rellm.load_recipe(
        "heads", set={"encoders": {"speech": {"kind": "instant"}, "emotion": None}}
    )
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifests = {s: make_clips(folder / s, s, options.clips) for s in ("wav", "flac")}
        for repetition in range(options.repetitions + 1):
            for suffix, manifest in manifests.items():
                os.sync()
                start = time.perf_counter()
                (report,) = rellm.extract(recipe, manifest, folder / f"{suffix}-{repetition}")
                seconds = time.perf_counter() - start
                if report.encoded != options.clips:
                    raise SystemExit(f"{report.encoded} of {options.clips} clips were encoded")
                if repetition:  # the first turn warms up
                    rates.setdefault(suffix, []).append(options.clips / seconds)
    write_figures(
        options,
        rounded({f"{suffix}_clips_a_second": statistics.median(r) for suffix, r in rates.items()}),
        clips=options.clips,
    )


if __name__ == "__main__":
    main()
