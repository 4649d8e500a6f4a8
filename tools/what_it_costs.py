"""Disk, memory and operations of the paper's corpora, as `rellm plan` counts them.

    python tools/what_it_costs.py       # writes the planned tables of docs/what-it-costs.md again

No corpus and no weights are needed. Manifests are made with the published clips and hours;
lengths follow a log-normal distribution. Encoders are stand-ins that have the frame size of the
real ones, and of an LLM only the shape is known. tests/test_what_it_costs.py compares a part.
"""

import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

import rellm_cache as rellm
from rellm_cache.config.plugins import ENCODERS
from rellm_cache.speed.known_shapes import LLMS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/what-it-costs.md"
BEGIN, END = "<!-- planned: written by tools/what_it_costs.py -->\n", "<!-- end of planned -->"
RESPONSE = " ".join(["word"] * 30)
TEXT = " ".join(["word"] * 12)
SIGMA = 0.5  # of the logarithm of the lengths
SHORTEST, LONGEST = 1.0, 30.0  # seconds
SPEEDS = (20, 50)  # 10^12 operations a second


@dataclass(frozen=True)
class CorpusSize:
    """Clips by split, and the mean length in seconds."""

    name: str
    train: int
    validation: int
    test: int
    seconds: float

    @property
    def clips(self) -> int:
        """Clips of all splits."""
        return self.train + self.validation + self.test


CORPORA = (
    CorpusSize("IEMOCAP", 3_861, 429, 1_241, 6.99 * 3600 / 5_531),
    CorpusSize("ESD, English, four emotions", 8_840, 960, 4_200, 29 * 3600 / 35_000),
    CorpusSize("MSP-Podcast, the paper's draw", 3_861, 429, 1_245, 237.93 * 3600 / 151_654),
    CorpusSize("MSP-Podcast 1.11, four classes", 57_211, 13_474, 31_139, 237.93 * 3600 / 151_654),
)


@dataclass(frozen=True)
class Setting:
    """A recipe on a device.

    Attributes:
        streams: stream → values in a frame of its encoder.
        gpu: total memory in GB; 0 for a CPU.
    """

    title: str
    recipe: str
    streams: dict[str, int]
    gpu: int = 0
    changes: tuple[str, ...] = ()


LARGE = {"speech": 1280, "emotion": 1024}
TINY = {"speech": 384, "emotion": 65}
SMALL_GPU = ("llm.activation_checkpointing=true", 'training.optimizer="adamw8bit"')
LORA = ('llm.quantization="none"', "llm.lora={}", "llm.activation_checkpointing=true")
SETTINGS = (
    Setting("`re-llm`, `adapter.preset=lite`", "re-llm", LARGE, 8, ("adapter.preset=lite",)),
    Setting("`re-llm`, checkpointing, 8-bit moments", "re-llm", LARGE, 8, SMALL_GPU),
    Setting("`re-llm`", "re-llm", LARGE, 12),
    Setting("`re-llm`", "re-llm", LARGE, 24),
    Setting("`re-llm`, 16 bits, LoRA, checkpointing", "re-llm", LARGE, 24, LORA),
    Setting("`small`", "small", TINY),
    Setting("`heads`", "heads", TINY),
)


@dataclass(frozen=True)
class StandInOptions:
    """Options of the encoder `stand-in`."""

    size: int = 1
    """Values in a frame."""


