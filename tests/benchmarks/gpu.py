"""Training step of the paper on a GPU: memory under a cap, and speed, compared with a naive step.

    python tests/benchmarks/gpu.py --tokenizer FOLDER --json gpu.json
    python tests/benchmarks/gpu.py --tokenizer FOLDER --tiny

Models have the shapes of Qwen-7B, Whisper large-v2 and wav2vec2 large, with random weights: bytes
and operations equal those of the real models. Speech of 4.5 s, responses of 48 tokens. FOLDER holds
the files of a ChatML tokenizer, such as SmolLM2's. Each preset runs in a separate process under a
memory cap. `--tiny` runs small shapes on any device, to show that this file works.

Operations that the step needs are counted: for each LLM weight and token, two forward and two
backward (weights do not train); for each adapter weight and each frame that it is applied to, six;
the output matrix at response positions only. Attention and checkpointing are not counted.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from naive import naive_batch, naive_losses, naive_total
from options import make_parser, rounded, write_figures
from shapes import QWEN_7B, RESPONSE_TOKENS, SECONDS, TINY
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import EncoderConfig, LLMConfig, Recipe
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.data.batch import Example, Target
from rellm_cache.data.streams import StreamSet
from rellm_cache.encoders.base import FrameEncoder
from rellm_cache.encoders.registry import build_encoder, resolve
from rellm_cache.encoders.wav2vec2_emotion import EmotionModel
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.memory import estimate_footprint
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.in_memory import InMemoryFrames
from rellm_cache.training.loop import Trainer, TrainingData, make_accelerator
from rellm_cache.utils.devices import default_device

UTTERANCES = 4_290  # IEMOCAP's training split
CAPS_GB = {"lite": 8, "reference": 12}
WARM_UP = 3
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def make_models(folder: Path, tokenizer: Path, tiny: bool) -> None:
    """Random models of the paper's shapes, saved as their libraries save them."""
    device = default_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    llm = Qwen2Config(**QWEN_7B | (TINY if tiny else {}), dtype=dtype)
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
        ("llm", Qwen2ForCausalLM, llm),
        ("whisper", WhisperModel, whisper),
        ("emotion", EmotionModel, emotion),
    ):
        with torch.device(device):
            kind(config).to(dtype if name == "llm" else torch.float32).save_pretrained(
                folder / name
            )
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder / "whisper")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "emotion")
    for file in TOKENIZER_FILES:
        if (tokenizer / file).is_file():
            shutil.copyfile(tokenizer / file, folder / "llm" / file)


def make_recipe(folder: Path, preset: str, tiny: bool, overrides: list[str]) -> Recipe:
    """The paper's recipe on the models of a folder."""
    recipe = load_recipe("re-llm", [f'adapter.preset="{preset}"', "training.epochs=1", *overrides])
    encoders = {
        "speech": EncoderConfig("whisper", str(folder / "whisper")),
        "emotion": EncoderConfig("wav2vec2-emotion", str(folder / "emotion")),
    }
    llm = LLMConfig(str(folder / "llm"), template="model", offload_embeddings=True)
    return replace(recipe, encoders=encoders, llm=replace(llm, **_llm_fields(recipe)))


def _llm_fields(recipe: Recipe) -> dict[str, object]:
    """How the recipe, with its overrides, runs its LLM."""
    if recipe.llm is None:
        raise SystemExit("the recipe has no LLM")
    names = ("pack_length", "attention", "activation_checkpointing")
    return {name: getattr(recipe.llm, name) for name in names}


class Bench:
    """A trainer over made frames."""

    def __init__(self, recipe: Recipe, clips: int, out: Path) -> None:
        if recipe.llm is None:
            raise SystemExit("the recipe has no LLM")
        accelerator = make_accelerator(out)
        self.llm = load_llm(recipe.llm, accelerator.device)
        self.recipe = recipe
        self.streams = StreamSet(
            {name: _made(clips, encoder) for name, encoder in recipe.encoders.items()}
        )
        random = np.random.default_rng(1)
        self.examples = [
            Example(
                id=str(index),
                emotion=index % 5,
                vad=(0.5, 0.5, 0.5),
                targets=(Target("response_lm", tuple(random.integers(0, 1000, RESPONSE_TOKENS))),),
            )
            for index in range(clips)
        ]
        data = TrainingData(self.examples, [], self.streams)
        self.trainer = Trainer(recipe, data, out, self.llm, accelerator)
        self.trainer.model.train()

    def step_seconds(self, steps: int) -> float:
        """Median of the last steps, budgets of tokens found by then."""
        times = []
        for number in range(steps + WARM_UP):
            plan = self.trainer.groups(0)[:1]
            for batches in self.trainer.loader.groups(plan, reuse_memory=True):
                begun = time.perf_counter()
                self.trainer.step(batches, number)
                _synchronise()
                times.append(time.perf_counter() - begun)
        return statistics.median(times[WARM_UP:])

    def clips_a_step(self) -> int:
        """Utterances in an optimiser step."""
        return self.recipe.training.batch_size * self.recipe.training.gradient_accumulation

    def operations(self) -> float:
        """Of one optimiser step, as counted above."""
        model, llm = self.trainer.model, self.recipe.llm
        if llm is None:
            raise SystemExit("the recipe has no LLM")
        counted = estimate_footprint(llm, self.llm.dtype)
        frames = int(self.streams.lengths(["0"])[0])
        embedded = int(model.adapter.output_lengths(torch.tensor(frames)))
        prompt = model.prompts["response_lm"]
        clip = embedded + len(prompt.after) + RESPONSE_TOKENS
        tokens = self.clips_a_step() * clip
        output = counted.hidden_size * counted.vocabulary * RESPONSE_TOKENS
        return 4 * counted.linear_parameters * tokens + self.clips_a_step() * (
            model.adapter.operations * frames + 4 * output
        )


