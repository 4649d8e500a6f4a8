"""Whisper windows compared on RAVDESS: 30 s, and the length of each clip.

    python tests/benchmarks/window.py RAVDESS --model openai/whisper-tiny.en
    python tests/benchmarks/window.py RAVDESS --clips 40 --repeats 1      # a try

Prints, and with --json writes: clips encoded per second and their ratio; for each layer, the cosine
between the frames of both windows (mean and lowest tenth over frames); for --layer, the UA of a
linear probe on mean and standard deviation of a clip's frames, with speakers held out in five
folds. To measure recognition with the heads recipe, run recognition.py with
`--set encoders.speech.window=clip` on a cache of that window.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic

import numpy as np
from options import make_parser, write_figures
from recognition import FOLDS
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import WhisperConfig

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.readers.ravdess import read_ravdess
from rellm_cache.encoders.whisper import WhisperEncoder
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.model_files import find_model

WINDOWS = ("30s", "clip")
DEVICE = default_device()


def choose(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """So many clips, at random but always the same; all where `count` is 0."""
    return random.Random(1).sample(list(utterances), count) if count else list(utterances)


def batches(waveforms: Sequence[np.ndarray], size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, as extraction makes them."""
    order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def encode(
    encoder: WhisperEncoder, waveforms: Sequence[np.ndarray], size: int
) -> tuple[list[np.ndarray], float]:
    """Frames of every clip, and the seconds of the forward passes."""
    frames: dict[int, np.ndarray] = {}
    begun = monotonic()
    for batch in batches(waveforms, size):
        made = encoder.encode([waveforms[i] for i in batch])
        frames.update((i, encoding.frames) for i, encoding in zip(batch, made, strict=True))
    return [frames[i] for i in range(len(waveforms))], monotonic() - begun


def cosines(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> np.ndarray:
    """The cosine between frames of the same moment, over all clips: (frames,)."""
    a, b = np.concatenate(left), np.concatenate(right)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / norms)


def probe(frames: Sequence[np.ndarray], utterances: Sequence[Utterance]) -> float:
    """UA of a linear probe on unseen speakers, over five folds together."""
    features = np.stack([np.concatenate([f.mean(0), f.std(0)]) for f in frames])
    labels = np.array([u.emotion for u in utterances])
    speakers = np.array([int(u.speaker.removeprefix("ravdess/")) for u in utterances])
    predicted = np.empty_like(labels)
    for fold in FOLDS:
        held = np.isin(speakers, list(fold))
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        predicted[held] = model.fit(features[~held], labels[~held]).predict(features[held])
    return float(balanced_accuracy_score(labels, predicted))


def compare_layers(
    spec: EncoderSpec, waveforms: Sequence[np.ndarray], size: int
) -> dict[str, float]:
    """How far frames of the two windows are apart, by layer; -1 is after the final norm."""
    blocks = WhisperConfig.from_pretrained(find_model(spec.model, ())).encoder_layers
    figures = {}
    for layer in (*range(blocks + 1), -1):
        left, right = (
            encode(
                WhisperEncoder(replace(spec, layer=layer, window=w), None, DEVICE), waveforms, size
            )[0]
            for w in WINDOWS
        )
        found = cosines(left, right)
        figures[f"cosine_layer{layer}_mean"] = round(float(found.mean()), 4)
        figures[f"cosine_layer{layer}_p10"] = round(float(np.quantile(found, 0.1)), 4)
        print(f"layer {layer}: cosine {found.mean():.4f}, {np.quantile(found, 0.1):.4f} at 10 %")
    return figures


def main() -> None:
    """Measure, print and write the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path, help="RAVDESS folder with Actor_01 …")
    parser.add_argument("--model", default="openai/whisper-tiny.en")
    parser.add_argument("--layer", type=int, default=-1, help="of speed and recognition")
    parser.add_argument("--clips", type=int, default=0, help="0 takes all")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="of the timing; the best counts")
    options = parser.parse_args()
    everyone = frozenset().union(*FOLDS)
    utterances = choose(read_ravdess(options.data, {"train": everyone}).utterances, options.clips)
    waveforms = [load_clip(u).waveform for u in utterances]
    spec = EncoderSpec(kind="whisper", model=options.model, layer=options.layer)
    encoders = {w: WhisperEncoder(replace(spec, window=w), None, DEVICE) for w in WINDOWS}
    best = dict.fromkeys(WINDOWS, float("inf"))
    frames: dict[str, list[np.ndarray]] = {}
    for _ in range(options.repeats):  # by turns, so that a disturbance hits both
        for window, encoder in encoders.items():
            frames[window], seconds = encode(encoder, waveforms, options.batch_size)
            best[window] = min(best[window], seconds)
    figures = {
        "window_clips": float(len(waveforms)),
        "window_hours": round(sum(map(len, waveforms)) / 16_000 / 3600, 3),
        **{f"clips_per_s_{w}": round(len(waveforms) / best[w], 2) for w in WINDOWS},
        "window_clip_vs_30s": round(best["30s"] / best["clip"], 2),
        **{f"probe_ua_{w}": round(probe(frames[w], utterances), 4) for w in WINDOWS},
        **compare_layers(spec, waveforms, options.batch_size),
    }
    write_figures(options, figures)


if __name__ == "__main__":
    main()
