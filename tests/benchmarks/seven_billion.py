"""The recipe `re-llm` at its own size: a 7 B LLM in 4 bits, trained, killed, resumed and asked.

    python tests/benchmarks/seven_billion.py RAVDESS --json seven.json            # 40 GB of disk
    python tests/benchmarks/seven_billion.py RAVDESS --layers 2                   # a try

RAVDESS is the folder of the corpus. Everything is written to a new folder in $TMPDIR and removed
afterwards. The stages:

    make      a checkpoint of Qwen-7B's shape in Qwen v1's layout: seeded random weights in bf16
    import    `rellm import qwen`, in the memory of one file
    quantize  the first start: quantizes, and saves the copy
    load      a later start, from the copy
    killed    `rellm train` on real clips with made frames of real size, killed after a step
    resumed   the same command to the end
    answer    `rellm generate`, one answer of eight tokens

Weights, frames and responses are made up, so losses and answers say nothing. Each stage is a
process of its own; its peak is sampled: *resident* has pages of mapped files, which the system can
drop, *anonymous* has not. A stage that holds more than `--limit-gb` of anonymous memory is ended.
"""

import argparse
import base64
import csv
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from options import make_parser, rounded, write_figures
from shapes import TINY

from rellm_cache.speed.known_shapes import QWEN_7B

SEED = 7
RANKS = 151_643  # tokens of Qwen-7B before its special tokens
SIZES = {"speech": 1280, "emotion": 1024}  # values in a frame
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
EMOTIONS = {"01": "neutral", "03": "happy", "04": "sad", "05": "angry", "08": "surprise"}
RESPONSE = "That sounds like quite a moment. How did it make you feel, and what did you do then?"
STEPS = 3
POOL = 2**25 + 1  # seeded random values, of which every weight takes a part
POLL_SECONDS = 0.1


