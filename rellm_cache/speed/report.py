"""Report of measured steps: figures, the row for docs/what-it-costs.md, and JSON."""

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any

from rellm_cache.speed.sizes import CLIP_SECONDS, IEMOCAP_CLIPS, RESPONSE_TOKENS
from rellm_cache.utils.console import counted, duration, percent

ENOUGH = 0.8  # of the threads' time; below it, times say little about the machine


@dataclass(frozen=True)
class BenchReport:
    """Measured steps of a recipe on a machine.

    Attributes:
        device: product name of the GPU or the processor.
        threads: of PyTorch on a processor; 0 on a GPU.
        dtype: of the computations.
        versions: of rellm and torch.
        cap_bytes: memory of the GPU that is imitated; None for all that it has.
        llm: name in the recipe; "" for a recipe that needs none.
        weights: "its own", "random" or, without an LLM, "none".
        tokenizer: "its own", "made" (a token a word) or "none".
        clips: in a measured step.
        recipe_clips: in a step of the recipe.
        micro_batches: of a measured step.
        tokens: of a measured step: speech, prompt after it and answers; 0 without an LLM.
        operations: of a measured step, as `speed.steps` counts them.
        warm_up: steps before those that count.
        step_seconds: of each step that counts, sorted.
        processor_seconds: of all threads of the process, for all these steps together.
        peak_operations: a second, of the device; `peak_source` tells where this is from.
        device_bytes: peak of tensors on the GPU; 0 without one.
        reserved_bytes: the same with the gaps of PyTorch's allocator.
        resident_bytes: peak of the process in host memory.
        start_bytes: the same before the model was loaded: libraries.
    """

    recipe: str
    date: str
    device: str
    threads: int
    dtype: str
    versions: dict[str, str]
    cap_bytes: int | None
    llm: str
    weights: str
    tokenizer: str
    clips: int
    recipe_clips: int
    micro_batches: int
    tokens: int
    operations: float
    warm_up: int
    step_seconds: list[float]
    processor_seconds: float
    peak_operations: float
    peak_source: str
    device_bytes: int
    reserved_bytes: int
    resident_bytes: int
    start_bytes: int

    @property
    def seconds(self) -> float:
        """Median of the steps."""
        return statistics.median(self.step_seconds)

    @property
    def mfu(self) -> float:
        """Operations that the steps need, as a share of the peak."""
        return self.operations / self.seconds / self.peak_operations

    @property
    def epoch_seconds(self) -> float:
        """Time of an epoch of IEMOCAP's train split, without its validation."""
        return self.seconds / self.clips * IEMOCAP_CLIPS

    @property
    def machine(self) -> str:
        """Device, with its threads or the memory that it imitates."""
        cap = f" as a GPU of {self.cap_bytes / 1e9:g} GB" if self.cap_bytes else ""
        return self.device + (f", {counted(self.threads, 'thread')}" if self.threads else cap)

    @property
    def memory(self) -> str:
        """Peak of the memory that counts on this device."""
        if self.reserved_bytes:
            return f"{self.reserved_bytes / 1e9:.2f} GB of the GPU"
        return f"{self.resident_bytes / 1e9:.2f} GB resident"

    @property
    def model(self) -> str:
        """What the steps were made with, in words."""
        if not self.llm:
            return "no LLM"
        made = "" if self.tokenizer != "made" else ", prompts of a made tokenizer"
        known = "its own weights" if self.weights == "its own" else "RANDOM weights of its shape"
        return f"{self.llm} with {known}{made}"

    @property
    def processor_share(self) -> float:
        """Share of its threads' time that the process got; 1 on a GPU. Low if other work ran."""
        wanted = sum(self.step_seconds) * self.threads
        return min(1.0, self.processor_seconds / wanted) if wanted else 1.0

    @property
    def busy(self) -> str:
        """What to say of a machine that was busy with other work; "" if it was not."""
        if self.processor_share >= ENOUGH:
            return ""
        done, unit = (self.tokens, "tokens") if self.tokens else (self.clips, "clips")
        rate = done * len(self.step_seconds) / self.processor_seconds
        return (
            f"other work ran: the process had {percent(self.processor_share)} of its threads, and "
            f"made {rate:,.0f} {unit} for each second of processor time"
        )

    @property
    def speed(self) -> str:
        """Tokens a second, or clips a second of a recipe without an LLM."""
        if self.tokens:
            return f"{self.tokens / self.seconds:,.0f} tokens a second"
        return f"{self.clips / self.seconds:,.0f} clips a second"

    def row(self, command: str) -> str:
        """The row of a Markdown table: machine, what, result, date."""
        fewer = "" if self.clips == self.recipe_clips else f", {counted(self.clips, 'clip')} a step"
        busy = f"; {self.busy}" if self.busy else ""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"| {self.machine}; {versions} | `{command}`: training, {self.model}, made frames"
            f"{fewer} | {self.speed}, MFU {percent(self.mfu)} (of {self.peak_source}), peak "
            f"{self.memory}; {duration(self.epoch_seconds)} for an epoch of IEMOCAP"
            f"{busy} | {self.date} |"
        )

    def to_json(self, command: str) -> dict[str, Any]:
        """All figures, for a file."""
        return {
            **dataclasses.asdict(self),
            "command": command,
            "clip_seconds": CLIP_SECONDS,
            "response_tokens": RESPONSE_TOKENS,
            "seconds_a_step": self.seconds,
            "tokens_a_second": self.tokens / self.seconds if self.tokens else None,
            "clips_a_second": self.clips / self.seconds,
            "mfu": self.mfu,
            "processor_share": self.processor_share,
            "iemocap_epoch_seconds": self.epoch_seconds,
            "row": self.row(command),
        }