class StandIn(rellm.FrameEncoder):
    """Frames of zeros, 50 a second."""

    needs_model = False
    licence = "none (no model)"

    def __init__(self, spec: Any, options: StandInOptions, device: Any) -> None:
        super().__init__(spec, options, device)
        self.frame_size = options.size

    def encode(self, waveforms: Any) -> list[rellm.Encoding]:
        """Frames (L, D) of each waveform (S,)."""
        size = self.frame_size
        return [rellm.Encoding(np.zeros((-(-len(w) // 320), size), np.float32)) for w in waveforms]


def lengths(corpus: CorpusSize) -> np.ndarray:
    """(N,) seconds: quantiles of a log-normal distribution, scaled to the corpus's mean."""
    normal = statistics.NormalDist(0.0, SIGMA)
    shape = np.exp([normal.inv_cdf((i + 0.5) / corpus.clips) for i in range(corpus.clips)])
    seconds = np.clip(shape * corpus.seconds / shape.mean(), SHORTEST, LONGEST)
    for _ in range(20):  # what is cut at the ends is given to the others
        seconds = np.clip(seconds * corpus.seconds / seconds.mean(), SHORTEST, LONGEST)
    return np.random.default_rng(1).permutation(seconds.round(3))


def write_manifest(corpus: CorpusSize, folder: Path) -> Path:
    """A manifest folder whose clips are all the beginning of one file."""
    folder.mkdir()
    noise = np.random.default_rng(1).uniform(-0.1, 0.1, int(LONGEST * 16_000))
    soundfile.write(folder / "noise.wav", noise, 16_000)
    seconds = iter(lengths(corpus).tolist())
    for split in ("train", "validation", "test"):
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for number in range(getattr(corpus, split)):
                duration = next(seconds)
                row = {
                    "id": f"made/{split}-{number}",
                    "audio": "noise.wav",
                    "segment": [0, duration],
                    "duration": duration,
                    "text": TEXT,
                    "emotion": "neutral",
                    "vad": [0.5, 0.5, 0.5],
                    "response": RESPONSE,
                    "split": split,
                }
                file.write(json.dumps(row) + "\n")
    return folder


def write_models(root: Path) -> None:
    """Folders with the shapes of the LLMs, without weights."""
    for name, config in LLMS.items():
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(json.dumps(config), "utf-8")


def plan(setting: Setting, manifest: Path, cache: Path) -> dict[str, Any]:
    """What `rellm plan --json` prints for a setting."""
    encoders = [
        f'encoders.{name}={{kind="stand-in",options={{size={size}}}}}'
        for name, size in setting.streams.items()
    ]
    gpu = setting.gpu * 10**9 or None
    changes = [*encoders, *setting.changes]
    found = rellm.plan(setting.recipe, manifest, cache, set=changes, clips=1, gpu_bytes=gpu)
    return found.to_json()


def gigabytes(count: float) -> str:
    """Bytes as GB."""
    return f"{count / 1e9:.{1 if count >= 1e8 else 2}f}"


def minutes(seconds: float) -> str:
    """Seconds as minutes."""
    return f"{seconds / 60:.0f}" if seconds >= 600 else f"{seconds / 60:.1f}"


def disk_row(corpus: CorpusSize, large: dict[str, Any], tiny: dict[str, Any]) -> str:
    """A row of the table of disks."""
    whole = [found["needed_bytes"] for found in (large, tiny)]
    sizes = " | ".join(gigabytes(size / part) for size in whole for part in (1, 2))
    return f"| {corpus.name} | {corpus.clips:,} | {large['hours']:.1f} | {sizes} |\n"


def epoch_row(corpus: CorpusSize, setting: Setting, training: dict[str, Any]) -> str:
    """A row of the table of epochs and memory."""
    device = f"{setting.gpu} GB" if setting.gpu else "CPU"
    times = [minutes(training["operations"] / (speed * 1e12)) for speed in SPEEDS]
    shown = times if setting.gpu else ["–", "–"]
    return (
        f"| {corpus.name} | {setting.title} | {device} | {gigabytes(training['peak_bytes'])} | "
        f"{training['operations']:.1e} | {' | '.join(shown)} |\n"
    )


def tables(corpora: Iterable[CorpusSize]) -> str:
    """Both planned tables, for some of the corpora."""
    disk = (
        "| corpus | clips | hours | `re-llm` | as int8 | `small`, `heads` | as int8 |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    epochs = (
        "| corpus | recipe | device | memory, GB | operations of an epoch | minutes at "
        f"{SPEEDS[0]} · 10¹² a second | at {SPEEDS[1]} · 10¹² |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    with TemporaryDirectory() as name, ENCODERS.restored():
        rellm.register_encoder("stand-in", options=StandInOptions)(StandIn)
        root = Path(name)
        write_models(root / "models")
        before = os.environ.get("RELLM_MODELS")
        os.environ["RELLM_MODELS"] = str(root / "models")
        try:
            for number, corpus in enumerate(corpora):
                manifest = write_manifest(corpus, root / str(number))
                found = [plan(setting, manifest, root / "cache") for setting in SETTINGS]
                disk += disk_row(corpus, found[0], found[-1])
                for setting, planned in zip(SETTINGS, found, strict=True):
                    epochs += epoch_row(corpus, setting, planned["training"])
        finally:
            if before is None:
                del os.environ["RELLM_MODELS"]
            else:
                os.environ["RELLM_MODELS"] = before
    return f"Size of the frames on disk, in GB:\n\n{disk}\nTraining:\n\n{epochs}"


def with_tables(page: str, planned: str) -> str:
    """The page with other planned tables."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{planned}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8"), tables(CORPORA)), "utf-8")
