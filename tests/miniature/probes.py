"""Stores with a known answer for probes: each layer carries one thing."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from rellm_cache.config.schema import AdapterConfig, EncoderConfig, LossesConfig, Recipe
from rellm_cache.corpus.manifest import Utterance, write_manifest
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.writer import StoreWriter

EMOTIONS = ("angry", "happy", "sad")
SPEECH = EncoderConfig(kind="whisper", model="owner/tiny", layer=1)
PROSODY = EncoderConfig(kind="prosody")
RECIPE = Recipe(
    name="known",
    encoders={"speech": SPEECH, "emotion": PROSODY},
    adapter=AdapterConfig(output_size=8),
    losses=LossesConfig(response_lm=0.0),
)


def clips() -> list[Utterance]:
    """Six speakers, three emotions, five takes: 90 clips with arousal, the last one unlabelled."""
    random = np.random.default_rng(5)
    found = [
        Utterance(
            id=f"known/{speaker}-{emotion}-{take}",
            audio="/none.wav",
            text=f"Text number {take % 2}",
            emotion=EMOTIONS[emotion],
            vad=(float(random.uniform()), 0.5, 0.5),
            vad_source="human",
            speaker=f"s{speaker}",
            split="train" if speaker < 4 else "test",
        )
        for speaker in range(6)
        for emotion in range(3)
        for take in range(5)
    ]
    found[-1] = replace(found[-1], emotion=None, vad=None, vad_source=None)
    return found


def vector(clip: Utterance, carried: str, random: np.random.Generator) -> np.ndarray:
    """(8,) noise; what is carried moves the first dimensions."""
    values = random.normal(0, 0.3, 8)
    if carried == "emotion" and clip.emotion:
        values[EMOTIONS.index(clip.emotion)] += 2
    if carried == "speaker":
        values[int(clip.speaker[1])] += 2
    if carried == "arousal" and clip.vad:
        values[0] = 2 * clip.vad[0]
    return values


def write_store(
    cache: Path, encoder: EncoderConfig, clips: list[Utterance], carried: str, weights: str = "a"
) -> None:
    random = np.random.default_rng(len(carried))
    spec = replace(encoder.spec, weights_sha256=weights * 64)
    with StoreWriter(cache, StoreInfo(spec, 8, "MIT")) as writer:
        for clip in clips:
            frames = vector(clip, carried, random) + random.normal(0, 0.1, (20, 8))
            writer.add(clip.id, np.zeros(32, np.uint8), frames.astype(np.float32))


def write_layers(
    cache: Path, encoder: EncoderConfig, clips: list[Utterance], carried: dict[int, str]
) -> None:
    """A store of several layers; `carried` tells what each carries."""
    random = np.random.default_rng(3)
    spec = replace(encoder.spec, weights_sha256="a" * 64).with_layers(tuple(carried))
    with StoreWriter(cache, StoreInfo(spec, 8, "MIT")) as writer:
        for clip in clips:
            vectors = [vector(clip, what, random) for what in carried.values()]
            frames = np.stack(vectors) + random.normal(0, 0.1, (20, len(carried), 8))
            writer.add(clip.id, np.zeros(32, np.uint8), frames.astype(np.float32))


def write_known(folder: Path) -> tuple[Path, Path]:
    """A manifest folder and a cache: layers 0, 1 and the last of Whisper, and prosody."""
    manifest, cache = folder / "manifest", folder / "cache"
    manifest.mkdir()
    for split in ("train", "test"):
        chosen = [clip for clip in clips() if clip.split == split]
        write_manifest(manifest / f"{split}.jsonl", chosen)
    for layer, carried in ((0, "speaker"), (1, "emotion"), (-1, "nothing")):
        write_store(cache, replace(SPEECH, layer=layer), clips(), carried)
    write_store(cache, PROSODY, clips()[1:], "arousal")
    write_store(cache, replace(SPEECH, model="owner/other"), clips(), "emotion", "b")
    return manifest, cache
