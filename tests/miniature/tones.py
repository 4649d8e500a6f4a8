"""A corpus of tones, and a recipe of two streams and tiny models for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rellm_cache.config.schema import (
    AdapterConfig,
    EncoderConfig,
    HeadsConfig,
    LLMConfig,
    LossesConfig,
    PromptsConfig,
    Recipe,
    TrainingConfig,
)

# Eleven clips: seconds, emotion, dimensions, split; the pitch tells the emotion.
CLIPS = [
    (1.2, "neutral", (0.4, 0.5, 0.5), "train"),
    (1.5, "happy", (0.7, 0.6, 0.9), "train"),
    (3.0, "angry", (0.9, 0.9, 0.1), "train"),
    (2.1, "sad", (0.2, 0.2, 0.2), "train"),
    (1.3, "surprise", (0.8, 0.5, 0.7), "train"),
    (2.6, "neutral", (0.5, 0.4, 0.5), "train"),
    (1.8, "happy", (0.6, 0.7, 0.8), "train"),
    (1.4, "sad", (0.3, 0.3, 0.1), "validation"),
    (2.2, "angry", (0.8, 0.8, 0.2), "validation"),
    (1.7, "surprise", (0.9, 0.4, 0.8), "test"),
    (2.4, "neutral", None, "test"),
]
HERTZ = {"neutral": 150, "happy": 260, "angry": 330, "sad": 110, "surprise": 440}


def tiny_recipe(whisper_folder: Path, emotion_folder: Path, llm_folder: Path) -> Recipe:
    """Both streams, a small adapter and the tiny chat model, unquantised."""
    return Recipe(
        name="tiny",
        encoders={
            "speech": EncoderConfig(kind="whisper", model=str(whisper_folder)),
            "emotion": EncoderConfig(kind="wav2vec2-emotion", model=str(emotion_folder)),
        },
        adapter=AdapterConfig(preset="lite", width=16, bottleneck=16),
        heads=HeadsConfig(),
        losses=LossesConfig(emotion_lm=1.0),
        llm=LLMConfig(model=str(llm_folder), quantization="none"),
        # The tiny tokenizer has a token a byte; answers are short to be quick.
        prompts=PromptsConfig(example_tokens=1024, expected_response_tokens=6, answer_tokens=6),
        training=TrainingConfig(epochs=2, batch_size=2, gradient_accumulation=1, warmup_steps=2),
    )


def tone(seconds: float, hertz: float = 220.0, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """(S,) or (S, channels) float32: a decaying harmonic tone with a little noise."""
    time = np.arange(round(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 5))
    noise = np.random.default_rng(round(hertz)).normal(0, 0.01, len(time))
    mono = (0.3 * voice * np.exp(-time) + noise).astype(np.float32)
    return mono if channels == 1 else np.stack([mono] * channels, axis=1)


def write_corpus(root: Path) -> Path:
    """Write a manifest folder of eleven tones in three splits, and the audio beside it."""
    rows: dict[str, list[str]] = {}
    (root / "audio").mkdir(parents=True, exist_ok=True)
    for index, (seconds, emotion, vad, split) in enumerate(CLIPS):
        path = root / f"audio/{index:02d}.wav"
        soundfile.write(path, tone(seconds, HERTZ[emotion] + index), 16_000)
        row: dict[str, Any] = {
            "id": f"tones/{index:02d}",
            "audio": f"../{path.relative_to(root)}",
            "text": f"This is tone number {index % 3}.",
            "emotion": emotion,
            "vad": vad,
            "split": split,
            "duration": seconds,
        }
        rows.setdefault(split, []).append(json.dumps({k: v for k, v in row.items() if v}))
    folder = root / "manifest"
    folder.mkdir()
    for split, lines in rows.items():
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def change_audio(corpus: Path, index: int) -> None:
    """Overwrite one clip with another of the same length."""
    path = corpus.parent / f"audio/{index:02d}.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)
