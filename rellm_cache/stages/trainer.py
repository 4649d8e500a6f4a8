"""The training loop. In: model, examples, where their frames are. Out: steps, metrics, checkpoints.

`train` decides what runs and where; `Trainer` runs it: micro-batches, one optimiser step after
another, validation each epoch, a line of metrics for both, and the state to continue from.
"""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from rellm_cache.batches import Batch, Example, Frames, bucketed_batches
from rellm_cache.config import Recipe
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.loading.loader import BatchLoader
from rellm_cache.model.checkpoint import WEIGHTS, load_tensors, save_tensors
from rellm_cache.model.losses import LossTerms, class_weights, loss_weights
from rellm_cache.model.optimisation import Optimisation, Position, flat_gradients, set_gradients
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.progress import Tick, progress
from rellm_cache.stages.rehearsal import rehearse
from rellm_cache.stages.scoring import predict, score_heads

METRICS, CHECKPOINTS, BEST = "metrics.jsonl", "checkpoints", "best.safetensors"


@dataclass(frozen=True)
class Data:
    """Examples of both splits and where their frames are."""

    train: list[Example]
    validation: list[Example]
    frames: Frames


class Trainer:
    """One run: the model, its data, the optimiser, and the files they write."""

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        out: Path,
        llm: FrozenLLM | None,
        accelerator: Accelerator,
    ) -> None:
        config = recipe.training
        self.accelerator = accelerator
        self.device = accelerator.device
        self.recipe, self.data, self.out = recipe, data, out
        self.bf16 = trains_in_bf16(recipe)
        set_seed(recipe.seed)
        emotion = data.frames.emotion
        emotion_size = emotion.frame_size if emotion else 0
        self.model = SpeechLLM(recipe, data.frames.speech.frame_size, emotion_size, llm)
        if recipe.training.start_from:
            path = Path(recipe.training.start_from) / WEIGHTS
            load_tensors(path, self.model, fresh_lora=True)
        elif self.model.adapter.scale is not None:
            self.model.adapter.scale.start_from(*frame_statistics(data))
        emotions = [e.emotion for e in data.train]
        self.model.class_weights = class_weights(
            recipe.losses, emotions, len(recipe.heads.emotions)
        )
        self.model.to(self.device)
        self.loader = BatchLoader(data.train, data.frames, self.device)
        micro_batches = math.ceil(len(data.train) / config.batch_size)
        self.steps_per_epoch = math.ceil(micro_batches / config.accumulation)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.optimisation = Optimisation(self.model, config, self.total_steps)
        self.weights = loss_weights(recipe.losses, self.device)
        self.metrics = out / METRICS
        self._saved = time.monotonic()

    def run(self, position: Position) -> Position:
        """Train from a position to the end."""
        self.accelerator.init_trackers("tensorboard")
        if position.step == 0:
            self._record({"epoch": 0, "step": 0, "validation": self.validate()})
        started = time.monotonic() - position.seconds
        with progress("Training", self.total_steps, "steps") as tick:
            tick(position.step)
            for epoch in range(position.epoch, self.recipe.training.epochs):
                position = self._train_epoch(
                    dataclasses.replace(position, epoch=epoch), tick, started
                )
                position = self._end_epoch(position)
        self.accelerator.end_training()
        return position

    def _train_epoch(self, position: Position, tick: Tick, started: float) -> Position:
        self.model.train()
        groups = self.groups(position.epoch)[position.step_in_epoch :]
        for batches in self.loader.groups(groups):
            begun = time.monotonic()
            terms, norm = self.step(batches, position.step)
            losses = terms.means()
            row: dict[str, Any] = {
                "step": position.step + 1,
                "epoch": position.epoch + 1,
                "loss": float(terms.total(self.weights)),
                **{f"{name}_loss": value for name, value in losses.items()},
                "learning_rate": self.optimisation.learning_rate(position.step),
                "gradient_norm": norm,
                "seconds": time.monotonic() - begun,
            }
            self._record(row)
            position = dataclasses.replace(
                position,
                step=position.step + 1,
                step_in_epoch=position.step_in_epoch + 1,
                seconds=time.monotonic() - started,
            )
            tick(1, f"epoch {row['epoch']}, loss {row['loss']:.3f}")
            if time.monotonic() - self._saved > 60 * self.recipe.training.checkpoint_minutes:
                self._save(position)
        return position

    def groups(self, epoch: int) -> list[list[list[int]]]:
        """This process's micro-batches of every step of an epoch, as indices of examples."""
        config = self.recipe.training
        batches = bucketed_batches(
            self.loader.lengths, config.batch_size, self.recipe.seed, epoch, config.bucket_batches
        )
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return [
            batches[start : start + config.accumulation][rank::world]
            for start in range(0, len(batches), config.accumulation)
        ]

    def step(self, batches: Sequence[Batch], number: int) -> tuple[LossTerms, float]:
        """One optimiser step over micro-batches, every loss weighted by the whole step's counts.

        Args:
            number: of the step, from 0, which decides the learning rate.

        Returns:
            Loss sums and counts of all processes, and the norm of the gradient before clipping.

        Raises:
            RunError: the gradient is not finite.
        """
        on_device = [batch.to(self.device) for batch in batches]
        counts = LossTerms.nothing(self.device).counts
        for batch in on_device:
            counts += self.model.counts(batch)
        counts = self.accelerator.reduce(counts, "sum")
        rehearsal = rehearse(self.model, on_device, self.accelerator)
        sums = torch.zeros_like(counts)
        for index, batch in enumerate(on_device):
            rehearsal.replay(index)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                terms = self.model(batch, rehearsal.moments).terms
            terms.total(self.weights, counts).backward()
            sums += terms.sums.detach()
        if self.accelerator.num_processes > 1:
            gradients = self.accelerator.reduce(flat_gradients(self.model), "sum")
            set_gradients(self.model, gradients)
            sums = self.accelerator.reduce(sums, "sum")
        return LossTerms(sums, counts), self.optimisation.step(number)

    def _end_epoch(self, position: Position) -> Position:
        """Validate, keep the best, and save where the next epoch starts."""
        scores = self.validate()
        self._record({"epoch": position.epoch + 1, "step": position.step, "validation": scores})
        value = selection_score(self.recipe, scores, position.epoch)
        if position.best is None or value > position.best:
            position = dataclasses.replace(position, best=value)
            if self.accelerator.is_main_process:
                save_tensors(self.out / CHECKPOINTS / BEST, self.model)
        position = dataclasses.replace(position, epoch=position.epoch + 1, step_in_epoch=0)
        self._save(position)
        return position

    def validate(self) -> dict[str, float]:
        """Losses, UA and CCC on the validation split."""
        if not self.data.validation:
            return {}
        return validation_scores(self.model, self.data.validation, self.data.frames, self.device)

    def _save(self, position: Position) -> None:
        if self.accelerator.is_main_process:
            self.optimisation.save(self.out / CHECKPOINTS, position)
        self.accelerator.wait_for_everyone()
        self._saved = time.monotonic()

    def _record(self, row: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl and show its numbers to the trackers."""
        if not self.accelerator.is_main_process:
            return
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        validation = {f"validation/{k}": v for k, v in row.get("validation", {}).items()}
        training = {f"train/{k}": v for k, v in row.items() if "loss" in k or "rate" in k}
        self.accelerator.log({**training, **validation}, step=row["step"])


def make_accelerator(recipe: Recipe, out: Path) -> Accelerator:
    """accelerate set up for a run: devices and processes as launched, TensorBoard in the folder.

    Precision is not its business: it knows one for a process, and a process may run many recipes.
    """
    return Accelerator(mixed_precision="no", log_with="tensorboard", project_dir=str(out))


def trains_in_bf16(recipe: Recipe) -> bool:
    """Whether a recipe's forward passes are in bfloat16 where that is safe; "auto" is on a GPU."""
    precision = recipe.training.precision
    return precision == "bf16" or (precision == "auto" and torch.cuda.is_available())


def frame_statistics(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (D,) of every fused frame of the training split."""
    total = 0
    width = data.frames.speech.frame_size
    width += data.frames.emotion.frame_size if data.frames.emotion else 0
    mean = torch.zeros(width, dtype=torch.float64)
    squares = torch.zeros(width, dtype=torch.float64)
    for example in data.train:
        frames = torch.from_numpy(data.frames.values(example.id))  # (L, D)
        total += len(frames)
        mean += frames.sum(0)
        squares += frames.square().sum(0)
    average = mean / total
    variance = squares / total - average.square()
    return average.float(), variance.clamp(min=0).sqrt().float()


def validation_scores(
    model: SpeechLLM, examples: Sequence[Example], frames: Frames, device: torch.device
) -> dict[str, float]:
    """Mean losses, UA and CCC of a model on examples; its training mode is as it was."""
    predictions = predict(model, examples, frames, device)
    scores = {f"{name}_loss": value for name, value in predictions.terms.means().items()}
    scores["loss"] = float(
        predictions.terms.total(loss_weights(model.recipe.losses, predictions.terms.sums.device))
    )
    heads = score_heads(predictions, examples, model.recipe)
    if heads.recognition is not None:
        scores["ua"] = heads.recognition.ua
    scores |= {f"ccc_{name}": value for name, value in heads.ccc.items()}
    return scores


def selection_score(recipe: Recipe, scores: dict[str, float], epoch: int) -> float:
    """How good a checkpoint is by the recipe's `training.select`; higher is better."""
    select = recipe.training.select
    if select == "last" or not scores:
        return float(epoch)
    return -scores["loss"] if select == "loss" else scores.get("ua", -scores["loss"])
