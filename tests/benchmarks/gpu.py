"""Training step of the paper on a GPU: `rellm bench` under memory caps, and a naive step beside it.

    python tests/benchmarks/gpu.py --json gpu.json
    python tests/benchmarks/gpu.py --caps 6 8 12 --no-naive
    python tests/benchmarks/gpu.py --tiny

Each cap is that of a GPU with so many GB, in a process of its own, with the options of `CAPS`.
Three steps count. Models have the shapes of Qwen-7B, Whisper large-v2 and wav2vec2 large, with
random weights: bytes and operations equal those of the real models. Without a cap, our step is
compared with a naive one (naive.py) that runs both encoders. A cap that fails is reported, and the
next one follows. `--tiny` runs small shapes on any device, without caps, to show that this works.

`tests/gpu/all.sh` runs this with all other measurements and tests for a GPU.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from naive import naive_batch, naive_losses, naive_total
from options import make_parser, write_figures
from shapes import TINY
from transformers import (
    AutoConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from rellm_cache.cli.bench import command_line
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.data.batch import Example
from rellm_cache.data.streams import StreamSet
from rellm_cache.encoders.base import FrameEncoder
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.encoders.wav2vec2_emotion import EmotionModel
from rellm_cache.errors import RellmError
from rellm_cache.speed.known_shapes import QWEN_7B
from rellm_cache.speed.measure import find_llm_or_random
from rellm_cache.speed.peak import find_peak, wait_for
from rellm_cache.speed.run import BenchSettings, bench
from rellm_cache.speed.sizes import CLIP_SECONDS, IEMOCAP_CLIPS
from rellm_cache.speed.steps import MadeTraining
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.in_memory import InMemoryFrames
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.model_files import silence_transformers

CAPS = {  # GB of the GPU -> changes of the recipe with which it trains there
    6: (
        "adapter.preset=lite",
        "llm.activation_checkpointing=true",
        "llm.offload_activations=true",
    ),
    8: ("adapter.preset=lite",),
    12: (),
}
STEPS_UNDER_CAP = 3


def make_models(folder: Path, tiny: bool) -> None:
    """Random encoders as their libraries save them; if tiny, also the LLM's config."""
    silence_transformers()
    if tiny:
        AutoConfig.for_model(**QWEN_7B | TINY).save_pretrained(folder / "llm")
    whisper = WhisperConfig(
        d_model=32 if tiny else 1280,
        encoder_layers=2 if tiny else 32,
        encoder_attention_heads=2 if tiny else 20,
        encoder_ffn_dim=64 if tiny else 5120,
        decoder_layers=1,
        decoder_attention_heads=2 if tiny else 20,
        decoder_ffn_dim=64,
    )
    emotion = Wav2Vec2Config(
        hidden_size=32 if tiny else 1024,
        num_hidden_layers=2 if tiny else 12,
        num_attention_heads=2 if tiny else 16,
        intermediate_size=64 if tiny else 4096,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        num_conv_pos_embedding_groups=2 if tiny else 16,
    )
    for name, kind, config in (
        ("whisper", WhisperModel, whisper),
        ("emotion", EmotionModel, emotion),
    ):
        with torch.device(default_device()):
            kind(config).save_pretrained(folder / name)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder / "whisper")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "emotion")


def make_recipe(folder: Path, overrides: list[str]) -> Recipe:
    """The paper's recipe on the models of a folder."""
    own = [f"llm.model={folder / 'llm'}"] if (folder / "llm").exists() else []
    recipe = load_recipe("re-llm", [*own, *overrides])
    encoders = {
        "speech": EncoderConfig("whisper", str(folder / "whisper")),
        "emotion": EncoderConfig("wav2vec2-emotion", str(folder / "emotion")),
    }
    return replace(recipe, encoders=encoders)


def under_cap(folder: Path, gigabytes: int, options: argparse.Namespace) -> dict[str, Any]:
    """What `rellm bench` reports under a cap; the error, if it fails."""
    changes = [*CAPS[gigabytes], *options.overrides]
    cap = None if options.tiny else float(gigabytes)
    settings = BenchSettings(options.seconds, memory_gb=cap, most_steps=STEPS_UNDER_CAP)
    recipe = make_recipe(folder, changes) if options.tiny else load_recipe("re-llm", changes)
    command = command_line("re-llm", tuple(changes), False, cap)
    try:
        report = bench(recipe, settings).to_json(command)
    except RellmError as error:
        return {"command": command, "error": str(error)}
    print(report["row"], flush=True)
    return report


def beside_naive(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Utilisation and epoch time without a cap, and the naive step with encoders in the loop."""
    overrides = [
        "training.batch_size=16",
        "training.gradient_accumulation=1",
        "training.micro_batch_tokens=0",
        "llm.pack_length=2048",
        *options.overrides,
    ]
    recipe, device = make_recipe(folder, overrides), default_device()
    llm, *_ = find_llm_or_random(recipe.require_llm(), device, random=True)
    peak = find_peak(device, llm.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        training = MadeTraining(recipe, llm, Path(scratch))
        end = time.monotonic() + options.seconds
        ours = statistics.median(training.step_times(end, options.steps).seconds)
        naive = naive_seconds(training, options.steps)
        return {
            "gpu_mfu": training.operations() / ours / peak.operations,
            "gpu_epoch_s": ours * IEMOCAP_CLIPS / training.clips,
            "gpu_step_vs_reference": ours / naive,
        }


def naive_seconds(training: MadeTraining, steps: int) -> float:
    """Median of the step as the reference does it: both encoders in the loop, padded, full logits.

    Batches of two, as the reference's; eight of them make our step's sixteen utterances.
    """
    device = training.trainer.device
    encoders = {n: build_encoder(resolve(e), device) for n, e in training.recipe.encoders.items()}
    random = np.random.default_rng(1)
    sound = random.normal(0, 0.1, int(16_000 * CLIP_SECONDS)).astype(np.float32)
    times = []
    for number in range(steps + 1):
        begun = time.perf_counter()
        for start in range(0, training.clips, 2):
            examples = training.examples[start : start + 2]
            streams = {name: _encoded(e, examples, sound) for name, e in encoders.items()}
            batch = naive_batch(examples, StreamSet(streams)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                losses = naive_losses(training.trainer.model, training.llm, batch)
            naive_total(training.trainer.model, losses).backward()
        training.trainer.optimizer.step(number)
        wait_for(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def _encoded(encoder: FrameEncoder, examples: list[Example], sound: np.ndarray) -> InMemoryFrames:
    frames = InMemoryFrames(StoreInfo(encoder.spec, encoder.frame_size, encoder.licence))
    encodings = encoder.encode([sound] * len(examples))
    for example, encoding in zip(examples, encodings, strict=True):
        frames.add(example.id, encoding.frames)
    return frames


def main() -> None:
    """Measure, print and write the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("--caps", type=int, nargs="*", choices=CAPS, default=list(CAPS), help="GB")
    parser.add_argument("--no-naive", dest="naive", action="store_false")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=120.0, help="for each cap")
    parser.add_argument("--steps", type=int, default=10, help="of the comparison with naive.py")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_models(folder, options.tiny)
        for gigabytes in options.caps:
            figures[f"{gigabytes} GB"] = under_cap(folder, gigabytes, options)
        if options.naive:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                figures["beside_naive"] = pool.submit(beside_naive, folder, options).result()
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        write_figures(options, figures, gpu=gpu)


if __name__ == "__main__":
    main()