def _width(spec: EncoderSpec) -> int:
    """Values in a frame of a saved model."""
    config = json.loads((Path(spec.model) / "config.json").read_text())
    return int(config.get("d_model") or config["hidden_size"])


def _made(clips: int, spec: EncoderSpec) -> InMemoryFrames:
    width = _width(spec)
    frames = InMemoryFrames(StoreInfo(spec, width, "none"))
    random = np.random.default_rng(width)
    for index in range(clips):
        frames.add(str(index), random.normal(size=(int(50 * SECONDS), width)).astype(np.float16))
    return frames


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cap(gigabytes: float) -> None:
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / total))


def under_cap(folder: Path, preset: str, options: argparse.Namespace) -> dict[str, float]:
    """Peak memory and speed of one preset under its cap."""
    _cap(CAPS_GB[preset])
    overrides = ['training.micro_batch_tokens="auto"', *options.overrides]
    recipe = make_recipe(folder, preset, options.tiny, overrides)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(recipe, 64, Path(scratch))
        seconds = bench.step_seconds(options.steps)
        peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
        return {
            f"gpu_peak_gb_{preset}": peak / 1e9,
            f"gpu_step_s_{preset}": seconds,
            f"gpu_epoch_s_{preset}": seconds * UTTERANCES / bench.clips_a_step(),
        }


def at_full_speed(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Utilisation and epoch time without a cap, and the naive step with encoders in the loop."""
    overrides = [
        "training.batch_size=16",
        "training.gradient_accumulation=1",
        "llm.pack_length=2048",
    ]
    overrides += [*options.overrides]
    recipe = make_recipe(folder, "reference", options.tiny, overrides)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(recipe, 64, Path(scratch))
        ours = bench.step_seconds(options.steps)
        naive = naive_seconds(bench, options.steps)
        clips = bench.clips_a_step()
        return {
            "gpu_mfu": bench.operations() / ours / (options.peak_tflops * 1e12),
            "gpu_epoch_s": ours * UTTERANCES / clips,
            "gpu_step_vs_reference": ours / naive,
        }


def naive_seconds(bench: Bench, steps: int) -> float:
    """Median of the step as the reference does it: both encoders in the loop, padded, full logits.

    Batches of two, as the reference's; eight of them make our step's sixteen utterances.
    """
    device = bench.trainer.device
    encoders = {n: build_encoder(resolve(e), device) for n, e in bench.recipe.encoders.items()}
    random = np.random.default_rng(1)
    sound = random.normal(0, 0.1, int(16_000 * SECONDS)).astype(np.float32)
    times = []
    for number in range(steps + 1):
        begun = time.perf_counter()
        for start in range(0, bench.clips_a_step(), 2):
            examples = bench.examples[start : start + 2]
            streams = {name: _encoded(e, examples, sound) for name, e in encoders.items()}
            batch = naive_batch(examples, StreamSet(streams)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                losses = naive_losses(bench.trainer.model, bench.llm, batch)
            naive_total(bench.trainer.model, losses).backward()
        bench.trainer.optimizer.step(number)
        _synchronise()
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
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16, dense; an H200's")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_models(folder, options.tokenizer, options.tiny)
        for job, *arguments in (
            (under_cap, folder, "lite", options),
            (under_cap, folder, "reference", options),
            (at_full_speed, folder, options),
        ):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                figures |= pool.submit(job, *arguments).result()
            print(json.dumps(figures), flush=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    write_figures(options, rounded(figures, 4), gpu=gpu)


if __name__ == "__main__":
    main()
