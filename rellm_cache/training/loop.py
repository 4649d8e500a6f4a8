"""The training loop. In: model, examples, where their frames are. Out: steps, metrics, checkpoints.

`train` decides what runs and where; `Trainer` runs it: one optimiser step after another,
validation each epoch, a line of metrics for both, and the state to continue from.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import set_seed

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.examples import frame_statistics
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import bucketed_batches
from rellm_cache.data.streams import StreamSet
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.model.losses.terms import LossTerms, class_weights, loss_weights
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.runs.folder import CHECKPOINTS
from rellm_cache.runs.weights import WEIGHTS, load_tensors, save_tensors
from rellm_cache.training.micro_batches import Budget, example_costs
from rellm_cache.training.optim import Optimisation, Position
from rellm_cache.training.precision import of_validation
from rellm_cache.training.resuming import Resuming
from rellm_cache.training.stepping import Stepper
from rellm_cache.training.validation import selection_score, validation_scores
from rellm_cache.utils.atomic_files import sync_path
from rellm_cache.utils.console import Tick, progress

METRICS, BEST = "metrics.jsonl", "best.safetensors"
PATIENCE = timedelta(hours=12)  # of processes that wait while the main one validates


@dataclass(frozen=True)
class Data:
    """Examples of both splits and where their frames are."""

    train: list[Example]
    validation: list[Example]
    frames: StreamSet


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
        set_seed(recipe.seed)
        emotion = data.frames.emotion
        emotion_size = emotion.frame_size if emotion else 0
        self.model = SpeechLLM(recipe, data.frames.speech.frame_size, emotion_size, llm)
        if recipe.training.start_from:
            path = Path(recipe.training.start_from) / WEIGHTS
            load_tensors(path, self.model, fresh_lora=True)
        elif self.model.adapter.scale is not None:
            statistics = frame_statistics(data.frames, [e.id for e in data.train])
            self.model.adapter.scale.start_from(*statistics)
        emotions = [e.emotion for e in data.train]
        self.model.class_weights = class_weights(
            recipe.losses, emotions, len(recipe.heads.emotions)
        )
        self.model.to(self.device)
        if accelerator.process_index:  # the same weights everywhere, then dropout of its own
            own = np.random.SeedSequence((recipe.seed, accelerator.process_index))
            torch.manual_seed(int(own.generate_state(1)[0]))
        self.loader = BatchLoader(data.train, data.frames, self.device)
        batches = math.ceil(len(data.train) / config.batch_size)
        self.steps_per_epoch = math.ceil(batches / config.accumulation)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.optimisation = Optimisation(self.model, config, self.total_steps)
        self.budget = Budget(recipe, example_costs(self.model, data.train, self.loader.lengths))
        self.weights = loss_weights(recipe.losses, self.device)
        self._stepper = Stepper(
            self.model, self.optimisation, accelerator, self.budget, self.weights
        )
        self.metrics = out / METRICS
        self.resuming = Resuming(
            self.model,
            self.optimisation,
            self.budget,
            accelerator,
            out / CHECKPOINTS,
            config.checkpoint_minutes,
        )

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
        for batches, waited in self._steps(position):
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
                "waited": waited,
            }
            self._record(row)
            position = dataclasses.replace(
                position,
                step=position.step + 1,
                step_in_epoch=position.step_in_epoch + 1,
                seconds=time.monotonic() - started,
            )
            tick(1, f"epoch {row['epoch']}, loss {row['loss']:.3f}")
            if position.step_in_epoch < self.steps_per_epoch and self.resuming.is_due():
                self._save(position)
        return position

    def _steps(self, position: Position) -> Iterator[tuple[list[Batch], float]]:
        """Micro-batches of each step left of an epoch, and seconds waited for them.

        They are cut anew where a step has changed how much goes through the model at once.
        """
        at = position.step_in_epoch
        while at < self.steps_per_epoch:
            limit = self.budget.limit
            with closing(self.loader.groups(self.groups(position.epoch)[at:])) as groups:
                while at < self.steps_per_epoch and limit == self.budget.limit:
                    begun = time.monotonic()
                    dropout = self.recipe.qa.metadata_dropout
                    batches = [
                        batch.with_metadata(dropout, self.recipe.seed, position.epoch)
                        for batch in next(groups)
                    ]
                    at += 1
                    yield batches, time.monotonic() - begun

    def groups(self, epoch: int) -> list[list[list[int]]]:
        """This process's micro-batches of every step of an epoch, as indices of examples.

        A step's clips are dealt out to processes one by one, longest first, then cut.
        """
        config, lengths = self.recipe.training, self.loader.lengths
        batches = bucketed_batches(
            lengths, config.batch_size, self.recipe.seed, epoch, config.bucket_batches
        )
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        groups = []
        for start in range(0, len(batches), config.accumulation):
            clips = [i for part in batches[start : start + config.accumulation] for i in part]
            share = sorted(clips, key=lambda i: (-lengths[i], i))[rank::world]
            groups.append(self.budget.split(share, self.data.train))
        return groups

    def step(self, batches: Sequence[Batch], number: int) -> tuple[LossTerms, float]:
        """One optimiser step over micro-batches: see `Stepper.step`."""
        return self._stepper.step(batches, number)

    def _end_epoch(self, position: Position) -> Position:
        """Validate, keep the best, and save where the next epoch starts."""
        with self.optimisation.kept_weights():
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
        """Losses, UA and CCC on the validation split, by the main process; empty in others."""
        if not self.data.validation or not self.accelerator.is_main_process:
            return {}
        data = self.data
        with of_validation(self.recipe.training, self.device):
            return validation_scores(self.model, data.validation, data.frames, self.device)

    def _save(self, position: Position) -> None:
        """Write a checkpoint, once the metrics up to it are on the disk."""
        if self.accelerator.is_main_process:
            sync_path(self.metrics)
        self.resuming.save(position)

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

    Precision is not its business: a process may train several recipes, one after another.
    """
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",
        log_with="tensorboard",
        project_dir=str(out),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
