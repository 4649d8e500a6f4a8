"""Training step compared with a naive one in time, memory and value, on real speech.

    rellm prepare ravdess RAVDESS --out manifests/ravdess
    rellm respond manifests/ravdess --recipe small
    rellm extract manifests/ravdess --recipe small --cache cache
    python tests/benchmarks/train.py manifests/ravdess --json train.json

Four steps take turns on the same batches, in one process: ours from the cache; ours with
`llm.cpu_precision = "bf16"`, where the processor has such instructions; a naive one (naive.py) from
the cache; and the naive one with both encoders run in each step. Both naive ones compute in fp32.
Ours have unpacked 4-bit weights, as in `rellm train`, which unpacks them once. Peak memory, this
copy included, is measured on the batch with most tokens, in a separate process for each step.
Losses and gradients are compared in fp32 without dropout; the naive softmax is summed in float64
(see naive.py). Those of bf16 are compared with ours in fp32, at the same weights of the adapter.
"""

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
from naive import naive_batch, naive_losses, naive_total
from options import make_parser, rounded, write_figures

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS
from rellm_cache.corpus.manifest import Utterance, read_split
from rellm_cache.data.batch import Batch
from rellm_cache.data.examples import make_examples
from rellm_cache.data.streams import open_streams
from rellm_cache.inference.live_encoding import LiveEncoders
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.memory import estimate_footprint
from rellm_cache.planning.training import plan_training
from rellm_cache.training.loop import Trainer, TrainingData, make_accelerator
from rellm_cache.utils.devices import BF16_FLAGS, cpu_flags

CPU = torch.device("cpu")
MEMORY_STEPS = 3
Indices = list[int]


class Bench:
    """One trainer, and the naive step over the same examples."""

    def __init__(self, recipe: Recipe, options: argparse.Namespace, out: Path) -> None:
        if recipe.llm is None:
            raise SystemExit(f"recipe {recipe.name} has no LLM")
        self.llm = load_llm(recipe.llm, CPU)
        self.utterances: list[Utterance] = read_split(options.manifest, "train")
        self.frames = open_streams(recipe.encoders, options.cache)
        self.examples = make_examples(self.utterances, recipe, self.llm)
        data = TrainingData(self.examples, [], self.frames)
        self.trainer = Trainer(recipe, data, out, self.llm, make_accelerator(out))
        self.model = self.trainer.model.train()
        self.plan: list[Indices] = [group[0] for group in self.trainer.groups(0)[: options.steps]]
        self.live = LiveEncoders(recipe.encoders, CPU) if options.online else None

    def largest(self) -> Indices:
        """The batch with most tokens that there could be, which is what `rellm plan` counts."""
        lengths = torch.tensor(self.trainer.loader.lengths)
        heard = self.model.adapter.output_lengths(lengths).tolist()
        tokens = [
            self.model.tokens(n, e.targets) for n, e in zip(heard, self.examples, strict=True)
        ]
        order = sorted(range(len(tokens)), key=tokens.__getitem__)
        return order[-self.trainer.recipe.training.batch_size :]

    def naive_step(self, batch: Batch, number: int) -> None:
        """Forward, backward and update of the naive step."""
        naive_total(self.model, naive_losses(self.model, self.llm, batch)).backward()
        self.trainer.optimizer.step(number)

    def cached(self, number: int, indices: Indices) -> None:
        """The naive step, its frames read from the cache."""
        self.naive_step(naive_batch([self.examples[i] for i in indices], self.frames), number)

    def online(self, number: int, indices: Indices) -> None:
        """The naive step, its frames made by the encoders."""
        if self.live is None:
            raise ValueError("no encoders")
        frames = self.live.streams([self.utterances[i] for i in indices], DEFAULT_LIMITS)
        self.naive_step(naive_batch([self.examples[i] for i in indices], frames), number)

    def batches(self) -> Iterator[list[Batch]]:
        """The batches of the plan, one in each group, read ahead."""
        yield from self.trainer.loader.groups([[i] for i in self.plan], reuse_memory=True)

    def our_step(self, loaded: Iterator[list[Batch]], number: int) -> tuple[float, float]:
        """Seconds of our step from the cache, and of its wait for the batch."""
        with self.trainer.unpacked_llm():
            begun = time.perf_counter()
            batches = next(loaded)
            waited = time.perf_counter() - begun
            self.trainer.step(batches, number)
            return time.perf_counter() - begun, waited

    def times(self, in_bf16: "Bench | None") -> dict[str, list[float]]:
        """Seconds of every step: `ours` with its share spent `waiting`, `bf16`, `cached`,
        `online`."""
        names = ("ours", "waiting", "bf16", "cached", "online")
        times: dict[str, list[float]] = {name: [] for name in names}
        loaded = self.batches()
        narrow = in_bf16.batches() if in_bf16 else iter(())
        for number, indices in enumerate(self.plan):
            seconds, waited = self.our_step(loaded, number)
            times["ours"].append(seconds)
            times["waiting"].append(waited)
            if in_bf16:
                times["bf16"].append(in_bf16.our_step(narrow, number)[0])
            for name in ("cached", "online") if self.live else ("cached",):
                begun = time.perf_counter()
                getattr(self, name)(number, indices)
                times[name].append(time.perf_counter() - begun)
            print({name: round(values[-1], 3) for name, values in times.items() if values})
        return times

    def padding(self) -> float:
        """Tokens the LLM computes against those of prompts, speech and answers: packed rows."""
        padded = real = 0
        for (batch,) in self.batches():
            speech = self.model.speech(batch)
            for row, _ in self.model.rows.packed(speech, batch.targets):
                padded += row.embeddings.shape[:2].numel()
                real += len(row.segments)
        return padded / real

    def differences(self) -> tuple[float, float]:
        """Largest difference of a loss, and of a gradient relative to its largest value."""
        loss_diff = grad_diff = 0.0
        self.model.eval()
        for (batch,) in self.batches():
            means, ours = self._losses_and_gradients(batch)
            losses = naive_losses(self.model, self.llm, batch, torch.float64)
            naive_total(self.model, losses).backward()
            theirs = self._take_gradients()
            loss_diff = max(loss_diff, *(abs(means[n] - x.item()) for n, x in losses.items()))
            for name, gradient in theirs.items():
                scale = gradient.abs().max()
                if scale > 0:
                    difference = (ours[name] - gradient).abs().max() / scale
                    grad_diff = max(grad_diff, difference.item())
        return loss_diff, grad_diff

    def rounding(self, in_bf16: "Bench") -> tuple[float, float]:
        """Largest difference of a loss in bf16, and least cosine of all its gradients."""
        ours = dict(self.model.named_parameters())
        for name, weight in in_bf16.model.named_parameters():
            if weight.requires_grad:
                weight.data.copy_(ours[name].data)
        loss_diff, cosine = 0.0, 1.0
        for bench in (self, in_bf16):
            bench.model.eval()
        for (batch,) in self.batches():
            means, exact = self._losses_and_gradients(batch)
            rounded_means, rounded_ones = in_bf16._losses_and_gradients(batch)
            loss_diff = max(loss_diff, *(abs(means[n] - rounded_means[n]) for n in means))
            pair = [torch.cat([g[n].flatten() for n in exact]) for g in (exact, rounded_ones)]
            cosine = min(cosine, torch.cosine_similarity(*pair, dim=0).item())
        return loss_diff, cosine

    def _losses_and_gradients(
        self, batch: Batch
    ) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        terms = self.model(batch).terms
        terms.total(self.model.loss_weights).backward()
        return terms.means(), self._take_gradients()

    def _take_gradients(self) -> dict[str, torch.Tensor]:
        found = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad()
        return found