def main() -> None:
    """Run all stages, print each, and write the report."""
    if sys.argv[1:2] == ["--child"]:
        CHILDREN[sys.argv[2]](json.loads(sys.argv[3]))
        return
    parser = make_parser(__doc__)
    parser.add_argument("ravdess", type=Path)
    parser.add_argument("--layers", type=int, default=QWEN_7B["num_hidden_layers"])
    parser.add_argument("--tiny", action="store_true", help="layers of 64 values: a test of this")
    parser.add_argument("--clips", type=int, default=4, help="clips in an optimizer step")
    parser.add_argument("--limit-gb", type=float, default=14.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seven-billion-") as scratch:
        stages = Stages(Path(scratch), options)
        for name, figures in stages.run():
            print(f"{name}: {figures}", flush=True)
        write_figures(options, stages.figures)


class Stages:
    """The stages, and what was measured so far."""

    def __init__(self, scratch: Path, options: argparse.Namespace) -> None:
        self.scratch, self.options = scratch, options
        self.v1, self.model, self.run_folder = (scratch / n for n in ("v1", "qwen2", "run"))
        self.cache, self.manifest = scratch / "cache", scratch / "manifest"
        self.figures: dict[str, Any] = {}
        os.environ["RELLM_MODELS"] = str(scratch / "models")
        os.environ["HF_HUB_OFFLINE"] = "1"

    def run(self) -> Iterator[tuple[str, Any]]:
        """Run every stage; yield its name and figures."""
        yield self.stage("make", child("make", self.settings))
        command = ["import", "qwen", str(self.v1), "--out", str(self.model), "--no-copy"]
        yield self.stage("import", cli(*command))
        shutil.rmtree(self.v1)
        yield self.stage("quantize", child("load", self.settings))
        yield self.stage("load", child("load", self.settings))
        yield self.stage("prepare", cli(*self.table()))
        yield self.stage("frames", child("frames", self.settings))
        before = self.copy_digest()
        train = child("train", self.settings)
        yield self.stage("killed", train, stop=self.has_stepped)
        first = self.newest_weights()
        yield self.stage("resumed", train)
        test, answers = self.manifest / "test.jsonl", self.scratch / "answers.jsonl"
        asked = ["generate", str(self.run_folder), str(test), "--out", str(answers)]
        asked += ["--cache", str(self.cache), "--set", "prompts.answer_tokens=8"]
        yield self.stage("answer", cli(*asked))
        yield self.checks(before, first, answers)

    @property
    def settings(self) -> dict[str, Any]:
        """What the children need."""
        return {
            "scratch": str(self.scratch),
            "shape": QWEN_7B | (TINY if self.options.tiny else {}),
            "layers": self.options.layers,
            "clips": self.options.clips,
        }

    def stage(
        self, name: str, command: list[str], stop: Callable[[], bool] = lambda: False
    ) -> tuple[str, Any]:
        """Run a command, kill it when `stop` says so, and measure it."""
        log = self.scratch / f"{name}.log"
        with log.open("w") as output:
            start = time.monotonic()
            process = subprocess.Popen(command, stdout=output, stderr=output)
            peaks = {"VmHWM": 0.0, "RssAnon": 0.0}
            killed = ""
            while process.poll() is None:
                peaks = {key: max(peak, memory(process.pid, key)) for key, peak in peaks.items()}
                if peaks["RssAnon"] > self.options.limit_gb:
                    killed = f"more than {self.options.limit_gb} GB"
                elif stop():
                    killed = "as planned"
                if killed:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                time.sleep(POLL_SECONDS)
        text = log.read_text("utf-8")
        if killed != "as planned" and process.returncode:
            raise SystemExit(f"{name} ended ({killed or process.returncode}): {text[-4000:]}")
        figures: dict[str, Any] = rounded(
            {
                "seconds": time.monotonic() - start,
                "resident_gb": peaks["VmHWM"],
                "anonymous_gb": peaks["RssAnon"],
            }
        )
        for line in text.splitlines():
            if line.startswith("FIGURES "):
                figures |= json.loads(line.removeprefix("FIGURES "))
        self.figures[name] = figures
        return name, figures

    def table(self) -> list[str]:
        """Write a table of real clips, and return the command that prepares it."""
        paths = sorted(self.options.ravdess.glob("Actor_*/03-01-*.flac"))
        wanted = [path for path in paths if path.stem.split("-")[2] in EMOTIONS]
        count = STEPS * self.options.clips
        with (self.scratch / "clips.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("audio", "text", "emotion", "speaker", "split"))
            for index, path in enumerate(wanted[:: len(wanted) // (count + 1)][: count + 1]):
                _, _, emotion, _, statement, _, actor = path.stem.split("-")
                split = "train" if index < count else "test"
                row = (STATEMENTS[statement], EMOTIONS[emotion], actor, split)
                writer.writerow((path.resolve(), *row))
        return ["prepare", "folder", str(self.scratch / "clips.csv"), "--out", str(self.manifest)]

    def has_stepped(self) -> bool:
        """Whether a checkpoint of the run is complete."""
        return any((self.run_folder / "checkpoints").glob("step-*"))

    def newest_weights(self) -> bytes:
        """Trained weights of the newest checkpoint."""
        newest = max((self.run_folder / "checkpoints").glob("step-*"))
        return (newest / "adapter.safetensors").read_bytes()

    def copy_digest(self) -> dict[str, str]:
        """Name → SHA-256 of the files of the quantized copy; a tiny model has none."""
        files = (self.scratch / "models" / "quantized").glob("*/*")
        return {path.name: file_sha256(path) for path in sorted(files)}

    def checks(self, before: dict[str, str], first: bytes, answers: Path) -> tuple[str, Any]:
        """What must be true at the end."""
        from safetensors.torch import load

        last = load((self.run_folder / "adapter.safetensors").read_bytes())
        changed = sum(not value.equal(last[name]) for name, value in load(first).items())
        digests = [self.figures[stage].get("llm_sha256") for stage in ("load", "resumed")]
        rows = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
        self.figures["checks"] = {
            "copy_files_unchanged": before == self.copy_digest(),
            "llm_unchanged_in_memory": digests[0] == digests[1],
            "trained_tensors": len(last),
            "trained_tensors_changed_since_the_kill": changed,
            "answers": [str(row.get("response", row)) for row in rows],
        }
        return "checks", self.figures["checks"]


def child(name: str, settings: dict[str, Any]) -> list[str]:
    """The command that runs a function of `CHILDREN` in a process of its own."""
    return [sys.executable, __file__, "--child", name, json.dumps(settings)]


def cli(*arguments: str) -> list[str]:
    """A command of rellm."""
    return [sys.executable, "-m", "rellm_cache.cli", *arguments]


def memory(pid: int, key: str) -> float:
    """GB of a line of a process's status; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    found = (line.split()[1] for line in lines if line.startswith(f"{key}:"))
    return int(next(found, 0)) * 1024 / 1e9


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make(settings: dict[str, Any]) -> None:
    """Write the checkpoint in Qwen v1's layout, a file at a time."""
    import torch

    from rellm_cache.importers.qwen_v1 import expected_shapes, read_qwen_config
    from rellm_cache.utils.weight_shards import ShardedModelWriter

    folder = Path(settings["scratch"]) / "v1"
    folder.mkdir()
    shape = settings["shape"]
    config = {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": shape["vocab_size"],
        "hidden_size": shape["hidden_size"],
        "num_hidden_layers": settings["layers"],
        "num_attention_heads": shape["num_attention_heads"],
        "kv_channels": shape["hidden_size"] // shape["num_attention_heads"],
        "intermediate_size": 2 * shape["intermediate_size"],
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10_000,
        "rotary_pct": 1.0,
        "seq_length": 8192,
        "no_bias": True,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"chat_format": "chatml", "eos_token_id": RANKS}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens()))
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))
    # Parts of one pool: other numbers would take a quarter of an hour for as many values.
    pool = 0.02 * torch.randn(POOL, generator=torch.Generator().manual_seed(SEED))
    pool, starts = pool.bfloat16(), random.Random(SEED)
    writer = ShardedModelWriter(folder)
    for name, size in expected_shapes(read_qwen_config(folder, config)).items():
        tensor = torch.empty(size, dtype=torch.bfloat16)
        for part in tensor.view(-1).split(POOL // 2):
            start = starts.randrange(POOL - len(part) + 1)
            part.copy_(pool[start : start + len(part)])
        writer.add(name, tensor + 1 if len(size) == 1 and "ln_" in name else tensor)
    writer.close()
    say(weights_gb=writer.bytes / 1e9)


def tokens() -> Iterator[bytes]:
    """As many tokens as Qwen-7B has: bytes, pairs and triples of printable characters."""
    letters = b" etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ0123456789.,;:!?'\"-()"
    runs = (itertools.product(letters, repeat=length) for length in (2, 3))
    singles = (bytes([byte]) for byte in range(256))
    yield from itertools.islice(
        itertools.chain(singles, (bytes(run) for run in itertools.chain(*runs))), RANKS
    )


def load(settings: dict[str, Any]) -> None:
    """Load the LLM as every command does; the first call saves its quantized copy."""
    import torch

    from rellm_cache.llm.loading import load_llm
    from rellm_cache.utils.console import say as note

    config = recipe(settings).llm
    if config is None:
        raise SystemExit("the recipe has no LLM")
    start, before = time.monotonic(), time.process_time()
    llm = load_llm(config, torch.device("cpu"))
    seconds, processor = time.monotonic() - start, time.process_time() - before
    copies = Path(os.environ["RELLM_MODELS"]) / "quantized"
    size = sum(path.stat().st_size for path in copies.glob("*/*"))
    say(load_s=seconds, load_cpu_s=processor, copy_gb=size / 1e9, llm_sha256=llm_sha256(llm))
    note("loaded")


def frames(settings: dict[str, Any]) -> None:
    """Write made responses, and made frames of real size as `rellm extract` would store them."""
    import numpy as np

    from rellm_cache.corpus.manifest import read_manifests, responses_path
    from rellm_cache.store.format import StoreInfo
    from rellm_cache.store.writer import StoreWriter
    from rellm_cache.utils.atomic_files import write_lines

    scratch = Path(settings["scratch"])
    noise = np.random.default_rng(SEED)
    clips = read_manifests(scratch / "manifest")
    for split in ("train", "test"):
        answered = [{"id": c.id, "response": RESPONSE} for c in clips if c.split == split]
        write_lines(responses_path(scratch / "manifest" / f"{split}.jsonl"), answered)
    for name, encoder in recipe(settings).encoders.items():
        spec = replace(encoder.spec, weights_sha256="a" * 64)
        with StoreWriter(scratch / "cache", StoreInfo(spec, SIZES[name], "MIT")) as writer:
            for clip in clips:
                length = round((clip.duration or 4.0) * 50)
                made = noise.standard_normal((length, SIZES[name]), dtype=np.float32)
                writer.add(clip.id, np.zeros(32, np.uint8), made)
    say(clips=len(clips), seconds_of_speech=sum(clip.duration or 4.0 for clip in clips))


def train(settings: dict[str, Any]) -> None:
    """Train or continue; report the plan, the steps and the LLM's digest at the end."""
    from rellm_cache import api
    from rellm_cache.runs import shared_models
    from rellm_cache.training.loop import read_metrics

    scratch = Path(settings["scratch"])
    loaded: list[Any] = []
    plain = shared_models.load_llm
    shared_models.load_llm = lambda *given: loaded.append(plain(*given)) or loaded[0]
    plan = planned(settings)
    start = time.monotonic()
    report = api.train(
        recipe(settings), scratch / "manifest", scratch / "cache", out=scratch / "run"
    )
    steps = [row for row in read_metrics(scratch / "run") if "loss" in row]
    say(
        train_s=time.monotonic() - start,
        resumed_at=report.resumed_at,
        steps=report.steps,
        step_seconds=[round(row["seconds"], 1) for row in steps],
        losses=[round(row["loss"], 3) for row in steps],
        llm_sha256=llm_sha256(loaded[0]),
        **plan,
    )


def planned(settings: dict[str, Any]) -> dict[str, float]:
    """What `rellm plan` counts for this run, in GB."""
    import torch

    from rellm_cache.corpus.manifest import read_split
    from rellm_cache.planning.training import plan_training

    clips = read_split(Path(settings["scratch"]) / "manifest", "train")
    seconds = {clip.id: clip.duration or 4.0 for clip in clips}
    plan = plan_training(recipe(settings), clips, seconds, SIZES, torch.float32)
    return {
        "planned_llm_gb": plan.llm_bytes / 1e9,
        "planned_host_gb": plan.host_bytes / 1e9,
        "planned_trained_gb": plan.trained_bytes / 1e9,
        "planned_step_gb": plan.step_bytes / 1e9,
        "planned_gb": (plan.peak_bytes + plan.host_bytes) / 1e9,
        "planned_tokens": plan.tokens,
    }


def recipe(settings: dict[str, Any]) -> Any:
    """`re-llm` with the `lite` adapter, for a few steps."""
    from rellm_cache.config.recipes import load_recipe

    return load_recipe(
        "re-llm",
        [
            "adapter.preset=lite",
            f"llm.model={Path(settings['scratch']) / 'qwen2'}",
            "training.epochs=1",
            f"training.batch_size={settings['clips']}",
            "training.gradient_accumulation=1",
            "training.micro_batch_tokens=0",
            "training.warmup_steps=1",
            "training.checkpoint_minutes=0",
            "training.best_metric=last",
        ],
    )


def llm_sha256(llm: Any) -> str:
    """SHA-256 (hex) of all tensors of a loaded LLM, input embeddings included."""
    import torch

    digest = hashlib.sha256()
    state = {**llm.model.state_dict(), "inputs": llm.model.get_input_embeddings().weight}
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def say(**figures: Any) -> None:
    """Report figures to the parent."""
    print("FIGURES " + json.dumps(figures), flush=True)


CHILDREN = {"make": make, "load": load, "frames": frames, "train": train}

if __name__ == "__main__":
    main()