def resident(field: str) -> float:
    """`VmRSS` or `VmHWM` (its peak) of this process, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1000
    raise SystemExit(f"no {field} in /proc/self/status")


def peak_memory(which: str, recipe: Recipe, options: argparse.Namespace) -> float:
    """MB that steps of one kind on the largest batch need over the loaded model, in a fresh
    process."""
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(recipe, options, Path(scratch))
        bench.trainer.optimizer.step(0)  # nothing to update yet: gradients are absent
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = resident("VmRSS")
        largest = bench.largest()
        loaded = bench.trainer.loader.groups([[largest]] * MEMORY_STEPS, reuse_memory=True)
        with bench.trainer.unpacked_llm() if which == "ours" else nullcontext():
            for number in range(MEMORY_STEPS):
                if which == "ours":
                    bench.trainer.step(next(loaded), number)
                else:
                    bench.cached(number, largest)
        return resident("VmHWM") - before


def planned_memory(recipe: Recipe, options: argparse.Namespace) -> float:
    """MB over the loaded model that `rellm plan` counts for the same recipe."""
    clips = read_split(options.manifest, "train")
    sizes = open_streams(recipe.encoders, options.cache).sizes
    seconds = {clip.id: clip.duration or 0.0 for clip in clips}
    found = plan_training(recipe, clips, seconds, sizes, torch.float32)
    loaded = estimate_footprint(recipe.require_llm(), torch.float32).device_bytes
    return (found.peak_bytes - loaded) / 1e6


def in_own_process(function: Callable[..., float], *arguments: object) -> float:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Measure, print and write the figures."""
    parser = make_parser(__doc__, "small")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--no-online", dest="online", action="store_false")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(recipe, options, Path(scratch))
        options.online, in_bf16 = False, None
        if not cpu_flags().isdisjoint(BF16_FLAGS):
            narrow = replace(recipe, llm=replace(recipe.llm, cpu_precision="bf16"))
            in_bf16 = Bench(narrow, options, Path(scratch) / "bf16")
        times = bench.times(in_bf16)
        padding = bench.padding()
        of_bf16 = {}
        if in_bf16:
            names = ("bf16_loss_diff", "bf16_grad_cosine")
            of_bf16 = dict(zip(names, bench.rounding(in_bf16), strict=True))
        exact = replace(recipe, llm=replace(recipe.llm, quantization="none"))
        options.steps = min(options.steps, 3)
        loss_diff, grad_diff = Bench(exact, options, Path(scratch)).differences()
    memory = {
        which: in_own_process(peak_memory, which, recipe, options) for which in ("ours", "naive")
    }
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"  # glibc holds no large block that is free
    tensors = in_own_process(peak_memory, "ours", recipe, options)
    planned = planned_memory(recipe, options)
    median = {name: statistics.median(v[1:]) for name, v in times.items() if v}
    figures = {
        "step_vs_naive": median["ours"] / median["cached"],
        "memory_vs_naive": memory["ours"] / memory["naive"],
        "padding": padding,
        "data_wait": sum(times["waiting"][1:]) / sum(times["ours"][1:]),
        "loss_diff": loss_diff,
        "grad_diff": grad_diff,
        "step_s": median["ours"],
        "peak_mb": memory["ours"],
        "tensors_mb": tensors,
        "planned_vs_tensors": planned / tensors,
        "planned_vs_peak": planned / memory["ours"],
    }
    figures |= of_bf16
    for name, key in (("ours", "step"), ("bf16", "bf16_step")):
        if name in median and "online" in median:
            figures = {f"{key}_vs_online": median[name] / median["online"], **figures}
    write_figures(options, rounded(figures), threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
